//! One connection: the real one with a pipe on each side. Does in single steps what `ws-edge::socket` does in its loop.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_ws_edge::{
    connection::{Connection, Job, Out},
    session::{Action, Step},
    socket::{
        GOODBYE,
        work::{Work, Worker},
    },
};

use crate::{history::Link, process::Process, rng::Rng, tally::Tally};

/// Messages that fit between server and client.
const PIPE: usize = 6;

/// The server's side of a connection.
pub struct Socket {
    /// Its process.
    pub process: Arc<Process>,
    connection: Connection,
    worker: Worker,
    work: Vec<BoxFuture<'static, Work>>,
    /// From the client.
    pub up: VecDeque<String>,
    /// To the client; `None` is the goodbye.
    pub down: VecDeque<Option<String>>,
    /// Everything that ever went into the pipe.
    written: Vec<String>,
    /// Whether it ever lost what waited for it.
    has_lagged: bool,
    /// The most bytes of pushes that ever waited for it.
    waited: usize,
    /// Since when the client has been gone.
    gone: Option<Duration>,
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
        let services = &process.services;
        let (clock, ids) = (Arc::clone(&services.clock), Arc::clone(&services.ids));
        let connection = Connection::open(Arc::clone(&process.edge.session), clock, ids);
        let worker = Worker::new(Arc::clone(&process.edge));
        Self {
            process,
            connection,
            worker,
            work: Vec::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            written: Vec::new(),
            has_lagged: false,
            waited: 0,
            gone: None,
            tally,
            lagging: false,
            pages: 0,
        }
    }

    /// Writes down what happened to it.
    pub fn write_down(&mut self, link: &mut Link) {
        link.written.get_or_insert_default().append(&mut self.written);
        (link.lagged, link.waited) = (self.has_lagged, self.waited);
    }

    fn now(&self) -> Duration {
        self.process.services.clock.monotonic()
    }

    /// The client is gone: what it sent is read no more, what was read is submitted.
    pub fn hang_up(&mut self) {
        if self.gone.is_none() {
            self.gone = Some(self.now());
            self.up.clear();
            self.connection.hang_up();
            self.begin_jobs();
        }
    }

    /// Takes one of the steps that are possible; `None`: there is none, `Some(false)`: it has ended.
    pub fn step(&mut self, rng: &mut Rng) -> Option<bool> {
        if let Some(since) = self.gone {
            if self.connection.is_submitted() || self.now() >= since + GOODBYE {
                return Some(false);
            }
            return self.work(rng).then_some(true);
        }
        if self.connection.is_over() || self.connection.is_stalled() {
            self.hang_up();
            return Some(true);
        }
        let connection = &self.connection;
        self.waited = self.waited.max(connection.outbox().own_bytes());
        let mut possible = Vec::with_capacity(5);
        if connection.writes() && self.down.len() < PIPE {
            possible.extend([Next::Flush; 3]);
        }
        if connection.reads() && !self.up.is_empty() {
            possible.push(Next::Read);
        }
        if !self.work.is_empty() {
            possible.extend([Next::Work; 3]);
        }
        if connection.takes_posts() && !connection.outbox().is_empty() {
            possible.push(Next::Posts);
        }
        if self.now() >= connection.next_tick() {
            possible.push(Next::Tick);
        }
        if possible.is_empty() {
            return None;
        }
        match *rng.pick(&possible) {
            Next::Flush => self.flush(),
            Next::Read => {
                let text = self.up.pop_front().unwrap_or_default();
                self.connection.text(text.into());
            }
            Next::Work if !self.work(rng) => return None,
            Next::Work => {}
            Next::Posts => {
                self.lagging |= !self.connection.take_posts();
                self.has_lagged |= self.lagging;
            }
            Next::Tick => self.connection.tick(),
        }
        self.begin_jobs();
        Some(true)
    }

    fn flush(&mut self) {
        while self.down.len() < PIPE {
            let Some(out) = self.connection.next_out() else { return self.connection.flushed() };
            self.down.push_back(match out {
                Out::Text(line) => {
                    self.written.push(line.text().to_owned());
                    Some(line.text().to_owned())
                }
                Out::Close(..) => {
                    if self.connection.session().was_replaced() {
                        self.tally.note("situation: session replaced");
                    }
                    None
                }
            });
        }
    }

    /// `false`: it is not done yet.
    fn work(&mut self, rng: &mut Rng) -> bool {
        if self.work.is_empty() {
            return false;
        }
        let at = rng.index(self.work.len());
        let Some(done) = (&mut self.work[at]).now_or_never() else { return false };
        drop(self.work.swap_remove(at));
        let live = self.connection.session().is_live();
        self.worker.finish(done, &mut self.connection);
        if !live && self.connection.session().is_live() {
            self.note_joined();
        }
        self.begin_jobs();
        true
    }

    fn note_joined(&mut self) {
        if std::mem::take(&mut self.lagging) {
            self.tally.note("situation: connection lagged and caught up");
        }
        if !self.connection.outbox().is_empty() {
            self.tally.note("situation: history joined live within the tail");
        }
    }

    fn begin_jobs(&mut self) {
        for job in self.connection.jobs() {
            if let Job::Act(action) = &job
                && matches!(**action, Action::CatchUp(Step::Missed { .. }))
            {
                self.pages += 1;
                if self.pages == 2 {
                    self.tally.note("situation: resume took several pages");
                }
            }
            let process = &self.process;
            let enter = |auth| Arc::clone(process).enter(auth).boxed();
            self.work.push(self.worker.begin(job, &self.connection, enter));
        }
    }

    /// Leaves the fleet, and lets the log know later. Its process must be alive.
    pub fn end(mut self) {
        self.connection.hang_up();
        for job in self.connection.jobs() {
            if let Job::Report(_) = job {
                let enter = |_| unreachable!("a report lets nobody in");
                let report = self.worker.begin(job, &self.connection, enter);
                self.process.see_out(report.map(|_| None).boxed());
            }
        }
        if !self.worker.is_inside() {
            for work in std::mem::take(&mut self.work) {
                let entered = |work| if let Work::Entered(inside) = work { inside.ok() } else { None };
                self.process.see_out(work.map(entered).boxed());
            }
        }
        if let Some(caller) = self.worker.leave(&self.connection) {
            self.process.leave_later(caller);
        }
    }
}
