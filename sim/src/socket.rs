//! One connection: the real one with a pipe on each side. Does in single steps what `ws-edge::socket` does in its loop: its own
//! task sleeps until something happens that it waits for, and whoever has something to show works at its desk meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_ws_edge::{
    connection::{Connection, Job, Out},
    outbox::Show,
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
    /// From the client.
    pub up: VecDeque<String>,
    seat: Arc<Seat>,
    worker: Worker,
    work: Vec<BoxFuture<'static, Work>>,
    asleep: Option<Asleep>,
    /// Whether it ever lost what waited for it.
    has_lagged: bool,
    /// The most bytes of pushes that ever waited for it.
    waited: usize,
    /// Since when the client has been gone.
    gone: Option<Duration>,
    tally: Tally,
    joined: bool,
    lagging: bool,
    pages: u32,
}

/// Where its own task works, and whoever has something to show.
struct Seat(Mutex<Desk>);

struct Desk {
    connection: Connection,
    down: Down,
    /// When the task's alarm rings.
    alarm_at: Duration,
}

/// The way to the client.
struct Down {
    /// `None` is the goodbye.
    frames: VecDeque<Option<String>>,
    /// Everything that ever went into the pipe.
    written: Vec<String>,
    tally: Tally,
}

/// What a task waits for, beside its work and its alarm.
struct Asleep {
    reads: bool,
    writes: bool,
    woken: Arc<Woken>,
    /// Registered with the outbox while it is kept.
    _posts: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Woken(AtomicBool);

/// What a connection can do next.
#[derive(Clone, Copy)]
enum Next {
    Flush,
    Read,
    Work,
    Posts,
    Tick,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Seat {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

impl Show for Seat {
    fn take(&self) -> bool {
        self.desk().connection.begin_show()
    }

    fn send(&self) {
        let Desk { connection, down, .. } = &mut *self.desk();
        down.write(connection);
    }

    fn finish(&self) -> bool {
        let Desk { connection, alarm_at, down } = &mut *self.desk();
        let shown = connection.end_show(*alarm_at, !connection.has_out());
        let what =
            if shown { "situation: shown by the feed alone" } else { "situation: shown by the feed, its task woken" };
        down.tally.note(what);
        shown
    }
}

impl Down {
    fn has_room(&self) -> bool {
        self.frames.len() < PIPE
    }

    /// Takes what there is room for; whether that is all.
    fn write(&mut self, connection: &mut Connection) -> bool {
        while self.has_room() {
            let Some(out) = connection.next_out() else { return true };
            connection.progressed();
            self.frames.push_back(match out {
                Out::Text(line) => {
                    self.written.push(line.text().to_owned());
                    Some(line.text().to_owned())
                }
                Out::Close(..) => {
                    if connection.session().was_replaced() {
                        self.tally.note("situation: session replaced");
                    }
                    None
                }
            });
        }
        false
    }
}

impl Asleep {
    fn new(connection: &Connection) -> Self {
        let woken = Arc::new(Woken::default());
        let posts = connection.takes_posts().then(|| {
            let outbox = Arc::clone(connection.outbox());
            let mut filled = async move { outbox.filled().await }.boxed();
            if filled.poll_unpin(&mut Context::from_waker(&Waker::from(Arc::clone(&woken)))).is_ready() {
                woken.wake_by_ref();
            }
            filled
        });
        Self { reads: connection.reads(), writes: connection.writes(), woken, _posts: posts }
    }
}

impl Socket {
    /// Opens.
    pub fn open(process: Arc<Process>, tally: Tally) -> Self {
        let services = &process.services;
        let (clock, ids) = (Arc::clone(&services.clock), Arc::clone(&services.ids));
        let connection = Connection::open(Arc::clone(&process.edge.session), clock, ids);
        let outbox = Arc::clone(connection.outbox());
        let down = Down { frames: VecDeque::new(), written: Vec::new(), tally: tally.clone() };
        let seat = Arc::new(Seat(Mutex::new(Desk { connection, down, alarm_at: Duration::ZERO })));
        let shows: Weak<Seat> = Arc::downgrade(&seat);
        outbox.show_by(shows);
        let worker = Worker::new(Arc::clone(&process.edge));
        Self {
            process,
            up: VecDeque::new(),
            seat,
            worker,
            work: Vec::new(),
            asleep: None,
            has_lagged: false,
            waited: 0,
            gone: None,
            tally,
            joined: false,
            lagging: false,
            pages: 0,
        }
    }

    /// Writes down what happened to it.
    pub fn write_down(&mut self, link: &mut Link) {
        link.written.get_or_insert_default().append(&mut self.seat.desk().down.written);
        (link.lagged, link.waited) = (self.has_lagged, self.waited);
    }

    /// What the client reads next, so many frames at most; `None` is the goodbye.
    pub fn read(&mut self, most: usize) -> VecDeque<Option<String>> {
        let frames = &mut self.seat.desk().down.frames;
        let count = most.min(frames.len());
        frames.drain(..count).collect()
    }

    fn now(&self) -> Duration {
        self.process.services.clock.monotonic()
    }

    /// The client is gone: what it sent is read no more, what was read is submitted.
    pub fn hang_up(&mut self) {
        let seat = Arc::clone(&self.seat);
        self.hang_up_at(&mut seat.desk());
    }

    fn hang_up_at(&mut self, desk: &mut Desk) {
        if self.gone.is_none() {
            self.gone = Some(self.now());
            self.up.clear();
            desk.connection.hang_up();
            self.begin_jobs(desk);
        }
    }

    /// Takes one of the steps that are possible; `None`: there is none, `Some(false)`: it has ended.
    pub fn step(&mut self, rng: &mut Rng) -> Option<bool> {
        let seat = Arc::clone(&self.seat);
        let desk = &mut *seat.desk();
        if let Some(since) = self.gone {
            if desk.connection.is_submitted() || self.now() >= since + GOODBYE {
                return Some(false);
            }
            return self.work(rng, desk).then_some(true);
        }
        if self.sleeps(desk) {
            return self.work(rng, desk).then_some(true);
        }
        desk.connection.resume();
        self.begin_jobs(desk);
        if desk.connection.is_over() || desk.connection.is_stalled() {
            self.hang_up_at(desk);
            return Some(true);
        }
        desk.alarm_at = desk.alarm_at.min(desk.connection.next_tick());
        self.waited = self.waited.max(desk.connection.outbox().own_bytes());
        let mut possible = self.possible(desk);
        if possible.is_empty() {
            self.asleep = Some(Asleep::new(&desk.connection));
        }
        if !self.work.is_empty() {
            possible.extend([Next::Work; 3]);
        }
        if possible.is_empty() {
            return None;
        }
        match *rng.pick(&possible) {
            Next::Flush => {
                if desk.down.write(&mut desk.connection) {
                    desk.connection.flushed();
                }
            }
            Next::Read => {
                let text = self.up.pop_front().unwrap_or_default();
                desk.connection.text(text.into());
            }
            Next::Work if !self.work(rng, desk) => return None,
            Next::Work => {}
            Next::Posts => desk.connection.take_posts(),
            Next::Tick => {
                desk.alarm_at = Duration::MAX;
                desk.connection.tick();
            }
        }
        self.begin_jobs(desk);
        Some(true)
    }

    /// Whether its task is still asleep.
    fn sleeps(&mut self, desk: &Desk) -> bool {
        let wakes = |asleep: &mut Asleep| {
            asleep.woken.0.load(Ordering::Relaxed)
                || asleep.writes && desk.down.has_room()
                || asleep.reads && !self.up.is_empty()
                || self.process.services.clock.monotonic() >= desk.alarm_at
        };
        self.asleep.take_if(wakes);
        self.asleep.is_some()
    }

    /// Whether there is something to do that it does not do because nobody has woken it.
    pub fn oversleeps(&self) -> bool {
        let desk = self.seat.desk();
        let connection = &desk.connection;
        // What is not announced yet waits for more.
        let shown = |next: &Next| !matches!(next, Next::Posts) || connection.outbox().is_announced();
        let late =
            connection.is_wanted() || desk.alarm_at > connection.next_tick() || self.possible(&desk).iter().any(shown);
        self.gone.is_none() && self.asleep.is_some() && late
    }

    /// What there is to do, but for work.
    fn possible(&self, desk: &Desk) -> Vec<Next> {
        let Desk { connection, down, alarm_at } = desk;
        let mut possible = Vec::with_capacity(9);
        if connection.writes() && down.has_room() {
            possible.extend([Next::Flush; 3]);
        }
        if connection.reads() && !self.up.is_empty() {
            possible.push(Next::Read);
        }
        if connection.takes_posts() && !connection.outbox().is_empty() {
            possible.push(Next::Posts);
        }
        if self.now() >= *alarm_at {
            possible.push(Next::Tick);
        }
        possible
    }

    /// `false`: it is not done yet.
    fn work(&mut self, rng: &mut Rng, desk: &mut Desk) -> bool {
        if self.work.is_empty() {
            return false;
        }
        let at = rng.index(self.work.len());
        let Some(done) = (&mut self.work[at]).now_or_never() else { return false };
        drop(self.work.swap_remove(at));
        self.asleep = None;
        self.worker.finish(done, &mut desk.connection);
        if !self.joined && desk.connection.session().is_live() {
            self.note_joined(desk);
        }
        self.begin_jobs(desk);
        true
    }

    fn note_joined(&mut self, desk: &Desk) {
        self.joined = true;
        if std::mem::take(&mut self.lagging) {
            self.tally.note("situation: connection lagged and caught up");
        }
        if !desk.connection.outbox().is_empty() {
            self.tally.note("situation: history joined live within the tail");
        }
    }

    fn begin_jobs(&mut self, desk: &mut Desk) {
        for job in desk.connection.jobs() {
            if let Job::Act(action) = &job
                && let Action::CatchUp(step) = &**action
            {
                if std::mem::take(&mut self.joined) {
                    // Whoever has joined reads on from the log only if something was dropped.
                    (self.lagging, self.has_lagged) = (true, true);
                }
                self.pages += u32::from(matches!(step, Step::Missed { .. }));
                if self.pages == 2 && matches!(step, Step::Missed { .. }) {
                    self.tally.note("situation: resume took several pages");
                }
            }
            let process = &self.process;
            let enter = |auth| Arc::clone(process).enter(auth).boxed();
            self.work.push(self.worker.begin(job, &desk.connection, enter));
        }
    }

    /// Leaves the fleet, and lets the log know later. Its process must be alive.
    pub fn end(mut self) {
        let connection = &mut self.seat.desk().connection;
        connection.hang_up();
        for job in connection.jobs() {
            if let Job::Report(_) = job {
                let enter = |_| unreachable!("a report lets nobody in");
                let report = self.worker.begin(job, connection, enter);
                self.process.see_out(report.map(|_| None).boxed());
            }
        }
        if !self.worker.is_inside() {
            for work in std::mem::take(&mut self.work) {
                let entered = |work| if let Work::Entered(inside) = work { inside.ok() } else { None };
                self.process.see_out(work.map(entered).boxed());
            }
        }
        if let Some(caller) = self.worker.leave(connection) {
            self.process.leave_later(caller);
        }
    }
}
