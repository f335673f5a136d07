//! Keeps each active fleet of this edge up to date: follows the live bus, and fills from index and log what it lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    StreamExt, future,
    stream::{self, BoxStream},
};
use ringforge_domain::{
    buggify::{Site, buggify},
    cursor::Seal,
    frame::Encoder,
    ids::{CommandId, Scope},
    limits::CATCH_UP_PAGE_MAX,
    position::{Offset, Partition, StreamRef},
    verdict::{First, Verdict},
};
use ringforge_ports::{
    Error, Services,
    live::{Heard, News},
    reads::{Update, Which},
};
use ringforge_query_api::history::updates;
use tokio::{
    sync::{Notify, OnceCell, oneshot},
    task::{AbortHandle, coop::unconstrained, yield_now},
};
use tracing::{debug, warn};

use crate::{
    hub::{Fleet, Kept, Seen},
    outbox,
};

/// How long an own command's update may take before it is looked for: see [`Patience`].
const EXPECT: Duration = Duration::from_millis(50);
/// How often held presence is looked at, while there is any.
const HOLD: Duration = Duration::from_millis(50);
/// News that are heard before whoever they are for is shown them, if there are so many at a time.
const HEARD_TOGETHER: u32 = 64;
/// Members that are shown what there is before others have a turn.
const SHOWN_AT_ONCE: usize = 128;
/// Members that are shown it by the feed: more would hold each other up, and have their own tasks do it, side by side.
const SHOWN_HERE: usize = 256;
/// How often the heads are asked for: so long a silent bus can hide an update.
const SILENCE: Duration = Duration::from_secs(1);
/// How long an empty fleet is kept.
const EMPTY: Duration = Duration::from_secs(30);

/// The fleets that have members at this edge.
pub struct Hub {
    services: Services,
    seal: Seal,
    kept: Kept,
    slots: Mutex<BTreeMap<Scope, Slot>>,
}

/// One fleet's place in the hub. Whoever comes first opens it: others wait for that fleet alone, and go on if it leaves.
type Slot = Arc<OnceCell<Arc<Feed>>>;

/// One fleet, kept up to date.
pub struct Feed {
    fleet: Mutex<Fleet>,
    /// Whoever waits for the verdict of a command that no session of this fleet asked for.
    waiting: Mutex<BTreeMap<CommandId, Waiting>>,
    /// One more than the offset of our newest own command.
    expected: AtomicU64,
    /// Whether the bus brought what had been read already.
    late: AtomicBool,
    nudge: Notify,
    empty_since: Mutex<Option<Duration>>,
    task: OnceLock<AbortHandle>,
}

/// Somebody who waits for a verdict.
struct Waiting {
    verdict: oneshot::Sender<Verdict>,
    /// Where its command stands, once known.
    placed: Option<Offset>,
}

impl Hub {
    /// Over these services; event ids carry this seal.
    pub fn new(services: Services, seal: Seal) -> Arc<Self> {
        Arc::new(Self { services, seal, kept: Kept::default(), slots: Mutex::default() })
    }

