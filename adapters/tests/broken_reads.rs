//! Read models that are broken on purpose, one way each: the suite must reject every one, by the promise that says so, and
//! accept the intact ones. A promise that rejects none of them would prove nothing, so that is tested too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, future::ready, stream};
use ringforge_domain::{
    ids::Scope,
    limits::ROWS_PAGE_MAX,
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, Table},
    verdict::Verdict,
};
use ringforge_ports::{
    Error,
    contract::{
        Failure,
        reads::{PROMISES, Subject},
    },
    memory::reads::MemoryReads,
    reads::{
        About, Applied, Commit, Find, Found, Heads, Listed, MemoryFilter, MemorySort, Reads, Snapshot, Verdicts, Which,
    },
};

/// What is wrong with the read models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A commit is written wherever its partition stands.
    IgnoresPrevious,
    /// Of several commits each stands for itself.
    CommitsOneByOne,
    /// On a conflict the verdicts are written all the same.
    KeepsVerdicts,
    /// On a conflict the rows are written all the same.
    KeepsRows,
    /// Of a large commit the last row is lost.
    LosesRow,
    /// Of a large commit the last verdict is lost.
    LosesVerdict,
    /// `applied` is that of the commit before.
    AnswersStale,
    /// `applied` is asked first, the rest a little later.
    AnswersInTwoSteps,
    /// A check and a write with somebody else in between.
    ChecksThenWrites,
    /// Removed rows stay.
    KeepsRemoved,
    /// The first change of a row counts.
    KeepsFirst,
    /// Keys are compared without case.
    FoldsCase,
    /// Rows of a sister fleet appear.
    LeaksFleet,
    /// Rows of another partition appear.
    LeaksPartition,
    /// A page begins with the row it should come after.
    RepeatsRow,
    /// What is due comes by name.
    DueUnsorted,
    /// Mail of everybody comes.
    MailOfAll,
    /// Rows stay on the list when their time is over.
    ListsEnded,
    /// Of what changed, the newest is left out.
    ListsLate,
    /// Who asks what changed is told that it has one commit more than it has.
    ListsAhead,
    /// Mail comes by kind and id.
    MailUnsorted,
    /// Mail before the place that was named comes too.
    MailFromTheStart,
    /// Heads come by scope, and none for a fleet without.
    PacksHeads,
    /// All tags are as good as one.
    TakesAnyTag,
    /// A percent sign in a word means anything.
    TakesPatterns,
    /// Ties come last key first.
    SortsBackwards,
    /// The total is that of the page.
    CountsPage,
    /// Entries are there until their expiry is recorded.
    ShowsExpired,
    /// Hidden verdicts do not come after an offset.
    SkipsHidden,
    /// An offset asked twice comes twice.
    RepeatsVerdict,
    /// Of what is about a thing the newest comes.
    TakesNewest,
    /// Labels do not matter.
    IgnoresLabels,
    /// Everybody sees everything.
    ShowsAll,
    /// The newest come newest first.
    Reverses,
    /// Nothing is there after a restart.
    Forgets,
    /// Only the rows are there after a restart.
    ForgetsVerdicts,
    /// Quotes in a tag are lost.
    StripsQuotes,
    /// An answer has room for everything.
    AnswersWithAll,
    /// What does not fit has no name.
    ForgetsTheRest,
    /// What is larger than an answer has room for never comes.
    HoldsBackLarge,
    /// A snapshot goes on while it is read.
    ReadsOn,
    /// One verdict more than was named is forgotten.
    ForgetsOneMore,
}

