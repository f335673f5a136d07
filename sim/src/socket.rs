//! One connection: the session machine with a pipe on each side. Does in single steps what `ws-edge::socket` does in its
//! loop: takes posts only when everything is written, appends one batch at a time, reports what the socket took.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_command_api::{Asked, Caller};
use ringforge_domain::{
    ids::CommandId,
    limits::{APPEND_RECORDS_MAX, REPLIES_BYTES_MAX},
};
use ringforge_ws_edge::{
    catchup::Reader,
    feed::Feed,
    hub::Outbox,
    session::{Action, Input, Session, Step},
    socket::work::{Inside, Work},
};

use crate::{process::Process, rng::Rng, tally::Tally};

/// Messages that fit between server and client.
const PIPE: usize = 6;
/// As in `ws-edge::socket`: how long a peer may take to read nothing at all.
const STALLED: Duration = Duration::from_mins(1);

/// The server's side of a connection.
#[expect(clippy::struct_excessive_bools, reason = "what the real loop keeps in its locals")]
pub struct Socket {
    /// Its process.
    pub process: Arc<Process>,
    session: Session,
    /// Texts; `None` is the goodbye.
    out: VecDeque<Option<String>>,
    out_bytes: usize,
    unflushed: bool,
    written_at: Duration,
    closing: bool,
    outbox: Arc<Outbox>,
    inside: Option<(Caller, Arc<Feed>)>,
    queued: Vec<Asked>,
    submitting: bool,
    work: Vec<BoxFuture<'static, Work>>,
    /// From the client.
    pub up: VecDeque<String>,
    /// To the client; `None` is the goodbye.
    pub down: VecDeque<Option<String>>,
    /// Everything that ever went into the pipe.
    pub written: Vec<String>,
    tally: Tally,
    lagging: bool,
    pages: u32,
}

/// What a connection can do next.
#[derive(Clone, Copy)]
enum Next {
    Flush,
    Read,
    Work,
    Posts,
    Tick,
}

impl Socket {
    /// Opens.
    pub fn open(process: Arc<Process>, tally: Tally) -> Self {
        let now = process.services.clock.monotonic();
        let session = Session::new(Arc::clone(&process.edge.session), now);
        let mut socket = Self {
            process,
            session,
            out: VecDeque::new(),
            out_bytes: 0,
            unflushed: false,
            written_at: now,
            closing: false,
            outbox: Arc::default(),
            inside: None,
            queued: Vec::new(),
            submitting: false,
            work: Vec::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            written: Vec::new(),
            tally,
            lagging: false,
            pages: 0,
        };
        socket.input(Input::Opened);
        socket
    }

    fn now(&self) -> Duration {
        self.process.services.clock.monotonic()
    }

    /// Takes one of the steps that are possible; `None`: there is none, `Some(false)`: it has ended.
    pub fn step(&mut self, rng: &mut Rng) -> Option<bool> {
        let idle = self.out.is_empty() && !self.unflushed;
        if self.closing && idle {
            return Some(false);
        }
        if !idle && self.now().saturating_sub(self.written_at) > STALLED {
            return Some(false);
        }
        let mut possible = Vec::with_capacity(5);
        if !idle && (self.out.is_empty() || self.down.len() < PIPE) {
            possible.extend([Next::Flush; 3]);
        }
        let reads = !self.closing && self.session.reads() && self.out_bytes < REPLIES_BYTES_MAX;
        if reads && !self.up.is_empty() {
            possible.push(Next::Read);
        }
        if !self.work.is_empty() {
            possible.extend([Next::Work; 3]);
        }
        if idle && self.session.wants_posts() && !self.outbox.is_empty() {
            possible.push(Next::Posts);
        }
        if self.now() >= self.session.next_tick() {
            possible.push(Next::Tick);
        }
        if possible.is_empty() {
            return None;
        }
        match *rng.pick(&possible) {
            Next::Flush => self.flush(),
            Next::Read => self.read(),
            Next::Work if !self.work(rng) => return None,
            Next::Work => {}
            Next::Posts => self.posts(),
            Next::Tick => self.input(Input::Tick),
        }
        self.submit();
        Some(true)
    }

