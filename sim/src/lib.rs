//! The simulation, first ring: the real fold, projector, sessions and resume over faulty ports, from a seed. What happened is
//! checked against the guarantees; the same seed gives the same history.

pub mod check;
pub mod client;
pub mod faulty;
pub mod offline;
pub mod process;
pub mod projecting;
pub mod rng;
pub mod roster;
pub mod socket;
pub mod tally;
pub mod truth;
pub mod world;

use anyhow::Context;
use ringforge_domain::planted;

use crate::{tally::Tally, world::World};

/// The bugs that can be planted; each must be found.
pub const PLANTED: [&str; 5] =
    ["seam_too_early", "seam_too_late", "guard_dropped", "last_publish_lost", "version_restarts"];

/// Steps of one world, about.
const STEPS: u64 = 1_200;

/// What came of one seed.
#[derive(Debug)]
pub struct Report {
    /// Hash over everything that happened.
    pub trace: u64,
    /// What was met.
    pub tally: Tally,
}

/// Lets the world of a seed live, come to rest, and checks it.
///
/// # Errors
/// A guarantee is broken.
pub fn run(seed: u64, bug: &'static str) -> anyhow::Result<Report> {
    planted::plant(bug);
    let mut world = World::of(seed).context("the world could not be made")?;
    let steps = STEPS / 2 + world.rng.below(STEPS);
    world.live(steps)?;
    world.come_to_rest()?;
    check::check(&world)?;
    Ok(Report { trace: world.trace.value(), tally: world.tally.clone() })
}
