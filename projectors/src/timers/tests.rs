//! Given leases and a process that stands still now and then, then these sessions end; and what is due is over once.

use std::sync::Arc;

use futures_util::FutureExt as _;
use ringforge_domain::{
    golden,
    ids::{FleetId, KeyId, SessionId, TenantId},
    limits::ANSWER_MICROS,
    position::{LogTime, Position},
    presence::{Ended, Started},
    row::State as _,
};
use ringforge_ports::{
    clock::ManualClock,
    memory::{in_memory, live::MemoryLive},
    reads::every_row,
};

use super::*;
use crate::run::Projector;

/// A process with one session on each of two edges, one of them its own.
struct House {
    clock: Arc<ManualClock>,
    services: Services,
    timers: Timers,
}

const OWN: EdgeId = EdgeId::from_bits(1);
const OTHER: EdgeId = EdgeId::from_bits(2);

fn now<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("memory does not wait")
}

impl House {
    fn new() -> Self {
        let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
        let services = in_memory(clock.clone());
        let timers = Timers::new(services.clone(), Partition::POOL);
        let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
        let records = [OWN, OTHER].map(|edge| timers.record(scope, None, &started(edge, &services).into()));
        now(services.log.append(Partition::POOL, records.into())).expect("appended");
        let house = Self { clock, services, timers };
        house.project();
        house
    }

    fn project(&self) {
        let mut projector = now(Projector::open(self.services.clone(), Partition::POOL)).expect("it opens");
        let end = now(self.services.log.bounds(Partition::POOL)).expect("bounds").end;
        let offsets: Vec<Offset> = (projector.applied().0..end.0).map(Offset).collect();
        let records = now(self.services.log.seek(Partition::POOL, &offsets)).expect("records");
        now(projector.step(records)).expect("applied");
    }

    fn renew(&self, edge: EdgeId) {
        now(self.services.live.put(&names::edge_lease(edge), "held", LEASE)).expect("kept");
    }

    /// The live bus forgets all that it kept.
    fn lose(&mut self) {
        self.services.live = MemoryLive::new(self.clock.clone());
        self.timers.services.live = Arc::clone(&self.services.live);
    }

    /// Time passes, then leases are looked at.
    fn sweep(&mut self, after: Duration) -> usize {
        self.clock.advance(after);
        now(self.timers.sweep()).expect("swept")
    }

    /// An agent of a fleet asks for something under a key of its own.
    fn asks(&self, fleet: u128, key: &str) {
        let header = Header {
            fleet_id: FleetId::from_bits(fleet),
            agent_id: Some(AgentId::from_bits(9)),
            idempotency_key: Some(key.to_owned()),
            ..golden::bare_header()
        };
        let delete = memory::Delete { key: "none".to_owned(), ..memory::Delete::default() };
        let bytes = schema::encode(&header, &delete.into()).into();
        now(self.services.log.append(Partition::POOL, vec![Record { scope: header.scope(), bytes }]))
            .expect("appended");
    }

    /// What is due is submitted and applied: how much was due, and how many commands came of it.
    fn tick(&mut self) -> (usize, u64) {
        let end = |house: &Self| now(house.services.log.bounds(Partition::POOL)).expect("bounds").end.0;
        let before = end(self);
        let due = now(self.timers.tick()).expect("ticked");
        assert_eq!(now(self.timers.tick()).ok(), Some(0), "what was submitted is waited for");
        let commands = end(self) - before;
        self.project();
        (due, commands)
    }

    /// How many answers are remembered.
    fn answers(&self) -> usize {
        let (rows, _) = now(every_row(&self.services.reads, Partition::POOL)).expect("read");
        rows.iter().filter_map(answer::Answer::of).count()
    }

    /// The sessions that ended, in the order of the log.
    fn ended(&self) -> Vec<SessionId> {
        let end = now(self.services.log.bounds(Partition::POOL)).expect("bounds").end;
        let offsets: Vec<Offset> = (0..end.0).map(Offset).collect();
        let records = now(self.services.log.seek(Partition::POOL, &offsets)).expect("records");
        let ended = records.iter().filter_map(|stored| {
            let position = Position { partition: Partition::POOL, offset: stored.offset };
            match schema::decode(&stored.record.bytes, position, stored.time).expect("an event").command {
                Command::SessionEnded(Ended { session, .. }) => Some(session),
                _ => None,
            }
        });
        ended.collect()
    }
}

fn session(edge: EdgeId) -> SessionId {
    SessionId::from_bits(edge.bits())
}

fn started(edge: EdgeId, services: &Services) -> Started {
    Started {
        session: session(edge),
        key: KeyId::from_bits(1),
        edge,
        proposed: AgentId::from_bits(services.ids.next()),
        claimed: None,
        proof: None,
        resume_hash: String::new(),
        resumes: false,
        name: Some(edge.to_string()),
        framework: None,
        version: None,
        capabilities: Vec::new(),
        metadata: None,
        exclusive: false,
    }
}

#[test]
fn sessions_of_an_edge_without_a_lease_end_once_we_have_been_up_for_a_lease() {
    let mut house = House::new();
    for _ in 0..2 {
        house.renew(OWN);
        assert_eq!(house.sweep(LEASE_RENEWED), 0);
    }
    house.renew(OWN);
    assert_eq!(house.sweep(LEASE_RENEWED), 1);
    house.project();
    house.renew(OWN);
    assert_eq!(house.sweep(LEASE_RENEWED), 0);
    assert_eq!(house.ended(), [session(OTHER)]);
}

#[test]
fn a_process_that_stood_still_ends_no_session_of_its_own() {
    // Short of a lease, but longer than what was left of ours; and much longer.
    for still in [LEASE.saturating_sub(Duration::from_secs(1)), LEASE * 9] {
        let mut house = House::new();
        for _ in 0..4 {
            house.renew(OWN);
            house.renew(OTHER);
            assert_eq!(house.sweep(LEASE_RENEWED), 0);
        }
        assert_eq!(house.sweep(still), 0, "its lease is over because it could not be renewed");
        for _ in 0..4 {
            house.renew(OWN);
            house.sweep(LEASE_RENEWED);
            house.project();
        }
        assert_eq!(house.ended(), [session(OTHER)], "the other one did not come back");
    }
}

#[test]
fn leases_that_the_bus_lost_end_no_session_but_those_that_are_not_renewed_do() {
    let mut house = House::new();
    for _ in 0..4 {
        house.renew(OWN);
        house.renew(OTHER);
        assert_eq!(house.sweep(LEASE_RENEWED), 0);
    }
    house.lose();
    assert_eq!(house.sweep(Duration::from_secs(1)), 0, "nobody has renewed it yet");
    for _ in 0..4 {
        house.sweep(LEASE_RENEWED);
        house.renew(OWN);
        house.project();
    }
    assert_eq!(house.ended(), [session(OTHER)], "the other one did not come back");
}

#[test]
fn answers_are_forgotten_when_their_time_has_passed_many_at_once() {
    let mut house = House::new();
    for number in 0..PAGE + 10 {
        house.asks(2 + (number % 2) as u128, &number.to_string());
    }
    house.project();
    assert_eq!((house.tick(), house.answers()), ((0, 0), PAGE + 10));
    house.clock.advance(Duration::from_micros(ANSWER_MICROS.unsigned_abs() + 1));
    assert_eq!((house.tick(), house.answers()), ((PAGE, 2), 10), "one command a fleet");
    assert_eq!((house.tick(), house.answers()), ((10, 1), 0), "what was left is of one fleet");
    assert_eq!(house.tick(), (0, 0), "nothing is due any more");
}
