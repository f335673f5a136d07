//! A client that writes its frames by hand.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::Server;

/// Everything happens within this.
const SOON: Duration = Duration::from_secs(20);
/// The key of RFC 6455's example.
pub const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
/// There was no close frame.
const UNCLEAN: u16 = 1006;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    Continuation = 0,
    Text = 1,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// The head of a masked frame; the mask is zero.
pub fn head(op: Op, last: bool, len: usize) -> Vec<u8> {
    let mut bytes = vec![op as u8 | if last { 0x80 } else { 0 }];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => bytes.push(0x80 | len),
        (_, Ok(len)) => {
            bytes.push(0xfe);
            bytes.extend(len.to_be_bytes());
        }
        _ => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes
}

/// A masked frame.
pub fn frame(op: Op, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(op, last, payload.len());
    bytes.extend(payload);
    bytes
}

/// A whole text message.
pub fn text(text: &str) -> Vec<u8> {
    frame(Op::Text, true, text.as_bytes())
}

fn address(server: &Server) -> &str {
    server.ready["rest_url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address")
}

/// The answer to a request with these header lines; its head only if it is an upgrade.
pub async fn ask(server: &Server, first: &str, lines: &[&str]) -> String {
    let mut raw = Raw::connect(server, "127.0.0.1").await;
    raw.request(server, first, lines).await;
    raw.answer().await
}

/// One connection.
pub struct Raw {
    stream: TcpStream,
    waiting: Vec<u8>,
    /// How long it may hear nothing.
    pub patience: Duration,
}

impl Raw {
    /// Connects from one of our own addresses.
    pub async fn connect(server: &Server, from: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{from}:0").parse().expect("an address")).expect("an address of this machine");
        let stream = socket.connect(address(server).parse().expect("an address")).await.expect("it connects");
        Self { stream, waiting: Vec::new(), patience: SOON }
    }

    async fn request(&mut self, server: &Server, first: &str, lines: &[&str]) {
        let head = format!("{first}\r\nHost: {}\r\n{}\r\n\r\n", address(server), lines.join("\r\n"));
        self.send(head.as_bytes()).await;
    }

    /// The answer to a request; its head only if it is an upgrade.
    pub async fn answer(&mut self) -> String {
        let head = self.answer_head().await;
        if head.contains(" 101 ") {
            return head;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().expect("a number"));
        let body = self.take(length).await.expect("the whole body");
        head + std::str::from_utf8(&body).expect("text")
    }

    async fn answer_head(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.waiting.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more().await, "the head ends");
        };
        let head: Vec<u8> = self.waiting.drain(..end).collect();
        String::from_utf8(head).expect("text")
    }

    /// Connects and upgrades, from an address; also the head of the answer.
    pub async fn upgrade_from(server: &Server, from: &str, more: &str) -> (Self, String) {
        let mut raw = Self::connect(server, from).await;
        let whole = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
        raw.request(server, "GET /ws HTTP/1.1", &[&whole[..], &[&format!("{more}{KEY}")]].concat()).await;
        let head = raw.answer_head().await;
        (raw, head)
    }

    /// Connects and upgrades; also the head of the answer.
    pub async fn upgrade(server: &Server, more: &str) -> (Self, String) {
        Self::upgrade_from(server, "127.0.0.1", more).await
    }

    /// Connects; nothing has been read yet.
    pub async fn open(server: &Server) -> Self {
        let (raw, head) = Self::upgrade(server, "").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    /// Connects and authenticates.
    pub async fn enter(server: &Server, name: &str) -> Self {
        Self::open(server).await.authenticated(server, name).await
    }

    /// Authenticates.
    pub async fn authenticated(mut self, server: &Server, name: &str) -> Self {
        let auth = json!({ "type": "auth", "api_key": server.first_key(), "agent": { "name": name } });
        self.send(&text(&auth.to_string())).await;
        self.frame_where(|frame| frame["type"] == "auth_ok").await;
        self
    }

    /// Sends bytes as they are. A connection that is gone already shows when reading.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(SOON, self.stream.write_all(bytes)).await.expect("it is taken in time");
    }

    async fn more(&mut self) -> bool {
        let reading = tokio::time::timeout(self.patience, self.stream.read_buf(&mut self.waiting));
        matches!(reading.await.expect("something in time"), Ok(1..))
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.waiting.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.waiting.drain(..count).collect())
    }

    /// The next frame.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.take(2).await?;
        let len = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.take(2).await?.try_into().expect("two bytes"))),
            127 => u64::from_be_bytes(self.take(8).await?.try_into().expect("eight bytes")).try_into().expect("fits"),
            len => usize::from(len),
        };
        Some((head[0] & 0x0f, self.take(len).await?))
    }

    /// The payload of the next frame of this kind; others are dropped.
    pub async fn next_of(&mut self, op: Op) -> Vec<u8> {
        loop {
            let (kind, payload) = self.next().await.expect("still open");
            if kind == op as u8 {
                return payload;
            }
        }
    }

    /// The next text for which `wanted` holds; others are dropped.
    pub async fn frame_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = serde_json::from_slice(&self.next_of(Op::Text).await).expect("JSON");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// The reply to this `ref`.
    pub async fn reply(&mut self, reference: &str) -> Value {
        self.frame_where(|frame| frame["ref"] == reference).await
    }

    /// Whether the other side ends it, without a word.
    pub async fn is_cut_off(&mut self) -> bool {
        !self.more().await && self.waiting.is_empty()
    }

    /// Reads until the end: its close code.
    pub async fn closed(&mut self) -> u16 {
        while let Some((kind, payload)) = self.next().await {
            if kind == Op::Close as u8 {
                return payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
            }
        }
        UNCLEAN
    }
}
