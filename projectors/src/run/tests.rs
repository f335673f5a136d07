//! Given these records, then these verdicts, in so many commits.

use std::sync::Mutex;

use async_trait::async_trait;
use ringforge_domain::{
    activity::Broadcast,
    catalog::Command,
    code::{Code, Effected},
    event::Header,
    golden,
    ids::{AgentId, CommandId, FleetId, TenantId},
    json::Json,
    limits::{ANSWER_BYTES_MAX, OP_VALUE_BYTES_MAX},
    memory,
    position::{Generation, LogTime},
    row::{Row, RowKey, digest},
    verdict::Outcome,
};
use ringforge_ports::{
    clock::{ManualClock, SeededIds},
    live::Heard,
    log::Record,
    memory::{live::MemoryLive, log::MemoryLog, reads::MemoryReads},
    reads::{Find, Found, Heads, Reads, Verdicts, Which, every_row},
};

use super::*;

fn services() -> Services {
    let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
    Services {
        log: MemoryLog::new(clock.clone(), 2, Generation(1)),
        reads: Arc::new(MemoryReads::new()),
        live: MemoryLive::new(clock.clone()),
        clock,
        ids: SeededIds::new(1),
    }
}

#[tokio::test]
async fn a_damaged_event_has_a_verdict_that_is_told_like_any_other() {
    let services = services();
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let header = Header {
        command_id: CommandId::from_bits(5),
        tenant_id: scope.tenant,
        fleet_id: scope.fleet,
        ..golden::bare_header()
    };
    let whole = schema::encode(&header, &Broadcast { kind: "custom".to_owned(), ..Broadcast::default() }.into());
    // A record of a known kind that ends too soon.
    let damaged = whole[..whole.len() - 3].to_vec();
    let records = [damaged, whole].map(|bytes| Record { scope, bytes: bytes.into() });
    services.log.append(Partition::POOL, records.into()).await.expect("appended");
    let mut heard = services.live.subscribe(scope).await.expect("it follows");
    let mut projector = Projector::open(services.clone(), Partition::POOL).await.expect("it opens");
    let records = services.log.seek(Partition::POOL, &[Offset(0), Offset(1)]).await.expect("records");
    assert_eq!(projector.step(records).await.expect("applied"), Stepped::To(Offset(2)));
    let mut told = Vec::new();
    for _ in 0..2 {
        let Some(Heard::News(News::Update(update))) = heard.next().await else { panic!("both are told") };
        told.push((update.event.is_some(), update.verdict.previous, update.verdict.outcome.clone()));
    }
    let Outcome::Refused(refusal) = &told[0].2 else { panic!("it has no effect") };
    assert_eq!((refusal.code, refusal.outcome), (Code::ServerError, Effected::None));
    let links: Vec<_> = told.iter().map(|(event, previous, _)| (*event, *previous)).collect();
    assert_eq!(links, [(false, None), (true, Some(Offset(0)))], "the chain goes on over it");
}

/// Read models that keep what they were given.
struct Kept {
    inner: MemoryReads,
    commits: Mutex<Vec<Commit>>,
}

impl Kept {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: MemoryReads::new(), commits: Mutex::default() })
    }

    /// Takes out what was committed.
    fn take(&self) -> Vec<Commit> {
        std::mem::take(&mut *self.commits.lock().expect("no panic while the lock is held"))
    }
}

#[async_trait]
impl Reads for Kept {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        self.commits.lock().expect("no panic while the lock is held").extend_from_slice(commits);
        self.inner.commit(commits).await
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.inner.load(partition, keys).await
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
}

/// Bytes of a commit's rows and verdicts.
fn weight(commit: &Commit) -> usize {
    let rows: usize = commit.rows.iter().filter_map(|(_, row)| row.as_ref()).map(Row::weight).sum();
    rows + commit.verdicts.iter().map(Verdict::weight).sum::<usize>()
}

/// A value nearly as large as one may be, then tiny commands, of which every other makes it anew.
fn large_answers(scope: Scope) -> Vec<Record> {
    let large = format!("[\"{}\"]", "x".repeat(OP_VALUE_BYTES_MAX - 1_000));
    let set = |value: &str| memory::Set {
        key: "large".to_owned(),
        value: Some(Json::parse(value).expect("valid")),
        ..memory::Set::default()
    };
    let commands = (0..64).map(|at| match at {
        0 => set(&large),
        at if at % 2 == 0 => memory::Set { op: Some(memory::Op::Append), ..set("1") },
        _ => memory::Set { expected_version: Some(99), ..set("1") },
    });
    let record = |(at, set): (u128, memory::Set)| {
        let header = Header {
            command_id: CommandId::from_bits(at),
            tenant_id: scope.tenant,
            fleet_id: scope.fleet,
            agent_id: Some(AgentId::from_bits(9)),
            idempotency_key: (at % 4 == 0).then(|| at.to_string()),
            ..golden::bare_header()
        };
        Record { scope, bytes: schema::encode(&header, &Command::from(set)).into() }
    };
    (1..).zip(commands).map(record).collect()
}

