//! How fast the read models are, in a file and in a server. Run it in a release build:
//! `cargo test --profile perf -p ringforge-adapters --test figures_reads -- --ignored --nocapture`, for the server with
//! `scripts/services run` before and `--features cluster`.

#[cfg(feature = "cluster")]
#[path = "postgres/databases.rs"]
mod databases;

use std::{fs, time::Duration};

use ringforge_adapters::reads::sqlite::SqliteReads;
use ringforge_domain::{
    catalog::Effect,
    fleet::Head,
    ids::{AgentId, CommandId, FleetId, MemoryId, Scope, TenantId},
    interest::{Span, Topic},
    json::Json,
    memory::{Content, Entry, Provenance, ValueType},
    position::{LogTime, Offset, Partition, Position},
    presence::Name,
    row::{Row, RowKey, Table},
    verdict::{First, Index, Outcome, Stream, Verdict},
};
use ringforge_ports::{
    clock::{Clock, SystemClock},
    reads::{Commit, Find, Matching, MemoryFilter, MemorySort, Reads, Viewer, Which},
};

const FLEET: Scope = Scope { tenant: TenantId::from_bits(7 << 120), fleet: FleetId::from_bits(70 << 120) };
const POOL: Partition = Partition::POOL;

fn entry(at: u64) -> Row {
    let words = ["deploy", "review", "incident", "plan", "budget", "schema", "agent"];
    let word = |of: u64| words[usize::try_from(of % 7).expect("small")];
    let value = format!("\"Entry {at} about {} and {} of the {} team\"", word(at), word(at / 7), word(at / 49));
    let content = Content {
        value: Json::parse(&value).expect("valid"),
        value_type: ValueType::Text,
        tags: vec![format!("tag-{}", at % 100), word(at).to_owned()],
        metadata: Some(Json::parse(&format!("{{\"team\":\"{}\",\"n\":{}}}", word(at), at % 1_000)).expect("valid")),
        ttl: None,
        expires_at: at.is_multiple_of(4).then_some(LogTime(i64::MAX)),
        created_at: LogTime(1),
    };
    let event = First { offset: Offset(at), hash: 2 };
    let changed =
        Provenance { author: Some(agent(at)), key_id: None, session: None, task: None, event, at: LogTime(5) };
    let (id, key) = (MemoryId::from_bits(u128::from(at)), format!("project/{}/item-{at}", at % 50));
    Row::Memory(Box::new(Entry { scope: FLEET, key, id, version: 1, content: Some(content), changed }))
}

fn agent(at: u64) -> AgentId {
    AgentId::from_bits(u128::from(at % 200) << 100)
}

fn verdict(at: u64) -> Verdict {
    let kind = if at.is_multiple_of(100) { "alert".to_owned() } else { format!("kind-{}", at % 7) };
    let routed = at.is_multiple_of(3);
    let tag = format!("tag-{}", at % 100);
    Verdict {
        position: Position { partition: POOL, offset: Offset(at) },
        time: LogTime(1_700_000_000_000_000 + i64::try_from(at).expect("small") * 1_000),
        scope: FLEET,
        command_id: CommandId::from_bits(u128::from(at) << 64),
        agent: Some(agent(at)),
        previous: at.checked_sub(1).map(Offset),
        outcome: Outcome::Applied(Effect::ActivitySubscribe(())),
        first: None,
        index: Index {
            stream: Some(Stream::Activity),
            label: Some(kind),
            subject: None,
            routing: if routed { vec![tag.clone()] } else { Vec::new() },
            tags: vec![tag],
            parties: Vec::new(),
        },
    }
}

/// `count` events with three rows each: the head, a memory entry, a name.
fn commit(from: u64, count: u64) -> Commit {
    let head = Row::Head(Head { scope: FLEET, last: Offset(from + count - 1), hash: 1 });
    let name = |at| Row::Name(Name { scope: FLEET, name: format!("agent {}", at % 5_000), agent: agent(at) });
    let rows: Vec<Row> = (from..from + count).flat_map(|at| [head.clone(), entry(at), name(at)]).collect();
    let (previous, upto) = (Offset(from), Offset(from + count));
    let rows = rows.into_iter().map(|row| (row.key(), Some(row))).collect();
    let verdicts = (from..from + count).map(verdict).collect();
    Commit { partition: POOL, previous, upto, time: LogTime(5), rows, verdicts }
}

fn without_memory(mut commit: Commit) -> Commit {
    commit.rows.retain(|(key, _)| key.table != Table::Memory);
    commit
}

