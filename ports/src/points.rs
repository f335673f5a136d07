//! Failpoints: the ports with a point before and after each of their calls and each item of their streams. The roles wait
//! for nothing but ports, so that these are all the places where something can go wrong between two of their steps.
//! Whoever wraps them decides, passage by passage, what happens there; nothing here knows a clock, a runtime or chance.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};
use ringforge_domain::{
    ids::Scope,
    position::{Offset, Partition, Partitions},
    row::RowKey,
};

use crate::{
    Error, Services,
    live::{Directory, Heard, Live, News},
    log::{AppendError, Bounds, Letter, Log, Placed, Record, Stored},
    reads::{Commit, Find, Found, Heads, Reads, Snapshot, Verdicts, Which},
};

/// What is waited for: a call of a port, or the next item of a stream that one gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `Log::append`.
    LogAppend,
    /// The next batch of `Log::read`.
    LogRead,
    /// `Log::seek`.
    LogSeek,
    /// `Log::bounds`.
    LogBounds,
    /// `Log::trim`.
    LogTrim,
    /// `Reads::commit`.
    ReadsCommit,
    /// `Reads::load`.
    ReadsLoad,
    /// `Reads::find`.
    ReadsFind,
    /// `Reads::verdicts`.
    ReadsVerdicts,
    /// `Reads::heads`.
    ReadsHeads,
    /// `Live::publish`.
    LivePublish,
    /// `Live::subscribe`.
    LiveSubscribe,
    /// The next thing that a follower hears.
    LiveHear,
    /// `Live::put`.
    LivePut,
    /// `Live::scan`.
    LiveScan,
    /// `Live::count`.
    LiveCount,
}

impl Call {
    /// Every one, port by port.
    pub const ALL: [Self; 16] = [
        Self::LogAppend,
        Self::LogRead,
        Self::LogSeek,
        Self::LogBounds,
        Self::LogTrim,
        Self::ReadsCommit,
        Self::ReadsLoad,
        Self::ReadsFind,
        Self::ReadsVerdicts,
        Self::ReadsHeads,
        Self::LivePublish,
        Self::LiveSubscribe,
        Self::LiveHear,
        Self::LivePut,
        Self::LiveScan,
        Self::LiveCount,
    ];

    /// `port.call`.
    pub fn text(self) -> &'static str {
        match self {
            Self::LogAppend => "log.append",
            Self::LogRead => "log.read",
            Self::LogSeek => "log.seek",
            Self::LogBounds => "log.bounds",
            Self::LogTrim => "log.trim",
            Self::ReadsCommit => "reads.commit",
            Self::ReadsLoad => "reads.load",
            Self::ReadsFind => "reads.find",
            Self::ReadsVerdicts => "reads.verdicts",
            Self::ReadsHeads => "reads.heads",
            Self::LivePublish => "live.publish",
            Self::LiveSubscribe => "live.subscribe",
            Self::LiveHear => "live.hear",
            Self::LivePut => "live.put",
            Self::LiveScan => "live.scan",
            Self::LiveCount => "live.count",
        }
    }
}

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Nothing is done yet.
    Before,
    /// It is done, and whoever waits does not know it yet.
    After,
}

/// A place where something can go wrong. Its text is `port.call.before` or `port.call.after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Of which call.
    pub call: Call,
    /// On which side of it.
    pub side: Side,
}

impl Point {
    /// Every one, in the order of [`Call::ALL`], before before after.
    pub const ALL: [Self; 2 * Call::ALL.len()] = {
        let mut all = [Self { call: Call::LogAppend, side: Side::Before }; 2 * Call::ALL.len()];
        let mut at = 0;
        while at < all.len() {
            let side = if at % 2 == 0 { Side::Before } else { Side::After };
            all[at] = Self { call: Call::ALL[at / 2], side };
            at += 1;
        }
        all
    };
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        write!(out, "{}.{side}", self.call.text())
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|point| point.to_string() == text).ok_or_else(|| format!("no point {text}"))
    }
}