/// Sets of many large values, then of each something small that needs it.
fn large_needs(scope: Scope) -> Vec<Record> {
    let large = format!("\"{}\"", "x".repeat(OP_VALUE_BYTES_MAX - 1_000));
    let keys = || (0..LARGE_NEEDS).map(|at| format!("key {at}"));
    let set = |key: String, value: &str, expected_version| memory::Set {
        key,
        value: Some(Json::parse(value).expect("valid")),
        expected_version,
        ..memory::Set::default()
    };
    let sets = keys().map(|key| set(key, &large, None));
    let commands = sets.chain(keys().map(|key| set(key, "1", Some(99))));
    let record = |(at, set): (u128, memory::Set)| {
        let header = Header {
            command_id: CommandId::from_bits(at),
            tenant_id: scope.tenant,
            fleet_id: scope.fleet,
            ..golden::bare_header()
        };
        Record { scope, bytes: schema::encode(&header, &Command::from(set)).into() }
    };
    (1..).zip(commands).map(record).collect()
}

const LARGE_NEEDS: usize = 32;

#[tokio::test]
async fn however_much_a_batch_touches_what_is_loaded_is_bounded() {
    let kept = Kept::new();
    let services = Services { reads: kept.clone(), ..services() };
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    for record in large_needs(scope) {
        services.log.append(Partition::POOL, vec![record]).await.expect("appended");
    }
    let offsets: Vec<Offset> = (0..2 * LARGE_NEEDS as u64).map(Offset).collect();
    let mut records = services.log.seek(Partition::POOL, &offsets).await.expect("records");
    let small = records.split_off(LARGE_NEEDS);
    let mut projector = Projector::open(services.clone(), Partition::POOL).await.expect("it opens");
    projector.step(records).await.expect("applied");
    kept.take();

    let mut projector = Projector::open(services, Partition::POOL).await.expect("it opens");
    assert_eq!(projector.step(small).await.expect("applied"), Stepped::To(Offset(2 * LARGE_NEEDS as u64)));
    let commits = kept.take();
    let most = (PROJECTOR_ROWS_BYTES_MAX + ANSWER_BYTES_MAX) / OP_VALUE_BYTES_MAX + 1;
    let verdicts: Vec<&Verdict> = commits.iter().flat_map(|commit| &commit.verdicts).collect();
    assert_eq!(verdicts.len(), LARGE_NEEDS);
    for commit in &commits {
        assert!(commit.verdicts.len() <= most, "{} large rows were loaded at once", commit.verdicts.len());
    }
    assert!(commits.iter().any(|commit| commit.verdicts.len() > 1), "one by one is too slow");
    for verdict in verdicts {
        assert!(verdict.lacks().is_some() && verdict.weight() < 2_000, "it tells the value by reference");
    }
}

#[tokio::test]
async fn however_much_comes_of_a_batch_a_commit_is_bounded() {
    let (together, alone) = (Kept::new(), Kept::new());
    let services = Services { reads: together.clone(), ..services() };
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let appended = large_answers(scope);
    let count = appended.len();
    services.log.append(Partition::POOL, appended).await.expect("appended");
    let offsets: Vec<Offset> = (0..count as u64).map(Offset).collect();
    let records = services.log.seek(Partition::POOL, &offsets).await.expect("records");
    let end = Offset(count as u64);

    let mut projector = Projector::open(services.clone(), Partition::POOL).await.expect("it opens");
    assert_eq!(projector.step(records.clone()).await.expect("applied"), Stepped::To(end));
    let mut projector =
        Projector::open(Services { reads: alone.clone(), ..services }, Partition::POOL).await.expect("it opens");
    for record in records {
        projector.step(vec![record]).await.expect("applied");
    }

    let (parts, singles) = (together.take(), alone.take());
    let heaviest = singles.iter().map(weight).max().expect("some");
    assert!(heaviest > OP_VALUE_BYTES_MAX, "much came of little");
    assert!(parts.len() > 3 && parts.len() < count / 2, "{} commits", parts.len());
    for part in &parts {
        assert!(weight(part) <= PROJECTOR_COMMIT_BYTES_MAX + heaviest, "over by more than its last record");
    }
    let verdicts = |commits: Vec<Commit>| commits.into_iter().flat_map(|commit| commit.verdicts).collect::<Vec<_>>();
    let (parts, singles) = (verdicts(parts), verdicts(singles));
    assert!(parts == singles, "each once, in order, and the same as one by one");
    let reads: [Arc<dyn Reads>; 2] = [together, alone];
    let mut digests = Vec::new();
    for reads in reads {
        let (rows, applied) = every_row(&reads, Partition::POOL).await.expect("rows");
        digests.push(digest(&rows, applied.upto));
    }
    assert_eq!(digests[0], digests[1]);
}