/// CPU time of this process so far, in nanoseconds, all its threads together. Unlike the clock it means the same on a busy
/// machine.
fn cpu_ns() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let spent = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(spent).sum()
}

/// `work`, `rounds` times; each is so many `pieces`.
async fn timed<T>(
    clock: &SystemClock,
    (rounds, pieces): (u32, u32),
    what: &str,
    mut work: impl AsyncFnMut() -> T,
) -> T {
    let mut times = Vec::new();
    let mut last = None;
    let before = cpu_ns();
    for _ in 0..rounds {
        let start = clock.monotonic();
        last = Some(work().await);
        times.push(clock.monotonic().saturating_sub(start));
    }
    let cpu = Duration::from_nanos((cpu_ns() - before) / u64::from(rounds * pieces));
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    eprintln!("{what:50} CPU each {cpu:>9.1?}   p50 {:>9.1?}  p99 {:>9.1?}", at(50), at(99));
    last.expect("at least one round")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a release build"]
async fn figures() {
    let directory = tempfile::tempdir().expect("a directory");
    let reads = SqliteReads::open(&directory.path().join("reads.db")).await.expect("it opens");
    let clock = SystemClock::start();
    let mut end = 0;
    for (count, rounds) in [(1, 2_000), (64, 200), (1_000, 86)] {
        let mut commits = (0..rounds).map(|at| commit(end + at * count, count)).collect::<Vec<_>>().into_iter();
        end += rounds * count;
        let rounds = u32::try_from(rounds).expect("small");
        let pieces = (rounds, u32::try_from(count).expect("small"));
        timed(&clock, pieces, &format!("commit of {count} events, 3 rows each"), async || {
            let commit = commits.next().expect("as many as rounds");
            reads.commit(std::slice::from_ref(&commit)).await.expect("it is written");
        })
        .await;
    }
    for (count, rounds) in [(1, 2_000), (64, 200), (1_000, 20)] {
        let make = |at| without_memory(commit(end + at * count, count));
        let mut commits = (0..rounds).map(make).collect::<Vec<_>>().into_iter();
        end += rounds * count;
        let pieces = (u32::try_from(rounds).expect("small"), u32::try_from(count).expect("small"));
        timed(&clock, pieces, &format!("commit of {count} events, 2 rows each, no memory"), async || {
            let commit = commits.next().expect("as many as rounds");
            reads.commit(std::slice::from_ref(&commit)).await.expect("it is written");
        })
        .await;
    }
    eprintln!("{end} events");
    let keys = (0..256).map(|at| entry(at * 300).key()).chain([RowKey::head(FLEET)]).collect();
    timed(&clock, (100, 257), "load of 257 rows", async || reads.load(POOL, &keys).await.expect("rows")).await;
    let one = [RowKey::head(FLEET)].into_iter().collect();
    timed(&clock, (500, 1), "load of 1 row", async || reads.load(POOL, &one).await.expect("a row")).await;
    history(&*reads, &clock).await;
    memory(&*reads, &clock).await;
}

/// What a projector commits and what waits for it, on a server.
#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a release build"]
async fn figures_of_a_server() {
    let Some(place) = ringforge_ports::contract::server("TEST_POSTGRES", "figures_reads") else { return };
    let database = databases::Database::new(&place).await;
    let reads = ringforge_adapters::reads::postgres::PostgresReads::open(&database.address()).await.expect("it opens");
    let clock = SystemClock::start();
    let mut end = 0;
    // A row and a verdict each: a name, then a memory entry.
    for (what, table, rounds) in [("names", Table::Name, 100), ("memory entries", Table::Memory, 200)] {
        let kept = |mut commit: Commit| {
            commit.rows.retain(|(key, _)| key.table == table || key.table == Table::Head);
            commit
        };
        let mut commits = (0..rounds).map(|at| kept(commit(end + at * 500, 500))).collect::<Vec<_>>().into_iter();
        end += rounds * 500;
        let rounds = u32::try_from(rounds).expect("small");
        let begun = clock.monotonic();
        timed(&clock, (rounds, 500), &format!("commit of 500 events, {what}"), async || {
            let commit = commits.next().expect("as many as rounds");
            reads.commit(std::slice::from_ref(&commit)).await.expect("it is written");
        })
        .await;
        eprintln!(
            "    {:.0} events/s",
            f64::from(rounds * 500) / clock.monotonic().saturating_sub(begun).as_secs_f64()
        );
    }
    for known in ["before anything is known of the tables", "once they are analyzed"] {
        eprintln!("{end} events, {known}");
        let keys = (0..256).map(|at| entry(50_000 + at * 300).key()).chain([RowKey::head(FLEET)]).collect();
        timed(&clock, (200, 257), "load of 257 rows", async || reads.load(POOL, &keys).await.expect("rows")).await;
        let one = [RowKey::head(FLEET)].into_iter().collect();
        timed(&clock, (500, 1), "load of 1 row", async || reads.load(POOL, &one).await.expect("a row")).await;
        timed(&clock, (500, 1), "heads of 1 fleet", async || reads.heads(POOL, &[FLEET]).await.expect("heads")).await;
        history(&reads, &clock).await;
        memory(&reads, &clock).await;
        database.execute("VACUUM ANALYZE").await;
    }
}

async fn history(reads: &dyn Reads, clock: &SystemClock) {
    let base = || Matching { streams: vec![Stream::Activity], limit: 100, ..Matching::default() };
    let spans = vec![Span { topic: Topic::Tag("tag-3".to_owned()), since: Offset(10), until: None }];
    let viewer = Some(Viewer { agent: agent(5), spans });
    let tags = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    let cases = [
        ("a kind (1 in 100)", Matching { labels: tags(&["alert"]), ..base() }),
        ("a kind (1 in 100), viewer", Matching { labels: tags(&["alert"]), viewer: viewer.clone(), ..base() }),
        ("a kind (1 in 7)", Matching { labels: tags(&["kind-3"]), ..base() }),
        ("a tag (1 in 100)", Matching { tags: tags(&["tag-3"]), ..base() }),
        ("a tag (1 in 100), viewer", Matching { tags: tags(&["tag-3"]), viewer: viewer.clone(), ..base() }),
        ("a tag and a kind", Matching { tags: tags(&["tag-3"]), labels: tags(&["kind-3"]), ..base() }),
        ("an author (1 in 200)", Matching { agents: vec![agent(7)], ..base() }),
        ("the newest, everything", Matching { newest: true, ..base() }),
        ("the newest, everything, viewer", Matching { newest: true, viewer, ..base() }),
    ];
    for (what, matching) in cases {
        let which = Which::Matching(matching);
        let found =
            timed(clock, (20, 1), &format!("matching: {what}"), async || reads.verdicts(POOL, FLEET, &which).await)
                .await;
        // What takes too long is told.
        match found {
            Ok(found) => eprintln!("    {} of {}", found.verdicts.len(), found.total),
            Err(error) => eprintln!("    {error}"),
        }
    }
    let after = Which::After { after: Some(Offset(50_000)), limit: 1_000 };
    timed(clock, (20, 1), "1,000 after an offset", async || reads.verdicts(POOL, FLEET, &after).await.expect("some"))
        .await;
}

async fn memory(reads: &dyn Reads, clock: &SystemClock) {
    let base = || MemoryFilter { limit: 20, ..MemoryFilter::all(FLEET, LogTime(10)) };
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let json = |text: &str| Some(Json::parse(text).expect("valid"));
    let cases = [
        ("a page by key", base()),
        ("a page of a prefix (1 in 50)", MemoryFilter { prefix: Some("project/7/".to_owned()), ..base() }),
        ("a rare word", MemoryFilter { words: texts(&["item-77777"]), ..base() }),
        (
            "a common word, relevance",
            MemoryFilter { words: texts(&["incident"]), sort: MemorySort::Relevance, ..base() },
        ),
        ("three words", MemoryFilter { words: texts(&["incident", "budget", "schema"]), ..base() }),
        ("a short word", MemoryFilter { words: texts(&["77"]), ..base() }),
        ("a tag (1 in 100)", MemoryFilter { tags: texts(&["tag-3"]), ..base() }),
        (
            "a word and a tag (1 in 100)",
            MemoryFilter {
                words: texts(&["incident"]),
                tags: texts(&["tag-3"]),
                sort: MemorySort::Relevance,
                ..base()
            },
        ),
        (
            "a word and a tag (1 in 7)",
            MemoryFilter { words: texts(&["budget"]), tags: texts(&["plan"]), sort: MemorySort::Relevance, ..base() },
        ),
        ("metadata", MemoryFilter { metadata: json("{\"n\":7}"), ..base() }),
        ("the last changed", MemoryFilter { sort: MemorySort::UpdatedAt, ..base() }),
    ];
    for (what, filter) in cases {
        let find = Find::Memory(filter);
        let work = async || reads.find(POOL, &find).await;
        match timed(clock, (20, 1), &format!("memory: {what}"), work).await {
            Ok(found) => eprintln!("    {} of {}", found.rows.len(), found.total),
            Err(error) => eprintln!("    {error}"),
        }
    }
}