/// What happens at a passage.
pub enum Act {
    /// It fails as its port may: an append is `Refused` before, `Unknown` after; a stream hears that it `Lost` something;
    /// anything else is `Unavailable`, and a stream of the log ends with that.
    Error,
    /// It answers with nothing. Before: nothing is done; after: what was done is not told. Of a stream one item is dropped.
    /// Of the live bus that is to be expected; of log and read models it is a bug.
    Empty,
    /// It goes on when this is ready: at once, late, or never, as where the process ends at this point. Held up before an
    /// append, a caller's next one may overtake it.
    Wait(BoxFuture<'static, ()>),
}

/// Asked at every passage of every point, by any thread. `None`: nothing happens.
pub type Decide = Arc<dyn Fn(Point) -> Option<Act> + Send + Sync>;

/// The services with every point in front of their log, read models and live bus.
pub fn around(services: Services, decide: &Decide) -> Services {
    let Services { log, reads, live, blobs, clock, ids } = services;
    let log = Arc::new(Points { port: log, decide: Arc::clone(decide) });
    let reads = Arc::new(Points { port: reads, decide: Arc::clone(decide) });
    let live = Arc::new(Points { port: live, decide: Arc::clone(decide) });
    Services { log, reads, live, blobs, clock, ids }
}

/// One port with its points.
struct Points<Port: ?Sized> {
    port: Arc<Port>,
    decide: Decide,
}

/// What a call may fail with.
trait Fails {
    fn at(point: Point) -> Self;
}

impl Fails for Error {
    fn at(point: Point) -> Self {
        Self::Unavailable(format!("it failed at {point}, on purpose"))
    }
}

impl Fails for AppendError {
    fn at(point: Point) -> Self {
        match point.side {
            Side::Before => Self::Refused(Error::at(point)),
            Side::After => Self::Unknown(Error::at(point)),
        }
    }
}

/// What takes the place of the answer at a passage, if anything does.
enum Instead {
    Error(Point),
    Empty,
}

impl Instead {
    fn answer<T: Default, E: Fails>(self) -> Result<T, E> {
        match self {
            Self::Error(point) => Err(E::at(point)),
            Self::Empty => Ok(T::default()),
        }
    }
}

async fn pass(decide: &Decide, call: Call, side: Side) -> Option<Instead> {
    let point = Point { call, side };
    match decide(point)? {
        Act::Error => Some(Instead::Error(point)),
        Act::Empty => Some(Instead::Empty),
        Act::Wait(until) => {
            until.await;
            None
        }
    }
}

impl<Port: ?Sized + Send + Sync> Points<Port> {
    /// A call, and what happens on both sides of it.
    async fn through<T: Default, E: Fails>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        if let Some(instead) = pass(&self.decide, call, Side::Before).await {
            return instead.answer();
        }
        let answer = work.await;
        match pass(&self.decide, call, Side::After).await {
            Some(instead) => instead.answer(),
            None => answer,
        }
    }

    /// A stream, and what happens on both sides of each item.
    fn items<T: Send + 'static>(
        &self,
        call: Call,
        items: BoxStream<'static, T>,
        failed: fn(Point) -> T,
    ) -> BoxStream<'static, T> {
        let decide = Arc::clone(&self.decide);
        let next = move |mut items: BoxStream<'static, T>| {
            let decide = Arc::clone(&decide);
            async move {
                loop {
                    let before = pass(&decide, call, Side::Before).await;
                    if let Some(Instead::Error(point)) = before {
                        return Some((failed(point), items));
                    }
                    let item = items.next().await?;
                    match before.or(pass(&decide, call, Side::After).await) {
                        Some(Instead::Error(point)) => return Some((failed(point), items)),
                        Some(Instead::Empty) => {}
                        None => return Some((item, items)),
                    }
                }
            }
        };
        stream::unfold(items, next).boxed()
    }
}

#[async_trait]
impl Log for Points<dyn Log> {
    fn partitions(&self) -> Partitions {
        self.port.partitions()
    }

