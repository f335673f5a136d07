//! The promises of `Reads`, one function each. Those about what questions find are in `reads/`.

mod ask;
mod history;
mod make;
mod random;
mod room;
mod snapshot;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use ringforge_domain::{
    limits::ROWS_PAGE_MAX,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, Table},
    verdict::{Index, Stream},
};

pub use ask::{
    due_comes_longest_due_first, expired_memory_is_hidden, heads_come_in_the_order_asked,
    listed_rows_come_by_time_or_by_change, mail_is_of_one_agent, memory_conditions_hold_alone_and_together,
    memory_is_counted_and_paged, memory_is_sorted, tables_are_paged_by_name, words_are_taken_literally,
};
pub use history::{
    matches_are_counted_and_paged, verdicts_are_found_by_offset, verdicts_are_found_by_what_they_are_about,
    verdicts_are_shown_to_those_concerned, verdicts_follow_in_order, verdicts_match_alone_and_together,
};
pub use random::{both_answer_alike, random_questions_have_one_answer, whoever_follows_a_list_has_all_of_it};
pub use room::{answers_have_so_much_room, what_is_larger_comes_alone};
pub use snapshot::{snapshots_are_of_one_moment, what_is_not_forgotten_stays};

use self::make::{
    FLEET, ONE, SISTER, STRANGER, TWO, activity, agent, begin, conflict, head, message, name, names, offsets, plain,
    step, verdict,
};
use super::{Failure, Outcome, ensure, same};
use crate::reads::{Applied, Commit, Find, Matching, MemoryFilter, Reads, Verdicts, Which, every_row};

/// An adapter under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// New, empty read models.
    async fn open(&self) -> Arc<dyn Reads>;

    /// The read models opened last, as they are found after the death of their process; `None` if they cannot outlive it.
    async fn reopen(&self) -> Option<Arc<dyn Reads>>;
}

/// A promise as a value, to run a whole suite in a loop.
pub type Promise = for<'a> fn(&'a dyn Subject) -> BoxFuture<'a, Outcome>;

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 34] = [
    ("a_commit_is_seen_at_once", |subject| a_commit_is_seen_at_once(subject).boxed()),
    ("a_batch_is_whole", |subject| a_batch_is_whole(subject).boxed()),
    ("a_commit_follows_the_one_before", |subject| a_commit_follows_the_one_before(subject).boxed()),
    ("conflicts_write_nothing", |subject| conflicts_write_nothing(subject).boxed()),
    ("partitions_change_together", |subject| partitions_change_together(subject).boxed()),
    ("one_of_many_writers_wins", |subject| one_of_many_writers_wins(subject).boxed()),
    ("rows_are_replaced_and_removed", |subject| rows_are_replaced_and_removed(subject).boxed()),
    ("loads_find_what_exists", |subject| loads_find_what_exists(subject).boxed()),
    ("a_partition_never_applied_is_empty", |subject| a_partition_never_applied_is_empty(subject).boxed()),
    ("answers_come_from_one_snapshot", |subject| answers_come_from_one_snapshot(subject).boxed()),
    ("nothing_of_others_appears", |subject| nothing_of_others_appears(subject).boxed()),
    ("what_was_committed_survives", |subject| what_was_committed_survives(subject).boxed()),
    ("tables_are_paged_by_name", |subject| tables_are_paged_by_name(subject).boxed()),
    ("due_comes_longest_due_first", |subject| due_comes_longest_due_first(subject).boxed()),
    ("mail_is_of_one_agent", |subject| mail_is_of_one_agent(subject).boxed()),
    ("listed_rows_come_by_time_or_by_change", |subject| listed_rows_come_by_time_or_by_change(subject).boxed()),
    ("heads_come_in_the_order_asked", |subject| heads_come_in_the_order_asked(subject).boxed()),
    ("memory_conditions_hold_alone_and_together", |subject| memory_conditions_hold_alone_and_together(subject).boxed()),
    ("words_are_taken_literally", |subject| words_are_taken_literally(subject).boxed()),
    ("memory_is_sorted", |subject| memory_is_sorted(subject).boxed()),
    ("memory_is_counted_and_paged", |subject| memory_is_counted_and_paged(subject).boxed()),
    ("expired_memory_is_hidden", |subject| expired_memory_is_hidden(subject).boxed()),
    ("verdicts_follow_in_order", |subject| verdicts_follow_in_order(subject).boxed()),
    ("verdicts_are_found_by_offset", |subject| verdicts_are_found_by_offset(subject).boxed()),
    ("verdicts_are_found_by_what_they_are_about", |subject| verdicts_are_found_by_what_they_are_about(subject).boxed()),
    ("verdicts_match_alone_and_together", |subject| verdicts_match_alone_and_together(subject).boxed()),
    ("verdicts_are_shown_to_those_concerned", |subject| verdicts_are_shown_to_those_concerned(subject).boxed()),
    ("matches_are_counted_and_paged", |subject| matches_are_counted_and_paged(subject).boxed()),
    ("answers_have_so_much_room", |subject| answers_have_so_much_room(subject).boxed()),
    ("what_is_larger_comes_alone", |subject| what_is_larger_comes_alone(subject).boxed()),
    ("random_questions_have_one_answer", |subject| random_questions_have_one_answer(subject).boxed()),
    ("whoever_follows_a_list_has_all_of_it", |subject| whoever_follows_a_list_has_all_of_it(subject).boxed()),
    ("snapshots_are_of_one_moment", |subject| snapshots_are_of_one_moment(subject).boxed()),
    ("what_is_not_forgotten_stays", |subject| what_is_not_forgotten_stays(subject).boxed()),
];

