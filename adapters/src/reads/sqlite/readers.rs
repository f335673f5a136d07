//! Reading: connections that only read, on threads of their own, and one for what is too short to be handed over. Searches
//! have threads apart, so that nobody who comes in, and no projector or timer, waits behind them; tenants take turns there,
//! so that none waits behind the searches of another.

use std::{
    ffi::c_int,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, TryLockError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use ringforge_domain::{ids::TenantId, limits};
use ringforge_ports::Error;
use rusqlite::Connection;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::timeout,
};

use super::{connect_reader, failed};
use crate::reads::turns::Turns;

/// Threads for what an index finds, each with a connection of its own.
const POINT_THREADS: usize = 3;
/// Threads for searches, likewise. One tenant has all of them but one at most.
const SEARCH_THREADS: usize = 3;
/// Steps of SQLite's machine between two looks whether anybody still waits. A step reads one text at most.
const STEPS: c_int = 1_000;

type Question = Box<dyn FnOnce(&Connection) + Send>;
type Searching = Mutex<Turns<TenantId, Question>>;

/// The connections that read.
pub(super) struct Readers {
    points: Pool,
    searches: Pool,
    turns: Arc<Searching>,
    /// `None` once it is closed.
    here: Mutex<Option<Connection>>,
}

impl Readers {
    pub fn start(path: &Path) -> Result<Self, Error> {
        let points = Pool::start(path, "reads", POINT_THREADS)?;
        let searches = Pool::start(path, "searches", SEARCH_THREADS)?;
        let turns = Turns::new(limits::SEARCHES_WAITING_MAX, limits::SEARCHES_WAITING_TENANT_MAX, SEARCH_THREADS - 1);
        let turns = Arc::new(Mutex::new(turns));
        Ok(Self { points, searches, turns, here: Mutex::new(Some(connect_reader(path)?)) })
    }

    /// Asks on a thread for what an index finds.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.points.ask(question).await
    }

    /// Asks on a thread for what may have to look at much, when it is the tenant's turn. `Unavailable` if it takes longer than
    /// it may, waiting included, and at once if too much waits, of this tenant or in all.
    pub async fn search<T: Send + 'static>(
        &self,
        tenant: TenantId,
        question: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        // Gone as soon as nobody waits any more.
        let asker = Arc::new(());
        let waiting = Arc::downgrade(&asker);
        let (question, answer) = asked(move |connection| while_asked(waiting, connection, question));
        if !lock(&self.turns).wait(tenant, &asker, question) {
            return Err(Error::Unavailable("search the read models: too many searches wait".to_owned()));
        }
        let turns = Arc::clone(&self.turns);
        self.searches.rouse(move |connection| search_in_turns(&turns, connection))?;
        let answer = timeout(Duration::from_millis(limits::SEARCH_MS), answered(answer)).await;
        answer.unwrap_or_else(|_| Err(Error::Unavailable("search the read models: it takes too long".to_owned())))
    }

    /// Asks at once and here, unless somebody else does just now: for what takes less time than waking a thread.
    pub fn ask_here<T>(&self, question: impl FnOnce(&Connection) -> Result<T, Error>) -> Option<Result<T, Error>> {
        match self.here.try_lock() {
            Ok(connection) => connection.as_ref().map(question),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("no panic while the lock is held"),
        }
    }

    /// Answers what waits, then closes every connection.
    pub fn end(&self) {
        lock(&self.here).take();
        self.points.end();
        self.searches.end();
    }
}

/// Threads that answer what waits in one queue.
struct Pool {
    /// `None` once the threads are told to end.
    questions: Mutex<Option<mpsc::Sender<Question>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    fn start(path: &Path, name: &str, count: usize) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel::<Question>(limits::READS_WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..count {
            let connection = connect_reader(path)?;
            let receiver = Arc::clone(&receiver);
            let builder = thread::Builder::new().name(format!("{name}-{number}"));
            let thread = builder.spawn(move || serve(&connection, &receiver));
            threads.push(thread.map_err(|error| Error::Unavailable(format!("start a reader: {error}")))?);
        }
        Ok(Self { questions: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (question, answer) = asked(question);
        let questions = lock(&self.questions).clone().ok_or(Error::Closed)?;
        questions.send(question).await.map_err(|_| Error::Closed)?;
        answered(answer).await
    }

    /// Has a thread do `work`, which is always the same: where as many wait as may, one of those is as good.
    fn rouse(&self, work: impl FnOnce(&Connection) + Send + 'static) -> Result<(), Error> {
        match lock(&self.questions).as_ref().ok_or(Error::Closed)?.try_send(Box::new(work)) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Error::Closed),
        }
    }

