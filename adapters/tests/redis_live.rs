//! The live bus on Redis while Redis is killed, emptied, frozen, rearranged or not as it must be: what was lost is told where it
//! was lost, nobody waits for long, and everything goes on by itself. Each test has servers of its own.
#![cfg(feature = "cluster")]

#[path = "redis_live/cluster.rs"]
mod cluster;
#[path = "redis_live/server.rs"]
mod server;

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt, stream::BoxStream};
use ringforge_adapters::live::redis::RedisLive;
use ringforge_domain::{
    code::{Code, Refusal},
    ids::{CommandId, FleetId, Scope, TenantId},
    limits::{LIVE_UPDATE_BYTES_MAX, LIVE_WAIT},
    position::{LogTime, Offset, Partition, Position},
    verdict::{Index, Outcome, Verdict},
};
use ringforge_ports::{
    Error,
    contract::PATIENCE,
    live::{Heard, Live, News},
    names,
    reads::Update,
};
use server::Server;
use tokio::time::{sleep, timeout};

const FLEET: Scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(70) };
const LEASE: Duration = Duration::from_secs(15);
/// What is bounded by a second takes less than that.
const BOUND: Duration = LIVE_WAIT.saturating_add(Duration::from_millis(500));

fn head(last: u64) -> News {
    News::Head { scope: FLEET, last: Offset(last) }
}

/// An update that weighs so many bytes and some.
fn update(offset: u64, bytes: usize) -> News {
    let refusal = Refusal::new(Code::Conflict).with("current_value", "x".repeat(bytes));
    let verdict = Verdict {
        position: Position { partition: Partition::POOL, offset: Offset(offset) },
        time: LogTime(5),
        scope: FLEET,
        command_id: CommandId::from_bits(1),
        agent: None,
        previous: None,
        outcome: Outcome::Refused(refusal),
        first: None,
        index: Index::default(),
    };
    News::from(Update { event: None, verdict })
}

type Follower = BoxStream<'static, Heard>;

async fn next(follower: &mut Follower) -> Heard {
    timeout(PATIENCE, follower.next()).await.expect("something is heard").expect("it does not end")
}

fn number(heard: &Heard) -> Option<u64> {
    match heard {
        Heard::News(News::Head { last, .. }) => Some(last.0),
        Heard::News(News::Update { update, .. }) => Some(update.verdict.position.offset.0),
        Heard::Lost => None,
    }
}

/// Publishes one number after the other until one is heard again, and holds the follower to saying what it missed.
async fn goes_on(live: &dyn Live, follower: &mut Follower, after: u64) -> u64 {
    let (mut expected, mut gap, mut losses) = (after + 1, false, 0);
    for number_now in after + 1.. {
        assert!(number_now < after + 2_000, "it never goes on");
        let _away = live.publish(&[head(number_now)]).await;
        sleep(Duration::from_millis(10)).await;
        while let Some(heard) = follower.next().now_or_never() {
            let heard = heard.expect("it does not end");
            let Some(at) = number(&heard) else {
                (gap, losses) = (true, losses + 1);
                continue;
            };
            assert!(at == expected || (gap && at > expected), "{at} was heard in place of {expected}");
            (expected, gap) = (at + 1, false);
        }
        if losses > 0 && expected == number_now + 1 {
            return number_now;
        }
    }
    unreachable!("numbers do not end")
}

/// Refused as unavailable, and soon.
async fn refuses<T>(what: impl Future<Output = Result<T, Error>>) {
    let came = timeout(BOUND, what).await.expect("nobody waits for longer than a second");
    assert!(matches!(came, Err(Error::Unavailable(_))));
}

/// Refused without a wait.
async fn refuses_at_once(live: &dyn Live) {
    let came = timeout(Duration::from_millis(20), live.publish(&[head(1)])).await;
    assert!(came.expect("nobody waits for what is known to be away").is_err());
}

