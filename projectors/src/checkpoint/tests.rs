//! Given a log, checkpoints and trimming in any order, then read models made of what is left are those that were always there.

use std::collections::BTreeSet;

use async_trait::async_trait;
use ringforge_domain::{
    answer,
    catalog::Command,
    event::Header,
    golden,
    ids::{AgentId, CommandId, FleetId, Scope, TenantId},
    json::Json,
    limits::ROWS_PAGE_MAX,
    memory,
    row::digest,
    schema,
};
use ringforge_ports::{
    blobs::{Head, Object, Signed},
    clock::{Ids as _, ManualClock, SeededIds},
    log::{Log as _, Record},
    memory::{blobs::MemoryBlobs, in_memory, log::MemoryLog, reads::MemoryReads},
    reads::{every_row, every_verdict},
};

use super::*;
use crate::Projector;

const SCOPE: Scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
const POOL: Partition = Partition::POOL;
const HOUR: Duration = Duration::from_hours(1);

/// A log with what was made of it, an hour and more.
struct House {
    services: Services,
    clock: Arc<ManualClock>,
    commands: u128,
}

impl House {
    fn new() -> Self {
        Self::with(MemoryBlobs::new())
    }

    fn with(blobs: Arc<dyn Blobs>) -> Self {
        let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
        let services = Services { blobs, ..in_memory(clock.clone()) };
        Self { services, clock, commands: 0 }
    }

    /// Sets a key, as command number so and so.
    async fn set(&mut self, key: &str) {
        let value = format!("{{\"n\":{},\"text\":\"a\\nb\"}}", self.commands + 1);
        let set = memory::Set {
            key: key.to_owned(),
            value: Some(Json::parse(&value).expect("valid")),
            ..memory::Set::default()
        };
        self.append(set.into()).await;
    }

    async fn append(&mut self, command: Command) {
        self.commands += 1;
        let header = Header {
            command_id: CommandId::from_bits(self.commands),
            tenant_id: SCOPE.tenant,
            fleet_id: SCOPE.fleet,
            agent_id: Some(AgentId::from_bits(9)),
            idempotency_key: self.commands.is_multiple_of(4).then(|| self.commands.to_string()),
            ..golden::bare_header()
        };
        let bytes = schema::encode(&header, &command).into();
        self.services.log.append(POOL, vec![Record { scope: SCOPE, bytes }]).await.expect("appended");
    }

    /// An hour in which `keys` are set, and all of it is applied.
    async fn hour(&mut self, keys: &[&str]) {
        self.clock.advance(HOUR);
        for key in keys {
            self.set(key).await;
        }
        apply(&self.services).await;
    }

    async fn take(&self) -> Option<Checkpoint> {
        take(&self.services, POOL).await.expect("all ports are there")
    }

    async fn trim(&self, hours: u32) {
        trim(&self.services, POOL, Some(HOUR * hours)).await.expect("all ports are there");
    }

    async fn oldest(&self) -> Offset {
        self.services.log.bounds(POOL).await.expect("it is there").oldest
    }

    async fn kept(&self) -> Vec<u64> {
        let kept = list(&*self.services.blobs, Generation(1), POOL).await.expect("they are there");
        kept.iter().map(|checkpoint| checkpoint.applied.0).collect()
    }

    /// Other read models, of the same log and objects.
    fn anew(&self) -> Services {
        Services { reads: Arc::new(MemoryReads::new()), ..self.services.clone() }
    }

    /// What is made of what is left is what there is.
    async fn comes_back(&self) {
        let anew = self.anew();
        let source = Source { log: &*anew.log, blobs: &*anew.blobs };
        begin(source, POOL, &*anew.reads).await.expect("there is enough to begin with");
        apply(&anew).await;
        let (mut was, mut is) = (models(&self.services).await, models(&anew).await);
        assert_eq!(is.0, was.0, "the rows");
        let oldest = self.oldest().await;
        for verdicts in [&mut was.1, &mut is.1] {
            verdicts.retain(|(offset, _)| *offset >= oldest);
        }
        assert_eq!(is.1, was.1, "all of the history that the log has");
    }
}

/// Applies all that the log has.
async fn apply(services: &Services) {
    let end = services.log.bounds(POOL).await.expect("it is there").end;
    let mut projector = Projector::open(services.clone(), POOL).await.expect("it opens");
    let mut records = services.log.read(POOL, projector.applied());
    while projector.applied() < end {
        let batch = records.next().await.expect("it follows").expect("what comes next is there");
        projector.step(batch).await.expect("applied");
    }
}

