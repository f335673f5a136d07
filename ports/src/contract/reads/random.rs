//! Random rows, verdicts and questions: an adapter must answer as the memory one does.

use std::collections::{BTreeMap, BTreeSet};

use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    interest::{Span, Topic},
    limits::OFFLINE_SHOWN_MICROS,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, Table},
    verdict::{Index, Stream, Verdict},
};

use super::{
    Subject,
    make::{agent, entry, head, json, member, message, name, notice, verdict},
};
use crate::{
    Error,
    contract::{Outcome, same},
    memory::reads::MemoryReads,
    reads::{About, Commit, Find, Listed, Matching, MemoryFilter, MemorySort, Reads, Viewer, Which},
};

/// Worlds, and in each commits and questions after every one.
const SEEDS: u64 = 8;
const COMMITS: u64 = 12;
const QUESTIONS: u64 = 15;

const SCOPES: [Scope; 4] = [
    Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) },
    Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(2) },
    Scope { tenant: TenantId::from_bits(1), fleet: FleetId::NONE },
    Scope { tenant: TenantId::from_bits(2), fleet: FleetId::NONE },
];
const KEYS: [&str; 12] =
    ["a", "A", "a/b", "ab", "b", "%", "_x", "\u{e9}cole", "\u{65e5}\u{672c}", "a\u{0}b", "\"q\"", "a\nb"];
const WORDS: [&str; 14] = [
    "a",
    "ab",
    "abc",
    "bcd",
    "100%",
    "_",
    "\"q\"",
    "\u{e9}",
    "\u{e9}cole",
    "\u{65e5}\u{672c}\u{8a9e}",
    "or",
    "a or b",
    "a\u{0}b",
    "'",
];
const TAGS: [&str; 7] = ["red", "re", "Red", "a\nb", "\"", "\u{e9}", "a"];
const LABELS: [&str; 4] = ["alert", "note", "red", ""];
const METADATA: [&str; 9] = [
    "{}",
    r#"{"a":1}"#,
    r#"{"a":1.0}"#,
    r#"{"a": 1, "b": {"y": 1, "x": [null]}}"#,
    r#"{"b":{"x":[null],"y":1}}"#,
    r#"{"b":{"x":[null]}}"#,
    r#"{"a\"":"\n","\u00e9":"\u0000"}"#,
    r#"{"é":"\u0000"}"#,
    "[1]",
];
const TABLES: [Table; 5] = [Table::Head, Table::Name, Table::Memory, Table::Message, Table::Notice];

/// Numbers that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    fn maybe<T>(&mut self, chance: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(chance).then(|| make(self))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("less than a length")]
    }

    fn some<T: Copy>(&mut self, most: u64, of: &[T]) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| self.pick(of)).collect()
    }

    fn texts(&mut self, most: u64, of: &[&str]) -> Vec<String> {
        self.some(most, of).into_iter().map(str::to_owned).collect()
    }

    fn time(&mut self) -> LogTime {
        LogTime(i64::try_from(self.below(50)).expect("small") * 1_000)
    }

    fn limit(&mut self) -> u32 {
        self.pick(&[0, 1, 2, 5, 1_000])
    }

    fn partition(&mut self) -> Partition {
        Partition(u16::try_from(self.below(2)).expect("small"))
    }

    fn number(&mut self) -> u128 {
        u128::from(self.below(5))
    }
}

fn row(dice: &mut Dice) -> Row {
    let scope = dice.pick(&SCOPES);
    match dice.below(9) {
        0 => head(scope, dice.below(9)),
        1 => name(scope, dice.pick(&KEYS)),
        2 => message(scope, dice.number(), dice.number(), dice.time().0),
        3 => notice(scope, dice.number(), dice.number(), dice.time().0),
        4 => member(scope, dice.number(), dice.maybe(2, |dice| dice.time().0 - OFFLINE_SHOWN_MICROS)),
        _ => {
            let (key, value) = (dice.pick(&KEYS), dice.texts(6, &WORDS).join(dice.pick(&["", " "])));
            let mut row = entry(scope, key, &value.to_uppercase(), |content, changed| {
                content.tags = dice.texts(3, &TAGS);
                content.metadata = dice.maybe(2, |dice| json(dice.pick(&METADATA)));
                content.expires_at = dice.maybe(3, Dice::time);
                content.created_at = dice.time();
                changed.author = dice.maybe(2, Dice::number).map(agent);
                changed.at = dice.time();
            });
            if let (Row::Memory(entry), true) = (&mut row, dice.one_in(8)) {
                entry.content = None;
            }
            row
        }
    }
}