/// Every row, every verdict of the three fleets, and where the partition stands.
async fn everything(
    reads: &Arc<dyn Reads>,
    partition: Partition,
) -> Result<(Vec<Row>, Vec<Verdicts>, Applied), Failure> {
    let (rows, applied) = every_row(reads, partition).await?;
    let mut verdicts = Vec::new();
    for scope in [FLEET, SISTER, STRANGER] {
        verdicts.push(reads.verdicts(partition, scope, &Which::After { after: None, limit: 10_000 }).await?);
    }
    Ok((rows, verdicts, applied))
}

fn some_rows() -> Vec<Row> {
    vec![head(FLEET, 4), name(FLEET, "ada"), plain(FLEET, "plan", "a text"), message(FLEET, 1, 2, 500)]
}

/// After `Ok` every question sees rows, verdicts and the new position.
pub async fn a_commit_is_seen_at_once(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let commit = step(ONE, 0, 5, some_rows(), vec![verdict(FLEET, 4, activity("alert"))]);
    reads.commit(std::slice::from_ref(&commit)).await?;
    let want = Applied { upto: Offset(5), time: LogTime(5_000) };

    let found = reads.load(ONE, &BTreeSet::from([RowKey::head(FLEET)])).await?;
    same("a loaded row", &found.rows, &vec![head(FLEET, 4)])?;
    same("applied, with it", &found.applied, &want)?;
    let (rows, verdicts, applied) = everything(&reads, ONE).await?;
    same("every row", &names(&rows).into_iter().collect(), &names(&some_rows()).into_iter().collect::<BTreeSet<_>>())?;
    same("applied, with the rows", &applied, &want)?;
    same("the verdict", &verdicts[0].verdicts, &commit.verdicts)?;
    same("applied, with the verdicts", &verdicts[0].applied, &want)?;
    let heads = reads.heads(ONE, &[FLEET]).await?;
    same("applied, with the heads", &heads.applied, &want)?;
    ensure(heads.heads[0].as_ref().is_some_and(|head| head.last == Offset(4)), "the head is not seen")
}

/// Of a large commit every row and every verdict is there, as it was given.
pub async fn a_batch_is_whole(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let rows: Vec<_> = (0..1_500).map(|at| plain(FLEET, &format!("key {at:04}"), "\u{e9}\"\\\n\u{0}")).collect();
    let verdicts: Vec<_> = (0..1_000).map(|at| verdict(FLEET, at, activity("alert"))).collect();
    let commit = step(ONE, 0, 1_000, rows.clone(), verdicts);
    reads.commit(std::slice::from_ref(&commit)).await?;
    let (found, verdicts, _) = everything(&reads, ONE).await?;
    same("how many rows", &found.len(), &rows.len())?;
    ensure(found == rows, "the rows are not as they were given")?;
    same("how many verdicts", &verdicts[0].verdicts.len(), &1_000)?;
    ensure(verdicts[0].verdicts == commit.verdicts, "the verdicts are not as they were given")
}