/// Digest of the rows, and all verdicts.
async fn models(services: &Services) -> (String, Vec<(Offset, String)>) {
    let (rows, applied) = every_row(&services.reads, POOL).await.expect("rows");
    let verdicts = every_verdict(&services.reads, POOL, SCOPE).await.expect("verdicts");
    let text = |verdict| serde_json::to_string(verdict).expect("verdicts serialise");
    let verdicts = verdicts.iter().map(|verdict| (verdict.position.offset, text(verdict))).collect();
    (digest(&rows, applied.upto), verdicts)
}

#[tokio::test]
async fn a_checkpoint_is_all_rows_where_they_stood() {
    let mut house = House::new();
    assert_eq!(house.take().await, None, "there is nothing to keep");
    house.hour(&["a", "b", "a"]).await;
    let then = models(&house.services).await.0;
    let checkpoint = house.take().await.expect("there is something new");
    assert_eq!((checkpoint.applied, &checkpoint.digest), (Offset(3), &then));
    assert_eq!(house.take().await, None, "nothing is new");

    // The log no longer has any of it.
    house.services.log.trim(POOL, Offset(3)).await.expect("trimmed");
    let anew = house.anew();
    let source = Source { log: &*anew.log, blobs: &*anew.blobs };
    assert_eq!(begin(source, POOL, &*anew.reads).await.expect("begun"), Offset(3));
    assert_eq!(models(&anew).await.0, then);
    house.hour(&["c", "a"]).await;
    house.comes_back().await;
}

#[tokio::test]
async fn the_log_is_trimmed_to_a_checkpoint_and_no_further() {
    let mut house = House::new();
    house.hour(&["old", "a"]).await;
    house.trim(0).await;
    assert_eq!(house.oldest().await, Offset(0), "without a checkpoint nothing is trimmed");
    house.take().await;
    house.hour(&["a", "b"]).await;
    house.trim(2).await;
    assert_eq!(house.oldest().await, Offset(0), "it is not older than its retention");
    house.clock.advance(HOUR * 30);
    house.trim(2).await;
    assert_eq!(house.oldest().await, Offset(2), "however old: what no checkpoint has stays");
    let verdicts = every_verdict(&house.services.reads, POOL, SCOPE).await.expect("verdicts");
    assert_eq!(verdicts[0].position.offset, Offset(2), "what is trimmed is not found any more");
    house.comes_back().await;
    house.take().await;
    house.trim(2).await;
    assert_eq!((house.oldest().await, house.kept().await), (Offset(4), vec![2, 4]));
    house.comes_back().await;
}

#[tokio::test]
async fn whatever_is_trimmed_everything_comes_back() {
    for seed in 1..=20_u64 {
        let (mut house, dice) = (House::new(), SeededIds::new(seed));
        let below = |n: u128| usize::try_from(dice.next() % n).expect("small");
        for _ in 0..60 {
            match below(4) {
                0 => drop(house.take().await),
                1 => house.trim(u32::try_from(below(6)).expect("small")).await,
                _ => {
                    let keys: Vec<&str> = (0..below(4)).map(|_| ["a", "b", "c", "d", "e"][below(5)]).collect();
                    house.hour(&keys).await;
                }
            }
            let (oldest, kept) = (house.oldest().await, house.kept().await);
            let covered = oldest == Offset::ZERO || kept.contains(&oldest.0);
            assert!(covered, "seed {seed}: the log begins at {oldest:?}, checkpoints are at {kept:?}");
        }
        house.comes_back().await;
    }
}

#[tokio::test]
async fn without_retention_only_the_last_two_are_kept() {
    let mut house = House::new();
    for key in ["a", "b", "c", "d"] {
        house.hour(&[key]).await;
        house.take().await;
        trim(&house.services, POOL, None).await.expect("all ports are there");
    }
    assert_eq!((house.kept().await, house.oldest().await), (vec![3, 4], Offset(0)));
    let keys = house.services.blobs.list("", None, 99).await.expect("objects");
    assert_eq!(keys.len(), 4, "nothing else is left: {keys:?}");
}

