//! Given a database as the migrations leave it, when somebody asks what we never would, then nothing of another tenant is seen;
//! and what we ask reads little of much.

#[path = "../../../tests/postgres/databases.rs"]
mod databases;

use std::collections::BTreeSet;

use ringforge_domain::{
    catalog::Effect,
    fleet::Head,
    ids::{AgentId, CommandId, FleetId, MemoryId, TenantId},
    interest::{Span, Topic},
    json::Json,
    memory::{Content, Entry, Provenance, ValueType},
    position::{LogTime, Position},
    row::{Row, Table},
    verdict::{First, Index, Outcome, Stream, Verdict},
};
use ringforge_ports::{
    contract::server,
    reads::{About, Listed, Matching, MemoryFilter, MemorySort, Viewer},
};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use self::databases::Database;
use super::{
    ask::bind,
    server::Lent,
    sql::{bodies, build::Sql},
    *,
};

const ONE: Partition = Partition(1);

fn of(tenant: u128) -> Scope {
    Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(1) }
}

fn agent(at: u64) -> AgentId {
    AgentId::from_bits(u128::from(at % 200))
}

fn entry(scope: Scope, at: u64) -> Row {
    let content = Content {
        value: Json::parse(&format!("\"entry {at} of number{}\"", at % 100)).expect("valid"),
        value_type: ValueType::Text,
        tags: vec![format!("tag-{}", at % 1_000)],
        metadata: None,
        ttl: None,
        expires_at: None,
        created_at: LogTime(1),
    };
    let event = First { offset: Offset(at), hash: 2 };
    let changed = Provenance { author: None, key_id: None, session: None, task: None, event, at: LogTime(5) };
    let (id, key) = (MemoryId::from_bits(u128::from(at)), format!("item/{at}"));
    Row::Memory(Box::new(Entry { scope, key, id, version: 1, content: Some(content), changed }))
}

fn verdict(scope: Scope, at: u64) -> Verdict {
    let tag = format!("tag-{}", at % 1_000);
    Verdict {
        position: Position { partition: ONE, offset: Offset(at) },
        time: LogTime(i64::try_from(at).expect("small")),
        scope,
        command_id: CommandId::from_bits(u128::from(at)),
        agent: Some(agent(at)),
        previous: at.checked_sub(1).map(Offset),
        outcome: Outcome::Applied(Effect::ActivitySubscribe(())),
        first: None,
        index: Index {
            stream: Some(Stream::Activity),
            label: Some(format!("kind-{}", at % 1_000)),
            subject: Some(format!("item/{at}")),
            routing: vec![tag.clone()],
            tags: vec![tag],
            parties: Vec::new(),
        },
    }
}

/// So many events of one fleet, each an entry and a verdict.
fn commit(scope: Scope, from: u64, count: u64) -> Commit {
    let head = Row::Head(Head { scope, last: Offset(from + count - 1), hash: 1 });
    let rows = (from..from + count).map(|at| entry(scope, at)).chain([head]);
    Commit {
        partition: ONE,
        previous: Offset(from),
        upto: Offset(from + count),
        time: LogTime(5),
        rows: rows.map(|row| (row.key(), Some(row))).collect(),
        verdicts: (from..from + count).map(|at| verdict(scope, at)).collect(),
    }
}

async fn all(lent: &mut Lent, question: &str) -> sqlx::Result<Vec<PgRow>> {
    sqlx::query(AssertSqlSafe(question)).fetch_all(&mut **lent).await
}