/// Every fault and the promises that must notice, among others.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::IgnoresPrevious, &["a_commit_follows_the_one_before", "conflicts_write_nothing"]),
    (Fault::CommitsOneByOne, &["partitions_change_together"]),
    (Fault::KeepsVerdicts, &["conflicts_write_nothing", "partitions_change_together"]),
    (Fault::KeepsRows, &["conflicts_write_nothing", "partitions_change_together"]),
    (Fault::LosesRow, &["a_batch_is_whole"]),
    (Fault::LosesVerdict, &["a_batch_is_whole"]),
    (Fault::AnswersStale, &["a_commit_is_seen_at_once"]),
    (Fault::AnswersWithAll, &["answers_have_so_much_room"]),
    (Fault::ForgetsTheRest, &["answers_have_so_much_room"]),
    (Fault::HoldsBackLarge, &["what_is_larger_comes_alone"]),
    (Fault::ReadsOn, &["snapshots_are_of_one_moment"]),
    (Fault::ForgetsOneMore, &["what_is_not_forgotten_stays"]),
    (Fault::AnswersInTwoSteps, &["answers_come_from_one_snapshot"]),
    (Fault::ChecksThenWrites, &["one_of_many_writers_wins"]),
    (Fault::KeepsRemoved, &["rows_are_replaced_and_removed"]),
    (Fault::KeepsFirst, &["rows_are_replaced_and_removed"]),
    (Fault::FoldsCase, &["loads_find_what_exists"]),
    (Fault::LeaksFleet, &["nothing_of_others_appears"]),
    (Fault::LeaksPartition, &["nothing_of_others_appears", "a_partition_never_applied_is_empty"]),
    (Fault::RepeatsRow, &["tables_are_paged_by_name"]),
    (Fault::DueUnsorted, &["due_comes_longest_due_first"]),
    (Fault::MailOfAll, &["mail_is_of_one_agent"]),
    (Fault::ListsEnded, &["listed_rows_come_by_time_or_by_change"]),
    (Fault::ListsLate, &["listed_rows_come_by_time_or_by_change"]),
    (Fault::MailUnsorted, &["mail_is_of_one_agent"]),
    (Fault::MailFromTheStart, &["mail_is_of_one_agent"]),
    (Fault::PacksHeads, &["heads_come_in_the_order_asked"]),
    (Fault::TakesAnyTag, &["memory_conditions_hold_alone_and_together"]),
    (Fault::TakesPatterns, &["words_are_taken_literally"]),
    (Fault::SortsBackwards, &["memory_is_sorted"]),
    (Fault::CountsPage, &["memory_is_counted_and_paged", "matches_are_counted_and_paged"]),
    (Fault::ShowsExpired, &["expired_memory_is_hidden"]),
    (Fault::SkipsHidden, &["verdicts_follow_in_order"]),
    (Fault::RepeatsVerdict, &["verdicts_are_found_by_offset"]),
    (Fault::TakesNewest, &["verdicts_are_found_by_what_they_are_about"]),
    (Fault::IgnoresLabels, &["verdicts_match_alone_and_together"]),
    (Fault::ShowsAll, &["verdicts_are_shown_to_those_concerned"]),
    (Fault::Reverses, &["matches_are_counted_and_paged"]),
    (Fault::Forgets, &["what_was_committed_survives"]),
    (Fault::ForgetsVerdicts, &["what_was_committed_survives"]),
    (Fault::StripsQuotes, &["random_questions_have_one_answer"]),
    (Fault::ListsAhead, &["whoever_follows_a_list_has_all_of_it"]),
];

/// Memory read models seen through a fault.
struct Broken {
    reads: MemoryReads,
    fault: Option<Fault>,
    before: Mutex<Applied>,
}

/// A commit without changes, to ask where a partition stands.
async fn stands(reads: &MemoryReads, partition: Partition) -> Result<Applied, Error> {
    Ok(reads.load(partition, &BTreeSet::new()).await?.applied)
}

