//! A WebSocket for a client that must keep up with a server on one core: all sockets read into one buffer, a message is
//! looked at where it lies, and a socket that is idle holds nothing. No compression, no fragments: neither is asked for.

use std::{cell::RefCell, collections::BTreeMap, io::ErrorKind, ops::Range};

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream, lookup_host},
};

use crate::dialect::Dialect;

/// Bytes read at once, at most.
const READ: usize = 256 << 10;
/// Bytes of one frame beyond which a server has gone wrong.
const FRAME: usize = 16 << 20;
/// Bytes of the answer to the upgrade.
const HEAD: usize = 8 << 10;
/// Any 16 bytes do: what the server makes of them is not checked, since nothing stands between.
const KEY: &str = "cmluZ2ZvcmdlLWxvYWQtMQ==";

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// A client's end of one connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    dialect: Dialect,
    /// Read, and not yet a whole frame.
    rest: Vec<u8>,
    /// Framed, and not yet written.
    outgoing: Vec<u8>,
    /// Bytes received, frame heads included.
    pub received: u64,
}

impl Socket {
    /// Connects and upgrades. `window`: bytes that the kernel may hold unread, if not as many as it likes.
    ///
    /// # Errors
    /// No connection, or no upgrade.
    pub async fn open(url: &str, dialect: Dialect, window: Option<u32>) -> Result<Self> {
        let place = url.strip_prefix("ws://").with_context(|| format!("{url} is not a ws:// URL"))?;
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let address = lookup_host(host).await?.next().with_context(|| format!("no address for {host}"))?;
        let tcp = TcpSocket::new_v4()?;
        if let Some(bytes) = window {
            tcp.set_recv_buffer_size(bytes)?;
        }
        let stream = tcp.connect(address).await?;
        stream.set_nodelay(true)?;
        let mut socket = Self { stream, dialect, rest: Vec::new(), outgoing: Vec::new(), received: 0 };
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        socket.outgoing.extend_from_slice(request.as_bytes());
        socket.flush().await?;
        socket.upgraded().await?;
        Ok(socket)
    }

    async fn upgraded(&mut self) -> Result<()> {
        loop {
            if let Some(end) = memmem::find(&self.rest, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
                ensure!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {head}");
                self.rest.drain(..end + 4);
                return Ok(());
            }
            ensure!(self.rest.len() < HEAD, "the answer to the upgrade has no end");
            self.stream.readable().await?;
            self.fill_rest()?;
        }
    }

    /// The ports of its ends, the server's first.
    ///
    /// # Errors
    /// It is no longer connected.
    pub fn ports(&self) -> Result<(u16, u16)> {
        Ok((self.stream.peer_addr()?.port(), self.stream.local_addr()?.port()))
    }

    /// What is spoken.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Puts one message where `flush` finds it.
    pub fn feed(&mut self, text: &[u8]) {
        let opcode = if self.dialect.is_text() { 1 } else { 2 };
        frame(opcode, text, &mut self.outgoing);
    }

    /// Writes what was fed. May be given up and called again: nothing is lost, nothing is written twice.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            let written = self.stream.write(&self.outgoing).await.context("send")?;
            self.outgoing.drain(..written);
        }
        Ok(())
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, text: &[u8]) -> Result<()> {
        self.feed(text);
        self.flush().await
    }

    /// Hands every message that is there to `take`, at least one. Pings of the protocol are answered besides. May be
    /// given up and called again.
    ///
    /// # Errors
    /// The connection ended, or what came is no WebSocket.
    pub async fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let (used, mut messages) = self.frames(&rest, &mut take)?;
        rest[used..].clone_into(&mut self.rest);
        while messages == 0 {
            self.stream.readable().await?;
            messages = self.fill(&mut take)?;
        }
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        Ok(())
    }

    /// The next message alone, copied: for conversations that are not measured by the byte.
    ///
    /// # Errors
    /// The connection ended, or what came is no WebSocket.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            while let Some(head) = Head::of(&self.rest)? {
                let bytes: Vec<u8> = self.rest.drain(..head.payload.end).collect();
                let mut message = None;
                self.frames(&bytes, &mut |text| message = Some(text.to_vec()))?;
                if let Some(message) = message {
                    self.flush().await?;
                    return Ok(message);
                }
            }
            self.stream.readable().await?;
            self.fill_rest()?;
        }
    }

    /// Reads once; before the upgrade and for `next`, what was read is kept as it is.
    fn fill_rest(&mut self) -> Result<()> {
        let before = self.rest.len();
        self.rest.resize(before + (4 << 10), 0);
        let read = self.stream.try_read(&mut self.rest[before..]);
        let read = self.count(read)?;
        self.rest.truncate(before + read);
        Ok(())
    }

    /// Reads once and hands over whole messages; how many.
    fn fill(&mut self, mut take: impl FnMut(&[u8])) -> Result<usize> {
        BUFFER.with_borrow_mut(|buffer| {
            let before = self.rest.len();
            if buffer.len() < before + READ / 4 {
                buffer.resize(before + READ, 0);
            }
            buffer[..before].copy_from_slice(&self.rest);
            let read = self.stream.try_read(&mut buffer[before..]);
            let filled = before + self.count(read)?;
            let (used, messages) = self.frames(&buffer[..filled], &mut take)?;
            // A new one: a socket that was busy once holds nothing afterwards.
            self.rest = buffer[used..filled].to_vec();
            Ok(messages)
        })
    }

    fn count(&mut self, read: std::io::Result<usize>) -> Result<usize> {
        match read {
            Ok(0) => bail!("the connection ended"),
            Ok(read) => {
                self.received += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error).context("read"),
        }
    }

    /// Goes through whole frames: bytes used, messages handed over.
    fn frames(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(usize, usize)> {
        let (mut used, mut messages) = (0, 0);
        while let Some(Head { opcode, payload }) = Head::of(&bytes[used..])? {
            let content = &bytes[used + payload.start..used + payload.end];
            used += payload.end;
            match opcode {
                1 | 2 => {
                    if let Some(pong) = self.dialect.pong(content) {
                        self.feed(pong);
                    }
                    take(content);
                    messages += 1;
                }
                8 => bail!("the server closed the connection: {}", closed(content)),
                9 => frame(10, content, &mut self.outgoing),
                _ => {}
            }
        }
        Ok((used, messages))
    }
}

