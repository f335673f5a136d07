//! An agent's connection: tuned socket, `auth`, reading on. Nothing here measures.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, client::IntoClientRequest, protocol::WebSocketConfig},
};

use crate::wire::{PONG, Seen, auth};

/// An agent's socket.
pub type Socket = WebSocketStream<TcpStream>;

/// Connections being made at a time: a server may hold only so many that have not said who they are.
const CONNECTS_AT_ONCE: usize = 32;
/// From the connect to `auth_ok`.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// The socket settings of the product, for both sides: the defaults cost 133 kB a connection.
pub fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(32 << 10)
        .max_write_buffer_size(4 << 20)
        .max_message_size(Some(2 << 20))
        .max_frame_size(Some(2 << 20))
}

/// The way into one fleet.
#[derive(Clone, Debug)]
pub struct Door {
    url: String,
    /// None: the bare server, which asks for nothing.
    key: Option<String>,
}

impl Door {
    /// A fleet of a RingForge server.
    pub fn new(url: &str, key: &str) -> Self {
        Self { url: url.to_owned(), key: Some(key.to_owned()) }
    }

    /// A fleet of the bare server.
    pub fn bare(url: String) -> Self {
        Self { url, key: None }
    }

    /// Whether its server has positions.
    pub fn has_positions(&self) -> bool {
        self.key.is_some()
    }
}

/// Connects one agent, up to `auth_ok`.
///
/// # Errors
/// No connection, no `auth_ok`, or not in time.
pub async fn connect(door: &Door, name: &str, presence: &str) -> Result<Socket> {
    let joined = timeout(CONNECTED_WITHIN, join(door, name, presence)).await;
    joined
        .map_err(|_| anyhow!("no answer in {CONNECTED_WITHIN:?}"))
        .flatten()
        .with_context(|| format!("connect {name}"))
}

async fn join(door: &Door, name: &str, presence: &str) -> Result<Socket> {
    let request = door.url.as_str().into_client_request()?;
    let address = request.uri().authority().context("the URL has no host")?.as_str().to_owned();
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let (mut socket, _) = client_async_with_config(request, stream, Some(socket_config())).await?;
    let Some(key) = &door.key else { return Ok(socket) };
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let seen = Seen::read(&text).with_context(|| format!("read {text}"))?;
        match seen.kind {
            "auth_required" => socket.send(Message::text(auth(key, name, presence))).await?,
            "auth_ok" => return Ok(socket),
            "auth_error" | "error" => bail!("refused: {text}"),
            _ => {}
        }
    }
    bail!("the server closed the connection")
}

/// Connects `agents` agents, spread evenly over the doors: agent `n` goes through door `n % doors`.
///
/// # Errors
/// One of them could not connect.
pub async fn connect_all(
    doors: &[Door],
    agents: std::ops::Range<usize>,
    presence: &str,
) -> Result<Vec<(usize, Socket)>> {
    let doors: Arc<[Door]> = doors.into();
    stream::iter(agents)
        .map(|agent| {
            let (doors, presence) = (Arc::clone(&doors), presence.to_owned());
            async move {
                let socket = connect(&doors[agent % doors.len()], &format!("load-{agent}"), &presence).await?;
                anyhow::Ok((agent, socket))
            }
        })
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await
}

/// The next text of a socket; pings of the protocol are answered.
///
/// # Errors
/// The connection ended.
pub async fn next_text(socket: &mut Socket) -> Result<Utf8Bytes> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if is_ping(&text) => socket.send(Message::text(PONG)).await?,
            Message::Text(text) => return Ok(text),
            Message::Close(frame) => bail!("the server closed the connection: {frame:?}"),
            _ => {}
        }
    }
    bail!("the connection ended")
}

/// Short, and a ping: longer ones are not looked at.
fn is_ping(text: &str) -> bool {
    text.len() < 64 && Seen::read(text).is_ok_and(|seen| seen.kind == "ping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pings_are_pings() {
        assert!(is_ping(r#"{"type":"ping"}"#));
        assert!(!is_ping(r#"{"type":"pong"}"#) && !is_ping("ping"));
    }
}
