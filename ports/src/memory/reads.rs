//! The read models in memory. Every answer is there at the first poll; what is kept can be taken out and put back, so that a
//! simulation can let a process die.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use ringforge_domain::{
    fleet::Head,
    ids::{AgentId, Scope},
    limits::ROWS_PAGE_MAX,
    planted::{Bug, planted},
    position::{LogTime, Offset, Partition},
    row::{Row, RowKey, State as _, Table},
    verdict::Verdict,
};

use crate::{
    Error,
    reads::{
        About, Applied, Commit, Find, Found, Heads, Listed, Matching, MemoryFilter, MemorySort, Reads, Room, Snapshot,
        Verdicts, Which,
    },
};

/// Read models that die with their process. Clones share what is kept.
#[derive(Clone, Default)]
pub struct MemoryReads {
    state: Arc<Mutex<State>>,
}

/// Everything that is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    partitions: BTreeMap<Partition, Kept>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    applied: Applied,
    rows: BTreeMap<RowKey, Row>,
    /// Where the partition stood after the last change of a row.
    changed: BTreeMap<RowKey, Offset>,
    verdicts: BTreeMap<Scope, BTreeMap<Offset, Verdict>>,
}

impl MemoryReads {
    /// With nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is kept at this moment, as a file would hold it.
    pub fn snapshot(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }
}

impl From<State> for MemoryReads {
    fn from(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    /// Whether every commit follows the one before.
    fn check(&self, commits: &[Commit]) -> Result<(), Error> {
        let mut applied: BTreeMap<Partition, Offset> = BTreeMap::new();
        for commit in commits {
            let kept = || self.partitions.get(&commit.partition).map_or(Offset::ZERO, |kept| kept.applied.upto);
            let stands = applied.entry(commit.partition).or_insert_with(kept);
            if *stands != commit.previous && !planted(Bug::GuardDropped) {
                let (partition, stands, previous) = (commit.partition.0, stands.0, commit.previous.0);
                return Err(Error::Conflict(format!("partition {partition} stands at {stands}, not at {previous}")));
            }
            *stands = commit.upto;
        }
        Ok(())
    }

    fn write(&mut self, commit: &Commit) {
        let kept = self.partitions.entry(commit.partition).or_default();
        kept.applied = Applied { upto: commit.upto, time: commit.time };
        for (key, row) in &commit.rows {
            kept.changed.insert(key.clone(), commit.upto);
            match row {
                Some(row) => kept.rows.insert(key.clone(), row.clone()),
                None => kept.rows.remove(key),
            };
        }
        for verdict in &commit.verdicts {
            let fleet = kept.verdicts.entry(verdict.scope).or_default();
            fleet.insert(verdict.position.offset, verdict.clone());
        }
    }

    /// Asks `question` of a partition; one never applied is empty.
    fn ask<T>(&self, partition: Partition, question: impl FnOnce(&Kept) -> T) -> T {
        match self.partitions.get(&partition) {
            Some(kept) => question(kept),
            None => question(&Kept::default()),
        }
    }
}

impl Kept {
    fn found(&self, mut rows: Vec<Row>) -> Found {
        let (total, mut room) = (rows.len() as u64, Room::default());
        let fit = rows.iter().take_while(|row| room.takes(row.weight())).count();
        let rest = rows.drain(fit..).map(|row| row.key()).collect();
        Found { rows, rest, total, applied: self.applied }
    }

    fn find(&self, find: &Find) -> Found {
        match find {
            Find::Table { table, scope, after, limit } => {
                self.found(self.table(*table, *scope, after.as_ref(), *limit))
            }
            Find::Due { now, limit } => self.found(self.due(*now, *limit)),
            Find::Mail { scope, agent, after, limit } => self.found(self.mail(*scope, *agent, *after, *limit)),
            Find::Listed { table, scope, which, after, limit } => {
                let listed = |row: &Row| self.is_listed(row, *which);
                let after = after.as_ref().map(|after| RowKey::new(*table, *scope, after));
                let rows = self.table(*table, Some(*scope), after.as_ref(), u32::MAX).into_iter().filter(listed);
                self.found(rows.take(*limit as usize).collect())
            }
            Find::Memory(filter) => self.memory(filter),
        }
    }

