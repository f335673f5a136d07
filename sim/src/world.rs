//! A world: two tenants, three fleets, two edges, projectors, timers and agents over faulty ports, and the one scheduler
//! that decides, from a seed, who does what next.

mod faults;
mod making;
mod people;
mod telling;
mod twins;

use std::{sync::Arc, time::Duration};

use ringforge_domain::{
    cursor::Seal,
    ids::Scope,
    planted::{Bug, planted},
    position::{LogTime, Partition},
};
use ringforge_ports::{
    Services,
    clock::{Clock, ManualClock, SeededIds},
    log::Log,
    memory::{blobs::MemoryBlobs, reads::State},
    points,
    reads::Reads,
};
use ringforge_projectors::{Timers, timers};

pub use self::twins::{CANARY, Lived};
use crate::{
    faulty::{
        Fate, Role,
        bus::Bus,
        journal::Journal,
        soon,
        store::{Hold, Store, View},
    },
    process::Process,
    projecting::Projecting,
    rng::{Rng, Trace},
    script::{Step, Turn},
    socket::Socket,
    tally::Tally,
    vocabulary::clients::Client,
};

/// Where tenants and fleets live, and two pools for what happens in them.
pub const PARTITIONS: [Partition; 3] = [Partition(0), Partition(1), Partition(2)];
/// When every world begins.
const BEGINNING: LogTime = LogTime(1_770_000_000_000_000);
/// Edges.
const EDGES: usize = 2;

/// A fleet and how to get in.
pub struct Home {
    /// Tenant and fleet.
    pub scope: Scope,
    /// Where its events are.
    pub partition: Partition,
    api_key: String,
}

/// A connection, seen from between its two ends.
pub struct Line {
    /// Whose.
    pub client: usize,
    /// Which of its client's connections.
    pub link: usize,
    /// The server's side while it lives.
    pub socket: Option<Socket>,
    /// Whether the client still listens.
    pub listening: bool,
    /// Its client reads nothing until then.
    deaf_until: Duration,
    /// What decides its steps while all come to rest, however many others do.
    chance: Rng,
    /// What had died when its client was last connected: projectors, the whole.
    crossed: (u64, u64),
}

/// Everything.
pub struct World {
    /// The fleets.
    pub homes: Vec<Home>,
    /// The agents.
    pub clients: Vec<Client>,
    /// Every connection there ever was.
    pub lines: Vec<Line>,
    /// The log.
    pub journal: Arc<Journal>,
    /// The read models.
    pub store: Arc<Store>,
    /// Hash over everything that happened.
    pub trace: Trace,
    /// What was met.
    pub tally: Tally,
    /// Agents that stay away in the end.
    absent: Vec<usize>,
    /// The chance of this step.
    rng: Rng,
    clock: Arc<ManualClock>,
    ids: Arc<SeededIds>,
    fate: Fate,
    bus: Arc<Bus>,
    blobs: Arc<MemoryBlobs>,
    seal: Seal,
    processes: Vec<Option<Arc<Process>>>,
    projecting: Vec<Projecting>,
    projectors: u64,
    timers: Vec<Timers>,
    ticked: Duration,
    swept: Duration,
    kept: Option<State>,
    dead: (u64, u64),
    loud: u64,
    faults: u64,
    seed: u64,
    calm: bool,
}