impl Broken {
    fn over(reads: MemoryReads, fault: Option<Fault>) -> Arc<dyn Reads> {
        Arc::new(Self { reads, fault, before: Mutex::default() })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// What the fault makes of a commit before it is written.
    fn spoil(&self, mut commit: Commit) -> Commit {
        match self.fault {
            Some(Fault::LosesRow) if commit.rows.len() > 100 => drop(commit.rows.pop()),
            Some(Fault::LosesVerdict) if commit.verdicts.len() > 100 => drop(commit.verdicts.pop()),
            Some(Fault::KeepsRemoved) => commit.rows.retain(|(_, row)| row.is_some()),
            Some(Fault::KeepsFirst) => commit.rows.reverse(),
            _ => {}
        }
        commit
    }

    /// What the fault writes although it says that it did not.
    async fn leave_behind(&self, commits: &[Commit]) -> Result<(), Error> {
        for commit in commits {
            let mut left = commit.clone();
            let stands = stands(&self.reads, commit.partition).await?;
            (left.previous, left.upto, left.time) = (stands.upto, stands.upto, stands.time);
            match self.fault {
                Some(Fault::KeepsVerdicts) => left.rows.clear(),
                Some(Fault::KeepsRows) => left.verdicts.clear(),
                _ => return Ok(()),
            }
            self.reads.commit(&[left]).await?;
        }
        Ok(())
    }

    async fn check(&self, commits: &[Commit]) -> Result<(), Error> {
        for commit in commits {
            if stands(&self.reads, commit.partition).await?.upto != commit.previous {
                return Err(Error::Conflict("checked".to_owned()));
            }
        }
        Ok(())
    }

    /// Writes without looking where the partitions stand.
    async fn force(&self, commits: &[Commit]) -> Result<(), Error> {
        for commit in commits {
            let previous = stands(&self.reads, commit.partition).await?.upto;
            self.reads.commit(&[Commit { previous, ..commit.clone() }]).await?;
        }
        Ok(())
    }

    async fn applied(&self, partition: Partition, found: Applied) -> Result<Applied, Error> {
        if self.has(Fault::AnswersStale) && found == stands(&self.reads, partition).await? {
            return Ok(*self.before.lock().expect("no panic"));
        }
        Ok(found)
    }

    /// What the fault asks instead.
    fn ask(&self, find: &Find) -> Find {
        let mut find = find.clone();
        match (&mut find, self.fault) {
            (Find::Table { after: Some(after), .. }, Some(Fault::RepeatsRow)) => drop(after.key.pop()),
            (Find::Table { scope, .. }, Some(Fault::LeaksFleet)) => *scope = None,
            (Find::Listed { which: Listed::At(now), .. }, Some(Fault::ListsEnded)) => *now = LogTime(i64::MIN),
            (Find::Listed { which: Listed::Since(upto), .. }, Some(Fault::ListsLate)) => *upto = upto.next(),
            (Find::Mail { after, .. }, Some(Fault::MailFromTheStart)) => *after = None,
            (Find::Memory(filter), Some(Fault::TakesAnyTag)) => filter.any_tag = true,
            (Find::Memory(filter), Some(Fault::TakesPatterns)) => {
                filter.words.iter_mut().for_each(|word| *word = word.replace('%', ""));
            }
            (Find::Memory(filter), Some(Fault::ShowsExpired)) => filter.now = LogTime(i64::MIN),
            (Find::Memory(filter), Some(Fault::StripsQuotes)) => {
                filter.tags.iter_mut().for_each(|tag| *tag = tag.replace('"', ""));
            }
            _ => {}
        }
        find
    }

    /// What the fault makes of the room in an answer.
    async fn bounded(&self, partition: Partition, mut found: Found) -> Result<Found, Error> {
        match self.fault {
            Some(Fault::AnswersWithAll) => {
                while !found.rest.is_empty() {
                    let more = self.reads.load(partition, &found.rest.into_iter().collect()).await?;
                    found.rows.extend(more.rows);
                    found.rest = more.rest;
                }
            }
            Some(Fault::ForgetsTheRest) => found.rest.clear(),
            Some(Fault::HoldsBackLarge) if found.rows.len() == 1 && !found.rest.is_empty() => {
                found.rest.insert(0, found.rows.remove(0).key());
            }
            _ => {}
        }
        Ok(found)
    }

    async fn newest(&self, partition: Partition, scope: Scope, about: &[About]) -> Result<Vec<Verdict>, Error> {
        let every = Which::After { after: None, limit: 1_000 };
        let every = self.reads.verdicts(partition, scope, &every).await?.verdicts;
        let newest = |about| every.iter().rfind(|verdict| About::of(verdict).as_ref() == Some(about));
        let newest: BTreeMap<_, _> =
            about.iter().filter_map(newest).map(|found| (found.position.offset, found)).collect();
        Ok(newest.into_values().cloned().collect())
    }

    /// Every page as it is when it is asked for.
    async fn as_it_goes(&self, partition: Partition) -> Result<Snapshot, Error> {
        let applied = stands(&self.reads, partition).await?;
        let first = (self.reads.clone(), 0, None);
        let rows = stream::unfold(first, move |(reads, table, after)| async move {
            let find = Find::Table { table: *Table::ALL.get(table)?, scope: None, after, limit: ROWS_PAGE_MAX };
            let found = reads.find(partition, &find).await.expect("an answer");
            let (after, last) = (found.rows.last().map(Row::key), found.is_last(ROWS_PAGE_MAX));
            let next = if last { (reads, table + 1, None) } else { (reads, table, after) };
            Some((Ok(found.rows), next))
        });
        let rows = rows.filter(|page| ready(page.as_ref().is_ok_and(|page: &Vec<Row>| !page.is_empty())));
        Ok(Snapshot { applied, rows: rows.boxed() })
    }

    async fn every_mail(&self, partition: Partition) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        for table in [Table::Message, Table::Notice] {
            let find = Find::Table { table, scope: None, after: None, limit: 1_000 };
            rows.extend(self.reads.find(partition, &find).await?.rows);
        }
        Ok(rows)
    }
}

