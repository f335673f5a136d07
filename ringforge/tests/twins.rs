//! Twin runs: what a tenant sees when it is alone is what it sees beside an adversary in the next rooms, but for time. The
//! same seed gives both the same life; then their histories are made normal and compared, and nothing of the adversary is in
//! any byte that the tenant was sent.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "twins/adversary.rs"]
mod adversary;
#[path = "twins/normal.rs"]
mod normal;
#[path = "support.rs"]
mod support;
#[path = "twins/tenant.rs"]
mod tenant;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use adversary::{Adversary, Loot, Way};
use normal::{normal, words};
use ringforge_sim::tally::lock;
use support::{Options, Server};
use tenant::Tenant;

/// The victim's fleets, and so the adversary's.
const FLEETS: [&str; 2] = ["main", "side"];
/// Whoever leaves has left at once.
const CONFIG: &str = "[timing]\nleave_grace_ms = 50\n";
/// Seeds of a long run.
const SEEDS: u64 = 5;
/// Steps of each.
const STEPS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_does_not_notice_its_neighbour() {
    twins(1, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make proof"]
async fn tenants_do_not_notice_their_neighbours() {
    let first: u64 =
        std::env::var("RINGFORGE_SEED").map_or(2, |seed| seed.parse().expect("RINGFORGE_SEED is a number"));
    for seed in first..first + SEEDS {
        twins(seed, STEPS).await;
    }
}

async fn twins(seed: u64, steps: usize) {
    eprintln!("seed: RINGFORGE_SEED={seed}");
    let (alone, beside) = tokio::join!(alone(seed, steps), beside(seed, steps));
    for (at, (one, other)) in alone.iter().zip(&beside).enumerate() {
        assert!(one == other, "line {at} differs.\nalone:  {one}\nbeside: {other}");
    }
    assert_eq!(alone.len(), beside.len(), "one of them saw more");
    eprintln!("{} lines are the same", alone.len());
}

fn server(tenants: &[&str]) -> Server {
    let fleets = FLEETS.iter().map(|slug| (*slug).to_owned()).collect::<Vec<_>>();
    let tenants = tenants.iter().map(|name| ((*name).to_owned(), fleets.clone())).collect();
    Server::start(Options { config: CONFIG.to_owned(), tenants, ..Options::default() })
}

fn keys(server: &Server, tenant: &str) -> Vec<String> {
    FLEETS.iter().map(|fleet| server.key(tenant, fleet).to_owned()).collect()
}

/// What the tenant sees on a server of its own.
async fn alone(seed: u64, steps: usize) -> Vec<String> {
    let server = server(&["acme"]);
    let tenant = Tenant::new(server.ws_url(), keys(&server, "acme"), seed, Arc::default());
    normal(&tenant.live(steps).await.clients)
}

/// What it sees with the adversary on the same server.
async fn beside(seed: u64, steps: usize) -> Vec<String> {
    let server = server(&["evil", "acme"]);
    let loot = Arc::new(Loot::default());
    let way = Way {
        url: server.ws_url().to_owned(),
        keys: keys(&server, "evil"),
        victim: server.key("acme", FLEETS[0]).to_owned(),
        fleet: server.fleet("acme", FLEETS[0])["id"].as_str().expect("a fleet has an id").to_owned(),
    };
    let (adversary, attackers) = Adversary::attack(way, Arc::clone(&loot), seed);
    let tenant = Tenant::new(server.ws_url(), keys(&server, "acme"), seed, loot).live(steps).await;
    adversary.stop();
    for attacker in attackers {
        attacker.await.expect("an attacker comes to its end");
    }
    nothing_got_out(&server, &adversary, &tenant.bytes);
    normal(&tenant.clients)
}

/// Nothing that the adversary said or was given is in what the tenant was sent.
fn nothing_got_out(server: &Server, adversary: &Adversary, bytes: &[String]) {
    let mut given: BTreeSet<String> = lock(&adversary.ids).clone();
    given.insert(server.tenant("evil")["id"].as_str().expect("a tenant has an id").to_owned());
    for fleet in FLEETS {
        given.insert(server.fleet("evil", fleet)["id"].as_str().expect("a fleet has an id").to_owned());
        given.insert(server.key("evil", fleet).to_owned());
    }
    for text in bytes {
        let said = adversary.canaries.iter().find(|canary| text.contains(*canary));
        assert_eq!(said, None, "the tenant was sent {text}");
        let id = words(text).map(|(word, _)| word).find(|word| given.contains(*word));
        assert_eq!(id, None, "the tenant was sent {text}");
    }
    let [answered, entered, refused] =
        [&adversary.answered, &adversary.entered, &adversary.refused].map(|count| count.load(Ordering::Relaxed));
    eprintln!("the neighbour: {answered} answers, {entered} sessions, {refused} refused, {} ids", given.len());
    assert!(answered > 500 && entered > 10 && refused > 0, "the neighbour did too little");
}