    /// The feed of a fleet: once this has resolved, it misses nothing from the fleet's present head on.
    ///
    /// # Errors
    /// A port is away.
    pub async fn feed(self: &Arc<Self>, scope: Scope, stream: StreamRef) -> Result<Arc<Feed>, Error> {
        let slot = Arc::clone(self.slots().entry(scope).or_default());
        let open = || async {
            let kept = Arc::clone(&self.kept);
            let (feed, heard) = Feed::open(&self.services, self.seal.clone(), scope, stream, kept).await?;
            let task = tokio::spawn(follow(self.services.clone(), Arc::clone(&feed), scope, heard));
            // It was made just now: nobody else can have set it.
            let _ = feed.task.set(task.abort_handle());
            Ok(feed)
        };
        slot.get_or_try_init(open).await.cloned()
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Scope, Slot>> {
        self.slots.lock().expect("no panic while the lock is held")
    }

    /// The fleets that are open, without those that nobody here needs any more.
    fn needed(&self) -> Vec<(Scope, Arc<Feed>)> {
        let now = self.services.clock.monotonic();
        let mut slots = self.slots();
        slots.retain(|_, slot| {
            // Whoever holds the slot is about to open it or to join.
            let awaited = Arc::strong_count(slot) > 1;
            // The slot and the task hold an unneeded feed.
            awaited || slot.get().is_some_and(|feed| Arc::strong_count(feed) > 2 || !feed.unneeded(now))
        });
        let open = slots.iter().filter_map(|(scope, slot)| Some((*scope, Arc::clone(slot.get()?))));
        open.collect()
    }

    /// Asks for the heads of all fleets here in one query, so that a silent bus hides nothing; forgets fleets that nobody
    /// here needs, and of the others what there is no room for. Runs for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SILENCE).await;
            let needed = self.needed();
            for (_, feed) in &needed {
                feed.fleet().forget();
            }
            if let Err(error) = self.ask_heads(&needed).await {
                warn!(%error, "the heads of fleets could not be asked for");
            }
        }
    }

    async fn ask_heads(&self, feeds: &[(Scope, Arc<Feed>)]) -> Result<(), Error> {
        let mut partitions: BTreeMap<Partition, Vec<&(Scope, Arc<Feed>)>> = BTreeMap::new();
        for one in feeds {
            partitions.entry(one.1.fleet().encoder.stream.partition).or_default().push(one);
        }
        for (partition, feeds) in partitions {
            let scopes: Vec<Scope> = feeds.iter().map(|(scope, _)| *scope).collect();
            let heads = self.services.reads.heads(partition, &scopes).await?.heads;
            for ((_, feed), head) in feeds.into_iter().zip(heads) {
                if let Some(head) = head {
                    feed.expect(head.last);
                }
            }
        }
        Ok(())
    }
}

impl Feed {
    /// Begins at a fleet's present head; what comes after it is heard or filled. While the live bus is away it is filled.
    ///
    /// # Errors
    /// A port is away.
    pub async fn open(
        services: &Services,
        seal: Seal,
        scope: Scope,
        stream: StreamRef,
        kept: Kept,
    ) -> Result<(Arc<Self>, BoxStream<'static, Heard>), Error> {
        let generation = services.log.bounds(stream.partition).await?.generation;
        let heard = services.live.subscribe(scope).await;
        // One that is over is followed anew.
        let heard = heard.unwrap_or_else(|_| stream::empty().boxed());
        let heads = services.reads.heads(stream.partition, &[scope]).await?.heads;
        let last = heads.into_iter().next().flatten().map(|head| First { offset: head.last, hash: head.hash });
        let fleet = Fleet::new(Encoder { seal, scope, stream, generation }, last, kept);
        let feed = Self {
            fleet: Mutex::new(fleet),
            waiting: Mutex::default(),
            expected: AtomicU64::new(0),
            late: AtomicBool::new(false),
            nudge: Notify::new(),
            empty_since: Mutex::new(None),
            task: OnceLock::new(),
        };
        Ok((Arc::new(feed), heard))
    }