#[tokio::test]
async fn whoever_asks_for_one_tenant_sees_nothing_of_another_whatever_is_asked() {
    let Some(place) = server("TEST_POSTGRES", "reads/postgres/tests") else { return };
    let database = Database::new(&place).await;
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    reads.commit(&[commit(of(1), 0, 5), commit(of(2), 5, 7)]).await.expect("written");
    let (server, mine, other) = (&reads.servers[0], of(1), of(2).tenant.to_string());

    for (table, count) in [("rows", 6), ("memory", 5), ("history", 5), ("history_tags", 5)] {
        let mut lent = server.query(mine.tenant).await.expect("a connection");
        let seen = all(&mut lent, &format!("SELECT tenant FROM {table} WHERE true OR tenant = '{other}'")).await;
        let seen: BTreeSet<(String, usize)> = seen.expect("lines").iter().map(|line| (line.get(0), count)).collect();
        assert_eq!(seen, BTreeSet::from([(mine.tenant.to_string(), count)]), "{table}");
        let counted = all(&mut lent, &format!("SELECT count(*) FROM {table}")).await.expect("a line");
        assert_eq!(counted[0].get::<i64, _>(0), i64::try_from(count).expect("small"), "{table}");
    }
    let renamed = |name: &str, value: &str| {
        format!(
            "WITH other AS MATERIALIZED (SELECT set_config('{name}', {value}, true) AS set)
            SELECT r.tenant FROM other o JOIN LATERAL (SELECT * FROM rows WHERE o.set <> '' OFFSET 0) r ON true"
        )
    };
    // The question itself is one that is answered.
    let named = "current_setting('ringforge.tenant')";
    let mut lent = server.query(mine.tenant).await.expect("a connection");
    assert_eq!(all(&mut lent, &renamed("ringforge.tenant", named)).await.expect("lines").len(), 6);
    let terms: Vec<i64> =
        crate::reads::terms::terms(of(2), "entry", std::iter::empty()).iter().map(|term| i64::from(*term)).collect();
    for question in [
        // Another name, without a seal, with that of ours, or as another role.
        renamed("ringforge.tenant", &format!("'{other}'")),
        renamed("ringforge.tenant", &format!("'{other}.{}'", "0".repeat(64))),
        renamed("ringforge.tenant", &format!("'{other}.' || split_part({named}, '.', 2)")),
        format!("{} WHERE r.tenant <> '{}'", renamed("role", "'ringforge_project'"), mine.tenant),
        format!("{} WHERE r.tenant <> '{}'", renamed("row_security", "'off'"), mine.tenant),
        format!("SELECT tenant FROM entries_with_all(ARRAY{terms:?}) WHERE tenant = '{other}'"),
        "SELECT tenant FROM entries_with_any(ARRAY[]::bigint[])".to_owned(),
        // What is nobody's business.
        "SELECT * FROM seal".to_owned(),
        "SELECT * FROM history_8796093022208".to_owned(),
        "SELECT drop_slices(9000000000000)".to_owned(),
        "SELECT body FROM rows FOR UPDATE".to_owned(),
        "DELETE FROM rows".to_owned(),
        "CREATE TABLE mine (x int)".to_owned(),
    ] {
        let mut lent = server.query(mine.tenant).await.expect("a connection");
        let seen = all(&mut lent, &question).await;
        assert!(seen.as_ref().is_ok_and(Vec::is_empty) || seen.is_err(), "{question}: {seen:?}");
    }
    // What one question left behind is not there for the next.
    let mut lent = server.query(mine.tenant).await.expect("a connection");
    all(&mut lent, "SELECT set_config('role', 'none', false), set_config('ringforge.tenant', '', false)")
        .await
        .expect("set");
    sqlx::raw_sql("COMMIT").execute(&mut *lent).await.expect("ended");
    lent.give_back();
    let found = reads.find(ONE, &Find::Memory(MemoryFilter::all(mine, LogTime(0)))).await.expect("an answer");
    assert_eq!(found.total, 5);
}

/// How a question is answered, and how many pages that takes.
async fn explained(server: &Server, question: &Sql) -> (String, u64) {
    let mut lent = server.query(of(1).tenant).await.expect("a connection");
    let text = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {}", question.text);
    let query = question.values.iter().fold(sqlx::query(AssertSqlSafe(text)), bind);
    let lines = query.fetch_all(&mut *lent).await.expect("a plan");
    let plan = lines.iter().map(|line| line.get::<&str, _>(0)).collect::<Vec<_>>().join("\n");
    let pages = plan.lines().find(|line| line.contains("Buffers: ")).map_or(0, |line| {
        let numbers = line.split_whitespace().filter_map(|word| word.split_once('=')?.1.parse::<u64>().ok());
        numbers.sum()
    });
    (plan, pages)
}

