//! The tokio loop of one connection: moves bytes and does jobs; what may happen when, `connection.rs` decides.

mod meter;
pub mod wire;
pub mod work;

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, Sink, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ringforge_domain::{
    close::Close,
    limits::{SOCKET_READ_BUFFER, SOCKET_WRITE_BUFFER},
};
use ringforge_ports::clock::Clock;
use tokio::{task::yield_now, time::Sleep};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tracing::debug;

pub use crate::connection::GOODBYE;
use crate::{
    connection::{Connection, Out},
    edge::Edge,
};
pub use meter::Bounds;
pub use wire::Pipe;
use wire::Wire;
use work::{Work, Worker};

/// No two ticks are closer.
const TICK_MIN: Duration = Duration::from_millis(1);

/// A WebSocket of ours.
pub type Socket<S> = WebSocketStream<Wire<S>>;

/// A connection that has been upgraded.
pub struct Upgraded<S> {
    /// The stream.
    pub stream: S,
    /// What was read of it already.
    pub early: Vec<u8>,
    /// The peer.
    pub from: IpAddr,
    /// The key that came with the upgrade.
    pub bearer: Option<String>,
}

/// One connection, its socket and its work in flight.
struct Served<S> {
    edge: Arc<Edge>,
    from: IpAddr,
    bearer: Option<String>,
    socket: Socket<S>,
    connection: Connection,
    worker: Worker,
    work: FuturesUnordered<BoxFuture<'static, Work>>,
    /// Rings when a tick is due, or earlier.
    alarm: Pin<Box<Sleep>>,
    alarm_at: Duration,
    /// Whether the last that happened was a message.
    was_read: bool,
}

/// What a connection has to deal with next.
enum Next {
    Read(Option<Result<Message, Error>>),
    Flushed(Result<(), Error>),
    Work(Work),
    Posts,
    Tick,
    Drain,
}

/// Serves a connection until it ends; calls `known` once it has sent `auth`.
pub fn serve<S: Pipe>(
    edge: Arc<Edge>,
    upgraded: Upgraded<S>,
    known: impl FnOnce() + Send,
) -> impl Future<Output = ()> + Send {
    // Opening needs much room for a moment: a connection would keep it for good.
    let opening = Box::pin(Served::open(edge, upgraded));
    async move {
        let mut served = opening.await;
        served.run(known).await;
        served.end().await;
    }
}

/// Our side of a WebSocket over a stream, of which `early` has been read already.
pub async fn open<S: Pipe>(stream: S, early: Vec<u8>, clock: Arc<dyn Clock>, bounds: Bounds) -> Socket<S> {
    let (wire, early) = Wire::new(stream, early, clock, bounds);
    let config = WebSocketConfig::default()
        .read_buffer_size(SOCKET_READ_BUFFER)
        // What the library writes itself goes straight to the wire's queue.
        .write_buffer_size(0)
        .max_write_buffer_size(SOCKET_WRITE_BUFFER)
        .max_message_size(Some(bounds.message_bytes))
        .max_frame_size(Some(bounds.message_bytes));
    WebSocketStream::from_partially_read(wire, early, Role::Server, Some(config)).await
}

/// What a peer is told of whose socket there is nothing more to be read; `None`: it is gone.
pub fn broken<S: Pipe>(socket: &mut Socket<S>, error: &Error) -> Option<Close> {
    if let Some(close) = blame(error) {
        socket.get_mut().cut(close);
    }
    socket.get_ref().breach()
}

/// Reads on until the peer has gone too: whoever says goodbye is answered in the last read.
pub async fn hear_out<S: Pipe>(socket: &mut Socket<S>) {
    if socket.get_ref().breach().is_some() {
        return socket.get_mut().drop_rest().await;
    }
    while let Some(Ok(_)) = socket.next().await {}
}