/// A commit that does not begin where its partition stands is a conflict.
pub async fn a_commit_follows_the_one_before(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let at = |previous, upto| step(ONE, previous, upto, vec![head(FLEET, upto)], Vec::new());
    conflict("the first, from beyond zero", &reads.commit(&[at(3, 5)]).await)?;
    reads.commit(&[at(0, 5)]).await?;
    for previous in [0, 4, 6] {
        conflict(&format!("at 5, from {previous}"), &reads.commit(&[at(previous, 8)]).await)?;
    }
    reads.commit(&[at(5, 8), at(8, 9)]).await?;
    conflict("the same again", &reads.commit(&[at(5, 8), at(8, 9)]).await)?;
    conflict("two that both begin at 9", &reads.commit(&[at(9, 10), at(9, 10)]).await)?;
    reads.commit(&[]).await?;
    let (rows, _, applied) = everything(&reads, ONE).await?;
    same("where it stands", &applied, &Applied { upto: Offset(9), time: LogTime(9_000) })?;
    same("the row", &rows, &vec![head(FLEET, 9)])
}

/// A conflict changes neither rows nor verdicts nor the position.
pub async fn conflicts_write_nothing(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    reads.commit(&[step(ONE, 0, 5, some_rows(), vec![verdict(FLEET, 4, activity("alert"))])]).await?;
    let before = everything(&reads, ONE).await?;
    let mut late = step(ONE, 4, 6, vec![head(FLEET, 5), name(FLEET, "eve")], vec![verdict(FLEET, 5, activity("late"))]);
    late.rows.push((RowKey::memory(FLEET, "plan"), None));
    conflict("a late commit", &reads.commit(&[late]).await)?;
    same("what is there", &everything(&reads, ONE).await?, &before)
}

/// Either all partitions of a commit change or none.
pub async fn partitions_change_together(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let at = |partition, previous, upto| {
        step(partition, previous, upto, vec![head(FLEET, upto)], vec![verdict(FLEET, upto - 1, activity("alert"))])
    };
    reads.commit(&[at(ONE, 0, 5), at(TWO, 0, 7)]).await?;
    let before = (everything(&reads, ONE).await?, everything(&reads, TWO).await?);
    same("where the second stands", &before.1.2.upto, &Offset(7))?;
    conflict("the second stands elsewhere", &reads.commit(&[at(ONE, 5, 6), at(TWO, 6, 8)]).await)?;
    conflict("the first stands elsewhere", &reads.commit(&[at(ONE, 4, 6), at(TWO, 7, 8)]).await)?;
    same("the first", &everything(&reads, ONE).await?, &before.0)?;
    same("the second", &everything(&reads, TWO).await?, &before.1)
}

/// Of several commits at once from the same position one is written.
pub async fn one_of_many_writers_wins(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    for round in 0..10 {
        let commits: Vec<[Commit; 1]> = (0..8_u64)
            .map(|writer| [step(ONE, round, round + 1, vec![head(FLEET, writer), name(FLEET, "ada")], Vec::new())])
            .collect();
        let outcomes = join_all(commits.iter().map(|commit| reads.commit(commit))).await;
        let won: Vec<_> = (0..8).filter(|writer| outcomes[*writer].is_ok()).collect();
        same("how many won", &won.len(), &1)?;
        let found = reads.load(ONE, &BTreeSet::from([RowKey::head(FLEET)])).await?;
        same("the winner's row", &found.rows, &vec![head(FLEET, won[0] as u64)])?;
        same("where it stands", &found.applied.upto, &Offset(round + 1))?;
    }
    Ok(())
}

