//! The promise that an answer holds no more than it has room for.

use std::collections::BTreeSet;

use ringforge_domain::{
    catalog::Effect,
    ids::MemoryId,
    limits::ANSWER_BYTES_MAX,
    memory::SetEffect,
    position::{LogTime, Offset},
    row::{Row, RowKey, Table},
    verdict::{Outcome as Came, Stream, Verdict},
};

use super::{
    Subject,
    make::{FLEET, ONE, activity, begin, entry, json, names, verdict},
};
use crate::{
    contract::{Outcome, ensure, same},
    reads::{Find, Found, Matching, MemoryFilter, MemorySort, Reads, Verdicts, Which},
};

/// Bytes of a large value: two fill an answer.
const LARGE: usize = ANSWER_BYTES_MAX / 8 * 3;
/// Rows and verdicts: too many for one answer.
const COUNT: u64 = 4;

fn large() -> Vec<Row> {
    let value = "x".repeat(LARGE);
    (0..COUNT)
        .map(|at| entry(FLEET, &format!("key {at}"), &value, |content, _| content.expires_at = Some(LogTime(9))))
        .collect()
}

fn long(at: u64) -> Verdict {
    let value = Some(json(&format!("\"{}\"", "y".repeat(LARGE))));
    let effect = SetEffect { id: MemoryId::from_bits(1), version: at, created: false, expired: None, value };
    Verdict { outcome: Came::Applied(Effect::MemorySet(effect)), ..verdict(FLEET, at, activity("alert")) }
}

/// Rows and verdicts come until their bytes fill an answer, one at least, also if it alone is larger; the rest is named in the
/// same order and counted.
pub async fn answers_have_so_much_room(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let (rows, verdicts) = (large(), (0..COUNT).map(long).collect::<Vec<_>>());
    begin(&*reads, ONE, rows.clone(), verdicts.clone()).await?;
    let memory = |sort| Find::Memory(MemoryFilter { sort, ..MemoryFilter::all(FLEET, LogTime(0)) });
    let table = Find::Table { table: Table::Memory, scope: None, after: None, limit: 100 };
    for find in
        [table, Find::Due { now: LogTime(9), limit: 100 }, memory(MemorySort::Key), memory(MemorySort::UpdatedAt)]
    {
        let found = reads.find(ONE, &find).await?;
        fits(&format!("{find:?}"), &found, &rows)?;
    }
    let mut asked: BTreeSet<RowKey> = names(&rows).into_iter().collect();
    let mut loaded = Vec::new();
    while !asked.is_empty() {
        let found = reads.load(ONE, &asked).await?;
        ensure(!found.rows.is_empty() && found.rows.len() <= 2, "an answer without bounds")?;
        asked = found.rest.into_iter().collect();
        loaded.extend(found.rows);
    }
    loaded.sort_by_key(Row::key);
    ensure(loaded == rows, "what is loaded step by step is not what is there")?;
    histories(&*reads, &verdicts).await
}

fn fits(what: &str, found: &Found, all: &[Row]) -> Outcome {
    let some = found.rows.len();
    ensure((1..=2).contains(&some), &format!("{what}: {some} rows"))?;
    ensure(found.rows == all[..some], &format!("{what}: other rows"))?;
    same(what, &found.rest, &names(&all[some..]))?;
    same("total", &found.total, &COUNT)?;
    ensure(!found.is_last(100), &format!("{what}: taken for the last page"))
}

async fn histories(reads: &dyn Reads, all: &[Verdict]) -> Outcome {
    let newest = Matching { streams: vec![Stream::Activity], newest: true, limit: 100, ..Matching::default() };
    let at = Which::At((0..COUNT).map(Offset).collect());
    for which in [Which::After { after: None, limit: 100 }, at, Which::Matching(newest)] {
        let found: Verdicts = reads.verdicts(ONE, FLEET, &which).await?;
        let some = found.verdicts.len();
        ensure((1..=2).contains(&some), &format!("{which:?}: {some} verdicts"))?;
        ensure(found.verdicts == all[..some], &format!("{which:?}: other verdicts"))?;
        let rest: Vec<Offset> = all[some..].iter().map(|verdict| verdict.position.offset).collect();
        same(&format!("{which:?}"), &found.rest, &rest)?;
        same("total", &found.total, &COUNT)?;
    }
    Ok(())
}

/// One that is larger than an answer comes alone.
pub async fn what_is_larger_comes_alone(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let huge = entry(FLEET, "key", &"x".repeat(ANSWER_BYTES_MAX + 1), |_, _| ());
    let rows = vec![huge, entry(FLEET, "other", "x", |_, _| ())];
    begin(&*reads, ONE, rows.clone(), Vec::new()).await?;
    let found = reads.load(ONE, &names(&rows).into_iter().collect()).await?;
    ensure(found.rows == rows[..1], "it does not come")?;
    same("the rest", &found.rest, &names(&rows[1..]))
}