fn event(dice: &mut Dice, partition: Partition, offset: u64) -> Verdict {
    let index = Index {
        stream: dice.some(1, &Stream::ALL).pop(),
        label: dice.maybe(2, |dice| dice.pick(&LABELS).to_owned()),
        subject: dice.maybe(2, |dice| dice.pick(&KEYS).to_owned()),
        tags: dice.texts(3, &TAGS),
        routing: if dice.one_in(2) { dice.texts(2, &TAGS) } else { Vec::new() },
        parties: if dice.one_in(3) { dice.some(3, &[0, 1, 2, 3]).into_iter().map(agent).collect() } else { Vec::new() },
    };
    let mut verdict = verdict(dice.pick(&SCOPES), offset, index);
    verdict.position.partition = partition;
    verdict.agent = dice.maybe(2, Dice::number).map(agent);
    verdict
}

fn verdict_at(dice: &mut Dice, partition: Partition, offset: u64) -> Option<Verdict> {
    if dice.one_in(6) { None } else { Some(event(dice, partition, offset)) }
}

fn commit(dice: &mut Dice, stands: &mut [u64; 2]) -> Commit {
    let partition = dice.partition();
    let stands = &mut stands[usize::from(partition.0)];
    let (previous, upto) = (*stands, *stands + 1 + dice.below(12));
    *stands = upto;
    let change = |dice: &mut Dice| {
        let row = row(dice);
        (row.key(), (!dice.one_in(4)).then_some(row))
    };
    Commit {
        partition,
        previous: Offset(previous),
        upto: Offset(upto),
        time: LogTime(i64::try_from(upto).expect("small")),
        rows: (0..dice.below(20)).map(|_| change(dice)).collect(),
        verdicts: (previous..upto).filter_map(|at| verdict_at(dice, partition, at)).collect(),
    }
}

fn find(dice: &mut Dice) -> Find {
    let scope = dice.pick(&SCOPES);
    match dice.below(9) {
        0 => Find::Table {
            table: dice.pick(&TABLES),
            scope: dice.maybe(2, |_| scope),
            after: dice.maybe(2, |dice| RowKey::new(dice.pick(&TABLES), dice.pick(&SCOPES), dice.pick(&KEYS))),
            limit: dice.limit(),
        },
        3 => Find::Listed {
            table: dice.pick(&[Table::Agent, Table::Name]),
            scope,
            which: if dice.one_in(2) { Listed::At(dice.time()) } else { Listed::Since(Offset(dice.below(80))) },
            after: dice.maybe(3, |dice| agent(dice.number()).to_string()),
            limit: dice.limit(),
        },
        1 => Find::Due { now: dice.time(), limit: dice.limit() },
        2 => {
            let after = dice.maybe(2, |dice| Offset(dice.below(12)));
            Find::Mail { scope, agent: agent(dice.number()), after, limit: dice.limit() }
        }
        _ => Find::Memory(MemoryFilter {
            scope,
            now: dice.time(),
            prefix: dice.maybe(5, |dice| dice.pick(&KEYS).to_owned()),
            tags: if dice.one_in(3) { dice.texts(2, &TAGS) } else { Vec::new() },
            any_tag: dice.one_in(2),
            words: if dice.one_in(2) { dice.texts(3, &WORDS) } else { Vec::new() },
            author: dice.maybe(6, Dice::number).map(agent),
            since: dice.maybe(4, Dice::time),
            metadata: dice.maybe(4, |dice| json(dice.pick(&METADATA))),
            sort: dice.pick(&[MemorySort::Key, MemorySort::Relevance, MemorySort::CreatedAt, MemorySort::UpdatedAt]),
            after: dice.maybe(4, |dice| dice.pick(&KEYS).to_owned()),
            skip: dice.pick(&[0, 0, 1, 3]),
            limit: dice.limit(),
        }),
    }
}

