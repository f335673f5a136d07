//! Promises about what `find` and `heads` answer.

use ringforge_domain::{
    ids::{CommandId, MessageId, Scope},
    limits::OFFLINE_SHOWN_MICROS,
    position::{LogTime, Offset},
    row::{Row, RowKey, Table},
};

use super::{
    Subject,
    make::{
        FLEET, ONE, SISTER, STRANGER, agent, begin, entry, head, json, keys, member, message, name, names, notice,
        placed, plain, step,
    },
};
use crate::{
    contract::{Failure, Outcome, same},
    reads::{Find, Listed, MemoryFilter, MemorySort, Reads},
};

/// A kind of rows comes by tenant, fleet and key, after a name, so many at a time, of one fleet or of all.
pub async fn tables_are_paged_by_name(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let texts = ["", "B", "a", "a\u{0}", "ab", "b", "z", "\u{e9}", "\u{ffff}", "\u{10000}"];
    let mut rows = Vec::new();
    for scope in [SISTER, STRANGER, FLEET] {
        rows.extend(texts.map(|text| name(scope, text)));
        rows.extend([plain(scope, "a", "another kind"), head(scope, 1)]);
    }
    begin(&*reads, ONE, rows, Vec::new()).await?;
    let by_name = |scopes: &[Scope]| -> Vec<RowKey> {
        scopes.iter().flat_map(|scope| texts.map(|text| RowKey::name(*scope, text))).collect()
    };
    for (scope, want) in [(None, by_name(&[FLEET, SISTER, STRANGER])), (Some(SISTER), by_name(&[SISTER]))] {
        for limit in [1, 3, 1_000] {
            let (mut got, mut after) = (Vec::new(), None);
            loop {
                let find = Find::Table { table: Table::Name, scope, after: after.take(), limit };
                let found = reads.find(ONE, &find).await?;
                same("total", &found.total, &(found.rows.len() as u64))?;
                got.extend(names(&found.rows));
                after = got.last().cloned();
                if found.rows.len() < limit as usize || got.len() > want.len() {
                    break;
                }
            }
            same(&format!("{scope:?} by {limit}"), &got, &want)?;
        }
    }
    let between = Some(RowKey::name(FLEET, "aa"));
    let find = Find::Table { table: Table::Name, scope: Some(FLEET), after: between, limit: 1 };
    same("after a name that is not there", &keys(&reads.find(ONE, &find).await?), &vec!["ab".to_owned()])
}

/// Everything due at a time or before comes by that time, ties by kind and name, and not more than asked.
pub async fn due_comes_longest_due_first(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let ends = |at: i64| {
        move |content: &mut ringforge_domain::memory::Content, _: &mut _| content.expires_at = Some(LogTime(at))
    };
    let rows = vec![
        message(FLEET, 1, 2, 300),
        notice(FLEET, 9, 2, 100),
        entry(SISTER, "memory", "", ends(200)),
        entry(FLEET, "tie", "", ends(100)),
        message(SISTER, 3, 2, 100),
        message(FLEET, 4, 2, 100),
        entry(FLEET, "future", "", ends(301)),
        entry(FLEET, "always", "", |_, _| ()),
        head(FLEET, 1),
        message(STRANGER, 5, 2, i64::MAX),
    ];
    begin(&*reads, ONE, rows, Vec::new()).await?;
    let id = MessageId::from_bits;
    let want = [
        RowKey::memory(FLEET, "tie"),
        RowKey::message(FLEET, id(4)),
        RowKey::message(SISTER, id(3)),
        RowKey::notice(FLEET, CommandId::from_bits(9)),
        RowKey::memory(SISTER, "memory"),
        RowKey::message(FLEET, id(1)),
    ];
    for (now, limit, count) in [(99, 10, 0), (100, 10, 4), (100, 3, 3), (299, 10, 5), (300, 10, 6), (300, 1, 1)] {
        let found = reads.find(ONE, &Find::Due { now: LogTime(now), limit }).await?;
        same(&format!("due at {now}, at most {limit}"), &names(&found.rows), &want[..count].to_vec())?;
    }
    let all = reads.find(ONE, &Find::Due { now: LogTime(i64::MAX), limit: 100 }).await?;
    same("due in the end", &all.rows.len(), &8)
}