    /// The fleet, for a moment: never across an await.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().expect("no panic while the lock is held")
    }

    /// Resolves with the verdict of a command that is about to be appended; with an error if its event passed by and could
    /// not be read.
    pub fn wait_for(&self, command: CommandId) -> oneshot::Receiver<Verdict> {
        let (verdict, waiting) = oneshot::channel();
        self.waiting().insert(command, Waiting { verdict, placed: None });
        waiting
    }

    /// The command that is waited for stands at `offset`.
    pub fn placed(&self, command: CommandId, offset: Offset) {
        let mut waiting = self.waiting();
        if !self.fleet().misses(offset) {
            // Its verdict would have ended the wait.
            waiting.remove(&command);
        } else if let Some(waiting) = waiting.get_mut(&command) {
            waiting.placed = Some(offset);
        }
        drop(waiting);
        self.expect(offset);
    }

    /// Waits for it no longer.
    pub fn give_up(&self, command: CommandId) {
        self.waiting().remove(&command);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<CommandId, Waiting>> {
        self.waiting.lock().expect("no panic while the lock is held")
    }

    /// Hands an update to the fleet, and to whoever waits for it.
    fn take(&self, update: &Update, now: Duration) -> Seen {
        // Held all the while: whoever is placed now is found here, or finds that its event has passed.
        let mut waiting = self.waiting();
        let seen = self.fleet().on_update(update, now);
        if seen == Seen::Next {
            let offset = update.verdict.position.offset;
            let placed = |waiting: &Waiting| update.event.is_none() && waiting.placed == Some(offset);
            let unreadable = || waiting.iter().find(|(_, waiting)| placed(waiting)).map(|(command, _)| *command);
            let command = unreadable().unwrap_or(update.verdict.command_id);
            if let Some(waiting) = waiting.remove(&command) {
                // Whoever waited may have given up.
                let _ = waiting.verdict.send(update.verdict.clone());
            }
        }
        seen
    }

    /// An own command stands at `offset`: its update must come soon.
    pub fn expect(&self, offset: Offset) {
        self.expected.fetch_max(offset.0 + 1, Ordering::Relaxed);
        self.nudge.notify_one();
    }

    /// Whether nobody has been here for a while; its task ends with it then.
    fn unneeded(&self, now: Duration) -> bool {
        let mut since = self.empty_since.lock().expect("no panic while the lock is held");
        if !self.fleet().is_empty() {
            *since = None;
            return false;
        }
        let unneeded = now.saturating_sub(*since.get_or_insert(now)) > EMPTY;
        if unneeded && let Some(task) = self.task.get() {
            task.abort();
        }
        unneeded
    }

    /// The newest own command whose update has not come.
    pub fn misses_expected(&self) -> Option<Offset> {
        let expected = Offset(self.expected.load(Ordering::Relaxed).checked_sub(1)?);
        self.fleet().misses(expected).then_some(expected)
    }

    /// Takes news; `true` if some before it are missing.
    pub fn hear(&self, news: &News, now: Duration) -> bool {
        match news {
            News::Update { update, .. } => {
                let seen = self.take(update, now);
                if seen == Seen::Before {
                    self.late.store(true, Ordering::Relaxed);
                }
                matches!(seen, Seen::Gap { .. }) || buggify(Site::NeedlessFill)
            }
            News::Head { last, .. } => self.fleet().misses(*last),
        }
    }

    /// Shows members what was put in for them.
    pub async fn show(&self) {
        let ready = self.fleet().ready();
        ready.iter().skip(SHOWN_HERE).for_each(|outbox| outbox.wake());
        for (at, some) in ready[..ready.len().min(SHOWN_HERE)].chunks(SHOWN_AT_ONCE).enumerate() {
            if at > 0 {
                yield_now().await;
            }
            // Each send would take of what a task may do at once: the bound is the number of them.
            unconstrained(async { outbox::show(some) }).await;
        }
    }

    /// Reads from index and log what the bus did not bring, up to what is applied now; says how much that was.
    ///
    /// # Errors
    /// A port is away, or the fleet's chain is broken.
    pub async fn fill(&self, services: &Services) -> Result<usize, Error> {
        let (scope, partition) = {
            let fleet = self.fleet();
            (fleet.encoder.scope, fleet.encoder.stream.partition)
        };
        let mut count = 0;
        loop {
            let after = self.fleet().head();
            let which = Which::After { after, limit: CATCH_UP_PAGE_MAX };
            let page = services.reads.verdicts(partition, scope, &which).await?;
            let (last, page) = (page.is_last(CATCH_UP_PAGE_MAX), page.verdicts);
            let read = page.len();
            if !page.is_empty() {
                debug!(fleet.id = %scope.fleet, updates = page.len(), "gap filled");
            }
            let filled = updates(services, partition, page).await?.updates;
            let more = !last || filled.len() < read;
            let now = services.clock.monotonic();
            for update in &filled {
                if let Seen::Gap { .. } = self.take(update, now) {
                    return Err(Error::Corrupt(format!(
                        "the chain of fleet {} is broken at {}",
                        scope.fleet, update.verdict.position.offset.0
                    )));
                }
            }
            self.show().await;
            count += filled.len();
            if !more {
                return Ok(count);
            }
        }
    }
}

