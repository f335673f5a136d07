//! How a world begins, and how it begins again.

use std::sync::Arc;

use ringforge_command_api::{Gate, key};
use ringforge_domain::{
    buggify::Site,
    catalog::Command,
    cursor::Seal,
    fleet,
    ids::{FleetId, KeyId, Scope, TenantId},
    position::{Generation, Partition},
    tenant::{self, KeyType},
};
use ringforge_ports::{
    clock::{Clock, Ids, ManualClock, SeededIds},
    memory::{blobs::MemoryBlobs, log::MemoryLog},
    points,
};
use ringforge_projectors::Timers;

use super::{BEGINNING, EDGES, Home, PARTITIONS, World};
use crate::{
    faulty::{
        Fate, Odds, Role,
        bus::Bus,
        journal::Journal,
        soon,
        store::{Hold, Holder, View},
    },
    process::Process,
    projecting::Projecting,
    rng::{Rng, Trace},
    tally::{self, Tally},
    vocabulary::clients::Client,
};

/// Tenant and partition of each fleet: two share a tenant, and two of different tenants a partition and an id, which is as
/// bad as it may be.
const FLEETS: [(u128, u16); 3] = [(1, 1), (1, 2), (2, 1)];

/// How many worlds, per mille, have large values in them.
const HEAVY: u64 = 25;

impl World {
    /// The world of a seed.
    ///
    /// # Errors
    /// It could not be made.
    pub fn of(seed: u64, tally: Tally) -> anyhow::Result<Self> {
        let mut rng = Rng::new(seed);
        let clock = ManualClock::at(BEGINNING);
        let ids = SeededIds::new(seed);
        let fate = Fate::new(rng.fork(), Odds::default(), tally.clone());
        let inner = MemoryLog::new(Arc::clone(&clock) as Arc<dyn Clock>, 3, Generation(7));
        let mut world = Self {
            homes: Vec::new(),
            clients: Vec::new(),
            lines: Vec::new(),
            journal: Journal::new(inner, fate.clone()),
            store: Arc::default(),
            trace: Trace::default(),
            tally,
            absent: Vec::new(),
            clock: Arc::clone(&clock),
            bus: Bus::new(clock, fate.clone(), EDGES),
            blobs: MemoryBlobs::new(),
            seal: Seal::new(ids.secret()),
            ids,
            fate,
            processes: Vec::new(),
            projecting: Vec::new(),
            projectors: 0,
            timers: Vec::new(),
            ticked: std::time::Duration::ZERO,
            swept: std::time::Duration::ZERO,
            kept: None,
            dead: (0, 0),
            loud: *rng.pick(&[0, 0, 600]),
            faults: *rng.pick(&[0, 300, 1_000, 1_000]),
            seed,
            calm: false,
            rng,
        };
        world.start_all()?;
        world.found()?;
        world.people();
        world.draw_odds();
        Ok(world)
    }

    /// Starts every role, as after a death of everything.
    pub(super) fn start_all(&mut self) -> anyhow::Result<()> {
        self.fate.spare(true);
        self.projecting.clear();
        for partition in PARTITIONS {
            let projecting = self.new_projecting(partition)?;
            self.projecting.push(projecting);
        }
        self.catch_up()?;
        self.timers = (0..PARTITIONS.len() - 1).map(|number| self.new_timers(number)).collect();
        self.processes = (0..EDGES).map(|place| Some(self.new_process(place))).collect();
        // As one process with all roles does: whoever was in before is out.
        let first = self.processes[0].as_ref().expect("just started").id;
        for timers in &mut self.timers {
            // A process that cannot do this ends, and is started again.
            while soon(timers.end_former(first)).is_none_or(|ended| ended.is_err()) {}
        }
        self.catch_up()?;
        self.fate.spare(false);
        Ok(())
    }

    /// For each partition of fleets.
    pub(super) fn new_timers(&self, number: usize) -> Timers {
        Timers::new(self.services(Role::Timers(number)), PARTITIONS[number + 1])
    }