impl<S: Pipe> Served<S> {
    async fn open(edge: Arc<Edge>, upgraded: Upgraded<S>) -> Self {
        let Upgraded { stream, early, from, bearer } = upgraded;
        let services = &edge.services;
        let bounds = Bounds::of(&edge.session.limits);
        let socket = open(stream, early, Arc::clone(&services.clock), bounds).await;
        let connection =
            Connection::open(Arc::clone(&edge.session), Arc::clone(&services.clock), Arc::clone(&services.ids));
        let worker = Worker::new(Arc::clone(&edge));
        let (work, alarm) = (FuturesUnordered::new(), Box::pin(tokio::time::sleep(Duration::ZERO)));
        let (alarm_at, was_read) = (Duration::ZERO, false);
        Self { edge, from, bearer, socket, connection, worker, work, alarm, alarm_at, was_read }
    }

    async fn run(&mut self, known: impl FnOnce() + Send) {
        let mut stranger = Some(known);
        let mut draining = self.edge.draining();
        if *draining.borrow_and_update() {
            self.connection.drain();
        }
        let mut drained = pin!(draining.changed().fuse());
        loop {
            self.begin_jobs();
            if !self.connection.session().is_stranger()
                && let Some(known) = stranger.take()
            {
                known();
            }
            if self.connection.is_over() {
                return;
            }
            if self.connection.is_stalled() {
                debug!("peer reads nothing");
                return;
            }
            match self.next(drained.as_mut()).await {
                Next::Flushed(Ok(())) => self.connection.flushed(),
                Next::Read(Some(read)) => {
                    if !self.on_read(read) {
                        return;
                    }
                }
                Next::Read(None) | Next::Flushed(Err(_)) => return,
                Next::Work(work) => self.worker.finish(work, &mut self.connection),
                Next::Posts => {
                    if !self.show().await {
                        return;
                    }
                }
                Next::Tick => self.connection.tick(),
                Next::Drain => self.connection.drain(),
            }
        }
    }

    /// Shows what waits, in three rounds: all whom an update woke make ready, then all write, then all go on. Writes that follow
    /// each other closely find whoever reads them still awake. `false`: the socket is gone.
    async fn show(&mut self) -> bool {
        self.connection.take_posts();
        yield_now().await;
        let Self { socket, connection, .. } = self;
        if !connection.writes() {
            return true;
        }
        let written = poll_fn(|cx| Poll::Ready(write(socket, connection, cx))).await;
        yield_now().await;
        match written {
            Poll::Ready(Ok(())) => self.connection.flushed(),
            Poll::Ready(Err(_)) => return false,
            Poll::Pending => {}
        }
        true
    }

