//! An echo behind the product's own port, upgrade and wire: what a conformance suite talks to. Only what is said differs: each
//! message comes back as it was, of text and bytes alike.

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::Context as _;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use ringforge::{config::Config, http};
use ringforge_command_api::Gate;
use ringforge_domain::{
    cursor::Seal,
    ids::EdgeId,
    position::{Generation, LogTime},
};
use ringforge_ports::{
    Services,
    clock::{Clock, ManualClock, SeededIds, SystemClock},
    memory::{blobs::MemoryBlobs, live::MemoryLive, log::MemoryLog, reads::MemoryReads},
};
use ringforge_ws_edge::{
    edge::Edge,
    feed::Hub,
    line::Line,
    socket::{self, Bounds, GOODBYE, Socket, Upgraded},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

/// Far beyond the product's: what the suite sends at most.
const BOUNDS: Bounds = Bounds { message_bytes: 16 << 20, early_bytes: 16 << 20, fragments: 1 << 20, pings: 100 };

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "health tells how long it is up")]
async fn main() -> anyhow::Result<()> {
    let address: SocketAddr = std::env::args().nth(1).context("where shall it listen?")?.parse()?;
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let clock: Arc<dyn Clock> = SystemClock::start();
    let talk: http::Talk<TcpStream> = Arc::new(move |upgraded, known| {
        known();
        echo(upgraded, Arc::clone(&clock)).boxed()
    });
    let config = Config::read("")?;
    let edge = edge(&config);
    let site = http::Site { talk: Some(talk), ..http::Site::of(&edge) };
    http::serve(listener, site, config.http(), Instant::now(), Arc::new(())).await;
    Ok(())
}

/// What the port asks of an edge: whether it drains, and how its services are.
fn edge(config: &Config) -> Arc<Edge> {
    let clock = ManualClock::at(LogTime(1));
    let services = Services {
        log: MemoryLog::new(clock.clone(), 2, Generation(1)),
        reads: Arc::new(MemoryReads::new()),
        live: MemoryLive::new(clock.clone()),
        blobs: MemoryBlobs::new(),
        clock,
        ids: SeededIds::new(1),
    };
    let gate = Gate::new(services.clone(), config.gate());
    let hub = Hub::new(services.clone(), Seal::new([1; 32]));
    Edge::new(services, gate, hub, EdgeId::from_bits(1), config.edge(String::new()))
}

async fn echo(upgraded: Upgraded<TcpStream>, clock: Arc<dyn Clock>) {
    let mut socket = socket::open(upgraded.stream, upgraded.early, clock, BOUNDS).await;
    while let Some(read) = socket.next().await {
        let said = match read {
            Ok(Message::Text(text)) => say(&mut socket, Line::from(text.as_str()).into_frame()).await,
            Ok(Message::Binary(bytes)) => say(&mut socket, binary(bytes)).await,
            Ok(Message::Close(_)) => break,
            // Pings are answered in the next read.
            Ok(_) => Ok(()),
            Err(error) => {
                say_goodbye(&mut socket, &error).await;
                break;
            }
        };
        if said.is_err() {
            return;
        }
    }
    let _ = tokio::time::timeout(GOODBYE, socket::hear_out(&mut socket)).await;
}

/// As the product sends its lines: past the library.
async fn say(socket: &mut Socket<TcpStream>, frame: Bytes) -> Result<(), Error> {
    socket.get_mut().push(frame);
    socket.flush().await
}

/// A whole message of bytes, which the product has none of.
fn binary(bytes: Bytes) -> Bytes {
    let mut frame = Vec::new();
    Frame::message(bytes, OpCode::Data(Data::Binary), true).format(&mut frame).expect("writing to a Vec cannot fail");
    frame.into()
}

async fn say_goodbye(socket: &mut Socket<TcpStream>, error: &Error) {
    if let Some(close) = socket::broken(socket, error) {
        let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
        let _ = socket.send(Message::Close(Some(frame))).await;
    }
}