    fn flush(&mut self) {
        while self.down.len() < PIPE
            && let Some(message) = self.out.pop_front()
        {
            if let Some(text) = &message {
                self.out_bytes -= text.len();
                self.written.push(text.clone());
            }
            self.down.push_back(message);
        }
        self.unflushed = !self.out.is_empty();
        if !self.unflushed {
            self.written_at = self.now();
            self.input(Input::Flushed);
        }
    }

    fn read(&mut self) {
        let Some(text) = self.up.pop_front() else { return };
        let id = CommandId::from_bits(self.process.services.ids.next());
        self.input(Input::Text(&text, id));
    }

    /// `false`: it is not done yet.
    fn work(&mut self, rng: &mut Rng) -> bool {
        let at = rng.index(self.work.len());
        let Some(done) = (&mut self.work[at]).now_or_never() else { return false };
        drop(self.work.swap_remove(at));
        match done {
            Work::Nothing => {}
            Work::Done(done) => {
                let input = done();
                self.note(&input);
                self.input(input);
            }
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
        true
    }

    fn note(&mut self, input: &Input<'_>) {
        if let Input::Joined = input {
            if std::mem::take(&mut self.lagging) {
                self.tally.note("situation: connection lagged and caught up");
            }
            if !self.outbox.is_empty() {
                self.tally.note("situation: history joined live within the tail");
            }
        }
    }

    fn posts(&mut self) {
        match self.outbox.take() {
            Ok(posts) => self.input(Input::Posts(posts)),
            Err(lagged) => {
                self.lagging = true;
                self.input(Input::Lagged(lagged));
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        for action in self.session.on(input, now) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(text) => {
                if self.out.is_empty() && !self.unflushed {
                    self.written_at = self.now();
                }
                self.out_bytes += text.len();
                self.out.push_back(Some(text.as_str().to_owned()));
            }
            Action::Close(..) => {
                if self.session.was_replaced() {
                    self.tally.note("situation: session replaced");
                }
                if !self.closing {
                    self.closing = true;
                    self.out.push_back(None);
                }
            }
            Action::Enter(auth) => {
                let process = Arc::clone(&self.process);
                self.work.push(async move { Work::Entered(Box::new(process.enter(*auth).await)) }.boxed());
            }
            Action::Submit(id, command, meta) => self.queued.push(Asked { id, command, meta }),
            action => self.act_inside(action),
        }
    }

    fn act_inside(&mut self, action: Action) {
        let (Some((caller, feed)), Some((viewpoint, encoder))) = (&self.inside, self.session.me()) else { return };
        if let Action::CatchUp(Step::Missed { .. }) = &action {
            self.pages += 1;
            if self.pages == 2 {
                self.tally.note("situation: resume took several pages");
            }
        }
        let inside = Inside {
            edge: Arc::clone(&self.process.edge),
            caller: caller.clone(),
            feed: Arc::clone(feed),
            reader: Reader { viewpoint, encoder, presence: self.session.presence },
            outbox: Arc::clone(&self.outbox),
        };
        self.work.extend(inside.work(action));
    }

    fn submit(&mut self) {
        let Some((caller, _)) = &self.inside else { return };
        if self.submitting || self.queued.is_empty() {
            return;
        }
        self.submitting = true;
        let count = self.queued.len().min(APPEND_RECORDS_MAX);
        let asked: Vec<Asked> = self.queued.drain(..count).collect();
        let (edge, caller) = (Arc::clone(&self.process.edge), caller.clone());
        let work = async move {
            let ids: Vec<CommandId> = asked.iter().map(|asked| asked.id).collect();
            let results = edge.gate.submit(&caller, asked).await;
            Work::Submitted(ids.into_iter().zip(results).collect())
        };
        self.work.push(work.boxed());
    }

    /// Leaves the fleet, and lets the log know later. Its process must be alive.
    pub fn end(mut self) {
        if let (Some((_, feed)), Some((viewpoint, _))) = (&self.inside, self.session.me()) {
            feed.fleet().leave(viewpoint.session);
        }
        if let Some((caller, _)) = self.inside.take().filter(|_| !self.session.has_ended()) {
            self.process.leave_later(caller);
        }
        if self.session.is_entering() {
            for work in std::mem::take(&mut self.work) {
                let entered = |work| if let Work::Entered(inside) = work { inside.ok() } else { None };
                self.process.see_out(work.map(entered).boxed());
            }
        }
    }
}
