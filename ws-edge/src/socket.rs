//! The tokio loop of one connection: moves bytes and does jobs; what may happen when, `connection.rs` decides.

mod meter;
pub mod wire;
pub mod work;

use std::{
    future::poll_fn,
    net::IpAddr,
    panic::{self, AssertUnwindSafe},
    pin::{Pin, pin},
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_util::{FutureExt, Sink, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ringforge_domain::{
    close::Close,
    limits::{SOCKET_READ_BUFFER, SOCKET_WRITE_BUFFER},
};
use ringforge_ports::clock::Clock;
use tokio::time::Sleep;
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
    outbox::{Outbox, Show},
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

/// A connection and its socket. Its own task works at it, and whoever has something to show, each for a moment.
struct Desk<S> {
    socket: Socket<S>,
    connection: Connection,
    /// When the task's alarm rings.
    alarm_at: Duration,
}

/// Where a desk stands; nowhere once the connection ends.
struct Seat<S>(Mutex<Option<Desk<S>>>);

/// One connection and its work in flight.
struct Served<S> {
    edge: Arc<Edge>,
    from: IpAddr,
    bearer: Option<String>,
    seat: Arc<Seat<S>>,
    outbox: Arc<Outbox>,
    worker: Worker,
    work: FuturesUnordered<BoxFuture<'static, Work>>,
    /// Rings when a tick is due, or earlier.
    alarm: Pin<Box<Sleep>>,
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
    /// Somebody else has been at the desk.
    Again,
}

impl<S: Pipe> Seat<S> {
    /// Works at the desk, which stands there until the end.
    fn at<T>(&self, work: impl FnOnce(&mut Desk<S>) -> T) -> T {
        let mut desk = self.0.lock().expect("no panic while the lock is held");
        work(desk.as_mut().expect("it stands there until the end"))
    }

    /// Somebody else's work at the desk; nothing is done if its task is there, or if nobody can be there any more.
    fn visit<T>(&self, work: impl FnOnce(&mut Desk<S>) -> T) -> Option<T> {
        let mut desk = self.0.try_lock().ok()?;
        let done = panic::catch_unwind(AssertUnwindSafe(|| desk.as_mut().map(work)));
        done.unwrap_or_else(|_| {
            // It ends this connection, not whoever shows something to many.
            *desk = None;
            None
        })
    }

    /// Takes the desk away.
    fn end(&self) -> Desk<S> {
        self.0.lock().expect("no panic while the lock is held").take().expect("it is taken away once")
    }
}

impl<S: Pipe> Show for Seat<S> {
    fn take(&self) -> bool {
        self.visit(Desk::take).unwrap_or(false)
    }

    fn send(&self) {
        self.visit(Desk::send);
    }

    fn finish(&self) -> bool {
        self.visit(Desk::finish).unwrap_or(false)
    }
}

impl<S: Pipe> Desk<S> {
    /// Takes what waits, and puts it into the socket.
    fn take(&mut self) -> bool {
        self.connection.begin_show() && fill(&mut self.socket, &mut self.connection).is_ok()
    }

    /// Writes what is in the socket.
    fn send(&mut self) {
        // If the task has come between, it waits for the socket itself, as only one can.
        if self.connection.is_shown() {
            // Should that not take all, or be gone, the task is woken.
            let mut nobody = Context::from_waker(Waker::noop());
            let _ = self.socket.get_mut().poll_drain(&mut nobody);
        }
    }

    /// Whether there is nothing more to do.
    fn finish(&mut self) -> bool {
        let all_out = self.socket.get_ref().is_drained() && !self.connection.has_out();
        self.connection.end_show(self.alarm_at, all_out)
    }
}

/// Serves a connection until it ends; calls `known` once it has sent `auth`.
pub fn serve<S: Pipe>(
    edge: Arc<Edge>,
    upgraded: Upgraded<S>,
    known: impl FnOnce() + Send,
) -> impl Future<Output = ()> + Send {
    // Opening and ending need much room for a moment: a connection would keep it for good.
    let opening = Box::pin(Served::open(edge, upgraded));
    async move {
        let mut served = opening.await;
        served.run(known).await;
        Box::pin(served.end()).await;
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
        let outbox = Arc::clone(connection.outbox());
        let desk = Desk { socket, connection, alarm_at: Duration::ZERO };
        let seat = Arc::new(Seat(Mutex::new(Some(desk))));
        let shows: Weak<Seat<S>> = Arc::downgrade(&seat);
        outbox.show_by(shows);
        let worker = Worker::new(Arc::clone(&edge));
        let (work, alarm) = (FuturesUnordered::new(), Box::pin(tokio::time::sleep(Duration::ZERO)));
        Self { edge, from, bearer, seat, outbox, worker, work, alarm, was_read: false }
    }

    async fn run(&mut self, known: impl FnOnce() + Send) {
        let seat = Arc::clone(&self.seat);
        let mut stranger = Some(known);
        let mut draining = self.edge.draining();
        if *draining.borrow_and_update() {
            seat.at(|desk| desk.connection.drain());
        }
        let mut drained = pin!(draining.changed().fuse());
        loop {
            let (is_known, over, stalled) = seat.at(|Desk { connection, .. }| {
                self.begin_jobs(connection);
                (!connection.session().is_stranger(), connection.is_over(), connection.is_stalled())
            });
            if is_known && let Some(known) = stranger.take() {
                known();
            }
            if stalled {
                debug!("peer reads nothing");
            }
            if over || stalled {
                return;
            }
            if !self.next(&seat, drained.as_mut()).await {
                return;
            }
        }
    }

    /// Waits for whatever happens next, among what is wanted now, and tells the connection, before anybody else is at the desk.
    /// `false`: the socket is gone.
    async fn next(&mut self, seat: &Seat<S>, mut drained: Pin<&mut impl Future>) -> bool {
        let Self { edge, outbox, worker, work, alarm, was_read, .. } = self;
        let mut filled = pin!(outbox.filled());
        let mut posts_first = std::mem::take(was_read);
        let mut next = |Desk { socket, connection, alarm_at }: &mut Desk<S>, cx: &mut Context<'_>| {
            connection.resume();
            if connection.is_wanted() {
                return Poll::Ready(Next::Again);
            }
            let (reads, writes, posts) = (connection.reads(), connection.writes(), connection.takes_posts());
            // Set anew only where it would ring too late, and once its ringing was heard: most of what happens moves the
            // next tick further away.
            let due = connection.next_tick();
            if due < *alarm_at {
                let now = edge.services.clock.monotonic();
                alarm.set(tokio::time::sleep(due.saturating_sub(now).max(TICK_MIN)));
                *alarm_at = due;
            }
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
        };
        poll_fn(|cx| seat.at(|desk| next(desk, cx).map(|next| on(next, worker, desk)))).await
    }

    fn begin_jobs(&mut self, connection: &mut Connection) {
        for job in connection.jobs() {
            let (edge, from, bearer) = (&self.edge, self.from, &mut self.bearer);
            let work = self.worker.begin(job, connection, |auth| {
                let (edge, bearer) = (Arc::clone(edge), bearer.take());
                async move { edge.enter(&auth, bearer.as_deref(), from).await }.boxed()
            });
            self.work.push(work);
        }
    }

    /// Hands what was read before the end to the gate, and reports what the peer took.
    async fn submit_rest(&mut self, connection: &mut Connection) {
        connection.hang_up();
        loop {
            self.begin_jobs(connection);
            if connection.is_submitted() {
                return;
            }
            let Some(work) = self.work.next().await else { return };
            self.worker.finish(work, connection);
        }
    }

    /// Leaves the fleet, waits for the peer's goodbye, and lets the log know later.
    async fn end(&mut self) {
        let Desk { mut socket, mut connection, .. } = self.seat.end();
        let _ = tokio::time::timeout(GOODBYE, self.submit_rest(&mut connection)).await;
        if !self.worker.is_inside() {
            tokio::spawn(see_out(Arc::clone(&self.edge), std::mem::take(&mut self.work)));
        }
        // Commands in flight may or may not be in the log: that is what a client that lost its socket must assume.
        if let Some(caller) = self.worker.leave(&connection) {
            tokio::spawn(Arc::clone(&self.edge).leave_later(caller));
        }
        let _ = tokio::time::timeout(GOODBYE, hear_out(&mut socket)).await;
    }
}

/// Tells a connection what has happened. `false`: the socket is gone.
fn on<S: Pipe>(next: Next, worker: &mut Worker, Desk { socket, connection, .. }: &mut Desk<S>) -> bool {
    match next {
        Next::Flushed(Ok(())) => connection.flushed(),
        Next::Read(Some(read)) => return on_read(read, socket, connection),
        Next::Read(None) | Next::Flushed(Err(_)) => return false,
        Next::Work(work) => worker.finish(work, connection),
        Next::Posts => connection.take_posts(),
        Next::Tick => connection.tick(),
        Next::Drain => connection.drain(),
        Next::Again => {}
    }
    true
}

/// `false`: the socket is gone.
fn on_read<S: Pipe>(read: Result<Message, Error>, socket: &mut Socket<S>, connection: &mut Connection) -> bool {
    match read {
        Ok(Message::Text(text)) => connection.text(text),
        Ok(Message::Binary(_)) => connection.binary(),
        // tungstenite answers pings by itself; both are signs of life.
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => connection.alive(),
        Ok(Message::Close(_)) => return false,
        Err(error) => {
            let Some(close) = broken(socket, &error) else { return false };
            connection.close(close);
        }
    }
    true
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

/// Puts what waits into the socket, as far as there is room.
fn fill<S: Pipe>(socket: &mut Socket<S>, connection: &mut Connection) -> Result<(), Error> {
    while socket.get_ref().has_room()
        && let Some(out) = connection.next_out()
    {
        match out {
            Out::Text(line) => socket.get_mut().push(line.into_frame()),
            Out::Close(code, reason) => {
                let close = CloseFrame { code: code.into(), reason: reason.into() };
                Pin::new(&mut *socket).start_send(Message::Close(Some(close)))?;
            }
        }
    }
    Ok(())
}

/// Puts what waits into the socket and flushes; ready when all of it is out.
fn write<S: Pipe>(
    socket: &mut Socket<S>,
    connection: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    loop {
        fill(socket, connection)?;
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

#[cfg(test)]
mod tests;
