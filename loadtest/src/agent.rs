//! Agents: the way into a fleet, connecting one or many. Nothing here measures.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::{dialect::Dialect, socket::Socket, wire::Seen};

/// Connections being made at a time, where it is not said: a server may hold only so many strangers.
pub const CONNECTS_AT_ONCE: usize = 32;
/// From the connect to the fleet.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// The socket settings of the bare server: the defaults cost 133 kB a connection.
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
    /// Where to connect.
    pub url: String,
    /// Another edge, if there is one.
    pub far: Option<String>,
    /// What is spoken there.
    pub dialect: Dialect,
    /// Empty where none is asked for.
    pub key: String,
    /// Its number among the fleets of the run.
    pub fleet: usize,
}

impl Door {
    /// A fleet of a RingForge server.
    pub fn new(url: &str, key: &str) -> Self {
        Self { url: url.to_owned(), far: None, dialect: Dialect::Ringforge, key: key.to_owned(), fleet: 0 }
    }

    /// A fleet of the bare server.
    pub fn bare(url: &str, fleet: usize) -> Self {
        Self { url: format!("{url}/fleet/{fleet}"), far: None, dialect: Dialect::Bare, key: String::new(), fleet }
    }

    /// The way into the same fleet at the other edge.
    ///
    /// # Errors
    /// There is none.
    pub fn across(&self) -> Result<Self> {
        let url = self.far.clone().filter(|far| *far != self.url).context("there is no other edge to go across")?;
        Ok(Self { url, ..self.clone() })
    }
}

/// How an agent comes in.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Presence frames it asks for: each, delta or none.
    pub presence: String,
    /// Whether a message may hold several lines.
    pub batch: bool,
    /// Resume after this event.
    pub last_event_id: Option<String>,
    /// Bytes that its kernel may hold unread; None: what the system gives.
    pub window: Option<u32>,
}

impl Default for Hello {
    fn default() -> Self {
        Self { presence: "none".to_owned(), batch: false, last_event_id: None, window: None }
    }
}

impl Hello {
    /// With this presence.
    pub fn presence(presence: &str) -> Self {
        Self { presence: presence.to_owned(), ..Self::default() }
    }
}

/// The name of the agent with this number.
pub fn name(agent: usize) -> String {
    format!("load-{agent}")
}

/// Connects one agent.
///
/// # Errors
/// No connection, refused, or not in time.
pub async fn connect(door: &Door, name: &str, hello: &Hello) -> Result<Socket> {
    let join = async {
        let mut socket = Socket::open(&door.url, door.dialect, hello.window).await?;
        enter(&mut socket, door, name, hello).await?;
        Ok(socket)
    };
    let joined = timeout(CONNECTED_WITHIN, join).await;
    joined
        .map_err(|_| anyhow!("no answer in {CONNECTED_WITHIN:?}"))
        .flatten()
        .with_context(|| format!("connect {name}"))
}

/// Says who is there, as far as the server wants to know, and joins the fleet.
async fn enter(socket: &mut Socket, door: &Door, name: &str, hello: &Hello) -> Result<()> {
    match door.dialect {
        Dialect::Bare => Ok(()),
        Dialect::Ringforge => authenticate(socket, &door.key, name, hello).await,
        Dialect::Nats | Dialect::Jetstream => {
            let fleet = door.fleet;
            let options = json!({ "verbose": false, "pedantic": false, "name": name, "lang": "rust", "version": "0" });
            let text = format!("CONNECT {options}\r\nSUB fleet.{fleet} 1\r\nSUB _INBOX.{name}.* 2\r\nPING\r\n");
            socket.send(text.as_bytes()).await?;
            wait_for(socket, &[b"PONG\r\n"]).await
        }
        Dialect::Centrifugo => {
            let connect = json!({ "id": 1, "connect": { "name": name } });
            let subscribe = json!({ "id": 2, "subscribe": { "channel": format!("fleet{}", door.fleet) } });
            socket.send(format!("{connect}\n{subscribe}").as_bytes()).await?;
            wait_for(socket, &[br#"{"id":1,"connect":"#, br#"{"id":2,"subscribe":"#]).await
        }
    }
}

/// Up to `auth_ok`.
async fn authenticate(socket: &mut Socket, key: &str, name: &str, hello: &Hello) -> Result<()> {
    loop {
        let text = String::from_utf8(socket.next().await?).context("read what is no text")?;
        for line in text.split('\n') {
            match Seen::read(line).with_context(|| format!("read {line}"))?.kind {
                "auth_required" => socket.send(auth(key, name, hello).as_bytes()).await?,
                "auth_ok" => return Ok(()),
                "auth_error" | "error" => bail!("refused: {line}"),
                _ => {}
            }
        }
    }
}

/// The one answer to `auth_required`.
fn auth(key: &str, name: &str, hello: &Hello) -> String {
    let Hello { presence, batch, last_event_id, .. } = hello;
    let mut auth = json!({ "type": "auth", "api_key": key, "agent": { "name": name }, "presence": presence });
    if *batch {
        auth["batch"] = true.into();
    }
    if let Some(id) = last_event_id {
        auth["last_event_id"] = id.as_str().into();
    }
    auth.to_string()
}

/// Reads until all of these were seen.
async fn wait_for(socket: &mut Socket, wanted: &[&[u8]]) -> Result<()> {
    let mut missing: Vec<&[u8]> = wanted.to_vec();
    while !missing.is_empty() {
        let message = socket.next().await?;
        let shown = String::from_utf8_lossy(&message);
        ensure!(!shown.contains("-ERR") && !shown.contains(r#""error":"#), "refused: {shown}");
        missing.retain(|wanted| memmem::find(&message, wanted).is_none());
    }
    Ok(())
}

/// Makes `JetStream` keep what is published, on disk.
///
/// # Errors
/// It refuses.
pub async fn keep_all(door: &Door) -> Result<()> {
    let mut socket = Socket::open(&door.url, Dialect::Jetstream, None).await?;
    enter(&mut socket, door, "keeper", &Hello::default()).await?;
    let config =
        json!({ "name": "LOAD", "subjects": ["fleet.>"], "storage": "file", "retention": "limits" }).to_string();
    let text = format!("PUB $JS.API.STREAM.CREATE.LOAD _INBOX.keeper.0 {}\r\n{config}\r\n", config.len());
    socket.send(text.as_bytes()).await?;
    loop {
        let answer = String::from_utf8_lossy(&socket.next().await?).into_owned();
        if answer.contains(r#""error""#) {
            bail!("no stream: {answer}");
        }
        if answer.contains("stream_create_response") {
            return Ok(());
        }
    }
}

/// Connects agents, spread evenly over the doors: agent `n` goes through door `n % doors`.
///
/// # Errors
/// One of them could not connect.
pub async fn connect_all(doors: &[Door], agents: Range<usize>, hello: &Hello) -> Result<Vec<(usize, Socket)>> {
    stream::iter(agents)
        .map(|agent| async move {
            let socket = connect(&doors[agent % doors.len()], &name(agent), hello).await?;
            anyhow::Ok((agent, socket))
        })
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await
}

/// Reads on and throws away, so that the server never waits for this agent. Ends with the connection.
pub async fn listen(mut socket: Socket) {
    while socket.read(|_| {}).await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_an_agent_in_is_json() {
        let hello = Hello { batch: true, last_event_id: Some("evt_1".to_owned()), ..Hello::default() };
        let text = auth("key", "name \"quoted\"", &hello);
        assert_eq!(Seen::read(&text).expect("a frame").kind, "auth");
    }
}
