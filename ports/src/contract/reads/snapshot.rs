//! Promises about all of a partition: what is read of it at one moment, and what is forgotten.

use futures_util::{StreamExt as _, TryStreamExt as _};
use ringforge_domain::{
    limits::ROWS_PAGE_MAX,
    position::{LogTime, Offset},
    row::{Row, RowKey},
    verdict::Verdict,
};

use super::{
    Subject, everything,
    make::{FLEET, ONE, ONE_MORE, SISTER, TWO, activity, begin, head, name, names, plain, step, verdict},
};
use crate::{
    contract::{Outcome, ensure, same},
    reads::{Applied, Snapshot},
};

/// All rows come, by name, as they were when they were asked for, in pages: more than one has room for.
pub async fn snapshots_are_of_one_moment(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let mut rows: Vec<Row> = (0..ROWS_PAGE_MAX + 50).map(|n| plain(FLEET, &format!("k{n:05}"), "before")).collect();
    rows.extend([head(FLEET, 4), head(SISTER, 3), name(SISTER, "ada")]);
    begin(&*reads, ONE, rows.clone(), Vec::new()).await?;
    begin(&*reads, TWO, vec![plain(FLEET, "elsewhere", "x")], Vec::new()).await?;
    rows.sort_by_key(Row::key);
    let Snapshot { applied, rows: mut pages } = reads.snapshot(ONE).await?;
    let mut read = pages.next().await.unwrap_or_else(|| Ok(Vec::new()))?;

    // What is read last is changed, what was read is removed, and more comes between.
    let mut after = step(
        ONE,
        applied.upto.0,
        90,
        vec![plain(FLEET, "k01020", "after"), plain(FLEET, "k01020+", "new")],
        Vec::new(),
    );
    after.rows.extend([(RowKey::memory(FLEET, "k01030"), None), (RowKey::head(FLEET), None)]);
    reads.commit(&[after]).await?;
    let rest: Vec<Vec<Row>> = pages.try_collect().await?;
    let is_page = |page: &Vec<Row>| (1..=ROWS_PAGE_MAX as usize).contains(&page.len());
    ensure(!rest.is_empty(), "more than one page")?;
    ensure(is_page(&read) && rest.iter().all(is_page), "none empty, none too long")?;
    read.extend(rest.into_iter().flatten());
    same("by name", &names(&read), &names(&rows))?;
    ensure(read == rows, "as they were")?;
    let now = reads.snapshot(ONE).await?;
    same("where it stands then", &now.applied, &Applied { upto: Offset(90), time: LogTime(90_000) })?;
    let now: Vec<Row> = now.rows.try_concat().await?;
    same("one more, two fewer", &now.len(), &(rows.len() - 1))?;
    let nothing = reads.snapshot(ONE_MORE).await?;
    same("nothing was applied", &nothing.applied, &Applied::default())?;
    ensure(nothing.rows.try_concat().await?.is_empty(), "and there is nothing")
}

/// Of what is forgotten nothing is promised. Everything else stays: what comes later, rows, other partitions.
pub async fn what_is_not_forgotten_stays(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let scope = |at: u64| if at.is_multiple_of(3) { SISTER } else { FLEET };
    let all: Vec<Verdict> = (0..10).map(|at| verdict(scope(at), at, activity("alert"))).collect();
    for partition in [ONE, TWO] {
        begin(&*reads, partition, vec![head(FLEET, 8), head(SISTER, 9)], all.clone()).await?;
    }
    let (before, other) = (everything(&reads, ONE).await?, everything(&reads, TWO).await?);
    for forgotten in [0, 5, 5, 2] {
        reads.forget(ONE, Offset(forgotten)).await?;
        let (rows, verdicts, applied) = everything(&reads, ONE).await?;
        same("where it stands", &applied, &before.2)?;
        ensure(rows == before.0, "its rows")?;
        for (now, before) in verdicts.iter().zip(&before.1) {
            let kept = |verdict: &&Verdict| verdict.position.offset >= Offset(5);
            let (now, before): (Vec<_>, Vec<_>) =
                (now.verdicts.iter().filter(kept).collect(), before.verdicts.iter().filter(kept).collect());
            same("what comes later", &now, &before)?;
        }
    }
    ensure(everything(&reads, TWO).await? == other, "the other partition")
}
