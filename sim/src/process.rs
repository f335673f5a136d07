//! One life of one edge process: gate, sessions' edge, and the feeds of its fleets, driven step by step as `ws-edge::feed`
//! drives them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use ringforge_command_api::{Caller, Gate, GateConfig};
use ringforge_domain::{
    auth::Auth,
    code::{Code, Refusal},
    cursor::Seal,
    ids::{EdgeId, Scope},
    limits::{Limits, PENDING_MAX},
    planted::{Bug, planted},
    position::{Offset, Partition, StreamRef},
};
use ringforge_ports::{Error, Services, live::Heard, live::News, names};
use ringforge_projectors::timers::{LEASE, LEASE_RENEWED};
use ringforge_query_api::unavailable;
use ringforge_ws_edge::{
    edge::{Edge, EdgeConfig, Inside},
    feed::{Feed, Hub},
    hub::Kept,
    session::SessionConfig,
};

use crate::{
    faulty::{now, soon},
    tally::Tally,
};

/// As in `ws-edge::feed`: how long an own command's update may take before it is looked for.
const EXPECT: Duration = Duration::from_millis(50);
/// As there: how often the heads are asked for.
const SILENCE: Duration = Duration::from_secs(1);
/// As there: how long an empty fleet is kept.
const EMPTY: Duration = Duration::from_secs(30);
/// How long a lost agent may take to come back.
pub const LEAVE_GRACE: Duration = Duration::from_secs(2);
/// As in `ws-edge::edge`: how long until a session's end that could not be logged is tried again.
const LEAVE_AGAIN: Duration = Duration::from_secs(1);
/// For a verdict.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// One life of an edge.
pub struct Process {
    /// Which edge of the bus it is.
    pub place: usize,
    /// What it was given.
    pub services: Services,
    /// The same without the points at which it may fail: for what no role does.
    bare: Services,
    /// The real edge, its hub unused.
    pub edge: Arc<Edge>,
    /// This life.
    pub id: EdgeId,
    seal: Seal,
    kept: Kept,
    tally: Tally,
    feeds: tokio::sync::Mutex<BTreeMap<Scope, Followed>>,
    leaving: std::sync::Mutex<Vec<(Duration, Caller)>>,
    entering: std::sync::Mutex<Vec<BoxFuture<'static, Option<Inside>>>>,
    times: std::sync::Mutex<Times>,
}

#[derive(Default)]
struct Times {
    asked: Duration,
    leased: Option<Duration>,
}

/// A feed and where its follower stands.
struct Followed {
    feed: Arc<Feed>,
    heard: BoxStream<'static, Heard>,
    expected: Option<(Offset, Duration)>,
    filling: Option<BoxFuture<'static, Result<usize, Error>>>,
    empty_since: Option<Duration>,
}

impl Process {
    /// Starts.
    pub fn start(place: usize, services: Services, bare: Services, seal: Seal, tally: Tally) -> Arc<Self> {
        let config = SessionConfig {
            limits: Limits::default(),
            auth_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(30),
            silence_timeout: Duration::from_secs(90),
            reply_timeout: REPLY_TIMEOUT,
            // So little that it is met, and as much as in earnest.
            pending_max: if place == 0 { 3 } else { PENDING_MAX },
            reconnect_after: Duration::from_millis(100),
            version: "0".to_owned(),
            node: place.to_string(),
        };
        let gate = GateConfig { limits: Limits::default(), lag_max: 100_000, reply_timeout: REPLY_TIMEOUT };
        let gate = Gate::new(services.clone(), gate);
        let hub = Hub::new(services.clone(), seal.clone());
        let id = EdgeId::from_bits(services.ids.next());
        let edge = Edge::new(services.clone(), gate, hub, id, EdgeConfig { session: config, leave_grace: LEAVE_GRACE });
        let process = Self {
            place,
            services,
            bare,
            edge,
            id,
            seal,
            kept: Kept::default(),
            tally,
            feeds: tokio::sync::Mutex::default(),
            leaving: std::sync::Mutex::default(),
            entering: std::sync::Mutex::default(),
            times: std::sync::Mutex::default(),
        };
        process.lease();
        Arc::new(process)
    }

    fn monotonic(&self) -> Duration {
        self.services.clock.monotonic()
    }