/// A row is as it was written last; a removed one is gone from every question. Of two changes in one commit the later counts.
pub async fn rows_are_replaced_and_removed(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    begin(&*reads, ONE, some_rows(), Vec::new()).await?;
    let newer = vec![plain(FLEET, "plan", "other words"), message(FLEET, 1, 3, 900)];
    let mut replace = step(ONE, 1_000, 1_001, newer.clone(), Vec::new());
    replace.rows.insert(0, (RowKey::memory(FLEET, "plan"), Some(plain(FLEET, "plan", "overtaken"))));
    replace.rows.push((RowKey::name(FLEET, "ada"), None));
    reads.commit(&[replace]).await?;
    let (rows, ..) = everything(&reads, ONE).await?;
    same("the rows", &rows, &vec![head(FLEET, 4), newer[0].clone(), newer[1].clone()])?;
    let word = |word: &str| {
        let mut filter = MemoryFilter::all(FLEET, LogTime(0));
        filter.words.push(word.to_owned());
        Find::Memory(filter)
    };
    let mail = |to| Find::Mail { scope: FLEET, agent: agent(to), after: None, limit: 10 };
    for (find, want) in [
        (word("text"), 0),
        (word("overtaken"), 0),
        (word("other"), 1),
        (mail(2), 0),
        (mail(3), 1),
        (Find::Due { now: LogTime(500), limit: 10 }, 0),
        (Find::Due { now: LogTime(900), limit: 10 }, 1),
    ] {
        same(&format!("{find:?}"), &reads.find(ONE, &find).await?.rows.len(), &want)?;
    }
    let mut remove = step(ONE, 1_001, 1_002, Vec::new(), Vec::new());
    remove.rows =
        names(&newer).into_iter().chain([RowKey::name(FLEET, "never there")]).map(|key| (key, None)).collect();
    reads.commit(&[remove]).await?;
    for find in [word("other"), mail(3), Find::Due { now: LogTime(900), limit: 10 }] {
        same(&format!("{find:?}"), &reads.find(ONE, &find).await?.rows, &Vec::new())?;
    }
    same("what is left", &everything(&reads, ONE).await?.0, &vec![head(FLEET, 4)])
}

/// Loading gives the rows that exist under exactly these names.
pub async fn loads_find_what_exists(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let odd = ["", " ", "a", "A", "a/b", "%", "_", "*", "'", "\"", "\\", "a\u{0}b", "\u{e9}", "e\u{301}", "\u{1f600}"];
    let rows: Vec<_> = odd.iter().map(|key| plain(FLEET, key, key)).collect();
    begin(&*reads, ONE, rows.clone(), Vec::new()).await?;
    let keys: BTreeSet<_> = names(&rows).into_iter().collect();
    let mut found = reads.load(ONE, &keys).await?;
    found.rows.sort_by_key(Row::key);
    let mut want = rows;
    want.sort_by_key(Row::key);
    same("all of them", &found.rows, &want)?;
    same("total", &found.total, &(odd.len() as u64))?;
    for row in want {
        same("one of them", &reads.load(ONE, &BTreeSet::from([row.key()])).await?.rows, &vec![row])?;
    }
    let absent = ["b", "a ", "%%", "a\u{0}", "ab"].map(|key| RowKey::memory(FLEET, key));
    let other = [RowKey::name(FLEET, "a"), RowKey::memory(SISTER, "a"), RowKey::memory(STRANGER, "a")];
    let missing = absent.into_iter().chain(other).collect();
    same("absent ones", &reads.load(ONE, &missing).await?.rows, &Vec::new())?;
    let none = reads.load(ONE, &BTreeSet::new()).await?;
    same("applied, with none", &none.applied.upto, &Offset(1_000))
}

/// A partition never applied stands at zero and has nothing.
pub async fn a_partition_never_applied_is_empty(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    begin(&*reads, ONE, some_rows(), vec![verdict(FLEET, 4, activity("alert"))]).await?;
    let (rows, verdicts, applied) = everything(&reads, TWO).await?;
    same("rows", &rows, &Vec::new())?;
    same("verdicts", &verdicts, &vec![Verdicts::default(); 3])?;
    same("applied", &applied, &Applied::default())?;
    let heads = reads.heads(TWO, &[FLEET]).await?;
    same("heads", &heads.heads, &vec![None])?;
    same("applied, with heads", &heads.applied, &Applied::default())
}