#[async_trait]
impl Reads for Broken {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        let commits: Vec<_> = commits.iter().cloned().map(|commit| self.spoil(commit)).collect();
        if let Some(first) = commits.first() {
            *self.before.lock().expect("no panic") = stands(&self.reads, first.partition).await?;
        }
        match self.fault {
            Some(Fault::IgnoresPrevious) => return self.force(&commits).await,
            Some(Fault::CommitsOneByOne) => {
                for commit in &commits {
                    self.reads.commit(std::slice::from_ref(commit)).await?;
                }
                return Ok(());
            }
            Some(Fault::ChecksThenWrites) if commits.len() == 1 => {
                self.check(&commits).await?;
                tokio::task::yield_now().await;
                return self.force(&commits).await;
            }
            _ => {}
        }
        let outcome = self.reads.commit(&commits).await;
        if outcome.is_err() {
            self.leave_behind(&commits).await?;
        }
        outcome
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        let mut asked = keys.clone();
        if self.has(Fault::FoldsCase) {
            asked.extend(keys.iter().map(|key| RowKey::new(key.table, key.scope, key.key.to_lowercase())));
        }
        let mut found = self.bounded(partition, self.reads.load(partition, &asked).await?).await?;
        found.applied = self.applied(partition, found.applied).await?;
        Ok(found)
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        let early = stands(&self.reads, partition).await?;
        if self.has(Fault::AnswersInTwoSteps) {
            tokio::task::yield_now().await;
        }
        let partition = if self.has(Fault::LeaksPartition) { Partition(1) } else { partition };
        let mut found = self.bounded(partition, self.reads.find(partition, &self.ask(find)).await?).await?;
        match (find, self.fault) {
            (_, Some(Fault::AnswersInTwoSteps)) => found.applied = early,
            (Find::Listed { .. }, Some(Fault::ListsAhead)) => found.applied.upto = found.applied.upto.next(),
            (_, Some(Fault::CountsPage)) => found.total = found.rows.len() as u64,
            (Find::Due { .. }, Some(Fault::DueUnsorted)) | (Find::Mail { .. }, Some(Fault::MailUnsorted)) => {
                found.rows.sort_by_key(Row::key);
            }
            (Find::Mail { limit, .. }, Some(Fault::MailOfAll)) => {
                found.rows = self.every_mail(partition).await?;
                found.rows.truncate(*limit as usize);
            }
            (Find::Memory(MemoryFilter { sort, .. }), Some(Fault::SortsBackwards)) if *sort != MemorySort::Key => {
                found.rows.reverse();
            }
            _ => {}
        }
        found.applied = self.applied(partition, found.applied).await?;
        Ok(found)
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        let mut asked = which.clone();
        match (&mut asked, self.fault) {
            (Which::Matching(matching), Some(Fault::IgnoresLabels)) => matching.labels.clear(),
            (Which::Matching(matching), Some(Fault::ShowsAll)) => matching.viewer = None,
            _ => {}
        }
        let mut found = self.reads.verdicts(partition, scope, &asked).await?;
        match (which, self.fault) {
            (Which::After { .. }, Some(Fault::SkipsHidden)) => {
                found.verdicts.retain(|verdict: &Verdict| verdict.index.stream.is_some());
            }
            (Which::At(_), Some(Fault::RepeatsVerdict)) => found.verdicts.extend(found.verdicts.first().cloned()),
            (Which::About(about), Some(Fault::TakesNewest)) => {
                found.verdicts = self.newest(partition, scope, about).await?;
            }
            (Which::Matching(matching), Some(Fault::Reverses)) if matching.newest => found.verdicts.reverse(),
            (_, Some(Fault::CountsPage)) => found.total = found.verdicts.len() as u64,
            _ => {}
        }
        found.applied = self.applied(partition, found.applied).await?;
        Ok(found)
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        let mut heads = self.reads.heads(partition, fleets).await?;
        if self.has(Fault::PacksHeads) {
            heads.heads.retain(Option::is_some);
        }
        Ok(heads)
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        if self.has(Fault::ReadsOn) {
            return self.as_it_goes(partition).await;
        }
        let partition = if self.has(Fault::LeaksPartition) { Partition(1) } else { partition };
        let mut snapshot = Reads::snapshot(&self.reads, partition).await?;
        snapshot.applied = self.applied(partition, snapshot.applied).await?;
        Ok(snapshot)
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        let before = if self.has(Fault::ForgetsOneMore) { before.next() } else { before };
        self.reads.forget(partition, before).await
    }
}

