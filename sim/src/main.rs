//! `ringforge-sim --seeds N`: simulates N worlds. Prints what was met, and fails if a guarantee broke or something that
//! should be met never was.

use std::{
    io::{Write as _, stdout},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use ringforge_sim::{PLANTED, run, tally::Tally};

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
        None => sound(options),
        Some("all") => PLANTED.iter().try_for_each(|bug| found(options, bug)),
        Some(name) => {
            let bug = PLANTED.iter().find(|bug| **bug == name);
            found(options, bug.with_context(|| format!("there is no bug `{name}`, only {PLANTED:?}"))?)
        }
    }
}

fn sound(options: &Options) -> anyhow::Result<()> {
    let (broken, tally) = batch(options, "");
    for (what, count) in tally.all() {
        writeln!(stdout(), "{count:>10}  {what}")?;
    }
    if let Some((seed, error)) = broken {
        return Err(error.context(format!("seed {seed}: again with --seeds 1 --seed {seed}")));
    }
    let never: Vec<&str> = tally.all().into_iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect();
    if options.seeds >= ENOUGH && !never.is_empty() {
        bail!("{} seeds never met: {}", options.seeds, never.join("; "));
    }
    writeln!(stdout(), "{} seeds hold", options.seeds)?;
    Ok(())
}

fn found(options: &Options, bug: &'static str) -> anyhow::Result<()> {
    let (broken, _) = batch(options, bug);
    let (seed, error) = broken.ok_or_else(|| anyhow!("{bug}: not found in {} seeds", options.seeds))?;
    writeln!(stdout(), "{bug}: found by seed {seed}: {error:#}")?;
    Ok(())
}

/// Simulates a batch up to the first broken world.
fn batch(options: &Options, bug: &'static str) -> (Option<(u64, anyhow::Error)>, Tally) {
    let (next, stop, total) = (AtomicU64::new(0), AtomicBool::new(false), Tally::default());
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.seeds {
                return None;
            }
            let seed = options.seed + at;
            match catch_unwind(AssertUnwindSafe(|| run(seed, bug))) {
                Ok(Ok(report)) => total.add(&report.tally),
                Ok(Err(error)) => {
                    stop.store(true, Ordering::Relaxed);
                    return Some((seed, error));
                }
                Err(_) => {
                    stop.store(true, Ordering::Relaxed);
                    return Some((seed, anyhow!("panicked, see above")));
                }
            }
        }
        None
    };
    let broken = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().filter_map(|worker| worker.join().ok().flatten());
        ended.min_by_key(|(seed, _)| *seed)
    });
    (broken, total)
}