/// Bytes that kernels hold unsent, by local and remote port: what a server has for readers that do not read.
///
/// # Errors
/// /proc cannot be read.
pub fn unsent() -> Result<BTreeMap<(u16, u16), u64>> {
    Ok(unsent_of(&std::fs::read_to_string("/proc/net/tcp").context("read /proc/net/tcp")?))
}

/// `sl local remote state tx:rx ..`, in hex.
fn unsent_of(table: &str) -> BTreeMap<(u16, u16), u64> {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, _, queues, ..] = fields[..] else { return None };
        let bytes = u64::from_str_radix(queues.split(':').next()?, 16).ok()?;
        Some(((port(local)?, port(remote)?), bytes))
    };
    table.lines().filter_map(row).collect()
}

/// Code and reason of a close frame.
fn closed(content: &[u8]) -> String {
    match content {
        [high, low, reason @ ..] => {
            format!("{} {}", u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason))
        }
        _ => "no code".to_owned(),
    }
}

/// Writes a client's frame. Its mask is four zeros, which the standard allows and which changes nothing.
fn frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    if let Ok(length @ 0..=125) = u8::try_from(payload.len()) {
        out.push(0x80 | length);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        out.push(0x80 | 0x7e);
        out.extend_from_slice(&length.to_be_bytes());
    } else {
        out.push(0x80 | 0x7f);
        out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The head of a whole frame of a server.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    opcode: u8,
    payload: Range<usize>,
}

impl Head {
    /// None: the frame is not all there.
    fn of(bytes: &[u8]) -> Result<Option<Self>> {
        let [first, second, ..] = *bytes else { return Ok(None) };
        ensure!(first & 0xf0 == 0x80, "a fragment, or not a WebSocket: {first:#x}");
        ensure!(second & 0x80 == 0, "a masked frame from a server");
        // 126 and 127: the length stands behind, in two or eight bytes.
        let start = match second {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let Some(long) = bytes.get(2..start) else { return Ok(None) };
        let length = if long.is_empty() {
            usize::from(second)
        } else {
            long.iter().fold(0, |length: usize, byte| length.saturating_mul(256).saturating_add((*byte).into()))
        };
        ensure!(length <= FRAME, "a frame of {length} bytes");
        let payload = start..start + length;
        Ok((bytes.len() >= payload.end).then_some(Self { opcode: first & 0x0f, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut framed = Vec::new();
        frame(opcode, &vec![b'x'; length], &mut framed);
        let head = framed.len() - length - 4;
        framed[1] &= 0x7f;
        framed.drain(head..head + 4);
        framed
    }

    #[test]
    fn frames_of_every_length_are_read_when_they_are_whole() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let bytes = server_frame(1, length);
            let head = Head::of(&bytes).expect("a frame").expect("whole");
            assert_eq!((head.opcode, head.payload.len(), head.payload.end), (1, length, bytes.len()));
            assert_eq!(Head::of(&bytes[..bytes.len() - 1]).expect("a part"), None, "{length}");
        }
    }

    #[test]
    fn what_is_not_asked_for_is_an_error() {
        for bytes in [&[0x01, 1, b'x'][..], &[0xc1, 0], &[0x81, 0x80, 0, 0, 0, 0], &[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(Head::of(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_waits_for_a_reader_is_read_from_the_table() {
        let table = "sl local rem st tx_queue:rx_queue\n\
            0: 0100007F:1F90 0100007F:C001 01 00000000:00000010 00:0\n1: 0100007F:1F90 0100007F:C000 01 00001000:00000000 00:0\n";
        assert_eq!(unsent_of(table), BTreeMap::from([((0x1f90, 0xc000), 0x1000), ((0x1f90, 0xc001), 0)]));
    }

    #[test]
    fn a_close_tells_its_code() {
        assert_eq!(closed(&[3, 245, b'l', b'a', b'g']), "1013 lag");
        assert_eq!(closed(&[]), "no code");
    }
}