/// While somebody writes, what is found and the position it comes with always belong together.
pub async fn answers_come_from_one_snapshot(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let write = async {
        for at in 0..200 {
            let rows = vec![head(FLEET, at), head(SISTER, at)];
            reads.commit(&[step(ONE, at, at + 1, rows, vec![verdict(FLEET, at, Index::default())])]).await?;
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>(())
    };
    let read = async {
        loop {
            let keys = BTreeSet::from([RowKey::head(FLEET), RowKey::head(SISTER)]);
            let loaded = reads.load(ONE, &keys).await?;
            let table = Find::Table { table: Table::Head, scope: None, after: None, limit: ROWS_PAGE_MAX };
            let found = reads.find(ONE, &table).await?;
            for found in [loaded, found] {
                let now = found.applied.upto;
                let fits = |row: &Row| matches!(row, Row::Head(head) if head.last.next() == now);
                ensure(found.rows.iter().all(fits), "rows of another moment")?;
            }
            let heads = reads.heads(ONE, &[FLEET, SISTER]).await?;
            let fits = |last: Offset| last.next() == heads.applied.upto;
            ensure(heads.heads.iter().flatten().all(|head| fits(head.last)), "heads of another moment")?;
            let verdicts = reads.verdicts(ONE, FLEET, &Which::After { after: None, limit: 1_000 }).await?;
            same("verdicts of this moment", &(verdicts.verdicts.len() as u64), &verdicts.applied.upto.0)?;
            if verdicts.applied.upto == Offset(200) {
                return Ok::<_, Failure>(());
            }
            tokio::task::yield_now().await;
        }
    };
    futures_util::future::try_join(write, read).await.map(|_| ())
}

/// Rows and verdicts of other partitions, tenants and fleets never appear, though they have the same names and offsets.
pub async fn nothing_of_others_appears(subject: &dyn Subject) -> Outcome {
    let reads = subject.open().await;
    let of = |scope, text: &str| vec![plain(scope, "key", text), message(scope, 1, 2, 100), head(scope, 1)];
    let rows = [of(FLEET, "mine"), of(SISTER, "a sister's"), of(STRANGER, "a stranger's")].concat();
    let verdicts = vec![
        verdict(FLEET, 1, activity("mine")),
        verdict(SISTER, 2, activity("mine")),
        verdict(STRANGER, 3, activity("mine")),
    ];
    begin(&*reads, ONE, rows, verdicts).await?;
    begin(&*reads, TWO, of(FLEET, "elsewhere"), vec![verdict(FLEET, 1, activity("elsewhere"))]).await?;

    let table = Find::Table { table: Table::Memory, scope: Some(FLEET), after: None, limit: 10 };
    for find in [table, Find::Memory(MemoryFilter::all(FLEET, LogTime(0)))] {
        same(&format!("{find:?}"), &reads.find(ONE, &find).await?.rows, &vec![plain(FLEET, "key", "mine")])?;
    }
    let mail = Find::Mail { scope: FLEET, agent: agent(2), after: None, limit: 10 };
    same("mail", &reads.find(ONE, &mail).await?.rows, &vec![message(FLEET, 1, 2, 100)])?;
    let due = Find::Due { now: LogTime(100), limit: 10 };
    same("due of the partition", &reads.find(ONE, &due).await?.rows.len(), &3)?;
    same("due of the other", &reads.find(TWO, &due).await?.rows.len(), &1)?;
    same("heads", &reads.heads(TWO, &[FLEET, SISTER]).await?.heads.iter().flatten().count(), &1)?;

    let matching = Matching { streams: vec![Stream::Activity], limit: 10, ..Matching::default() };
    let at = Which::At((0..5).map(Offset).collect());
    for which in [Which::After { after: None, limit: 10 }, at, Which::Matching(matching)] {
        let found = reads.verdicts(ONE, FLEET, &which).await?;
        same(&format!("{which:?}"), &offsets(&found), &vec![1])?;
        same("total", &found.total, &1)?;
        same("oldest", &found.oldest, &Some(Offset(1)))?;
        let found = reads.verdicts(ONE, SISTER, &which).await?;
        same("of the sister", &offsets(&found), &vec![2])?;
        same("oldest of the sister", &found.oldest, &Some(Offset(2)))?;
        let found = reads.verdicts(TWO, FLEET, &which).await?;
        ensure(found.verdicts.iter().all(|verdict| verdict.index.label.as_deref() == Some("elsewhere")), "a leak")?;
    }
    Ok(())
}

/// What was acknowledged is there after the death of the process, and the next commit follows it.
pub async fn what_was_committed_survives(subject: &dyn Subject) -> Outcome {
    let mut reads = subject.open().await;
    reads.commit(&[step(ONE, 0, 5, some_rows(), vec![verdict(FLEET, 4, activity("alert"))])]).await?;
    for round in 0..3 {
        let more = vec![name(FLEET, &format!("agent {round}"))];
        reads.commit(&[step(ONE, 5 + round, 6 + round, more, vec![verdict(FLEET, 5 + round, activity("x"))])]).await?;
        let before = everything(&reads, ONE).await?;
        drop(reads);
        reads = subject.reopen().await.ok_or(Failure::Skipped("it does not outlive its process"))?;
        same("what is there", &everything(&reads, ONE).await?, &before)?;
        conflict("a commit from before", &reads.commit(&[step(ONE, 5, 6, Vec::new(), Vec::new())]).await)?;
    }
    Ok(())
}