/// Mail and notices of one agent of one fleet, by place, kind and id, after a place, and not more than asked.
pub async fn mail_is_of_one_agent(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let mut taken = message(FLEET, 7, 2, 100);
    if let Row::Message(message) = &mut taken {
        message.delivered = true;
    }
    let places = [2, 4, 4, 10, 11];
    let mine = [
        message(FLEET, 9, 2, 300),
        message(FLEET, 1, 2, 100),
        notice(FLEET, 8, 2, 50),
        notice(FLEET, 3, 2, 50),
        message(FLEET, 5, 2, 10),
    ];
    let mine: Vec<_> = mine.into_iter().zip(places).map(|(row, place)| placed(row, place)).collect();
    let others = [message(FLEET, 2, 3, 1), message(SISTER, 2, 2, 1), notice(STRANGER, 2, 2, 1), taken, head(FLEET, 1)];
    begin(&*reads, ONE, [mine.clone(), others.to_vec()].concat(), Vec::new()).await?;
    for (after, limit, want) in [
        (None, 0, 0..0),
        (None, 2, 0..2),
        (None, 10, 0..5),
        (Some(1), 10, 0..5),
        (Some(2), 1, 1..2),
        (Some(4), 10, 3..5),
        (Some(10), 1, 4..5),
        (Some(11), 10, 5..5),
    ] {
        let after = after.map(Offset);
        let found = reads.find(ONE, &Find::Mail { scope: FLEET, agent: agent(2), after, limit }).await?;
        same(&format!("after {after:?}, at most {limit}"), &found.rows, &mine[want].to_vec())?;
    }
    Ok(())
}

/// Of the rows that lists show come those whose time is not over, or those that changed since the partition stood somewhere;
/// by key, after a key, not more than asked.
pub async fn listed_rows_come_by_time_or_by_change(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let (here, left, gone) = (member(FLEET, 3, None), member(FLEET, 1, Some(50)), member(FLEET, 2, Some(10)));
    let now = LogTime(OFFLINE_SHOWN_MICROS + 10);
    let others = [member(SISTER, 4, None), member(STRANGER, 5, None), name(FLEET, "ada"), plain(FLEET, "key", "text")];
    let all = [here.clone(), left.clone(), gone.clone()];
    begin(&*reads, ONE, [all.to_vec(), others.to_vec()].concat(), Vec::new()).await?;
    let find = |which, after: Option<&Row>, limit| {
        let after = after.map(|row| row.key().key);
        Find::Listed { table: Table::Agent, scope: FLEET, which, after, limit }
    };
    let at = Listed::At(now);
    let ask = async |find: Find| reads.find(ONE, &find).await.map(|found| found.rows);
    same("still listed", &ask(find(at, None, 10)).await?, &vec![left.clone(), here.clone()])?;
    same("one of them", &ask(find(at, None, 1)).await?, &vec![left.clone()])?;
    same("after one of them", &ask(find(at, Some(&left), 10)).await?, &vec![here.clone()])?;
    let one_more = Listed::At(LogTime(OFFLINE_SHOWN_MICROS + 9));
    same("a moment before", &ask(find(one_more, None, 10)).await?.len(), &3)?;
    same("since the beginning", &ask(find(Listed::Since(Offset(0)), None, 10)).await?.len(), &3)?;
    same("since now", &ask(find(Listed::Since(Offset(1_000)), None, 10)).await?, &Vec::new())?;
    let (back, away) = (member(FLEET, 2, None), member(FLEET, 3, Some(1)));
    reads.commit(&[step(ONE, 1_000, 1_001, vec![back.clone()], Vec::new())]).await?;
    reads.commit(&[step(ONE, 1_001, 1_002, vec![away.clone(), name(FLEET, "eve")], Vec::new())]).await?;
    let since = |offset| find(Listed::Since(Offset(offset)), None, 10);
    same("since before both", &ask(since(1_000)).await?, &vec![back.clone(), away.clone()])?;
    same("since between", &ask(since(1_001)).await?, &vec![away])?;
    same("listed after both", &ask(find(at, None, 10)).await?, &vec![left, back])
}