/// Memory read models stand for the disk: they live on through `reopen`, as whole as the fault lets them.
struct Disk {
    fault: Option<Fault>,
    reads: Mutex<MemoryReads>,
}

impl Disk {
    fn kept(&self) -> MemoryReads {
        MemoryReads::from(self.reads.lock().expect("no panic").snapshot())
    }

    /// Every row of the first partition, and no verdict.
    async fn rows_only(&self) -> Result<MemoryReads, Error> {
        let (kept, copy) = (self.kept(), MemoryReads::new());
        let kept: Arc<dyn Reads> = Arc::new(kept);
        let (rows, applied) = ringforge_ports::reads::every_row(&kept, Partition(1)).await?;
        let rows = rows.into_iter().map(|row| (row.key(), Some(row))).collect();
        let (partition, previous, verdicts) = (Partition(1), Offset::ZERO, Vec::new());
        copy.commit(&[Commit { partition, previous, upto: applied.upto, time: applied.time, rows, verdicts }]).await?;
        Ok(copy)
    }
}

#[async_trait]
impl Subject for Disk {
    async fn open(&self) -> Arc<dyn Reads> {
        let reads = MemoryReads::new();
        *self.reads.lock().expect("no panic") = reads.clone();
        Broken::over(reads, self.fault)
    }

    async fn reopen(&self) -> Option<Arc<dyn Reads>> {
        let reads = match self.fault {
            Some(Fault::Forgets) => MemoryReads::new(),
            Some(Fault::ForgetsVerdicts) => self.rows_only().await.expect("the copy is small"),
            _ => self.kept(),
        };
        *self.reads.lock().expect("no panic") = reads.clone();
        Some(Broken::over(reads, self.fault))
    }
}

/// The promises that read models with this fault do not keep.
async fn rejections(fault: Option<Fault>) -> BTreeSet<&'static str> {
    let mut rejected = BTreeSet::new();
    for (name, promise) in PROMISES {
        match promise(&Disk { fault, reads: Mutex::default() }).await {
            Ok(()) => {}
            Err(Failure::Broken(_)) => drop(rejected.insert(name)),
            Err(Failure::Skipped(why)) => panic!("{name} was not tried: {why}"),
        }
    }
    rejected
}

#[tokio::test]
async fn the_intact_read_models_are_accepted() {
    assert_eq!(rejections(None).await, BTreeSet::new());
}

#[tokio::test]
async fn broken_read_models_are_rejected_by_name() {
    let mut useful: BTreeSet<&str> = BTreeSet::new();
    for (fault, expected) in FAULTS {
        let rejected = rejections(Some(*fault)).await;
        for name in *expected {
            assert!(rejected.contains(name), "{fault:?} is not noticed by {name}, only by {rejected:?}");
        }
        useful.extend(*expected);
    }
    let useless: Vec<_> = PROMISES.iter().map(|(name, _)| *name).filter(|name| !useful.contains(name)).collect();
    assert_eq!(useless, [""; 0], "promises that reject nothing");
}