    /// Waits for whatever happens next, among what is wanted now.
    async fn next(&mut self, mut drained: Pin<&mut impl Future>) -> Next {
        let Self { edge, socket, connection, work, alarm, alarm_at, was_read, .. } = self;
        let (reads, writes, posts) = (connection.reads(), connection.writes(), connection.takes_posts());
        // Set anew only where it would ring too late, and once its ringing was heard: most of what happens moves the next tick
        // further away.
        let due = connection.next_tick();
        if due < *alarm_at {
            let now = edge.services.clock.monotonic();
            alarm.set(tokio::time::sleep(due.saturating_sub(now).max(TICK_MIN)));
            *alarm_at = due;
        }
        let outbox = Arc::clone(connection.outbox());
        let mut filled = pin!(outbox.filled());
        let mut posts_first = std::mem::take(was_read);
        poll_fn(|cx| {
            // What wakes a connection are posts, nearly always; and whoever says much is shown what there is all the same.
            if posts && posts_first && filled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Posts);
            }
            // Rare things first: bytes and posts, of which there may always be more, come last.
            if drained.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Drain);
            }
            if alarm.as_mut().poll(cx).is_ready() {
                *alarm_at = Duration::MAX;
                return Poll::Ready(Next::Tick);
            }
            if let Poll::Ready(Some(work)) = work.poll_next_unpin(cx) {
                return Poll::Ready(Next::Work(work));
            }
            if writes && let Poll::Ready(result) = write(socket, connection, cx) {
                return Poll::Ready(Next::Flushed(result));
            }
            if reads && let Poll::Ready(read) = Pin::new(&mut *socket).poll_next(cx) {
                *was_read = true;
                return Poll::Ready(Next::Read(read));
            }
            if posts && !posts_first && filled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Next::Posts);
            }
            posts_first = true;
            Poll::Pending
        })
        .await
    }

    /// `false`: the socket is gone.
    fn on_read(&mut self, read: Result<Message, Error>) -> bool {
        match read {
            Ok(Message::Text(text)) => self.connection.text(text),
            Ok(Message::Binary(_)) => self.connection.binary(),
            // tungstenite answers pings by itself; both are signs of life.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => self.connection.alive(),
            Ok(Message::Close(_)) => return false,
            Err(error) => {
                let Some(close) = broken(&mut self.socket, &error) else { return false };
                self.connection.close(close);
            }
        }
        true
    }

    fn begin_jobs(&mut self) {
        for job in self.connection.jobs() {
            let (edge, from, bearer) = (&self.edge, self.from, &mut self.bearer);
            let work = self.worker.begin(job, &self.connection, |auth| {
                let (edge, bearer) = (Arc::clone(edge), bearer.take());
                async move { edge.enter(&auth, bearer.as_deref(), from).await }.boxed()
            });
            self.work.push(work);
        }
    }

    /// Hands what was read before the end to the gate, and reports what the peer took.
    async fn submit_rest(&mut self) {
        self.connection.hang_up();
        loop {
            self.begin_jobs();
            if self.connection.is_submitted() {
                return;
            }
            let Some(work) = self.work.next().await else { return };
            self.worker.finish(work, &mut self.connection);
        }
    }

    /// Leaves the fleet, waits for the peer's goodbye, and lets the log know later.
    async fn end(&mut self) {
        let _ = tokio::time::timeout(GOODBYE, self.submit_rest()).await;
        if !self.worker.is_inside() {
            tokio::spawn(see_out(Arc::clone(&self.edge), std::mem::take(&mut self.work)));
        }
        // Commands in flight may or may not be in the log: that is what a client that lost its socket must assume.
        if let Some(caller) = self.worker.leave(&self.connection) {
            tokio::spawn(Arc::clone(&self.edge).leave_later(caller));
        }
        let _ = tokio::time::timeout(GOODBYE, hear_out(&mut self.socket)).await;
    }
}

/// What a peer is told that sent what cannot be read; `None`: it is gone.
fn blame(error: &Error) -> Option<Close> {
    match error {
        Error::Capacity(_) => Some(Close::TooBig),
        Error::Utf8(_) => Some(Close::NotText),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(Close::Protocol),
        _ => None,
    }
}

/// Waits until an agent is in that is gone already, so that its session ends.
async fn see_out(edge: Arc<Edge>, mut work: FuturesUnordered<BoxFuture<'static, Work>>) {
    while let Some(done) = work.next().await {
        if let Work::Entered(inside) = done
            && let Ok(inside) = *inside
        {
            Arc::clone(&edge).leave_later(inside.caller).await;
        }
    }
}

/// Puts what waits into the socket and flushes; ready when all of it is out.
fn write<S: Pipe>(
    socket: &mut Socket<S>,
    connection: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    loop {
        while socket.get_ref().has_room()
            && let Some(out) = connection.next_out()
        {
            match out {
                Out::Text(line) => socket.get_mut().push(line.frame()),
                Out::Close(code, reason) => {
                    let close = CloseFrame { code: code.into(), reason: reason.into() };
                    Pin::new(&mut *socket).start_send(Message::Close(Some(close)))?;
                }
            }
        }
        let flushed = Pin::new(&mut *socket).poll_flush(cx);
        if socket.get_mut().progressed() {
            connection.progressed();
        }
        ready!(flushed)?;
        if !connection.has_out() {
            return Poll::Ready(Ok(()));
        }
    }
}