/// The last event of each fleet comes at the place of the fleet in the question, and nothing for a fleet that has none.
pub async fn heads_come_in_the_order_asked(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    begin(&*reads, ONE, vec![head(FLEET, 5), head(STRANGER, 6)], Vec::new()).await?;
    let heads = reads.heads(ONE, &[STRANGER, SISTER, FLEET, STRANGER]).await?;
    let got: Vec<_> = heads.heads.iter().map(|head| head.as_ref().map(|head| (head.scope, head.last))).collect();
    let (stranger, fleet) = (Some((STRANGER, Offset(6))), Some((FLEET, Offset(5))));
    same("heads", &got, &vec![stranger, None, fleet, stranger])?;
    same("of no fleets", &reads.heads(ONE, &[]).await?.heads, &Vec::new())
}

async fn found_keys(reads: &dyn Reads, filter: &MemoryFilter) -> Result<Vec<String>, Failure> {
    let found = reads.find(ONE, &Find::Memory(filter.clone())).await?;
    Ok(keys(&found))
}

/// Broken unless each filter finds exactly these keys, in this order, and counts them.
async fn each_finds(reads: &dyn Reads, cases: Vec<(&str, MemoryFilter, &[&str])>) -> Outcome {
    for (what, filter, want) in cases {
        let found = reads.find(ONE, &Find::Memory(filter)).await?;
        same(what, &keys(&found), &want.iter().map(ToString::to_string).collect())?;
        same(&format!("{what}, total"), &found.total, &(want.len() as u64))?;
    }
    Ok(())
}