    fn catch_up(&mut self) -> anyhow::Result<()> {
        for at in 0..self.projecting.len() {
            while self.advance(at, Hold::None)? {}
        }
        Ok(())
    }

    pub(super) fn new_process(&self, place: usize) -> Arc<Process> {
        let bare = self.bare_services(Some(place), View::slow(&self.store, &self.fate));
        Process::start(place, self.services(Role::Edge(place)), bare, self.seal.clone(), self.tally.clone())
    }

    pub(super) fn new_projecting(&mut self, partition: Partition) -> anyhow::Result<Projecting> {
        let holder = Arc::new(Holder::default());
        let bare = self.bare_services(None, View::held(&self.store, &self.fate, &holder));
        self.projectors += 1;
        let services = points::around(bare, &self.fate.points(Role::Projector(self.projectors)));
        Ok(Projecting::open(self.projectors, services, partition, holder, self.tally.clone())?)
    }

    /// Tenants, fleets and keys.
    fn found(&mut self) -> anyhow::Result<()> {
        let gate = Arc::clone(&self.processes[0].as_ref().expect("started").edge.gate);
        for (number, (tenant, partition)) in FLEETS.into_iter().enumerate() {
            let tenant = TenantId::from_bits(tenant);
            let fleet = FleetId::from_bits(100 + number as u128 % 2);
            let api_key = key::new(KeyType::Live, &*self.ids);
            let (id, hash) = (KeyId::from_bits(self.ids.next()), key::hash(&api_key));
            let (slug, partition_number) = (format!("fleet{number}"), i32::from(partition));
            let created = fleet::Created { id: fleet, slug, partition: partition_number, retention_s: None };
            let commands = [
                Command::TenantCreated(tenant::Created { name: format!("tenant{number}") }),
                Command::FleetCreated(created),
                Command::KeyCreated(tenant::KeyCreated { id, hash, key_type: KeyType::Live, fleet: Some(fleet) }),
            ];
            for command in commands {
                direct(&gate, Scope::directory(tenant), command)?;
            }
            self.homes.push(Home { scope: Scope { tenant, fleet }, partition: Partition(partition), api_key });
        }
        self.catch_up()
    }

    fn people(&mut self) {
        let count = 4 + self.rng.index(5);
        // In few worlds: large values are slow to look at.
        let heavy = self.rng.chance(HEAVY);
        for number in 0..count {
            let fleet = if number < 4 { 0 } else { self.rng.index(self.homes.len()) };
            self.clients.push(Client::new(number, fleet, heavy, &mut self.rng));
        }
        for number in 0..count {
            if self.rng.chance(150) {
                self.absent.push(number);
            }
        }
    }

    /// What decides whether something rare happens.
    pub fn rarities(&self) -> Box<dyn Fn(Site) -> bool> {
        let fate = self.fate.clone();
        Box::new(move |site| {
            let strikes = fate.strikes(|odds| odds.buggify);
            if strikes {
                fate.tally.note(tally::rare(site));
            }
            strikes
        })
    }

    fn draw_odds(&mut self) {
        let rng = &mut self.rng;
        let odds = Odds {
            lost: *rng.pick(&[0, 20, 100, 400]),
            doubled: *rng.pick(&[0, 50, 200]),
            late: *rng.pick(&[0, 50, 200]),
            refused: *rng.pick(&[0, 0, 20]),
            unknown: *rng.pick(&[0, 0, 30]),
            damaged: *rng.pick(&[0, 0, 0, 5]),
            waits: *rng.pick(&[0, 200, 500]),
            buggify: *rng.pick(&[0, 20, 150]),
            points: *rng.pick(&[0, 0, 30, 300]),
        };
        self.fate.face(odds);
    }
}

fn direct(gate: &Gate, scope: Scope, command: Command) -> anyhow::Result<()> {
    let placed = soon(gate.submit_internal(scope, Partition::DIRECTORY, None, command));
    placed
        .expect("nothing is in the way yet")
        .map(|_| ())
        .map_err(|refusal| anyhow::anyhow!("the directory could not be made: {}", refusal.message))
}
