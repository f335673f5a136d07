//! The ceiling: a server that only fans out. It accepts WebSockets, finds the fleet in the path, and forwards every text
//! as it came to all sockets of the fleet. No log, no JSON. Runtime and sockets are set as in the product, so that the
//! ratio of the two says what everything else costs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::server::{Request, Response},
    },
};

use crate::agent::socket_config;

/// Frames waiting for one socket; a socket that falls behind further is closed.
const QUEUE: usize = 1_024;
/// Frames written before one flush.
const BATCH: usize = 32;

type Fleet = BTreeMap<u64, mpsc::Sender<Utf8Bytes>>;

/// Who is in which fleet. One lock a frame: a fleet is what its frame is copied to.
#[derive(Default)]
struct Hub {
    fleets: Mutex<BTreeMap<String, Arc<Mutex<Fleet>>>>,
}

impl Hub {
    fn fleet(&self, path: &str) -> Arc<Mutex<Fleet>> {
        let mut fleets = self.fleets.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fleets.entry(path.to_owned()).or_default())
    }
}

/// Forwards to everyone; whoever has no room loses its place, and with it its socket.
fn forward(fleet: &Mutex<Fleet>, text: &Utf8Bytes) {
    let mut fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
    fleet.retain(|_, socket| socket.try_send(text.clone()).is_ok());
}

/// Serves for ever.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener) -> Result<()> {
    let hub = Arc::new(Hub::default());
    for id in 0.. {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            // A connection's end, whatever the reason, is the client's affair: it counts what it misses.
            let _ = connection(&hub, id, stream).await;
        });
    }
    Ok(())
}

async fn connection(hub: &Hub, id: u64, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let keep_path = |request: &Request, response: Response| {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let socket = accept_hdr_async_with_config(stream, keep_path, Some(socket_config())).await?;
    let fleet = hub.fleet(&path);
    let (sender, queue) = mpsc::channel(QUEUE);
    fleet.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
    let ended = exchange(&fleet, socket, queue).await;
    fleet.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    ended
}

async fn exchange(
    fleet: &Mutex<Fleet>,
    mut socket: WebSocketStream<TcpStream>,
    mut queue: mpsc::Receiver<Utf8Bytes>,
) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return Ok(());
                }
                for text in batch.drain(..) {
                    socket.feed(Message::Text(text)).await?;
                }
                socket.flush().await?;
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => forward(fleet, &text),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}