    fn lease(&self) {
        let lease = names::edge_lease(self.id);
        now(self.bare.live.put(&lease, "held", LEASE)).expect("facts are kept in memory");
        self.times.lock().expect("no panic while the lock is held").leased = Some(self.monotonic());
    }

    /// As `Edge::enter`, with the wait cut open.
    pub async fn enter(self: Arc<Self>, auth: Auth) -> Result<Inside, Refusal> {
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let entrance = self.edge.admit(&auth, None, from).await?;
        let feed = self.feed(entrance.scope, entrance.stream).await.map_err(|error| unavailable(&error))?;
        let (begun, mut taken) = self.edge.begin(&auth, entrance, feed).await?;
        let deadline = self.monotonic() + REPLY_TIMEOUT;
        let verdict = std::future::poll_fn(|context| match taken.poll_unpin(context) {
            Poll::Pending if self.monotonic() >= deadline => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match verdict.await {
            Some(Ok(verdict)) => self.edge.finish(begun, &verdict).await,
            // Its event cannot be read.
            Some(Err(_)) => Err(Refusal::new(Code::ServerError).unknown()),
            None => {
                self.tally.note("situation: entrance given up");
                let process = Arc::clone(&self);
                self.see_out(async move { process.edge.finish(begun, &taken.await.ok()?).await.ok() }.boxed());
                Err(Refusal::new(Code::Timeout))
            }
        }
    }

    /// Whoever comes in by this work is gone already: its session is to end.
    pub fn see_out(&self, entering: BoxFuture<'static, Option<Inside>>) {
        self.entering.lock().expect("no panic while the lock is held").push(entering);
    }

    async fn feed(&self, scope: Scope, stream: StreamRef) -> Result<Arc<Feed>, Error> {
        let mut feeds = self.feeds.lock().await;
        if let Some(followed) = feeds.get(&scope) {
            return Ok(Arc::clone(&followed.feed));
        }
        let (feed, heard) =
            Feed::open(&self.services, self.seal.clone(), scope, stream, Arc::clone(&self.kept)).await?;
        let followed = Followed { feed: Arc::clone(&feed), heard, expected: None, filling: None, empty_since: None };
        feeds.insert(scope, followed);
        Ok(feed)
    }

    /// A connection has ended: its agent has a moment to come back.
    pub fn leave_later(&self, caller: Caller) {
        let due = self.monotonic() + LEAVE_GRACE;
        self.leaving.lock().expect("no panic while the lock is held").push((due, caller));
    }

    /// Renews its lease, ends sessions whose grace is over, asks for heads.
    ///
    /// # Errors
    /// A fleet's chain is broken.
    pub fn tick(&self) {
        let at = self.monotonic();
        let mut times = self.times.lock().expect("no panic while the lock is held");
        let renew = times.leased.is_none_or(|leased| at.saturating_sub(leased) >= LEASE_RENEWED);
        let ask = at.saturating_sub(times.asked) >= SILENCE;
        if ask {
            times.asked = at;
        }
        drop(times);
        if renew {
            self.lease();
        }
        let mut leaving = self.leaving.lock().expect("no panic while the lock is held");
        for (due, caller) in std::mem::take(&mut *leaving) {
            if due > at {
                leaving.push((due, caller));
            } else if soon(self.edge.try_leave(&caller, "closed")).is_none_or(|left| left.is_err()) {
                leaving.push((at + LEAVE_AGAIN, caller));
            }
        }
        drop(leaving);
        self.poll_entering();
        if ask && !planted(Bug::LastPublishLost) {
            self.ask_heads(at);
        }
    }

    fn poll_entering(&self) {
        let entering = std::mem::take(&mut *self.entering.lock().expect("no panic while the lock is held"));
        for mut one in entering {
            match (&mut one).now_or_never() {
                None => self.see_out(one),
                Some(Some(inside)) => self.leave_later(inside.caller),
                Some(None) => {}
            }
        }
    }

    fn ask_heads(&self, at: Duration) {
        let Ok(mut feeds) = self.feeds.try_lock() else { return };
        feeds.retain(|_, followed| {
            let empty = followed.feed.fleet().is_empty() && Arc::strong_count(&followed.feed) == 1;
            followed.empty_since = empty.then(|| followed.empty_since.unwrap_or(at));
            followed.empty_since.is_none_or(|since| at.saturating_sub(since) <= EMPTY)
        });
        for (scope, followed) in feeds.iter() {
            let partition = followed.feed.fleet().encoder.stream.partition;
            let heads = soon(self.services.reads.heads(partition, &[*scope])).and_then(Result::ok);
            if let Some(head) = heads.and_then(|heads| heads.heads.into_iter().next().flatten()) {
                followed.feed.expect(head.last);
            }
        }
    }

    /// Where the first follower of a partition reads on, if one is here.
    pub fn reads_from(&self, partition: Partition) -> Option<Offset> {
        let Ok(feeds) = self.feeds.try_lock() else { return Some(Offset::ZERO) };
        let fleets = feeds.values().map(|followed| followed.feed.fleet());
        let here = fleets.filter(|fleet| fleet.encoder.stream.partition == partition);
        here.map(|fleet| fleet.head().unwrap_or_default()).min()
    }

    /// The fleets that are followed here.
    pub fn followed(&self) -> usize {
        self.feeds.try_lock().map_or(0, |feeds| feeds.len())
    }

    /// One step of one fleet's follower; `false` if there was nothing to do.
    ///
    /// # Errors
    /// The fleet's chain is broken.
    pub fn follow(&self, which: usize) -> Result<bool, Error> {
        let Ok(mut feeds) = self.feeds.try_lock() else { return Ok(false) };
        let Some((scope, followed)) = feeds.iter_mut().nth(which) else { return Ok(false) };
        if let Some(filling) = &mut followed.filling {
            let Some(filled) = filling.now_or_never() else { return Ok(true) };
            followed.filling = None;
            match filled {
                // It is looked for again.
                Err(Error::Unavailable(_)) | Ok(0) => {}
                filled => {
                    filled?;
                    self.tally.note("situation: gap filled");
                }
            }
            return Ok(true);
        }
        let at = self.monotonic();
        let (missing, busy) = self.hear(*scope, followed, at);
        followed.feed.fleet().tick(at);
        // As there: what has come already is shown together, and nobody waits until what is missing has been read.
        let shows = (missing || !busy) && followed.feed.fleet().has_ready();
        if shows {
            soon(followed.feed.show()).ok_or_else(|| Error::Corrupt("a feed does not end showing".to_owned()))?;
        }
        if missing {
            let (feed, services) = (Arc::clone(&followed.feed), self.services.clone());
            followed.filling = Some(async move { feed.fill(&services).await }.boxed());
        }
        Ok(busy || missing || shows)
    }

    /// Whether something is missing, and whether there was anything to do.
    fn hear(&self, scope: Scope, followed: &mut Followed, at: Duration) -> (bool, bool) {
        if let Some((expected, due)) = followed.expected.filter(|(_, due)| at >= *due) {
            debug_assert!(at >= due, "filtered");
            followed.expected = None;
            let missing = followed.feed.fleet().misses(expected);
            if missing {
                self.tally.note("situation: gap noticed by an own command");
            }
            return (missing, true);
        }
        if followed.expected.is_none() {
            followed.expected = followed.feed.misses_expected().map(|expected| (expected, at + EXPECT));
        }
        match followed.heard.next().now_or_never() {
            Some(Some(Heard::News(news))) => (self.hear_news(followed, &news, at), true),
            Some(Some(Heard::Lost)) => (true, true),
            Some(None) => {
                // Until it succeeds there is nothing to hear, which is noticed again.
                let heard = soon(self.services.live.subscribe(scope)).and_then(Result::ok);
                followed.heard = heard.unwrap_or_else(|| stream::empty().boxed());
                (true, true)
            }
            None => (false, false),
        }
    }

    fn hear_news(&self, followed: &Followed, news: &News, at: Duration) -> bool {
        let again = matches!(news, News::Update { update, .. } if !followed.feed.fleet().misses(update.verdict.position.offset));
        if again {
            self.tally.note("situation: update heard twice");
        }
        let missing = followed.feed.hear(news, at);
        if missing {
            let by_head = matches!(news, News::Head { .. });
            let what =
                if by_head { "situation: gap noticed by a head" } else { "situation: gap noticed by the next update" };
            self.tally.note(what);
        }
        missing
    }
}
