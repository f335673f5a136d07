//! The simulation, first ring: the real fold, projector, sessions and resume over faulty ports, from a seed. What happened is
//! checked against the guarantees; the same seed gives the same history.

pub mod check;
pub mod faulty;
pub mod history;
pub mod offline;
pub mod process;
pub mod projecting;
pub mod rng;
pub mod roster;
pub mod script;
pub mod socket;
pub mod tally;
pub mod truth;
pub mod twins;
pub mod vocabulary;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, anyhow};
use ringforge_domain::{
    buggify::decide_by,
    planted::{Bug, plant},
};

use crate::{
    history::History,
    script::{Step, shrink, steps},
    tally::Tally,
    world::World,
};

/// How often a broken world is tried again with less of it.
const TRIES: usize = 600;

/// What came of one seed.
#[derive(Debug)]
pub struct Report {
    /// Hash over everything that happened.
    pub trace: u64,
    /// What was met.
    pub tally: Tally,
}

/// A world that breaks a guarantee, as short as it could be made.
#[derive(Debug)]
pub struct Broken {
    /// Its seed.
    pub seed: u64,
    /// What the whole world broke.
    pub error: anyhow::Error,
    /// How many of its steps are needed, and how many it had.
    pub steps: (usize, usize),
    /// What happens in these, and what they break.
    pub story: Vec<String>,
}

/// Lets the world of a seed live, come to rest, and checks it.
///
/// # Errors
/// A guarantee is broken.
pub fn run(seed: u64, bug: Option<Bug>) -> anyhow::Result<Report> {
    let tally = Tally::default();
    let (history, trace) = live(seed, &steps(seed), bug, &tally)?;
    check::check(&history, &tally)?;
    Ok(Report { trace, tally })
}

/// What happened in the world of a seed.
///
/// # Errors
/// A role met what it must never meet.
pub fn history(seed: u64) -> anyhow::Result<History> {
    Ok(live(seed, &steps(seed), None, &Tally::default())?.0)
}

/// Lets a world live through these steps and come to rest.
fn live(seed: u64, steps: &[Step], bug: Option<Bug>, tally: &Tally) -> anyhow::Result<(History, u64)> {
    plant(bug);
    let mut world = World::of(seed, tally.clone()).context("the world could not be made")?;
    decide_by(Some(world.rarities()));
    for step in steps {
        world.step(step)?;
    }
    tally.tell(|| "no more faults: everything comes to rest".to_owned());
    world.come_to_rest()?;
    decide_by(None);
    let trace = world.trace.value();
    Ok((world.tell()?, trace))
}

/// As [`run`]; a broken world is made short.
///
/// # Errors
/// A guarantee is broken.
pub fn explore(seed: u64, bug: Option<Bug>) -> Result<Report, Box<Broken>> {
    let attempt = |steps: &[Step], tally: &Tally| {
        let lived = || {
            let (history, trace) = live(seed, steps, bug, tally)?;
            check::check(&history, tally).map(|()| trace)
        };
        catch_unwind(AssertUnwindSafe(lived)).unwrap_or_else(|_| Err(anyhow!("panicked, see above")))
    };
    let (all, tally) = (steps(seed), Tally::default());
    let error = match attempt(&all, &tally) {
        Ok(trace) => return Ok(Report { trace, tally }),
        Err(error) => error,
    };
    let broken = guarantee(&error);
    let same = |steps: &[Step]| attempt(steps, &Tally::default()).is_err_and(|error| guarantee(&error) == broken);
    let short = shrink(&all, TRIES, same);
    let tally = Tally::telling();
    let end = attempt(&short, &tally).map_or_else(|error| format!("{error:#}"), |_| "nothing, this time".to_owned());
    let mut story = tally.story();
    story.push(end);
    Err(Box::new(Broken { seed, error, steps: (short.len(), all.len()), story }))
}

/// The guarantee that a failure names.
fn guarantee(error: &anyhow::Error) -> String {
    let text = error.root_cause().to_string();
    text.split(':').next().unwrap_or_default().to_owned()
}
