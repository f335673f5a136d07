//! The tokio loop of one connection: moves bytes, runs a session's actions. One task a connection; every queue in it is bounded.

mod meter;
mod wire;
pub mod work;

use std::{
    collections::VecDeque,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Sink, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ringforge_command_api::{Asked, Caller};
use ringforge_domain::{
    close::Close,
    ids::CommandId,
    limits::{APPEND_RECORDS_MAX, PENDING_BYTES_MAX, REPLIES_BYTES_MAX, SOCKET_READ_BUFFER, SOCKET_WRITE_BUFFER},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tracing::debug;

use crate::{
    catchup::Reader,
    edge::Edge,
    feed::Feed,
    hub::Outbox,
    session::{Action, Input, Session},
};
use wire::Wire;
use work::{Inside, Work};

/// How long a peer may take to read nothing at all.
const STALLED: Duration = Duration::from_mins(1);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Text messages joined into one, for those who asked for batches.
const BATCH_BYTES: usize = 32 << 10;

/// One connection and its work in flight.
struct Connection {
    edge: Arc<Edge>,
    from: IpAddr,
    bearer: Option<String>,
    socket: WebSocketStream<Wire>,
    session: Session,
    out: VecDeque<Message>,
    out_bytes: usize,
    unflushed: bool,
    written_at: Duration,
    closing: bool,
    outbox: Arc<Outbox>,
    inside: Option<(Caller, Arc<Feed>)>,
    queued: Vec<Asked>,
    /// Bytes of the frames they came in, about.
    queued_bytes: usize,
    submitting: bool,
    work: FuturesUnordered<BoxFuture<'static, Work>>,
}

/// What the socket did.
enum Moved {
    Read(Option<Result<Message, Error>>),
    Flushed(Result<(), Error>),
}

/// What a connection has to deal with next.
enum Next {
    Moved(Moved),
    Work(Work),
    Posts,
    Tick,
    Drain,
}

/// A connection that has been upgraded.
pub struct Upgraded {
    /// The stream.
    pub stream: TcpStream,
    /// What was read of it already.
    pub early: Vec<u8>,
    /// The peer.
    pub from: IpAddr,
    /// The key that came with the upgrade.
    pub bearer: Option<String>,
}

/// Serves a connection until it ends; calls `known` once it has sent `auth`.
pub async fn serve(edge: Arc<Edge>, upgraded: Upgraded, known: impl FnOnce() + Send) {
    let Upgraded { stream, early, from, bearer } = upgraded;
    let (wire, early) = Wire::new(stream, early, Arc::clone(&edge.services.clock));
    let config = Some(config(edge.session.limits.frame_bytes()));
    let socket = WebSocketStream::from_partially_read(wire, early, Role::Server, config).await;
    let now = edge.services.clock.monotonic();
    let session = Session::new(Arc::clone(&edge.session), now);
    let mut connection = Connection {
        edge,
        from,
        bearer,
        socket,
        session,
        out: VecDeque::new(),
        out_bytes: 0,
        unflushed: false,
        written_at: now,
        closing: false,
        outbox: Arc::default(),
        inside: None,
        queued: Vec::new(),
        queued_bytes: 0,
        submitting: false,
        work: FuturesUnordered::new(),
    };
    connection.run(known).await;
    connection.end().await;
}

fn config(frame_bytes: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_READ_BUFFER)
        .write_buffer_size(SOCKET_WRITE_BUFFER)
        .max_write_buffer_size(frame_bytes * 2 + SOCKET_WRITE_BUFFER * 4)
        .max_message_size(Some(frame_bytes))
        .max_frame_size(Some(frame_bytes))
}

impl Connection {
    async fn run(&mut self, known: impl FnOnce() + Send) {
        let mut stranger = Some(known);
        let mut draining = self.edge.draining();
        self.input(Input::Opened);
        if *draining.borrow_and_update() {
            self.input(Input::Drain);
        }
        loop {
            if !self.session.is_stranger()
                && let Some(known) = stranger.take()
            {
                known();
            }
            if self.closing && self.out.is_empty() && !self.unflushed {
                return;
            }
            let now = self.edge.services.clock.monotonic();
            let tick = self.session.next_tick().saturating_sub(now).max(Duration::from_millis(1));
            let idle = self.out.is_empty() && !self.unflushed;
            let room = self.out_bytes < REPLIES_BYTES_MAX && self.queued_bytes < PENDING_BYTES_MAX;
            let reads = !self.closing && self.session.reads() && room;
            if !reads {
                // While we do not read, the peer's silence is our own.
                self.input(Input::Alive);
            }
            let posts = idle && self.session.wants_posts();
            let waiting = self.out_bytes;
            let next = self.next(reads, !idle, posts, tick, &mut draining).await;
            match next {
                Next::Moved(moved) => {
                    if !self.on_moved(moved) {
                        return;
                    }
                }
                Next::Work(work) => self.on_work(work),
                Next::Posts => self.on_posts(),
                Next::Tick => self.input(Input::Tick),
                Next::Drain => self.input(Input::Drain),
            }
            self.submit();
            if self.out_bytes < waiting {
                self.written_at = self.edge.services.clock.monotonic();
            }
            let waited = self.edge.services.clock.monotonic().saturating_sub(self.written_at);
            if (!self.out.is_empty() || self.unflushed) && waited > STALLED {
                debug!("peer reads nothing");
                return;
            }
        }
    }

    /// Waits for whatever happens next, among what is wanted now.
    async fn next(
        &mut self,
        reads: bool,
        flushes: bool,
        posts: bool,
        tick: Duration,
        draining: &mut watch::Receiver<bool>,
    ) -> Next {
        let Self { socket, out, out_bytes, unflushed, session, work, outbox, .. } = self;
        let batch = session.batch;
        let moved = std::future::poll_fn(move |cx| {
            if flushes && let Poll::Ready(result) = flush(socket, out, out_bytes, unflushed, batch, cx) {
                return Poll::Ready(Moved::Flushed(result));
            }
            if reads && let Poll::Ready(read) = Pin::new(&mut *socket).poll_next(cx) {
                return Poll::Ready(Moved::Read(read));
            }
            Poll::Pending
        });
        tokio::select! {
            moved = moved, if reads || flushes => Next::Moved(moved),
            Some(work) = work.next(), if !work.is_empty() => Next::Work(work),
            () = outbox.filled(), if posts => Next::Posts,
            () = tokio::time::sleep(tick) => Next::Tick,
            _ = draining.changed() => Next::Drain,
        }
    }

    /// `false`: the socket is gone.
    fn on_moved(&mut self, moved: Moved) -> bool {
        match moved {
            Moved::Flushed(Ok(())) => {
                self.written_at = self.edge.services.clock.monotonic();
                self.input(Input::Flushed);
                true
            }
            Moved::Flushed(Err(_)) | Moved::Read(None) => false,
            Moved::Read(Some(Ok(message))) => self.on_message(message),
            Moved::Read(Some(Err(error))) => {
                if matches!(error, Error::Capacity(_)) {
                    self.socket.get_mut().cut(Close::TooBig);
                }
                let Some(close) = self.socket.get_ref().breach() else { return false };
                self.close(close.code(), close.reason());
                true
            }
        }
    }

    fn on_message(&mut self, message: Message) -> bool {
        match message {
            Message::Text(text) => self.on_text(&text),
            Message::Binary(_) => self.input(Input::Binary),
            // tungstenite answers pings by itself; both are signs of life.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => self.input(Input::Alive),
            Message::Close(_) => {
                self.closing = true;
                return false;
            }
        }
        true
    }

    fn on_text(&mut self, text: &Utf8Bytes) {
        if !self.session.batch {
            return self.on_line(text);
        }
        for line in text.as_str().lines().filter(|line| !line.trim().is_empty()) {
            self.on_line(line);
        }
    }

    fn on_line(&mut self, line: &str) {
        let id = CommandId::from_bits(self.edge.services.ids.next());
        let queued = self.queued.len();
        self.input(Input::Text(line, id));
        if self.queued.len() > queued {
            self.queued_bytes += line.len();
        }
    }

    fn on_posts(&mut self) {
        match self.outbox.take() {
            Ok(posts) => self.input(Input::Posts(posts)),
            Err(lagged) => self.input(Input::Lagged(lagged)),
        }
    }

    fn on_work(&mut self, work: Work) {
        match work {
            Work::Nothing => {}
            Work::Done(done) => self.input(done()),
            Work::Submitted(results) => {
                self.submitting = false;
                for (id, result) in results {
                    if let (Ok(offset), Some((_, feed))) = (&result, &self.inside) {
                        feed.expect(*offset);
                    }
                    self.input(Input::Submitted(id, result));
                }
            }
            Work::Entered(inside) => {
                let entered = inside.map(|inside| {
                    self.inside = Some((inside.caller, inside.feed));
                    inside.entered
                });
                self.input(Input::Entered(Box::new(entered)));
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.edge.services.clock.monotonic();
        for action in self.session.on(input, now) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(text) => {
                if self.out.is_empty() && !self.unflushed {
                    self.written_at = self.edge.services.clock.monotonic();
                }
                self.out_bytes += text.len();
                self.out.push_back(Message::Text(text));
            }
            Action::Close(code, reason) => self.close(code, reason),
            Action::Enter(auth) => {
                let (edge, from, bearer) = (Arc::clone(&self.edge), self.from, self.bearer.take());
                self.work.push(
                    async move { Work::Entered(Box::new(edge.enter(&auth, bearer.as_deref(), from).await)) }.boxed(),
                );
            }
            Action::Submit(id, command, meta) => self.queued.push(Asked { id, command, meta }),
            action => self.act_inside(action),
        }
    }

    fn act_inside(&mut self, action: Action) {
        let (Some((caller, feed)), Some((viewpoint, encoder))) = (&self.inside, self.session.me()) else { return };
        let inside = Inside {
            edge: Arc::clone(&self.edge),
            caller: caller.clone(),
            feed: Arc::clone(feed),
            reader: Reader { viewpoint, encoder, presence: self.session.presence },
            outbox: Arc::clone(&self.outbox),
        };
        self.work.extend(inside.work(action));
    }

    /// Sends the commands that wait to the gate, one append at a time: their order is the log's.
    fn submit(&mut self) {
        let Some((caller, _)) = &self.inside else { return };
        if self.submitting || self.queued.is_empty() {
            return;
        }
        self.submitting = true;
        let count = self.queued.len().min(APPEND_RECORDS_MAX);
        let asked: Vec<Asked> = self.queued.drain(..count).collect();
        if self.queued.is_empty() {
            self.queued_bytes = 0;
        }
        let (edge, caller) = (Arc::clone(&self.edge), caller.clone());
        let work = async move {
            let ids: Vec<CommandId> = asked.iter().map(|asked| asked.id).collect();
            let results = edge.gate.submit(&caller, asked).await;
            Work::Submitted(ids.into_iter().zip(results).collect())
        };
        self.work.push(work.boxed());
    }

    fn close(&mut self, code: u16, reason: &'static str) {
        if !self.closing {
            self.closing = true;
            self.out.push_back(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })));
        }
    }

    /// Hands what was read before the end to the gate: whoever says goodbye right after a command meant it.
    async fn submit_rest(&mut self) {
        while self.submitting || !self.queued.is_empty() {
            self.submit();
            match self.work.next().await {
                Some(Work::Submitted(_)) => self.submitting = false,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Leaves the fleet, waits for the peer's goodbye, and lets the log know later.
    async fn end(mut self) {
        let _ = tokio::time::timeout(GOODBYE, self.submit_rest()).await;
        if let (Some((_, feed)), Some((viewpoint, _))) = (&self.inside, self.session.me()) {
            feed.fleet().leave(viewpoint.session);
        }
        // Commands in flight may or may not be in the log: that is what a client that lost its socket must assume.
        if let Some((caller, _)) = self.inside.take().filter(|_| !self.session.has_ended()) {
            tokio::spawn(Arc::clone(&self.edge).leave_later(caller));
        }
        if self.session.is_entering() {
            tokio::spawn(see_out(Arc::clone(&self.edge), std::mem::take(&mut self.work)));
        }
        let goodbye = async {
            if self.socket.get_ref().breach().is_some() {
                return self.socket.get_mut().drop_rest().await;
            }
            // On to the end: whoever says goodbye is told so in the last read.
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
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
fn flush(
    socket: &mut WebSocketStream<Wire>,
    out: &mut VecDeque<Message>,
    out_bytes: &mut usize,
    unflushed: &mut bool,
    batch: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    while !out.is_empty() {
        match Pin::new(&mut *socket).poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let Some(message) = next_message(out, out_bytes, batch) else { break };
        *unflushed = true;
        if let Err(error) = Pin::new(&mut *socket).start_send(message) {
            return Poll::Ready(Err(error));
        }
    }
    match Pin::new(socket).poll_flush(cx) {
        Poll::Ready(result) => {
            *unflushed = false;
            Poll::Ready(result)
        }
        Poll::Pending => Poll::Pending,
    }
}

/// The next message; several lines in one for those who asked for batches.
fn next_message(out: &mut VecDeque<Message>, out_bytes: &mut usize, batch: bool) -> Option<Message> {
    let message = out.pop_front()?;
    let Message::Text(text) = message else { return Some(message) };
    *out_bytes -= text.len();
    if !batch || !matches!(out.front(), Some(Message::Text(_))) {
        return Some(Message::Text(text));
    }
    let mut lines = text.as_str().to_owned();
    while let Some(Message::Text(next)) = out.front() {
        if lines.len() + next.len() > BATCH_BYTES {
            break;
        }
        lines.push('\n');
        lines.push_str(next.as_str());
        *out_bytes -= next.len();
        out.pop_front();
    }
    Some(Message::Text(lines.into()))
}