#[tokio::test]
async fn read_models_that_have_something_else_are_refused() {
    let mut house = House::new();
    house.hour(&["a"]).await;
    let behind = house.anew();
    apply(&behind).await;
    house.hour(&["b", "c"]).await;
    house.take().await;
    house.services.log.trim(POOL, Offset(3)).await.expect("trimmed");
    let source = Source { log: &*behind.log, blobs: &*behind.blobs };
    let refused = begin(source, POOL, &*behind.reads).await;
    assert!(matches!(refused, Err(Error::Gone { oldest: Offset(3) })), "{refused:?}");
    // Somebody died over it: rows, and no position.
    let (half, rows) = (house.anew(), every_row(&house.services.reads, POOL).await.expect("rows").0);
    let some = rows.into_iter().take(1).map(|row| (row.key(), Some(row))).collect();
    let time = LogTime(1);
    let commit = ringforge_ports::reads::Commit {
        partition: POOL,
        previous: Offset(0),
        upto: Offset(0),
        time,
        rows: some,
        verdicts: Vec::new(),
    };
    half.reads.commit(&[commit]).await.expect("written");
    let refused = begin(source, POOL, &*half.reads).await;
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
    // Without any checkpoint.
    let other: Arc<dyn Blobs> = MemoryBlobs::new();
    let none = Source { log: &*half.log, blobs: &*other };
    let refused = begin(none, POOL, &*house.anew().reads).await;
    assert!(matches!(refused, Err(Error::Gone { .. })), "{refused:?}");
}

/// Objects of which some come back as others, and some are deleted while they are read.
struct Damaged {
    inner: Arc<MemoryBlobs>,
    /// What the names of those end in.
    which: Mutex<BTreeSet<String>>,
    how: fn(Vec<u8>) -> Vec<u8>,
    /// An object of a checkpoint during whose read the checkpoint is deleted, and how often it is read before.
    deleted: Mutex<Option<(Key, Checkpoint, usize)>>,
}

impl Damaged {
    fn by(how: fn(Vec<u8>) -> Vec<u8>) -> Arc<Self> {
        Arc::new(Self { inner: MemoryBlobs::new(), which: Mutex::default(), how, deleted: Mutex::default() })
    }

    fn damage(&self, end: &str) {
        self.which.lock().expect("no panic").insert(end.to_owned());
    }

    fn delete_after(&self, key: Key, checkpoint: Checkpoint, reads: usize) {
        *self.deleted.lock().expect("no panic") = Some((key, checkpoint, reads));
    }

    /// Whether this is the read during which the checkpoint is deleted.
    fn is_deleted_by(&self, key: &Key) -> Option<Checkpoint> {
        let mut deleted = self.deleted.lock().expect("no panic");
        let (.., left) = deleted.as_mut().filter(|(read, ..)| read == key)?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        deleted.take().map(|(_, checkpoint, _)| checkpoint)
    }

    fn mend(&self) {
        self.which.lock().expect("no panic").clear();
    }
}

#[async_trait]
impl Blobs for Damaged {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        self.inner.upload_url(key, head, ttl).await
    }

    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error> {
        self.inner.download_url(key, file_name, ttl).await
    }

    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error> {
        self.inner.put(key, content_type, body).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let Some(object) = self.inner.get(key).await? else { return Ok(None) };
        if let Some(checkpoint) = self.is_deleted_by(key) {
            self.inner.delete(&checkpoint.told()).await?;
            self.inner.delete(&checkpoint.rows_key()).await?;
            let bytes = object.body.try_collect::<Vec<_>>().await?.concat();
            let pieces =
                [Ok(Bytes::copy_from_slice(&bytes[..bytes.len() - 1])), Err(Error::Unavailable("404".to_owned()))];
            return Ok(Some(Object { head: object.head, body: futures_util::stream::iter(pieces).boxed() }));
        }
        if !self.which.lock().expect("no panic").iter().any(|end| key.as_str().ends_with(end.as_str())) {
            return Ok(Some(object));
        }
        let bytes: Vec<Bytes> = object.body.try_collect().await?;
        let bytes = (self.how)(bytes.concat());
        // In odd pieces: lines do not end where they do.
        let pieces: Vec<_> = bytes.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok(Some(Object { head: object.head, body: futures_util::stream::iter(pieces).boxed() }))
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        self.inner.copy(from, to).await
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        self.inner.list(prefix, after, limit).await
    }
}

/// Everything there may be wrong with the bytes of an object, and nothing at first.
const DAMAGES: [fn(Vec<u8>) -> Vec<u8>; 5] = [
    |bytes| bytes,
    |bytes| bytes[..bytes.len() - 1].to_vec(),
    |bytes| bytes.split_inclusive(|byte| *byte == b'\n').skip(1).flatten().copied().collect(),
    |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    },
    |_| Vec::new(),
];

