//! How fast the live bus on Redis is. Run it in a release build, with servers:
//! `scripts/services run cargo test --profile perf -p ringforge-adapters --features cluster --test figures_live -- --ignored
//! --nocapture --test-threads 1`
#![cfg(feature = "cluster")]

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use ringforge_adapters::live::redis::RedisLive;
use ringforge_domain::{
    activity,
    ids::{AgentId, FleetId, Scope},
    schema,
    world::World,
};
use ringforge_ports::{
    clock::{Clock, SystemClock},
    contract,
    live::{Heard, Live, News},
    names,
    reads::Update,
};

/// An update of about 500 bytes of event, of some fleet.
fn update(world: &mut World, fleet: u128) -> News {
    world.scope.fleet = FleetId::from_bits(fleet << 64);
    let member = world.joins("someone");
    let broadcast = activity::Broadcast {
        kind: "discovery".to_owned(),
        description: Some("what was found out just now ".repeat(14)),
        tags: vec!["one".to_owned(), "two".to_owned()],
        ..activity::Broadcast::default()
    };
    let folded = world.when(&member, broadcast);
    let record = schema::encode(&folded.event.at.header, &folded.event.command);
    let update = Update { event: Some(folded.event), verdict: folded.verdict };
    News::Update { update: Arc::new(update), record: Some(record.into()) }
}

/// How long ago that was.
fn since(clock: &SystemClock, begun: Duration) -> Duration {
    clock.monotonic().saturating_sub(begun)
}

fn percentile(times: &mut [Duration], of_thousand: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * of_thousand / 1_000]
}

async fn live(address: &str) -> Arc<RedisLive> {
    RedisLive::open(&format!("{address}?prefix=figures")).await.expect("it opens")
}

/// One at a time: from before it is published until it is heard.
async fn latency(address: &str) -> String {
    let (bus, edge, clock) = (live(address).await, live(address).await, SystemClock::start());
    let news = update(&mut World::new(), 1);
    let mut follower = edge.subscribe(news.scope()).await.expect("followed");
    let mut times = Vec::new();
    for _ in 0..5_000 {
        let begun = clock.monotonic();
        let (published, heard) = tokio::join!(bus.publish(std::slice::from_ref(&news)), follower.next());
        published.expect("published");
        assert!(heard == Some(Heard::News(news.clone())));
        times.push(since(&clock, begun));
    }
    format!("heard after p50 {:?}, p99 {:?}", percentile(&mut times, 500), percentile(&mut times, 990))
}

/// Pipelines of 100, over 10 fleets.
async fn rate(address: &str, followers: usize) -> String {
    let (bus, edge, clock) = (live(address).await, live(address).await, SystemClock::start());
    let mut world = World::new();
    let some: Vec<News> = (0..10).map(|fleet| update(&mut world, fleet)).collect();
    let news: Vec<News> = some.iter().cycle().take(100).cloned().collect();
    let mut streams = Vec::new();
    for piece in some.iter().cycle().take(followers) {
        streams.push(edge.subscribe(piece.scope()).await.expect("followed"));
    }
    let rounds: u32 = 500;
    let each = rounds as usize * 10;
    let counts = streams.into_iter().map(|stream| {
        tokio::spawn(stream.take(each).filter(|heard| std::future::ready(*heard != Heard::Lost)).count())
    });
    let counts: Vec<_> = counts.collect();
    let begun = clock.monotonic();
    for _ in 0..rounds {
        bus.publish(&news).await.expect("published");
    }
    let published = since(&clock, begun);
    let heard: usize = join_all(counts).await.into_iter().map(|count| count.expect("counted")).sum();
    let all = since(&clock, begun);
    let per_second = |time: Duration| f64::from(rounds * 100) / time.as_secs_f64();
    format!("{:.0}/s published, {:.0}/s heard ({heard} by {followers})", per_second(published), per_second(all))
}

/// The heartbeats of a fleet of 100 among 200,000.
async fn scan(address: &str) -> String {
    let (live, clock) = (live(address).await, SystemClock::start());
    let scope = |fleet: u128| Scope { fleet: FleetId::from_bits(fleet), ..Scope::OPERATOR };
    for fleet in 0..2_000 {
        let keys: Vec<_> = (0..100).map(|agent| names::heartbeat(scope(fleet), AgentId::from_bits(agent))).collect();
        join_all(keys.iter().map(|key| live.put(key, "{}", Duration::from_mins(2)))).await;
    }
    let mut times = Vec::new();
    for fleet in 0..1_000 {
        let begun = clock.monotonic();
        let found = live.scan(&names::heartbeats(scope(fleet))).await.expect("scanned");
        times.push(since(&clock, begun));
        assert_eq!(found.facts.len(), 100);
    }
    format!("scanned in p50 {:?}, p99 {:?}", percentile(&mut times, 500), percentile(&mut times, 990))
}

async fn put(address: &str) -> String {
    let (live, clock) = (live(address).await, SystemClock::start());
    let begun = clock.monotonic();
    for round in 0..200_u32 {
        let keys: Vec<_> = (0..100).map(|at| format!("d{}/{at}", round % 7)).collect();
        join_all(keys.iter().map(|key| live.put(key, "{}", Duration::from_mins(2)))).await;
    }
    format!("{:.0} puts/s, 100 at a time", 20_000.0 / (since(&clock, begun)).as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures() {
    for variable in ["TEST_REDIS", "TEST_REDIS_CLUSTER"] {
        let Some(address) = contract::server(variable, "figures") else { continue };
        println!("{variable}");
        println!("  {}", latency(&address).await);
        println!("  {}", rate(&address, 0).await);
        println!("  {}", rate(&address, 10).await);
        println!("  {}", put(&address).await);
        println!("  {}", scan(&address).await);
    }
}
