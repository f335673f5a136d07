//! Row 32 of the fault matrix: everybody is dropped at once and comes back at once, while events go on.

use std::time::{Duration, Instant};

use crate::{alone, crowd::Size};

/// How long it may take until everybody is back.
const BACK_WITHIN: Duration = Duration::from_mins(1);
/// How much later than those of all fleets the agents of one may be back, at their median.
const UNFAIR: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_at_once_and_misses_nothing() {
    come_back(Size { fleets: 4, agents: 25, every: Duration::from_millis(50) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn two_thousand_come_back_at_once_and_miss_nothing() {
    come_back(Size { fleets: 20, agents: 100, every: Duration::from_millis(40) }).await;
}

async fn come_back(size: Size) {
    let _alone = alone().await;
    let all = size.fleets * size.agents;
    let mut server = size.server("");
    let mut crowd = size.gather(&server).await;
    size.speak(&server, &mut crowd);
    crowd
        .until("every agent has seen something", |crowd| {
            crowd.seen.iter().flatten().all(|seen| seen.last.load(std::sync::atomic::Ordering::Relaxed) >= 3)
        })
        .await;

    server.kill9();
    let killed = Instant::now();
    server.restart();
    let (ready, said) = (Instant::now(), crowd.said());
    crowd.find(&server);
    crowd.until("everybody is back", |crowd| crowd.backs().iter().flatten().all(|back| *back > Some(killed))).await;
    let took = ready.elapsed();
    let due = took.as_millis() / size.every.as_millis() * size.fleets as u128;
    let said = crowd.said() - said;
    let medians = medians(&crowd.backs(), ready);
    let whole = medians.iter().sum::<Duration>() / u32::try_from(medians.len()).expect("a few");
    let (first, last) = (medians.iter().min().expect("some"), medians.iter().max().expect("some"));
    eprintln!(
        "{all} were back within {took:?}, {said} of {due} events meanwhile; medians of the fleets: {first:?} to {last:?}"
    );
    assert!(took < BACK_WITHIN, "all were back only after {took:?}");
    assert!(*last < 2 * whole + UNFAIR, "one fleet's agents were back at {last:?}, others' at {whole:?}");
    assert!(5 * u128::from(said) > due, "events go on: {said} of {due}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    crowd.end().await;
}

/// When half of each fleet was back.
fn medians(backs: &[Vec<Option<Instant>>], since: Instant) -> Vec<Duration> {
    let median = |fleet: &Vec<Option<Instant>>| {
        let mut backs: Vec<Instant> = fleet.iter().flatten().copied().collect();
        backs.sort();
        backs[backs.len() / 2].saturating_duration_since(since)
    };
    backs.iter().map(median).collect()
}