impl World {
    /// Lets something happen.
    ///
    /// # Errors
    /// A role met what it must never meet.
    pub fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        self.clock.advance(step.after);
        self.rng = Rng::new(step.chance);
        self.fate.draw(self.rng.fork());
        self.trace.number(step.chance);
        match step.turn {
            Turn::Act => self.act(),
            Turn::Listen => self.listen(),
            Turn::Serve => self.serve(),
            Turn::Project => self.project()?,
            Turn::Follow => self.follow()?,
            Turn::Bring => {
                self.bus.bring();
            }
            Turn::BringLate => {
                self.journal.bring();
            }
            Turn::Tick => self.tick(),
            Turn::Fault(fault) => self.fault(fault)?,
        }
        self.bury()
    }

    /// What a role is given: its ports, at whose points it may fail or die.
    fn services(&self, role: Role) -> Services {
        let place = if let Role::Edge(place) = role { Some(place) } else { None };
        let reads =
            if place.is_some() { View::slow(&self.store, &self.fate) } else { View::prompt(&self.store, &self.fate) };
        points::around(self.bare_services(place, reads), &self.fate.points(role))
    }

    /// The same without the points.
    fn bare_services(&self, place: Option<usize>, reads: Arc<dyn Reads>) -> Services {
        Services {
            log: Arc::clone(&self.journal) as Arc<dyn Log>,
            reads,
            live: self.bus.view(place),
            blobs: Arc::clone(&self.blobs) as Arc<dyn ringforge_ports::blobs::Blobs>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ids: Arc::clone(&self.ids) as Arc<dyn ringforge_ports::clock::Ids>,
        }
    }

    /// One step of one connection.
    fn serve(&mut self) {
        let open: Vec<usize> = (0..self.lines.len()).filter(|at| self.lines[*at].socket.is_some()).collect();
        if open.is_empty() {
            return;
        }
        let at = *self.rng.pick(&open);
        for _ in 0..=self.rng.below(4) {
            if !self.serve_line(at) {
                return;
            }
        }
    }

    /// `false`: it has nothing to do, or has ended.
    fn serve_line(&mut self, at: usize) -> bool {
        let Some(socket) = &mut self.lines[at].socket else { return false };
        match socket.step(&mut self.rng) {
            None => false,
            Some(true) => true,
            Some(false) => {
                self.end(at);
                false
            }
        }
    }

    /// The server's side ends in good order.
    fn end(&mut self, at: usize) {
        let Some(mut socket) = self.take_socket(at) else { return };
        let rest = socket.read(usize::MAX);
        self.deliver(at, rest);
        socket.end();
    }

    /// The server's side is no more; what it did is written down.
    fn take_socket(&mut self, at: usize) -> Option<Socket> {
        let line = &mut self.lines[at];
        let mut socket = line.socket.take()?;
        socket.write_down(&mut self.clients[line.client].diary.links[line.link]);
        Some(socket)
    }

    fn project(&mut self) -> anyhow::Result<()> {
        let at = self.rng.index(self.projecting.len());
        let hold = self.hold();
        self.advance(at, hold).map(|_| ())
    }

    /// One step of one projector; `false` if it had nothing to do.
    fn advance(&mut self, at: usize, hold: Hold) -> anyhow::Result<bool> {
        let projecting = &mut self.projecting[at];
        let partition = projecting.partition;
        let Some(upto) = projecting.advance(&mut self.rng, hold)? else { return Ok(false) };
        self.trace.number(upto.0);
        for process in self.processes.iter().flatten() {
            process.edge.gate.applied(partition, upto);
        }
        Ok(true)
    }

    /// One step of one fleet's follower at one edge.
    fn follow(&mut self) -> anyhow::Result<()> {
        let place = self.rng.index(EDGES);
        let Some(process) = self.processes[place].clone() else { return Ok(()) };
        let followed = process.followed();
        if followed > 0 {
            let which = self.rng.index(followed);
            for _ in 0..=self.rng.below(3) {
                process.follow(which)?;
            }
        }
        Ok(())
    }

    /// Whoever has a timer looks at it.
    fn tick(&mut self) {
        let now = self.clock.monotonic();
        self.processes.iter().flatten().for_each(|process| process.tick());
        if now.saturating_sub(self.ticked) >= timers::EVERY {
            self.ticked = now;
            for timers in &mut self.timers {
                // What could not be submitted is due the next time.
                let _ = soon(timers.tick());
            }
            if !planted(Bug::LastPublishLost) {
                self.projecting.iter_mut().for_each(Projecting::tell_heads);
            }
        }
        if now.saturating_sub(self.swept) >= timers::LEASE_RENEWED {
            self.swept = now;
            for timers in &mut self.timers {
                let _ = soon(timers.sweep());
            }
        }
    }

    /// No more faults: everything runs until nothing is left to do.
    ///
    /// # Errors
    /// A role met what it must never meet, or there is no end.
    pub fn come_to_rest(&mut self) -> anyhow::Result<()> {
        self.calm = true;
        self.rng = Rng::new(self.seed);
        self.fate.draw(self.rng.fork());
        self.fate.calm_but_bus();
        self.mend()?;
        // Long enough for leases to end, their sessions to be ended; then everyone has to hear of it although the bus was bad
        // to the last and nothing more happens.
        for round in 0..30 {
            if round == 20 {
                self.fate.calm();
            }
            self.settle()?;
            self.return_home();
            self.settle()?;
            self.tick();
            self.clock.advance(Duration::from_millis(if round < 20 { 2_000 } else { 300 }));
            self.tick();
        }
        self.settle()?;
        Ok(())
    }

    /// Lets everyone do what is left without any time passing.
    fn settle(&mut self) -> anyhow::Result<()> {
        // Some waits end only when they are looked at again.
        let mut quiet = 0;
        for _ in 0..5_000 {
            let mut busy = self.bus.bring() || self.journal.bring();
            for at in 0..self.projecting.len() {
                busy |= self.advance(at, Hold::None)?;
            }
            for process in self.processes.clone().into_iter().flatten() {
                for which in 0..process.followed() {
                    busy |= process.follow(which)?;
                }
            }
            for at in 0..self.lines.len() {
                if self.lines[at].socket.is_some() {
                    self.rng = self.lines[at].chance.fork();
                    busy |= self.serve_line(at);
                    busy |= self.listen_to(at, 8);
                }
            }
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet > 3 {
                let sleeper = self.lines.iter().find(|line| line.socket.as_ref().is_some_and(Socket::oversleeps));
                let sleeper = sleeper.map(|line| line.client);
                anyhow::ensure!(
                    sleeper.is_none(),
                    "a connection of agent {sleeper:?} was not woken for what there is to do"
                );
                return Ok(());
            }
        }
        anyhow::bail!("the world does not come to rest")
    }
}