/// Waits until the server is reached again.
async fn reached(live: &dyn Live) {
    let reached = async {
        while live.scan("x/").await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, reached).await.expect("it is reached again");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_empty_is_followed_again() {
    let Some(mut server) = Server::start("a_server_that_is_killed") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let (mut one, mut other) =
        (live.subscribe(FLEET).await.expect("followed"), live.subscribe(FLEET).await.expect("followed"));
    let lease = names::EDGE_LEASES.to_owned() + "one";
    live.put(&lease, "held", LEASE).await.expect("put");
    live.scan(names::EDGE_LEASES).await.expect("scanned");
    live.publish(&[head(1)]).await.expect("published");
    for follower in [&mut one, &mut other] {
        assert_eq!(next(follower).await, Heard::News(head(1)));
    }
    server.kill();
    refuses(live.publish(&[head(2)])).await;
    refuses(live.put(&lease, "held", LEASE)).await;
    refuses(live.scan(names::EDGE_LEASES)).await;
    refuses(live.count("counter", 1, LEASE)).await;
    refuses(live.subscribe(FLEET)).await;
    refuses_at_once(&*live).await;
    server.restart();
    let last = goes_on(&*live, &mut one, 2).await;
    assert_eq!(next(&mut other).await, Heard::Lost, "it missed the same");
    let mut heard = next(&mut other).await;
    while number(&heard) != Some(last) {
        heard = next(&mut other).await;
    }
    let found = live.scan(names::EDGE_LEASES).await.expect("scanned");
    assert!(found.facts.is_empty() && found.intact < Duration::from_secs(1), "{found:?}");
}

#[tokio::test]
async fn leases_that_were_flushed_are_known_to_be_lost() {
    let Some(server) = Server::start("leases_that_were_flushed") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    let intact = async || live.scan(names::EDGE_LEASES).await.expect("scanned").intact;
    intact().await;
    sleep(Duration::from_millis(300)).await;
    assert!(intact().await >= Duration::from_millis(300), "nothing was lost");
    server.ask::<()>(&["FLUSHALL"]).await;
    assert!(intact().await < Duration::from_millis(100), "everything was lost");
    live.publish(&[head(1)]).await.expect("published");
    assert_eq!(next(&mut follower).await, Heard::News(head(1)), "channels are no facts");
}

#[tokio::test]
async fn a_directory_that_was_not_looked_at_for_long_is_not_vouched_for() {
    let Some(server) = Server::start("a_directory_that_was_not_looked_at") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    live.put("d/now", "", LEASE).await.expect("put");
    live.scan("d/").await.expect("scanned");
    // As if the clock had been set forward by a minute, then as if it had been set back.
    let key = "ringforge:facts:d/";
    let intact: String = server.ask(&["HGET", key, "intact"]).await;
    let mut parts = intact.split(' ');
    let (run, now) =
        (parts.next().expect("a run"), parts.next().and_then(|now| now.parse::<u64>().ok()).expect("a time"));
    for (since, looked) in [(now - 90_000, now - 60_000), (now + 60_000, now + 60_000)] {
        server.ask::<()>(&["HSET", key, "intact", &format!("{run} {since} {looked}")]).await;
        let found = live.scan("d/").await.expect("scanned");
        assert!(found.intact < Duration::from_secs(1), "{found:?}");
    }
    let (put, ends) = (now + 60_000, now + 75_000);
    server.ask::<()>(&["HSET", key, "=later", &format!("{put} {ends} held")]).await;
    let found = live.scan("d/").await.expect("scanned");
    assert_eq!(found.facts, [("d/now".to_owned(), String::new())], "nobody puts in the future");
}

#[tokio::test]
async fn what_has_ended_goes_even_if_nobody_looks() {
    let Some(server) = Server::start("what_has_ended_goes") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    for at in 0..500 {
        live.put(&format!("d/{at}"), "", Duration::from_millis(1)).await.expect("put");
    }
    sleep(Duration::from_millis(5)).await;
    for _ in 0..500 {
        live.put("d/last", "", LEASE).await.expect("put");
    }
    let left: usize = server.ask(&["HLEN", "ringforge:facts:d/"]).await;
    assert!(left < 200, "{left}");
    assert_eq!(live.scan("d/").await.expect("scanned").facts, [("d/last".to_owned(), String::new())]);
}

#[tokio::test]
async fn a_cut_connection_is_made_again_and_the_loss_is_told() {
    let Some(server) = Server::start("a_cut_connection") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    let mut last = 0;
    for _ in 0..3 {
        server.ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        last = goes_on(&*live, &mut follower, last).await;
    }
    server.ask::<u32>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    reached(&*live).await;
    live.publish(&[head(last + 1)]).await.expect("published");
    assert_eq!(next(&mut follower).await, Heard::News(head(last + 1)), "that one was not cut");
}

#[tokio::test]
async fn a_follower_that_is_cut_for_its_backlog_hears_that_it_lost() {
    let Some(server) = Server::start("a_follower_that_is_cut") else { return };
    server.ask::<()>(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 100kb 100kb 0"]).await;
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    // More at once than the server keeps for anyone.
    let flood: Vec<_> = (0..1_000).map(|at| update(at, 10_000)).collect();
    live.publish(&flood).await.expect("published");
    goes_on_from_anywhere(&*live, &mut follower, 1_000).await;
}

/// As [`goes_on`], when some of what came before may still be heard.
async fn goes_on_from_anywhere(live: &dyn Live, follower: &mut Follower, from: u64) {
    let (mut expected, mut gap, mut now) = (0, false, from);
    while expected <= from {
        let _away = live.publish(&[head(now)]).await;
        now += 1;
        sleep(Duration::from_millis(10)).await;
        while let Some(heard) = follower.next().now_or_never() {
            let Some(at) = number(&heard.expect("it does not end")) else {
                gap = true;
                continue;
            };
            assert!(at == expected || (gap && at > expected), "{at} was heard in place of {expected}");
            (expected, gap) = (at + 1, false);
        }
        assert!(now < from + 1_000, "it never goes on");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_frozen_server() {
    let Some(server) = Server::start("nobody_waits_for_a_frozen_server") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    server.freeze();
    let news = [head(1)];
    tokio::join!(
        refuses(live.publish(&news)),
        refuses(live.put("d/fact", "", LEASE)),
        refuses(live.scan("d/")),
        refuses(live.subscribe(FLEET)),
    );
    for _ in 0..20 {
        refuses_at_once(&*live).await;
        sleep(Duration::from_millis(50)).await;
    }
    server.thaw();
    goes_on_from_anywhere(&*live, &mut follower, 1).await;
    reached(&*live).await;
    live.put("d/fact", "", LEASE).await.expect("put");
}

#[tokio::test]
async fn followers_share_a_subscription_and_the_last_one_ends_it() {
    let Some(server) = Server::start("followers_share_a_subscription") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let channel = names::fleet_channel(names::DEPLOYMENT, FLEET);
    let followed = async || {
        let (_, count): (String, u32) = server.ask(&["PUBSUB", "SHARDNUMSUB", &channel]).await;
        count
    };
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(live.subscribe(FLEET).await.expect("followed"));
        assert_eq!(followed().await, 1);
    }
    let clients: String = server.ask(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.lines().count(), 3, "two of ours and the one that asks: {clients}");
    followers.truncate(1);
    live.publish(&[head(1)]).await.expect("published");
    assert_eq!(next(&mut followers[0]).await, Heard::News(head(1)));
    followers.clear();
    let left = async {
        while followed().await > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, left).await.expect("nobody follows");
    let mut again = live.subscribe(FLEET).await.expect("followed");
    drop(live);
    assert_eq!(again.next().await, None, "it ends with the bus");
    let closed = async {
        while server.ask::<String>(&["CLIENT", "LIST"]).await.lines().count() > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("all connections end with the bus");
}

#[tokio::test]
async fn large_updates_travel_as_heads() {
    let Some(server) = Server::start("large_updates_travel_as_heads") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    live.publish(&[update(1, 100), update(2, LIVE_UPDATE_BYTES_MAX), update(3, 100)]).await.expect("published");
    for want in [update(1, 100), head(2), update(3, 100)] {
        assert!(next(&mut follower).await == Heard::News(want));
    }
}

#[tokio::test]
async fn news_that_cannot_be_read_are_a_loss() {
    let Some(server) = Server::start("news_that_cannot_be_read") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    server.ask::<u32>(&["SPUBLISH", &names::fleet_channel(names::DEPLOYMENT, FLEET), "what?"]).await;
    live.publish(&[head(1)]).await.expect("published");
    assert_eq!(next(&mut follower).await, Heard::Lost);
    assert_eq!(next(&mut follower).await, Heard::News(head(1)));
}

#[tokio::test]
async fn a_server_without_memory_refuses_and_forgets_nothing() {
    let Some(server) = Server::start("a_server_without_memory") else { return };
    let live = RedisLive::open(&server.url()).await.expect("it opens");
    let mut follower = live.subscribe(FLEET).await.expect("followed");
    let lease = |name: &str| names::EDGE_LEASES.to_owned() + name;
    live.put(&lease("one"), "held", LEASE).await.expect("put");
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = live.put(&lease("two"), "held", LEASE).await;
    assert!(matches!(&refused, Err(Error::Unavailable(what)) if what.contains("maxmemory")), "{refused:?}");
    // What nobody has to keep goes on.
    live.publish(&[head(1)]).await.expect("published");
    assert_eq!(next(&mut follower).await, Heard::News(head(1)));
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let known = live.scan(names::EDGE_LEASES).await.expect("scanned");
    assert_eq!(known.facts, [(lease("one"), "held".to_owned())], "none is silently absent");
    let stats: String = server.ask(&["INFO", "stats"]).await;
    assert!(stats.contains("evicted_keys:0\r"), "{stats}");
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_told_once_and_clearly() {
    let Some(server) = Server::start("what_is_wrong_with_a_server") else { return };
    let wrong = async |url: &str| match timeout(3 * LIVE_WAIT, RedisLive::open(url)).await.expect("it is told soon") {
        Ok(_) => panic!("{url} was taken"),
        Err(error) => error.to_string(),
    };
    let url = server.url();
    let has = |error: &str, what: &str| assert!(error.contains(what), "{error} does not say {what}");
    has(&wrong(&url.replace("redis:", "redises:")).await, "rediss://");
    has(&wrong(&format!("{url},{}", url.trim_start_matches("redis://"))).await, "is no cluster");
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    has(&wrong(&url).await, "CONFIG SET maxmemory-policy noeviction");
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.ask::<()>(&["CONFIG", "SET", "requirepass", "secret"]).await;
    has(&wrong(&url).await, "refuses user or password");
    let guess = wrong(&url.replace("redis://", "redis://:guess@")).await;
    has(&guess, "refuses user or password");
    assert!(!guess.contains("guess"), "{guess}");
    RedisLive::open(&url.replace("redis://", "redis://:secret@")).await.expect("the right password");
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_found_once_it_is_there() {
    let Some(mut server) = Server::start("a_server_that_is_away_at_first") else { return };
    for frozen in [true, false] {
        if frozen {
            server.freeze();
        } else {
            server.kill();
        }
        let opened = timeout(3 * LIVE_WAIT, RedisLive::open(&server.url())).await.expect("nobody waits for it");
        let live = opened.expect("it is only away");
        refuses_at_once(&*live).await;
        let mut early = Box::pin(live.subscribe(FLEET));
        assert!((&mut early).now_or_never().is_none(), "nobody has confirmed");
        if frozen {
            server.thaw();
        } else {
            server.restart();
        }
        reached(&*live).await;
        let mut follower = live.subscribe(FLEET).await.expect("followed");
        live.publish(&[head(1)]).await.expect("published");
        assert_eq!(next(&mut follower).await, Heard::News(head(1)));
    }
}