fn finds() -> Vec<(&'static str, u64, Find)> {
    let mine = of(1);
    let base = || MemoryFilter { limit: 20, ..MemoryFilter::all(mine, LogTime(10)) };
    let texts = |text: &str| vec![text.to_owned()];
    let listed = |which| Find::Listed { table: Table::Agent, scope: mine, which, after: None, limit: 100 };
    vec![
        ("a rare word", 1_500, Find::Memory(MemoryFilter { words: texts("item/77777"), ..base() })),
        ("a tag", 1_000, Find::Memory(MemoryFilter { tags: texts("tag-7"), ..base() })),
        (
            "one of two tags",
            2_000,
            Find::Memory(MemoryFilter { tags: vec!["tag-7".to_owned(), "tag-8".to_owned()], any_tag: true, ..base() }),
        ),
        (
            "a word and a tag",
            1_000,
            Find::Memory(MemoryFilter {
                words: texts("number77"),
                tags: texts("tag-77"),
                sort: MemorySort::Relevance,
                ..base()
            }),
        ),
        ("a prefix", 1_000, Find::Memory(MemoryFilter { prefix: Some("item/777".to_owned()), ..base() })),
        (
            "a page",
            200,
            Find::Table {
                table: Table::Memory,
                scope: Some(mine),
                after: Some(RowKey::memory(mine, "item/5")),
                limit: 20,
            },
        ),
        ("mail", 100, Find::Mail { scope: mine, agent: agent(7), after: None, limit: 20 }),
        ("what is listed", 100, listed(Listed::At(LogTime(5)))),
        ("what has changed", 100, listed(Listed::Since(Offset(5)))),
    ]
}

fn whiches() -> Vec<(&'static str, u64, Which)> {
    let base = || Matching { streams: vec![Stream::Activity], limit: 100, ..Matching::default() };
    let texts = |text: &str| vec![text.to_owned()];
    let about = About { stream: Stream::Activity, label: "kind-777".to_owned(), subject: "item/777".to_owned() };
    let spans = vec![Span { topic: Topic::Tag("tag-3".to_owned()), since: Offset(10), until: None }];
    let viewer = Some(Viewer { agent: agent(5), spans });
    vec![
        ("after an offset", 200, Which::After { after: Some(Offset(50_000)), limit: 20 }),
        ("at offsets", 400, Which::At((0..20).map(|at| Offset(at * 4_000)).collect())),
        ("about a thing", 100, Which::About(vec![about])),
        ("a label", 2_500, Which::Matching(Matching { labels: texts("kind-7"), ..base() })),
        ("a tag", 2_500, Which::Matching(Matching { tags: texts("tag-7"), ..base() })),
        ("a subject", 200, Which::Matching(Matching { subject: Some("item/777".to_owned()), ..base() })),
        ("a tag for a viewer", 2_500, Which::Matching(Matching { tags: texts("tag-7"), viewer, ..base() })),
    ]
}

#[tokio::test]
async fn a_question_reads_little_of_a_hundred_thousand_entries() {
    let Some(place) = server("TEST_POSTGRES", "reads/postgres/tests") else { return };
    let database = Database::new(&place).await;
    let reads = PostgresReads::open(&database.address()).await.expect("it opens");
    // Nine in ten are the asker's; neighbours use the same words.
    for at in 0..100 {
        let scope = if at % 10 == 3 { of(2) } else { of(1) };
        reads.commit(&[commit(scope, at * 1_000, 1_000)]).await.expect("written");
    }
    let rows = |(what, most, find)| {
        let named = sql::find(Dialect::Postgres, ONE, &find);
        (what, most, bodies::with_rows(named, ONE, ANSWER_BYTES_MAX))
    };
    let verdicts = |(what, most, which)| {
        let named = sql::history::verdicts(Dialect::Postgres, ONE, of(1), &which);
        (what, most, bodies::with_verdicts(named, of(1), ANSWER_BYTES_MAX))
    };
    let mut much = Vec::new();
    for known in ["before anything is known of the tables", "once they are analyzed"] {
        for (what, most, question) in finds().into_iter().map(rows).chain(whiches().into_iter().map(verdicts)) {
            let (plan, pages) = explained(&reads.servers[0], &question).await;
            if pages > most || plan.contains("Seq Scan") {
                much.push(format!("{what}, {known}: {pages} pages, not {most}\n{plan}"));
            } else {
                eprintln!("{what}, {known}: {pages} pages");
            }
        }
        database.execute("VACUUM ANALYZE").await;
    }
    assert!(much.is_empty(), "{}", much.join("\n"));
}
