//! Agents: the way into a fleet, connecting one or many. Nothing here measures.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::{dialect::Dialect, socket::Socket};

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
        Self { url: url.to_owned(), dialect: Dialect::Ringforge, key: key.to_owned(), fleet: 0 }
    }

    /// A fleet of the bare server.
    pub fn bare(url: &str, fleet: usize) -> Self {
        Self { url: format!("{url}/fleet/{fleet}"), dialect: Dialect::Bare, key: String::new(), fleet }
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
        door.dialect.enter(&mut socket, door, name, hello).await?;
        Ok(socket)
    };
    let joined = timeout(CONNECTED_WITHIN, join).await;
    joined
        .map_err(|_| anyhow!("no answer in {CONNECTED_WITHIN:?}"))
        .flatten()
        .with_context(|| format!("connect {name}"))
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
