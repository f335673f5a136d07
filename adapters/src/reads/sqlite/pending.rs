//! Commits that are accepted and not written yet. What a commit costs is the pages that it touches, and commits that follow
//! each other touch the same ones: so they wait a moment and are written together. Nobody sees it: a question waits until what
//! was accepted before it, and concerns it, is written. What a crash takes away the log brings back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use ringforge_domain::{
    limits::{READS_PENDING_BYTES_MAX, READS_WRITE_BYTES},
    position::Partition,
    row::RowKey,
};
use ringforge_ports::{
    Error,
    reads::{Applied, Commit},
};
use tokio::sync::watch;

use crate::reads::batch::Batch;

/// How long a commit waits for others, at most.
const TOGETHER: Duration = Duration::from_millis(20);

/// What is accepted, and how far it is written.
pub(super) struct Pending {
    state: Mutex<State>,
    /// Rings for the thread that writes.
    wanted: Condvar,
    progress: watch::Sender<Progress>,
}

/// A commit, numbered in the order in which they were accepted.
type Numbered = (u64, Arc<Vec<Batch>>);

#[derive(Default)]
struct State {
    stands: BTreeMap<Partition, Applied>,
    queue: VecDeque<Numbered>,
    bytes: usize,
    /// The last commit that changed a row, of those in the queue.
    rows: HashMap<(Partition, RowKey), u64>,
    accepted: u64,
    /// Up to which commit somebody waits.
    wanted: u64,
    /// What waits could not be written: it is tried again when somebody waits for it.
    failed: bool,
    ended: bool,
    /// Verdicts that are not needed: from these places on, before these.
    forgotten: BTreeMap<i64, i64>,
}

/// How far the thread that writes has come.
#[derive(Clone, Default)]
struct Progress {
    written: u64,
    /// How often it could not write, and why the last time.
    failures: u64,
    failure: Option<Error>,
}

/// What the thread that writes does next.
pub(super) enum Next {
    /// Write these.
    Write(Vec<Numbered>),
    /// There is time to forget something.
    Forget,
    /// Nobody commits anything for a while.
    Quiet,
    End,
}

/// Nobody may wait for a thread that is no more.
pub(super) struct EndOnPanic<'a>(pub &'a Pending);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
            self.0.failed(Error::Unavailable("the writer of the read models panicked".to_owned()));
        }
    }
}

impl State {
    fn is_much(&self) -> bool {
        self.bytes >= READS_WRITE_BYTES
    }
}

