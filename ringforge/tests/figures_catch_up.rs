//! How fast a projector catches up on a server: what waits in one partition, in batches as the log gives them. Run it in a release
//! build: `scripts/services run cargo test --profile perf -p ringforge --features cluster --test figures_catch_up -- --ignored
//! --nocapture`.
#![cfg(feature = "cluster")]
#![allow(clippy::disallowed_methods, reason = "a measurement is by the clock")]

#[path = "support/cluster.rs"]
mod cluster;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use ringforge_adapters::reads::postgres::PostgresReads;
use ringforge_domain::{
    activity::Broadcast,
    catalog::Command,
    event::Header,
    golden,
    ids::{AgentId, CommandId, FleetId, Scope, TenantId},
    json::Json,
    limits::APPEND_RECORDS_MAX,
    memory,
    position::{Generation, Offset, Partition},
    row::RowKey,
    schema,
};
use ringforge_ports::{
    Error, Services,
    clock::{SystemClock, SystemIds},
    log::{Log as _, Record},
    memory::{blobs::MemoryBlobs, live::MemoryLive, log::MemoryLog},
    reads::{Commit, Find, Found, Heads, Reads, Snapshot, Verdicts, Which},
};
use ringforge_projectors::Projector;

const EVENTS: u32 = 60_000;
const FLEETS: u64 = 8;
/// Keys that are set, in each fleet, and agents that set them.
const KEYS: u64 = 2_000;
const AGENTS: u64 = 50;

/// What is written, and how it is called.
type Workload = (&'static str, fn(u64) -> Command);

/// Read models that say where the time goes.
struct Timed {
    inner: PostgresReads,
    loads: AtomicU64,
    commits: AtomicU64,
}

impl Timed {
    async fn time<T>(spent: &AtomicU64, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        spent.fetch_add(u64::try_from(begun.elapsed().as_micros()).expect("short"), Ordering::Relaxed);
        done
    }
}

#[async_trait]
impl Reads for Timed {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        Self::time(&self.commits, self.inner.commit(commits)).await
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        Self::time(&self.loads, self.inner.load(partition, keys)).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.inner.find(partition, find).await
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        self.inner.verdicts(partition, scope, which).await
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        self.inner.heads(partition, fleets).await
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        self.inner.snapshot(partition).await
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.inner.forget(partition, before).await
    }
}

fn set(at: u64) -> Command {
    let value = format!("\"What agent {} has to say about step {at} of the plan, in some words\"", at % AGENTS);
    let key = format!("project/{}/step-{}", at % 20, at / FLEETS % KEYS);
    let value = Some(Json::parse(&value).expect("valid"));
    memory::Set { key, value, tags: vec!["plan".to_owned()], ..memory::Set::default() }.into()
}

fn broadcast(at: u64) -> Command {
    let description = Some(format!("Step {at} is done, and the next one is begun"));
    let kind = ["task_progress", "discovery", "custom"][usize::try_from(at % 3).expect("small")].to_owned();
    Broadcast { kind, description, event_tags: vec!["plan".to_owned()], ..Broadcast::default() }.into()
}

fn record(at: u64, command: &Command) -> Record {
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(u128::from(1 + at % FLEETS)) };
    let header = Header {
        command_id: CommandId::from_bits(u128::from(at) + 1),
        tenant_id: scope.tenant,
        fleet_id: scope.fleet,
        agent_id: Some(AgentId::from_bits(u128::from(1 + at % AGENTS))),
        ..golden::bare_header()
    };
    Record { scope, bytes: schema::encode(&header, command).into() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a release build"]
async fn figures_of_a_projector_that_catches_up() {
    let Some(servers) = cluster::Servers::of("figures_of_a_projector_that_catches_up") else { return };
    let reads = servers.install().into_iter().find(|(name, _)| name.ends_with("READS")).expect("a database").1;
    let workloads: [Workload; 3] = [
        ("broadcasts", broadcast),
        ("sets of memory", set),
        ("one of each in turn", |at| if at.is_multiple_of(2) { set(at) } else { broadcast(at) }),
    ];
    let inner = PostgresReads::open(&reads).await.expect("it opens");
    let timed = Arc::new(Timed { inner, loads: AtomicU64::new(0), commits: AtomicU64::new(0) });
    for (partition, (what, command)) in (1..).map(Partition).zip(workloads) {
        let clock = SystemClock::start();
        let log = MemoryLog::new(clock.clone(), 4, Generation(1));
        let all: Vec<Record> = (0..u64::from(EVENTS)).map(|at| record(at, &command(at))).collect();
        for part in all.chunks(APPEND_RECORDS_MAX) {
            log.append(partition, part.to_vec()).await.expect("appended");
        }
        let live = MemoryLive::new(clock.clone());
        let (blobs, ids) = (MemoryBlobs::new(), Arc::new(SystemIds));
        let services = Services { log, reads: timed.clone(), live, blobs, clock, ids };
        for spent in [&timed.loads, &timed.commits] {
            spent.store(0, Ordering::Relaxed);
        }
        let mut projector = Projector::open(services.clone(), partition).await.expect("it opens");
        let mut records = services.log.read(partition, Offset::ZERO);
        let begun = Instant::now();
        while projector.applied() < Offset(EVENTS.into()) {
            projector.step(records.next().await.expect("endless").expect("read")).await.expect("applied");
        }
        let took = begun.elapsed().as_secs_f64();
        let [loads, commits] = [&timed.loads, &timed.commits].map(|spent| spent.load(Ordering::Relaxed) / 1_000);
        eprintln!(
            "{what:20} {:>7.0} events/s; of {:>5.0} ms loading {loads:>5}, committing {commits:>5}",
            f64::from(EVENTS) / took,
            took * 1_000.0
        );
    }
}