/// How long an update that must come is waited for before it is looked for. Twice as long each time that it was not lost but late:
/// there was nothing to be found yet, or what was found came over the bus as well. Looking for what is late makes it later: the
/// read models and the log are asked for all of it, while they have too much to do already. At most the second in which heads show
/// what is lost.
struct Patience(Duration);

impl Patience {
    /// So much was found. `late`: since the last time, what had been found came as well.
    fn found(&mut self, count: usize, late: bool) {
        self.0 = if count == 0 || late { (self.0 * 2).min(SILENCE) } else { EXPECT };
    }
}

/// Follows one fleet until the hub forgets it.
async fn follow(services: Services, feed: Arc<Feed>, scope: Scope, mut heard: BoxStream<'static, Heard>) {
    let clock = Arc::clone(&services.clock);
    // What is expected when the wait begins is looked for when it is over.
    let mut expected: Option<Offset> = None;
    let mut patience = Patience(EXPECT);
    let mut wait = Box::pin(tokio::time::sleep(patience.0));
    let mut together = 0;
    loop {
        let (holds_back, ready) = {
            let fleet = feed.fleet();
            (fleet.holds_back(), fleet.has_ready())
        };
        together = if ready { together } else { 0 };
        let missing = tokio::select! {
            // What has come already is shown together, and not looked for.
            biased;
            news = heard.next(), if together < HEARD_TOGETHER => {
                together += 1;
                match news {
                    Some(Heard::News(news)) => feed.hear(&news, clock.monotonic()),
                    Some(Heard::Lost) => true,
                    None => {
                        heard = resubscribed(services.clone(), scope);
                        false
                    }
                }
            }
            () = future::ready(()), if ready => {
                together = 0;
                feed.show().await;
                yield_now().await;
                false
            }
            () = feed.nudge.notified(), if expected.is_none() => {
                expected = feed.misses_expected();
                wait.as_mut().set(tokio::time::sleep(patience.0));
                false
            }
            () = &mut wait, if expected.is_some() => {
                feed.nudge.notify_one();
                expected.take().is_some_and(|expected| feed.fleet().misses(expected))
            }
            () = tokio::time::sleep(HOLD), if holds_back => false,
        };
        feed.fleet().tick(clock.monotonic());
        if !missing {
            continue;
        }
        // Nobody waits until what is missing has been read.
        feed.show().await;
        match feed.fill(&services).await {
            Ok(count) => patience.found(count, feed.late.swap(false, Ordering::Relaxed)),
            Err(error) => {
                warn!(%error, fleet.id = %scope.fleet, "a gap could not be filled yet");
                feed.nudge.notify_one();
            }
        }
    }
}

/// Follows again as soon as the live bus is there. What was missed until then is lost.
fn resubscribed(services: Services, scope: Scope) -> BoxStream<'static, Heard> {
    let heard = async move {
        loop {
            match services.live.subscribe(scope).await {
                Ok(heard) => return stream::once(future::ready(Heard::Lost)).chain(heard),
                Err(error) => {
                    warn!(%error, fleet.id = %scope.fleet, "the live bus is away");
                    tokio::time::sleep(SILENCE).await;
                }
            }
        }
    };
    stream::once(heard).flatten().boxed()
}

#[cfg(test)]
mod tests;