fn filter(change: impl FnOnce(&mut MemoryFilter)) -> MemoryFilter {
    let mut filter = MemoryFilter::all(FLEET, LogTime(0));
    change(&mut filter);
    filter
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// Entries of all sorts, one of another fleet among them.
fn entries() -> Vec<Row> {
    vec![
        entry(FLEET, "a/1", "alpha beta", |content, changed| {
            content.tags = texts(&["red", "blue"]);
            content.metadata = Some(json(r#"{"n": 1, "o": {"y": [1, 2], "x": "t"}}"#));
            changed.at = LogTime(20);
        }),
        entry(FLEET, "a/2", "Alpha", |content, changed| {
            content.tags = texts(&["red"]);
            content.metadata = Some(json(r#"{"n": 1.5, "o": null}"#));
            changed.author = Some(agent(2));
            changed.at = LogTime(30);
        }),
        entry(FLEET, "b", "gamma", |content, changed| {
            content.tags = texts(&["redder", "\"red\"", "a\nb", "a", "b"]);
            content.metadata = Some(json("[1]"));
            changed.author = None;
        }),
        entry(FLEET, "a%", "beta", |_, _| ()),
        entry(SISTER, "a/1", "alpha beta", |content, _| content.tags = texts(&["red", "blue"])),
        name(FLEET, "a/1"),
    ]
}

/// Conditions and the keys of the [`entries`] for which they hold.
fn conditions() -> Vec<(&'static str, MemoryFilter, &'static [&'static str])> {
    let prefix = |text: &str| filter(|filter| filter.prefix = Some(text.to_owned()));
    let tags = |all: &[&str]| filter(|filter| filter.tags = texts(all));
    let any = |any: &[&str]| filter(|filter| (filter.tags, filter.any_tag) = (texts(any), true));
    let words = |all: &[&str]| filter(|filter| filter.words = texts(all));
    let metadata = |text: &str| filter(|filter| filter.metadata = Some(json(text)));
    vec![
        ("everything", filter(|_| ()), &["a%", "a/1", "a/2", "b"]),
        ("prefix", prefix("a/"), &["a/1", "a/2"]),
        ("empty prefix", prefix(""), &["a%", "a/1", "a/2", "b"]),
        ("prefix with a sign", prefix("a%"), &["a%"]),
        ("prefix that is a whole key", prefix("b"), &["b"]),
        ("prefix in another case", prefix("A"), &[]),
        ("a tag", tags(&["red"]), &["a/1", "a/2"]),
        ("all tags", tags(&["red", "blue"]), &["a/1"]),
        ("any tag", any(&["blue", "redder", "none"]), &["a/1", "b"]),
        ("any of no tags", any(&[]), &["a%", "a/1", "a/2", "b"]),
        ("a part of a tag", tags(&["re"]), &[]),
        ("a tag with a sign", tags(&["\"red\""]), &["b"]),
        ("a tag with a line", tags(&["a\nb"]), &["b"]),
        ("a word", words(&["alpha"]), &["a/1", "a/2"]),
        ("words", words(&["alpha", "beta"]), &["a/1"]),
        ("a word of the key", words(&["a/2"]), &["a/2"]),
        ("a part of a word", words(&["lph"]), &["a/1", "a/2"]),
        ("author", filter(|filter| filter.author = Some(agent(2))), &["a/2"]),
        ("since", filter(|filter| filter.since = Some(LogTime(20))), &["a/1", "a/2"]),
        ("metadata", metadata(r#"{"n":1}"#), &["a/1"]),
        ("deep metadata", metadata(r#"{"o":{"x":"t","y":[1,2]}}"#), &["a/1"]),
        ("a part of deep metadata", metadata(r#"{"o":{"x":"t"}}"#), &[]),
        ("metadata null", metadata(r#"{"o":null}"#), &["a/2"]),
        ("metadata of another type", metadata(r#"{"n":"1"}"#), &[]),
        ("metadata of several fields", metadata(r#"{"o":null,"n":1.5}"#), &["a/2"]),
        ("empty metadata", metadata("{}"), &["a%", "a/1", "a/2", "b"]),
        ("metadata that is no object", metadata("[1]"), &[]),
        (
            "together",
            MemoryFilter {
                prefix: Some("a".to_owned()),
                tags: texts(&["red"]),
                words: texts(&["alpha", "a/"]),
                author: Some(agent(1)),
                since: Some(LogTime(20)),
                metadata: Some(json(r#"{"n":1}"#)),
                ..filter(|_| ())
            },
            &["a/1"],
        ),
        ("of another fleet", MemoryFilter { tags: texts(&["red"]), ..MemoryFilter::all(SISTER, LogTime(0)) }, &["a/1"]),
    ]
}

/// Every condition on memory, and all of them together.
pub async fn memory_conditions_hold_alone_and_together(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    begin(&*reads, ONE, entries(), Vec::new()).await?;
    each_finds(&*reads, conditions()).await
}

/// Words are found wherever they stand, however short, whatever signs they hold, in every script.
pub async fn words_are_taken_literally(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let rows = [
        ("k1", "100% of_it's \"quoted\" (a OR b) NEAR c* -d ^e {f} : g"),
        ("k2", "\u{c9}COLE stra\u{df}e \u{130}stanbul"),
        ("k3", "\u{65e5}\u{672c}\u{8a9e}\u{306e}\u{30c6}\u{30b9}\u{30c8} \u{1f600}\u{1f600}"),
        ("k4", "x\u{0}yz \\ back\\slash"),
        ("k5", "100 of its"),
    ]
    .map(|(key, value)| plain(FLEET, key, value));
    begin(&*reads, ONE, rows.to_vec(), Vec::new()).await?;
    let cases: &[(&str, &[&str])] = &[
        ("%", &["k1"]),
        ("100%", &["k1"]),
        ("of_it", &["k1"]),
        ("it's", &["k1"]),
        ("\"quoted\"", &["k1"]),
        ("\"", &["k1"]),
        ("(a or b)", &["k1"]),
        ("a or", &["k1"]),
        ("near c*", &["k1"]),
        ("c*", &["k1"]),
        ("*", &["k1"]),
        ("^e {f} : g", &["k1"]),
        ("or", &["k1"]),
        ("\u{e9}cole", &["k2"]),
        ("\u{e9}c", &["k2"]),
        ("ecole", &[]),
        ("stra\u{df}e", &["k2"]),
        ("strasse", &[]),
        ("i\u{307}stanbul", &["k2"]),
        ("\u{65e5}\u{672c}\u{8a9e}", &["k3"]),
        ("\u{672c}\u{8a9e}", &["k3"]),
        ("\u{8a9e}", &["k3"]),
        ("\u{1f600}\u{1f600}", &["k3"]),
        ("\u{1f600}", &["k3"]),
        ("x\u{0}yz", &["k4"]),
        ("xyz", &[]),
        ("\\ back\\", &["k4"]),
        ("k1\n100", &["k1"]),
        ("100 of", &["k5"]),
        ("100", &["k1", "k5"]),
    ];
    for (word, want) in cases {
        let got = found_keys(&*reads, &filter(|filter| filter.words = texts(&[word]))).await?;
        same(&format!("the word {word:?}"), &got, &texts(want))?;
    }
    Ok(())
}

/// By key, by relevance, newest first, last changed first; ties by key.
pub async fn memory_is_sorted(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let row = |key: &str, created: i64, updated: i64| {
        entry(FLEET, key, "deploy plan", |content, changed| {
            content.created_at = LogTime(created);
            changed.at = LogTime(updated);
        })
    };
    let rows = vec![
        row("z", 5, 50),
        row("notes", 10, 40),
        row("plan", 30, 30),
        row("Deploy/PLAN", 1, 10),
        row("deploy/plan", 1, 10),
        row("deploy", 20, 60),
    ];
    begin(&*reads, ONE, rows, Vec::new()).await?;
    let by = |sort| filter(|filter| (filter.sort, filter.words) = (sort, texts(&["deploy", "plan"])));
    each_finds(
        &*reads,
        vec![
            ("by key", by(MemorySort::Key), &["Deploy/PLAN", "deploy", "deploy/plan", "notes", "plan", "z"]),
            ("relevance", by(MemorySort::Relevance), &["Deploy/PLAN", "deploy/plan", "deploy", "plan", "z", "notes"]),
            ("newest", by(MemorySort::CreatedAt), &["plan", "deploy", "notes", "z", "Deploy/PLAN", "deploy/plan"]),
            ("changed", by(MemorySort::UpdatedAt), &["deploy", "z", "notes", "plan", "Deploy/PLAN", "deploy/plan"]),
        ],
    )
    .await
}

/// A page has what was asked for; the total is of everything that matches.
pub async fn memory_is_counted_and_paged(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let row = |at: i64| {
        let value = if at % 2 == 0 { "even number" } else { "odd number" };
        entry(FLEET, &format!("key {at:02}"), value, move |_, changed| changed.at = LogTime(at))
    };
    begin(&*reads, ONE, (0..30).map(row).collect(), Vec::new()).await?;
    for sort in [MemorySort::Key, MemorySort::UpdatedAt, MemorySort::Relevance] {
        let mut got = Vec::new();
        for page in 0..4 {
            let asked = filter(|filter| {
                (filter.sort, filter.words, filter.skip, filter.limit) = (sort, texts(&["even"]), 4 * page, 4);
            });
            let found = reads.find(ONE, &Find::Memory(asked)).await?;
            same("total", &found.total, &15)?;
            got.extend(keys(&found));
        }
        let mut want: Vec<_> = (0..30).step_by(2).map(|at| format!("key {at:02}")).collect();
        if sort != MemorySort::Key {
            want.reverse();
        }
        same(&format!("{sort:?}"), &got, &want)?;
    }
    for (sort, want) in [(MemorySort::Key, ["key 07", "key 08"]), (MemorySort::UpdatedAt, ["key 29", "key 28"])] {
        let asked = filter(|filter| (filter.sort, filter.after, filter.limit) = (sort, Some("key 06".to_owned()), 2));
        let found = reads.find(ONE, &Find::Memory(asked)).await?;
        same("after a key", &keys(&found), &texts(&want))?;
        same("total, after a key", &found.total, &30)?;
    }
    let found = reads.find(ONE, &Find::Memory(filter(|filter| filter.limit = 0))).await?;
    same("none, but counted", &(found.rows.len(), found.total), &(0, 30))
}

/// What holds nothing at `now` is neither found nor counted; it can still be loaded.
pub async fn expired_memory_is_hidden(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let ends = |key: &str, at: i64| entry(FLEET, key, "text", move |content, _| content.expires_at = Some(LogTime(at)));
    let mut deleted = plain(FLEET, "deleted", "text");
    if let Row::Memory(entry) = &mut deleted {
        entry.content = None;
    }
    begin(
        &*reads,
        ONE,
        vec![ends("early", 100), ends("late", 200), plain(FLEET, "always", "text"), deleted],
        Vec::new(),
    )
    .await?;
    let at = |now, words: &[&str]| MemoryFilter { words: texts(words), ..MemoryFilter::all(FLEET, LogTime(now)) };
    each_finds(
        &*reads,
        vec![
            ("before", at(99, &[]), &["always", "early", "late"]),
            ("at its end", at(100, &[]), &["always", "late"]),
            ("at its end, by word", at(100, &["text"]), &["always", "late"]),
            ("after all", at(200, &["te"]), &["always"]),
        ],
    )
    .await?;
    let find = Find::Table { table: Table::Memory, scope: Some(FLEET), after: None, limit: 10 };
    same("rows", &reads.find(ONE, &find).await?.rows.len(), &4)
}