    fn end(&self) {
        lock(&self.questions).take();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader of the read models panicked");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while the lock is held")
}

/// A question for a thread, and where the answer comes.
fn asked<T: Send + 'static>(
    question: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
) -> (Question, oneshot::Receiver<Result<T, Error>>) {
    let (reply, answer) = oneshot::channel();
    let question = move |connection: &Connection| {
        // Whoever asked may have left.
        if !reply.is_closed() {
            let _ = reply.send(question(connection));
        }
    };
    (Box::new(question), answer)
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    answer.await.map_err(|_| Error::Unavailable("read the read models: no answer".to_owned()))?
}

/// Searches as long as there is anybody whose turn it is. What must wait because its tenant has its share of the threads is
/// left to those: each of them looks again when it is done.
fn search_in_turns(turns: &Searching, connection: &Connection) {
    loop {
        let Some((tenant, search)) = lock(turns).begin() else { return };
        put(search, connection);
        lock(turns).end(tenant);
    }
}

fn serve(connection: &Connection, questions: &Mutex<mpsc::Receiver<Question>>) {
    loop {
        // The lock is held while waiting: one thread waits for work, the others for the lock.
        let next = questions.lock().expect("no panic while the lock is held").blocking_recv();
        let Some(question) = next else { return };
        put(question, connection);
    }
}

/// Puts a question. If it panics whoever asked gets no answer, and the next ones are put all the same.
fn put(question: Question, connection: &Connection) {
    if panic::catch_unwind(AssertUnwindSafe(|| question(connection))).is_err() {
        tracing::error!("a question to the read models panicked");
    }
}

/// Asks, and is interrupted when the asker is gone.
fn while_asked<T>(
    asker: Weak<()>,
    connection: &Connection,
    question: impl FnOnce(&Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let gone = move || asker.strong_count() == 0;
    let watched = |by| connection.progress_handler(STEPS, by).map_err(|error| failed("search", &error));
    watched(Some(gone))?;
    let answer = question(connection);
    watched(None)?;
    answer
}

/// What `work` reads, all of one moment. A search may be interrupted anywhere, in the statements around `work` too: whoever asks
/// next ends what was left open.
pub(super) fn snapshot<T>(connection: &Connection, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let execute = |statement| {
        let done = connection.prepare_cached(statement).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| failed("read", &error))
    };
    if !connection.is_autocommit() {
        execute("ROLLBACK")?;
    }
    execute("BEGIN")?;
    let answer = work();
    // Nothing was written.
    execute("COMMIT")?;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_was_left_open_is_ended_by_the_next_question() {
        let connection = Connection::open_in_memory().expect("a database");
        let one = || {
            snapshot(&connection, || {
                connection.query_row("SELECT 1", [], |row| row.get(0)).map_err(|error| failed("read", &error))
            })
        };
        assert_eq!(one().ok(), Some(1));
        connection.execute_batch("BEGIN").expect("begun");
        assert_eq!(one().ok(), Some(1));
        assert!(connection.is_autocommit());
    }

    #[tokio::test]
    async fn a_question_that_panics_costs_nobody_else_an_answer() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("db");
        Connection::open(&path)
            .and_then(|connection| connection.execute_batch("CREATE TABLE t (x)"))
            .expect("a database");
        let readers = Readers::start(&path).expect("readers");
        let tenant = TenantId::from_bits(1);
        for _ in 0..=POINT_THREADS.max(SEARCH_THREADS) {
            let asked = readers.ask::<()>(|_| panic!("as planned")).await;
            assert!(matches!(asked, Err(Error::Unavailable(_))), "{asked:?}");
            let searched = readers.search::<()>(tenant, |_| panic!("as planned")).await;
            assert!(matches!(searched, Err(Error::Unavailable(_))), "{searched:?}");
        }
        let count = |connection: &Connection| {
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).map_err(|error| failed("read", &error))
        };
        assert_eq!(readers.ask(count).await.ok(), Some(0));
        assert_eq!(readers.search(tenant, count).await.ok(), Some(0));
    }
}
