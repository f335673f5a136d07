//! What this client can take: a server that does nothing but write prepared messages of many events, as fast as they are
//! taken, and the client's full checks on its one core. No server can be measured beyond this.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_tungstenite::accept_async;

use crate::{
    agent::Door,
    check::Receiver,
    dialect::{Dialect, Heard},
    figures::{Latencies, Report, micros_each, per_second, shown_spread},
    process::Server,
    quiet::{Meter, Noise, Rounds, rounds},
    socket::Socket,
    wire::{Stamp, data},
};

/// Events of one message.
const LINES: u64 = 64;

/// `ringforge-load reader`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Reader {
    #[command(flatten)]
    rounds: Rounds,
    /// Connections.
    #[arg(long, default_value_t = 400, value_parser = value_parser!(u32).range(1..=19_000))]
    sockets: u32,
    /// Seconds of each round.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=900))]
    bytes: u32,
}

/// A message of events as a server's frame, numbered from `first`.
fn message(first: u64, bytes: usize) -> Vec<u8> {
    let lines = (first..first + LINES).map(|sequence| {
        let data = data(Stamp { publisher: 0, sequence, due: 1 }, bytes);
        let position = sequence + 1;
        format!(
            r#"{{"type":"activity","event":"broadcast","event_id":"evt_F8huDmrhno100000000004GAmstjf4AJM","position":{position},"activity":{{"data":{data},"description":"load","kind":"custom","tags":[]}},"from":{{"agent_id":"ag_08gqfVNbRH5DVr6Z7XavYg","name":"load-1"}},"scope":"fleet","timestamp":"2026-01-01T00:00:00.000000Z"}}"#
        )
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let mut frame = vec![0x81, 0x7f];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The server: each connection gets every message, and the next one is made when all have taken the one before.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, bytes: usize) -> Result<()> {
    let (sender, _) = watch::channel((0, Arc::new(message(0, bytes))));
    let sender = Arc::new(sender);
    let taken: Arc<Mutex<usize>> = Arc::default();
    loop {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        let (sender, taken) = (Arc::clone(&sender), Arc::clone(&taken));
        // Under the lock: whoever takes part in a message is counted before it is done with.
        let mut receiver = {
            let _taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            sender.subscribe()
        };
        tokio::spawn(async move {
            let Ok(socket) = accept_async(stream).await else { return };
            let mut stream = socket.into_inner();
            loop {
                let (first, frame) = receiver.borrow_and_update().clone();
                if stream.write_all(&frame).await.is_err() {
                    return;
                }
                {
                    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                    *taken += 1;
                    if *taken >= sender.receiver_count() {
                        *taken = 0;
                        let _ = sender.send((first + LINES, Arc::new(message(first + LINES, bytes))));
                    }
                }
                if receiver.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Runs it.
///
/// # Errors
/// A connection failed, or what came was not what was sent.
pub async fn run(reader: &Reader) -> Result<Report> {
    let mut report = Report::new(format!("What this client can read and check, {} sockets, batch", reader.sockets));
    let found = rounds(reader.rounds, &mut report, async |_| round(reader).await).await?;
    let values = |value: fn(&(f64, f64, f64)) -> f64| found.iter().map(value).collect::<Vec<_>>();
    report.row("deliveries/s", shown_spread(&values(|round| round.0), 0));
    report.row("client CPU a delivery, us", shown_spread(&values(|round| round.1), 3));
    report.row("client CPU, % of its core", shown_spread(&values(|round| round.2), 0));
    Ok(report)
}

async fn round(reader: &Reader) -> Result<((f64, f64, f64), Noise)> {
    let server = Server::flood(reader.bytes)?;
    let door = Door::new(&server.ready.ws_url, "");
    let tally: Arc<Mutex<(u64, Option<String>)>> = Arc::default();
    let mut tasks = Vec::new();
    for _ in 0..reader.sockets {
        let (socket, tally) = (Socket::open(&door.url, door.dialect, None).await?, Arc::clone(&tally));
        tasks.push(tokio::spawn(listen(socket, tally)));
    }
    sleep(Duration::from_millis(500)).await;
    let seen = || tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (meter, begun, before) = (Meter::start(&server)?, Instant::now(), seen().0);
    sleep(Duration::from_secs(reader.seconds.into())).await;
    let (cost, time, (after, trouble)) = (meter.stop(&server)?, begun.elapsed(), seen());
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    ensure!(trouble.is_none(), "{}", trouble.unwrap_or_default());
    let count = after - before;
    ensure!(count > 0, "nothing came");
    Ok(((per_second(count, time), micros_each(cost.client, count), cost.client_percent()), cost.noise))
}

async fn listen(mut socket: Socket, tally: Arc<Mutex<(u64, Option<String>)>>) {
    let mut first = None;
    let mut receiver = Receiver::new(1, true);
    let mut latencies = Latencies::default();
    loop {
        let mut count = 0;
        let read = socket
            .read(|message| {
                Dialect::Ringforge.lines(message, |heard| {
                    let Heard::Event(stamp, position) = heard else { return };
                    // A connection that came later begins later.
                    let first = *first.get_or_insert(stamp.sequence);
                    receiver.saw(0, stamp.sequence - first, position);
                    latencies.record_due(stamp.due, stamp.due + 1);
                    count += 1;
                });
            })
            .await;
        let faults = receiver.faults(&[0]);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.0 += count;
        if !faults.none() {
            tally.1 = Some(faults.to_string());
        }
        if let Err(error) = read {
            tally.1.get_or_insert_with(|| format!("{error:#}"));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_out_is_a_fault() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = accept_async(stream).await.expect("a WebSocket").into_inner();
            for first in [0, 2 * LINES] {
                stream.write_all(&message(first, 64)).await.expect("written");
            }
        });
        let tally: Arc<Mutex<(u64, Option<String>)>> = Arc::default();
        let socket = Socket::open(&url, Dialect::Ringforge, None).await.expect("a connection");
        listen(socket, Arc::clone(&tally)).await;
        let (count, trouble) = tally.lock().expect("not poisoned").clone();
        assert_eq!(count, 2 * LINES);
        assert!(trouble.is_some_and(|trouble| trouble.contains("64 missing")));
    }

    #[tokio::test]
    async fn everything_that_is_written_is_read_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(serve(listener, 64));
        let tally: Arc<Mutex<(u64, Option<String>)>> = Arc::default();
        for _ in 0..3 {
            let socket = Socket::open(&url, Dialect::Ringforge, None).await.expect("a connection");
            tokio::spawn(listen(socket, Arc::clone(&tally)));
        }
        let seen = || tally.lock().expect("not poisoned").clone();
        while seen().0 < 10 * LINES {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen().1, None);
        server.abort();
    }
}