#[tokio::test]
async fn what_does_not_read_back_is_no_checkpoint() {
    for (number, how) in DAMAGES.into_iter().enumerate() {
        let blobs = Damaged::by(how);
        let mut house = House::with(blobs.clone());
        house.hour(&["a", "b"]).await;
        blobs.damage(".rows");
        let taken = take(&house.services, POOL).await;
        if number == 0 {
            assert!(matches!(taken, Ok(Some(_))), "in whatever pieces: {taken:?}");
            continue;
        }
        assert!(matches!(taken, Err(Error::Corrupt(_))), "damage {number}: {taken:?}");
        house.clock.advance(HOUR * 9);
        house.trim(1).await;
        assert_eq!((house.kept().await, house.oldest().await), (vec![], Offset(0)), "damage {number}");
        blobs.mend();
        assert!(house.take().await.is_some(), "it is taken again");
    }
}

#[tokio::test]
async fn a_checkpoint_that_was_damaged_later_is_passed_over() {
    for how in DAMAGES.into_iter().skip(1) {
        let blobs = Damaged::by(how);
        let mut house = House::with(blobs.clone());
        for key in ["old", "a", "b"] {
            house.hour(&[key, "a"]).await;
            house.take().await;
        }
        house.clock.advance(HOUR);
        house.trim(2).await;
        assert_eq!((house.oldest().await, house.kept().await), (Offset(2), vec![2, 4, 6]));
        let first = names::checkpoint_rows(Generation(1), POOL, Offset(2));
        blobs.damage(first.as_str());
        let anew = house.anew();
        let source = Source { log: &*anew.log, blobs: &*anew.blobs };
        assert_eq!(begin(source, POOL, &*anew.reads).await.expect("begun"), Offset(4));
        apply(&anew).await;
        assert_eq!(models(&anew).await.0, models(&house.services).await.0);
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_deleted_while_it_is_read_is_passed_over() {
    // While it is listed, while it is verified, and while it fills read models.
    for (reads, of) in
        [(0, Checkpoint::told as fn(&Checkpoint) -> Key), (0, Checkpoint::rows_key), (1, Checkpoint::rows_key)]
    {
        let blobs = Damaged::by(DAMAGES[0]);
        let mut house = House::with(blobs.clone());
        // More rows than one commit has room for: of the answers, which come after the keys, one of the first is forgotten later.
        let page = ROWS_PAGE_MAX as usize;
        let keys: Vec<String> = (0..3 * page).map(|number| (number % (page / 2)).to_string()).collect();
        house.hour(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let first = house.take().await.expect("a checkpoint");
        house.clock.advance(HOUR * 25);
        let asked = vec![answer::Asked { agent: AgentId::from_bits(9), key: "100".to_owned() }];
        house.append(answer::Forget { asked }.into()).await;
        house.hour(&["a"]).await;
        let second = house.take().await.expect("a checkpoint");
        house.services.log.trim(POOL, first.applied).await.expect("trimmed");
        let anew = house.anew();
        let key = of(&first);
        blobs.delete_after(key.clone(), first, reads);
        let source = Source { log: &*anew.log, blobs: &*anew.blobs };
        assert_eq!(begin(source, POOL, &*anew.reads).await.expect("begun"), second.applied, "{key}, {reads}");
        apply(&anew).await;
        assert_eq!(models(&anew).await.0, models(&house.services).await.0, "{key}, {reads}");
        assert_eq!(house.kept().await, [second.applied.0]);
    }
}

#[tokio::test]
async fn what_the_log_has_lost_is_no_checkpoint() {
    let mut house = House::new();
    house.hour(&["a", "b"]).await;
    house.take().await;
    house.hour(&["c"]).await;
    house.take().await;
    // A backup of the log is restored.
    let log = MemoryLog::new(house.clock.clone(), 2, Generation(1));
    let kept = house.services.log.seek(POOL, &[Offset(0), Offset(1)]).await.expect("records");
    let kept: Vec<Record> = kept.into_iter().map(|stored| stored.record).collect();
    log.append(POOL, kept).await.expect("appended");
    house.services.log = log;
    drop_lost(&house.services, POOL).await.expect("all ports are there");
    assert_eq!(house.kept().await, [2]);
}

#[tokio::test]
async fn what_an_attempt_left_behind_is_in_nobodys_way() {
    let mut house = House::new();
    house.hour(&["a"]).await;
    let key = names::checkpoint_rows(Generation(1), POOL, Offset(1));
    let rest = futures_util::stream::iter([Ok(Bytes::from_static(b"of another build"))]).boxed();
    put(&*house.services.blobs, &key, "application/x-ndjson", rest).await.expect("put");
    let taken = take(&house.services, POOL).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    assert!(house.take().await.is_some());
}