fn span(dice: &mut Dice) -> Span {
    let since = dice.below(40);
    let topic = match dice.below(2) {
        0 => Topic::Tag(dice.pick(&TAGS).to_owned()),
        _ => Topic::Kind(dice.pick(&LABELS).to_owned()),
    };
    Span { topic, since: Offset(since), until: dice.maybe(2, |dice| Offset(since + dice.below(20))) }
}

fn about(dice: &mut Dice) -> About {
    let (label, subject) = (dice.pick(&LABELS).to_owned(), dice.pick(&KEYS).to_owned());
    About { stream: dice.pick(&Stream::ALL), label, subject }
}

fn which(dice: &mut Dice) -> Which {
    match dice.below(8) {
        0 => Which::After { after: dice.maybe(2, |dice| Offset(dice.below(60))), limit: dice.limit() },
        1 => Which::At((0..dice.below(8)).map(|_| Offset(dice.below(60))).collect()),
        2 => Which::About((0..dice.below(4)).map(|_| about(dice)).collect()),
        _ => Which::Matching(Matching {
            streams: if dice.one_in(4) { dice.some(3, &Stream::ALL) } else { Stream::ALL.to_vec() },
            labels: if dice.one_in(3) { dice.texts(2, &LABELS) } else { Vec::new() },
            tags: if dice.one_in(2) { dice.texts(2, &TAGS) } else { Vec::new() },
            all_tags: dice.one_in(2),
            agents: if dice.one_in(5) { dice.some(2, &[0, 1, 2]).into_iter().map(agent).collect() } else { Vec::new() },
            subject: dice.maybe(6, |dice| dice.pick(&KEYS).to_owned()),
            from: dice.maybe(5, Dice::time),
            to: dice.maybe(5, Dice::time),
            after: dice.maybe(4, |dice| Offset(dice.below(40))),
            viewer: dice.maybe(2, |dice| Viewer {
                agent: agent(dice.number()),
                spans: (0..dice.below(4)).map(|_| span(dice)).collect(),
            }),
            newest: dice.one_in(2),
            limit: dice.limit(),
        }),
    }
}

/// Whatever was committed and whatever is asked, the answer is that of the memory adapter.
pub async fn random_questions_have_one_answer(subject: &dyn Subject) -> Outcome {
    for seed in 0..SEEDS {
        both_answer_alike(&*subject.open().await, &MemoryReads::new(), seed).await?;
    }
    Ok(())
}

/// Two adapters in which nothing is yet answer alike what a seed commits and asks.
pub async fn both_answer_alike(reads: &dyn Reads, model: &dyn Reads, seed: u64) -> Outcome {
    let (mut dice, mut stands) = (Dice(seed), [0; 2]);
    for round in 0..COMMITS {
        let commits: Vec<_> = (0..=dice.below(2)).map(|_| commit(&mut dice, &mut stands)).collect();
        reads.commit(&commits).await?;
        model.commit(&commits).await?;
        for _ in 0..QUESTIONS {
            let at = format!("seed {seed}, round {round}");
            let (partition, find, which) = (dice.partition(), find(&mut dice), which(&mut dice));
            let (got, want) = (reads.find(partition, &find).await?, model.find(partition, &find).await?);
            same(&format!("{at}, {find:?}"), &got, &want)?;
            let scope = dice.pick(&SCOPES);
            let got = reads.verdicts(partition, scope, &which).await?;
            same(&format!("{at}, {which:?}"), &got, &model.verdicts(partition, scope, &which).await?)?;
            let keys: BTreeSet<_> = (0..8).map(|_| row(&mut dice).key()).collect();
            let (mut got, mut want) = (reads.load(partition, &keys).await?, model.load(partition, &keys).await?);
            got.rows.sort_by_key(Row::key);
            want.rows.sort_by_key(Row::key);
            same(&format!("{at}, {keys:?}"), &got, &want)?;
            same("heads", &reads.heads(partition, &SCOPES).await?, &model.heads(partition, &SCOPES).await?)?;
        }
    }
    Ok(())
}