    fn table(&self, table: Table, scope: Option<Scope>, after: Option<&RowKey>, limit: u32) -> Vec<Row> {
        let first = RowKey::new(table, scope.unwrap_or(Scope::OPERATOR), "");
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after),
            _ => Bound::Included(&first),
        };
        let wanted = |key: &RowKey| key.table == table && scope.is_none_or(|scope| key.scope == scope);
        let rows = self.rows.range((from, Bound::Unbounded)).take_while(|(key, _)| wanted(key));
        rows.take(limit as usize).map(|(_, row)| row.clone()).collect()
    }

    fn is_listed(&self, row: &Row, which: Listed) -> bool {
        let Some(until) = row.index().listed_until else { return false };
        match which {
            Listed::At(now) => now < until,
            Listed::Since(upto) => self.changed.get(&row.key()).is_some_and(|changed| *changed > upto),
        }
    }

    fn due(&self, now: LogTime, limit: u32) -> Vec<Row> {
        let due = |(key, row): (&RowKey, &Row)| {
            let at = row.index().due_at.filter(|at| *at <= now)?;
            Some(((at, key.table.text(), key.scope, key.key.clone()), row.clone()))
        };
        let sorted: BTreeMap<_, _> = self.rows.iter().filter_map(due).collect();
        sorted.into_values().take(limit as usize).collect()
    }

    fn mail(&self, scope: Scope, agent: AgentId, after: Option<Offset>, limit: u32) -> Vec<Row> {
        let mine = |(key, row): (&RowKey, &Row)| {
            let (owner, place) = row.index().mail.filter(|_| key.scope == scope)?;
            let wanted = owner == agent && Some(place) > after;
            wanted.then(|| ((place, key.table.text(), key.key.clone()), row.clone()))
        };
        let sorted: BTreeMap<_, _> = self.rows.iter().filter_map(mine).collect();
        sorted.into_values().take(limit as usize).collect()
    }

    fn memory(&self, filter: &MemoryFilter) -> Found {
        let first = RowKey::memory(filter.scope, "");
        let entries = self.rows.range(first..).take_while(|(key, _)| key.table == Table::Memory);
        let mut matching: Vec<_> = entries
            .take_while(|(key, _)| key.scope == filter.scope)
            .filter_map(|(key, row)| row.index().search.map(|search| (key, row, search)))
            .filter(|(key, _, search)| filter.includes(key, search))
            .collect();
        let total = matching.len() as u64;
        // They are in order by key and the sort is stable.
        match filter.sort {
            MemorySort::Key => {
                matching.retain(|(key, ..)| filter.after.as_ref().is_none_or(|after| key.key > *after));
            }
            MemorySort::Relevance => {
                matching
                    .sort_by_cached_key(|(key, _, search)| Reverse((filter.relevance(&key.key), search.updated_at)));
            }
            MemorySort::CreatedAt => matching.sort_by_key(|(.., search)| Reverse(search.created_at)),
            MemorySort::UpdatedAt => matching.sort_by_key(|(.., search)| Reverse(search.updated_at)),
        }
        let page = matching.into_iter().skip(filter.skip as usize).take(filter.limit as usize);
        Found { total, ..self.found(page.map(|(_, row, _)| row.clone()).collect()) }
    }

    fn verdicts(&self, scope: Scope, which: &Which) -> Verdicts {
        let none = BTreeMap::new();
        let fleet = self.verdicts.get(&scope).unwrap_or(&none);
        let (verdicts, total) = match which {
            Which::After { after, limit } => {
                let verdicts = beyond(fleet, *after).take(*limit as usize).cloned().collect();
                (verdicts, None)
            }
            Which::At(offsets) => {
                let offsets: BTreeSet<_> = offsets.iter().collect();
                (offsets.into_iter().filter_map(|offset| fleet.get(offset)).cloned().collect(), None)
            }
            Which::About(about) => {
                let mut missing: BTreeSet<_> = about.iter().cloned().collect();
                let first = |verdict: &&Verdict| About::of(verdict).is_some_and(|about| missing.remove(&about));
                (fleet.values().filter(first).cloned().collect(), None)
            }
            Which::Matching(matching) => {
                let total = fleet.values().filter(|verdict| matching.includes(verdict)).count();
                (page(fleet, matching), Some(total))
            }
        };
        let (mut verdicts, mut room): (Vec<Verdict>, _) = (verdicts, Room::default());
        let total = total.unwrap_or(verdicts.len()) as u64;
        let fit = verdicts.iter().take_while(|verdict| room.takes(verdict.weight())).count();
        let rest = verdicts.drain(fit..).map(|verdict| verdict.position.offset).collect();
        Verdicts { verdicts, rest, total, oldest: fleet.keys().next().copied(), applied: self.applied }
    }

    fn heads(&self, fleets: &[Scope]) -> Heads {
        let head = |scope: &Scope| self.rows.get(&RowKey::head(*scope)).and_then(Head::of).cloned();
        Heads { heads: fleets.iter().map(head).collect(), applied: self.applied }
    }
}