impl Pending {
    pub fn new(stands: BTreeMap<Partition, Applied>) -> Self {
        let state = State { stands, ..State::default() };
        Self { state: Mutex::new(state), wanted: Condvar::new(), progress: watch::Sender::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    /// Accepts commits, all of them or none. Waits while too much is not written, or the last attempt to write has failed.
    pub async fn accept(&self, commits: &[Commit], batches: Vec<Batch>) -> Result<(), Error> {
        let bytes: usize = batches.iter().map(Batch::weight).sum();
        let crowded = self.state().bytes + bytes > READS_PENDING_BYTES_MAX;
        if crowded || self.progress.borrow().failure.is_some() {
            self.written().await?;
        }
        let mut state = self.state();
        if state.ended {
            return Err(Error::Closed);
        }
        let mut stands = state.stands.clone();
        for Commit { partition, previous, upto, time, .. } in commits {
            let stands = stands.entry(*partition).or_default();
            if stands.upto != *previous {
                let what = format!("partition {} stands at {}, not at {}", partition.0, stands.upto.0, previous.0);
                return Err(Error::Conflict(what));
            }
            *stands = Applied { upto: *upto, time: *time };
        }
        state.stands = stands;
        state.accepted += 1;
        let number = state.accepted;
        for Commit { partition, rows, .. } in commits {
            state.rows.extend(rows.iter().map(|(key, _)| ((*partition, key.clone()), number)));
        }
        state.bytes += bytes;
        state.queue.push_back((number, Arc::new(batches)));
        if state.queue.len() == 1 || state.is_much() {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// Resolves once everything is written that was accepted before.
    pub async fn written(&self) -> Result<(), Error> {
        let mut progress = self.progress.subscribe();
        let (number, failures) = {
            let mut state = self.state();
            if state.queue.is_empty() {
                return Ok(());
            }
            if state.ended && state.failed {
                return Err(Error::Unavailable("nobody writes the read models any more".to_owned()));
            }
            let failures = progress.borrow_and_update().failures;
            state.wanted = state.accepted;
            self.wanted.notify_one();
            (state.accepted, failures)
        };
        let moved = |progress: &Progress| progress.written >= number || progress.failures > failures;
        let progress = progress.wait_for(moved).await.map_err(|_| Error::Closed)?.clone();
        match progress.failure {
            Some(failure) if progress.written < number => Err(failure),
            _ => Ok(()),
        }
    }

    /// Where a partition stands, if none of these rows has changed since it was last written.
    pub fn stands_without(&self, partition: Partition, rows: &BTreeSet<RowKey>) -> Option<Applied> {
        let state = self.state();
        let waits = |row: &RowKey| state.rows.contains_key(&(partition, row.clone()));
        let clear = state.rows.is_empty() || !rows.iter().any(waits);
        clear.then(|| state.stands.get(&partition).copied().unwrap_or_default())
    }

    /// The verdicts at these places are not needed any more.
    pub fn forget(&self, from: i64, before: i64) {
        self.state().forgotten.insert(from, before);
        self.wanted.notify_one();
    }

    /// What is to be forgotten next, if anything is.
    pub fn forgetting(&self) -> Option<(i64, i64)> {
        self.state().forgotten.first_key_value().map(|(from, before)| (*from, *before))
    }

    /// That is done, or given up until somebody asks again.
    pub fn forgot(&self, from: i64, before: i64) {
        let mut state = self.state();
        if state.forgotten.get(&from) == Some(&before) {
            state.forgotten.remove(&from);
        }
    }

    /// Nothing more is accepted; what waits is still written.
    pub fn end(&self) {
        self.state().ended = true;
        self.wanted.notify_one();
    }

    /// Waits for something to write: until somebody wants it, it is much, or it has waited for long enough.
    pub fn next(&self, quiet: Option<Duration>) -> Next {
        let (mut state, mut waited) = (self.state(), false);
        loop {
            let patience = match state.queue.front() {
                // What cannot be written in the end is left to the log.
                Some(_) if state.ended && state.failed => return Next::End,
                Some((first, _)) => {
                    if state.wanted >= *first || state.ended || !state.failed && (waited || state.is_much()) {
                        return Next::Write(state.queue.iter().cloned().collect());
                    }
                    Some(TOGETHER)
                }
                None if state.ended => return Next::End,
                None if !state.forgotten.is_empty() => return Next::Forget,
                None if waited => return Next::Quiet,
                None => quiet,
            };
            (state, waited) = self.wait(state, patience);
        }
    }

    /// Whether that took as long as it may.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Option<Duration>) -> (MutexGuard<'a, State>, bool) {
        let Some(most) = most else {
            return (self.wanted.wait(state).expect("no panic while the lock is held"), false);
        };
        let (state, timeout) = self.wanted.wait_timeout(state, most).expect("no panic while the lock is held");
        (state, timeout.timed_out())
    }

    /// These are written.
    pub fn wrote(&self, group: &[Numbered]) {
        let mut state = self.state();
        for (number, batches) in group {
            state.queue.pop_front();
            state.bytes -= batches.iter().map(Batch::weight).sum::<usize>();
            for batch in &**batches {
                let partition = batch.partition();
                for line in &batch.rows {
                    let row = (partition, RowKey::new(line.table, line.scope, line.key.clone()));
                    if state.rows.get(&row) == Some(number) {
                        state.rows.remove(&row);
                    }
                }
            }
        }
        state.failed = false;
        let written = group.last().map_or(0, |(number, _)| *number);
        self.progress.send_modify(|progress| (progress.written, progress.failure) = (written, None));
    }

    /// They could not be written.
    pub fn failed(&self, error: Error) {
        let mut state = self.state();
        state.wanted = 0;
        state.failed = true;
        self.tell(error);
    }

    /// The file stands elsewhere: what waits does not belong to it.
    pub fn dropped(&self, stands: BTreeMap<Partition, Applied>, error: Error) {
        let mut state = self.state();
        let State { accepted, ended, .. } = *state;
        let forgotten = std::mem::take(&mut state.forgotten);
        *state = State { stands, accepted, ended, forgotten, ..State::default() };
        self.tell(error);
    }

    /// Tells whoever waits.
    fn tell(&self, error: Error) {
        self.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.failure = Some(error);
        });
    }
}