/// A few changes of what whoever comes in asks for.
fn change_here(dice: &mut Dice, at: u64) -> Commit {
    let change = |dice: &mut Dice| {
        let scope = dice.pick(&SCOPES[..2]);
        let mut row = match dice.below(4) {
            0 => message(scope, dice.number(), dice.number(), dice.time().0),
            1 => notice(scope, dice.number(), dice.number(), dice.time().0),
            _ => member(scope, dice.number(), dice.maybe(2, |dice| dice.time().0)),
        };
        if let Row::Message(message) = &mut row {
            message.delivered = dice.one_in(3);
        }
        (row.key(), (!dice.one_in(6)).then_some(row))
    };
    let rows = (0..=dice.below(3)).map(|_| change(dice)).collect();
    let time = LogTime(i64::try_from(at).expect("small"));
    Commit { partition: Partition(1), previous: Offset(at), upto: Offset(at + 1), time, rows, verdicts: Vec::new() }
}

/// What has changed of the agents of a fleet since the partition stood there, a small page at a time; and where it stood at the
/// first of them.
async fn changed(reads: &dyn Reads, scope: Scope, since: Offset) -> Result<(Vec<Row>, Offset), Error> {
    let (mut rows, mut upto, limit) = (Vec::new(), None, 3);
    loop {
        let after = rows.last().map(|row: &Row| row.key().key);
        let find = Find::Listed { table: Table::Agent, scope, which: Listed::Since(since), after, limit };
        let found = reads.find(Partition(1), &find).await?;
        let (upto, last) = (*upto.get_or_insert(found.applied.upto), found.is_last(limit));
        rows.extend(found.rows);
        if last {
            return Ok((rows, upto));
        }
    }
}

/// Whoever asks again and again what has changed of a list has all of it in the end; and what has only just been committed of
/// mail and of rows is told as well, whether or not there were other questions meanwhile.
pub async fn whoever_follows_a_list_has_all_of_it(subject: &dyn Subject) -> Outcome {
    let (scope, partition) = (SCOPES[0], Partition(1));
    for seed in 0..SEEDS {
        let (reads, model, mut dice) = (subject.open().await, MemoryReads::new(), Dice(seed));
        let (mut known, mut since) = (BTreeMap::new(), Offset(0));
        for at in 0..COMMITS * QUESTIONS {
            let commit = change_here(&mut dice, at);
            reads.commit(std::slice::from_ref(&commit)).await?;
            model.commit(std::slice::from_ref(&commit)).await?;
            // They are not told.
            commit.rows.iter().filter(|(_, row)| row.is_none()).for_each(|(key, _)| drop(known.remove(key)));
            let at = format!("seed {seed}, commit {at}");
            if dice.one_in(3) {
                let (changed, upto) = changed(&*reads, scope, since).await?;
                known.extend(changed.into_iter().map(|row| (row.key(), row)));
                since = upto;
                let (all, _) = self::changed(&model, scope, Offset(0)).await?;
                same(&at, &known.values().cloned().collect(), &all)?;
            }
            if dice.one_in(3) {
                let mail = Find::Mail { scope, agent: agent(dice.number()), after: None, limit: 9 };
                same(&at, &reads.find(partition, &mail).await?, &model.find(partition, &mail).await?)?;
            }
            if dice.one_in(3) {
                let keys = commit.rows.into_iter().map(|(key, _)| key).collect();
                let (mut got, want) = (reads.load(partition, &keys).await?, model.load(partition, &keys).await?);
                got.rows.sort_by_key(Row::key);
                same(&at, &got, &want)?;
            }
            if dice.one_in(5) {
                let all = Find::Due { now: LogTime(i64::MAX), limit: 1_000 };
                same(&at, &reads.find(partition, &all).await?, &model.find(partition, &all).await?)?;
            }
        }
    }
    Ok(())
}