/// As an answer has room for.
fn pages(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let (mut pages, mut room) = (Vec::<Vec<Row>>::new(), Room::default());
    for row in rows {
        match pages.last_mut() {
            Some(page) if room.takes(row.weight()) && page.len() < ROWS_PAGE_MAX as usize => page.push(row),
            _ => {
                room = Room::default();
                room.takes(row.weight());
                pages.push(vec![row]);
            }
        }
    }
    pages
}

fn beyond(fleet: &BTreeMap<Offset, Verdict>, after: Option<Offset>) -> impl DoubleEndedIterator<Item = &Verdict> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    fleet.range((from, Bound::Unbounded)).map(|(_, verdict)| verdict)
}

fn page(fleet: &BTreeMap<Offset, Verdict>, matching: &Matching) -> Vec<Verdict> {
    let matches = beyond(fleet, matching.after).filter(|verdict| matching.includes(verdict));
    let limit = matching.limit as usize;
    if !matching.newest {
        return matches.take(limit).cloned().collect();
    }
    let mut newest: Vec<_> = matches.rev().take(limit).cloned().collect();
    newest.reverse();
    newest
}

#[async_trait]
impl Reads for MemoryReads {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        let mut state = self.lock();
        state.check(commits)?;
        for commit in commits {
            state.write(commit);
        }
        Ok(())
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        Ok(self
            .lock()
            .ask(partition, |kept| kept.found(keys.iter().filter_map(|key| kept.rows.get(key)).cloned().collect())))
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        Ok(self.lock().ask(partition, |kept| kept.find(find)))
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        Ok(self.lock().ask(partition, |kept| kept.verdicts(scope, which)))
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        Ok(self.lock().ask(partition, |kept| kept.heads(fleets)))
    }

    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        let (applied, rows) =
            self.lock().ask(partition, |kept| (kept.applied, kept.rows.values().cloned().collect::<Vec<_>>()));
        Ok(Snapshot { applied, rows: stream::iter(pages(rows).into_iter().map(Ok)).boxed() })
    }

    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        if let Some(kept) = self.lock().partitions.get_mut(&partition) {
            kept.verdicts.values_mut().for_each(|fleet| *fleet = fleet.split_off(&before));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_snapshot_is_what_a_crash_leaves() {
        let reads = MemoryReads::new();
        let scope = Scope::OPERATOR;
        let step = |previous: u64| Commit {
            partition: Partition(1),
            previous: Offset(previous),
            upto: Offset(previous + 1),
            time: LogTime(5),
            rows: vec![(RowKey::head(scope), Some(Row::Head(Head { scope, last: Offset(previous), hash: 0 })))],
            verdicts: Vec::new(),
        };
        reads.commit(&[step(0)]).now_or_never().expect("done at once").expect("it stands at zero");
        let kept = reads.snapshot();
        reads.clone().commit(&[step(1)]).now_or_never().expect("done at once").expect("clones share what is kept");
        let restored = MemoryReads::from(kept);
        let heads = restored.heads(Partition(1), &[scope]).now_or_never().expect("done at once").expect("an answer");
        assert_eq!(heads.heads, [Some(Head { scope, last: Offset(0), hash: 0 })]);
        assert_eq!(heads.applied, Applied { upto: Offset(1), time: LogTime(5) });
    }
}
