//! `ringforge-sim --seeds N`: simulates N worlds. Prints what was met, and fails if a guarantee broke or something that
//! should be met never was.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use ringforge_domain::planted::Bug;
use ringforge_sim::{Broken, explore, run, tally::Tally, twins};

/// Seeds from which on everything must have been met.
const ENOUGH: u64 = 1_000;

/// Simulates worlds with faults.
#[derive(Parser)]
struct Options {
    /// How many worlds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The seed of the first.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A bug to plant: then a world must break. `all` tries each.
    #[arg(long)]
    planted: Option<String>,
    /// Simulates twins instead: a tenant alone and beside a stranger.
    #[arg(long)]
    twins: bool,
    /// Threads; each simulates whole worlds.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told if even this cannot be.
            let _ = writeln!(stdout(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(options: &Options) -> anyhow::Result<()> {
    match options.planted.as_deref() {
        None if options.twins => apart(options),
        None => sound(options),
        Some("all") => Bug::ALL.iter().try_for_each(|bug| found(options, *bug)),
        Some(name) => {
            let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
            found(options, bug.with_context(|| format!("there is no bug `{name}`, only {:?}", Bug::ALL))?)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "seeds per second are those of this machine")]
fn sound(options: &Options) -> anyhow::Result<()> {
    let (total, began) = (Tally::default(), Instant::now());
    let broken = batch(options, |seed| explore(seed, None).map(|report| total.add(&report.tally)));
    for (what, count) in total.all() {
        writeln!(stdout(), "{count:>10}  {what}")?;
    }
    if let Some(broken) = broken {
        return Err(told(&broken));
    }
    let never: Vec<String> = total.all().into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect();
    if options.seeds >= ENOUGH && !never.is_empty() {
        bail!("{} seeds never met: {}", options.seeds, never.join("; "));
    }
    let seconds = began.elapsed().as_secs().max(1);
    writeln!(stdout(), "{} seeds hold, {} a second", options.seeds, options.seeds / seconds)?;
    Ok(())
}

fn apart(options: &Options) -> anyhow::Result<()> {
    let broken = batch(options, |seed| twins::check(seed).map_err(|error| error.context(format!("seed {seed}"))));
    if let Some(error) = broken {
        return Err(error);
    }
    writeln!(stdout(), "{} tenants saw nothing of a stranger", options.seeds)?;
    Ok(())
}

fn told(broken: &Broken) -> anyhow::Error {
    let Broken { seed, error, steps: (needed, all), story } = broken;
    anyhow!(
        "{error:#}\n\nseed {seed} (again with --seeds 1 --seed {seed}); of its {all} steps these {needed} are enough:\n  {}",
        story.join("\n  ")
    )
}

fn found(options: &Options, bug: Bug) -> anyhow::Result<()> {
    let broken = batch(options, |seed| run(seed, Some(bug)).map(|_| ()).map_err(|error| (seed, error)));
    let (seed, error) = broken.ok_or_else(|| anyhow!("{bug:?}: not found in {} seeds", options.seeds))?;
    let error = error.root_cause().to_string();
    writeln!(stdout(), "{bug:?}: found by seed {seed}: {}", error.lines().next().unwrap_or_default())?;
    Ok(())
}

/// Simulates a batch up to the first broken world.
fn batch<E: Send>(options: &Options, simulate: impl Fn(u64) -> Result<(), E> + Sync) -> Option<E> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.seeds {
                return None;
            }
            if let Err(broken) = simulate(options.seed + at) {
                stop.store(true, Ordering::Relaxed);
                return Some((at, broken));
            }
        }
        None
    };
    let broken = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().filter_map(|worker| worker.join().ok().flatten());
        ended.min_by_key(|(at, _)| *at)
    });
    broken.map(|(_, broken)| broken)
}
