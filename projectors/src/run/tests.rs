//! Given these records, then these verdicts, in so many commits.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use ringforge_domain::{
    activity::Broadcast,
    catalog::Command,
    code::{Code, Effected},
    event::Header,
    golden,
    ids::{AgentId, CommandId, FleetId, TenantId},
    json::Json,
    limits::{ANSWER_BYTES_MAX, APPEND_RECORDS_MAX, OP_VALUE_BYTES_MAX},
    memory,
    position::{Generation, LogTime},
    row::{Row, RowKey, digest},
    verdict::Outcome,
};
use ringforge_ports::{
    clock::ManualClock,
    live::{Directory, Heard, Live},
    log::{AppendError, Bounds, Log, Placed, Record},
    memory::{in_memory, live::MemoryLive, log::MemoryLog, reads::MemoryReads},
    points::{Act, Call, around},
    reads::{Find, Found, Heads, Reads, Snapshot, Verdicts, Which, every_row},
};

use futures_util::stream::BoxStream;

use super::*;

fn services() -> Services {
    let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
    in_memory(clock)
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
        let Some(Heard::News(News::Update { update, .. })) = heard.next().await else { panic!("both are told") };
        told.push((update.event.is_some(), update.verdict.previous, update.verdict.outcome.clone()));
    }
    let Outcome::Refused(refusal) = &told[0].2 else { panic!("it has no effect") };
    assert_eq!((refusal.code, refusal.outcome), (Code::ServerError, Effected::None));
    let links: Vec<_> = told.iter().map(|(event, previous, _)| (*event, *previous)).collect();
    assert_eq!(links, [(false, None), (true, Some(Offset(0)))], "the chain goes on over it");
}

/// A record of this fleet, told from others by its command.
fn broadcast(scope: Scope, command: u128) -> Record {
    let header = Header {
        command_id: CommandId::from_bits(command),
        tenant_id: scope.tenant,
        fleet_id: scope.fleet,
        ..golden::bare_header()
    };
    Record {
        scope,
        bytes: schema::encode(&header, &Broadcast { kind: "custom".to_owned(), ..Broadcast::default() }.into()).into(),
    }
}