    /// Without points: advice may be wrong anyway.
    fn owned(&self) -> BoxStream<'static, BTreeSet<Partition>> {
        self.port.owned()
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, AppendError> {
        self.through(Call::LogAppend, self.port.append(partition, records)).await
    }

    fn read(&self, partition: Partition, from: Offset) -> BoxStream<'static, Result<Vec<Stored>, Error>> {
        let items = self.items(Call::LogRead, self.port.read(partition, from), |point| Err(Error::at(point)));
        let upto_error = |failed: &mut bool, item: Result<_, Error>| {
            let ended = std::mem::replace(failed, item.is_err());
            ready((!ended).then_some(item))
        };
        items.scan(false, upto_error).boxed()
    }

    async fn seek(&self, partition: Partition, offsets: &[Offset]) -> Result<Vec<Stored>, Error> {
        self.through(Call::LogSeek, self.port.seek(partition, offsets)).await
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, Error> {
        self.through(Call::LogBounds, self.port.bounds(partition)).await
    }

    async fn trim(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.through(Call::LogTrim, self.port.trim(partition, before)).await
    }

    /// Without points: what can be made to fail is a file, which buries nothing.
    async fn bury(&self, letters: &[Letter]) -> Result<(), Error> {
        self.port.bury(letters).await
    }

    fn buried(&self) -> BoxStream<'static, Result<Letter, Error>> {
        self.port.buried()
    }
}

#[async_trait]
impl Reads for Points<dyn Reads> {
    async fn commit(&self, commits: &[Commit]) -> Result<(), Error> {
        self.through(Call::ReadsCommit, self.port.commit(commits)).await
    }

    async fn load(&self, partition: Partition, keys: &BTreeSet<RowKey>) -> Result<Found, Error> {
        self.through(Call::ReadsLoad, self.port.load(partition, keys)).await
    }

    async fn find(&self, partition: Partition, find: &Find) -> Result<Found, Error> {
        self.through(Call::ReadsFind, self.port.find(partition, find)).await
    }

    async fn verdicts(&self, partition: Partition, scope: Scope, which: &Which) -> Result<Verdicts, Error> {
        self.through(Call::ReadsVerdicts, self.port.verdicts(partition, scope, which)).await
    }

    async fn heads(&self, partition: Partition, fleets: &[Scope]) -> Result<Heads, Error> {
        self.through(Call::ReadsHeads, self.port.heads(partition, fleets)).await
    }

    /// Without points: a checkpoint that fails is taken again, and nobody waits for it.
    async fn snapshot(&self, partition: Partition) -> Result<Snapshot, Error> {
        self.port.snapshot(partition).await
    }

    /// Likewise.
    async fn forget(&self, partition: Partition, before: Offset) -> Result<(), Error> {
        self.port.forget(partition, before).await
    }
}

#[async_trait]
impl Live for Points<dyn Live> {
    async fn publish(&self, news: &[News]) -> Result<(), Error> {
        self.through(Call::LivePublish, self.port.publish(news)).await
    }

    async fn subscribe(&self, scope: Scope) -> Result<BoxStream<'static, Heard>, Error> {
        let heard = async { self.port.subscribe(scope).await.map(Some) };
        let heard = self.through(Call::LiveSubscribe, heard).await?;
        let heard = heard.unwrap_or_else(|| stream::pending().boxed());
        Ok(self.items(Call::LiveHear, heard, |_| Heard::Lost))
    }

    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<(), Error> {
        self.through(Call::LivePut, self.port.put(key, value, ttl)).await
    }

    async fn scan(&self, directory: &str) -> Result<Directory, Error> {
        self.through(Call::LiveScan, self.port.scan(directory)).await
    }

    async fn count(&self, key: &str, add: u64, window: Duration) -> Result<u64, Error> {
        self.through(Call::LiveCount, self.port.count(key, add, window)).await
    }
}

#[cfg(test)]
mod tests;