#[tokio::test]
async fn a_log_that_was_cut_and_written_anew_halts_its_partition() {
    let [one, two] = [1, 2].map(|at| Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(at) });
    let damaged = Record { scope: one, bytes: Arc::from(&b"no event"[..]) };
    for (last, anew) in [
        (broadcast(one, 3), broadcast(one, 4)),
        (broadcast(one, 3), broadcast(two, 3)),
        (broadcast(two, 3), damaged.clone()),
        (damaged, broadcast(two, 3)),
    ] {
        let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
        let log = MemoryLog::new(clock, 2, Generation(1));
        let services = Services { log: log.clone(), ..services() };
        let append = async |records| services.log.append(Partition::POOL, records).await.expect("appended");
        append(vec![broadcast(one, 1), broadcast(two, 2), last.clone()]).await;
        let mut projector = Projector::open(services.clone(), Partition::POOL).await.expect("it opens");
        let records = services.log.seek(Partition::POOL, &[0, 1, 2].map(Offset)).await.expect("records");
        projector.step(records).await.expect("applied");
        let open =
            async || Projector::open(services.clone(), Partition::POOL).await.map(|projector| projector.applied());
        let halts = async |what: &str| match open().await {
            Err(Error::Corrupt(why)) => assert!(why.contains(what), "{why}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(open().await.expect("nothing has changed"), Offset(3));
        log.cut(Partition::POOL, Offset(2));
        halts("beyond the log's end 2").await;
        append(vec![anew]).await;
        halts("record 2 of partition 1 is not the one that was applied").await;
        append(vec![broadcast(one, 5), broadcast(two, 6)]).await;
        halts("record 2 of partition 1 is not the one that was applied").await;
        let ended = run(services.clone(), Partition::POOL, |_| panic!("nothing is applied")).await;
        assert!(matches!(ended, Err(Error::Corrupt(_))), "{ended:?}");
        // As it was before.
        log.cut(Partition::POOL, Offset(2));
        append(vec![last]).await;
        assert_eq!(open().await.expect("it is the same log again"), Offset(3));
        services.log.trim(Partition::POOL, Offset(3)).await.expect("trimmed");
        assert_eq!(open().await.expect("what is trimmed is not compared"), Offset(3));
    }
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

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        Reads::snapshot(&self.inner, partition).await
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.inner.forget(partition, before).await
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

#[tokio::test]
async fn what_precedes_a_record_of_a_newer_build_is_applied() {
    let services = services();
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    // Framed as an event, with a schema that nobody knows yet.
    let newer = Record { scope, bytes: Arc::from([0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3]) };
    let records = vec![broadcast(scope, 1), broadcast(scope, 2), newer, broadcast(scope, 3)];
    services.log.append(Partition::POOL, records).await.expect("appended");
    let told = Mutex::new(Vec::new());
    let heard = |applied| told.lock().expect("no panic while the lock is held").push(applied);
    let ended = run(services.clone(), Partition::POOL, heard).await;
    assert!(matches!(ended, Err(Error::Corrupt(ref what)) if what.contains("newer build")), "{ended:?}");
    assert_eq!(told.lock().expect("no panic while the lock is held").last(), Some(&Offset(2)));
    let found = services.reads.load(Partition::POOL, &BTreeSet::new()).await.expect("an answer");
    assert_eq!(found.applied.upto, Offset(2));
}

/// A bus that takes its time, and what it was told.
struct Slow {
    bus: Arc<MemoryLive>,
    told: Mutex<Vec<u64>>,
}

#[async_trait]
impl Live for Slow {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let places = news.iter().filter_map(|news| match news {
            News::Update { update, .. } => Some(update.verdict.position.offset.0),
            News::Head { .. } => None,
        });
        self.told.lock().expect("no panic").extend(places);
        self.bus.publish(news).await
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        self.bus.subscribe(scope).await
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.bus.put(key, value, ttl).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        self.bus.scan(directory).await
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        self.bus.count(key, add, window).await
    }
}

/// Waits until it is so; fails if it never is.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Far more than a batch, then something small.
const BATCHES: usize = 3 * READ_RECORDS_MAX + 5;

async fn many(services: &Services) {
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let record = |at: usize| {
        let command_id = CommandId::from_bits(1 + at as u128);
        let header = Header { command_id, tenant_id: scope.tenant, fleet_id: scope.fleet, ..golden::bare_header() };
        let set = memory::Set {
            key: (at % 7).to_string(),
            value: Some(Json::parse("1").expect("valid")),
            ..memory::Set::default()
        };
        Record { scope, bytes: schema::encode(&header, &set.into()).into() }
    };
    let all: Vec<Record> = (0..BATCHES).map(record).collect();
    for some in all.chunks(APPEND_RECORDS_MAX) {
        services.log.append(Partition::POOL, some.to_vec()).await.expect("appended");
    }
}

/// Projects all that there is, by so many at once.
async fn projected(services: &Services, by: usize) -> String {
    let applied = Arc::new(AtomicU64::new(0));
    let runs: Vec<JoinHandle<()>> = (0..by)
        .map(|_| {
            let (services, applied) = (services.clone(), Arc::clone(&applied));
            let progress = move |upto: Offset| {
                applied.fetch_max(upto.0, Ordering::Relaxed);
            };
            tokio::spawn(async move { run(services, Partition::POOL, progress).await.expect("it goes on") })
        })
        .collect();
    until("all is applied", async || applied.load(Ordering::Relaxed) >= BATCHES as u64).await;
    runs.iter().for_each(JoinHandle::abort);
    let (rows, applied) = every_row(&services.reads, Partition::POOL).await.expect("rows");
    digest(&rows, applied.upto)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_far_behind_applies_and_tells_everything_in_order() {
    let services = services();
    let slow = Arc::new(Slow { bus: MemoryLive::new(Arc::clone(&services.clock)), told: Mutex::default() });
    let services = Services { live: slow.clone(), ..services };
    many(&services).await;
    let alone = projected(&services, 1).await;
    // The last of it is told when all is applied.
    until("all is told", async || slow.told.lock().expect("no panic").len() >= BATCHES).await;
    assert!(slow.told.lock().expect("no panic").iter().copied().eq(0..BATCHES as u64), "in order, and once");

    let again = Services { reads: Arc::new(MemoryReads::new()), ..services };
    assert_eq!(projected(&again, 2).await, alone, "and two that are in each other's way come to the same");
}

/// A log that keeps what is buried.
struct Yard {
    log: Arc<MemoryLog>,
    buried: Mutex<Vec<u64>>,
}

#[async_trait]
impl Log for Yard {
    fn partitions(&self) -> ringforge_domain::position::Partitions {
        self.log.partitions()
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        self.log.append(partition, records).await
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        self.log.read(partition, from)
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        self.log.seek(partition, offsets).await
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.log.bounds(partition).await
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.log.trim(partition, before).await
    }

    async fn bury(&self, letters: &[Letter]) -> Result<(), Error> {
        self.buried.lock().expect("no panic").extend(letters.iter().map(|letter| letter.stored.offset.0));
        Err(Error::Unavailable("the yard is closed".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_buried_once_and_holds_up_nobody() {
    let services = services();
    let log = MemoryLog::new(Arc::clone(&services.clock), 2, Generation(1));
    let yard = Arc::new(Yard { log, buried: Mutex::default() });
    let services = Services { log: yard.clone(), ..services };
    many(&services).await;
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let damaged = Record { scope, bytes: Arc::from(&b"nothing of ours"[..]) };
    services.log.append(Partition::POOL, vec![damaged]).await.expect("appended");
    // Some commits fail, the one with the damage among them.
    let commits = AtomicUsize::new(0);
    let decide: ringforge_ports::points::Decide = Arc::new(move |point| {
        let fails = point.call == Call::ReadsCommit && commits.fetch_add(1, Ordering::Relaxed) % 4 < 2;
        fails.then_some(Act::Error)
    });
    let failing = around(services, &decide);
    let running = tokio::spawn(run(failing.clone(), Partition::POOL, |_| ()));
    let applied =
        async || failing.reads.load(Partition::POOL, &BTreeSet::new()).await.expect("it is there").applied.upto;
    until("the damage is applied", async || applied().await.0 > BATCHES as u64).await;
    running.abort();
    assert_eq!(*yard.buried.lock().expect("no panic"), [BATCHES as u64]);
}
