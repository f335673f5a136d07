//! Idle agents: what a connected agent that says nothing costs in memory, and what connecting it costs in CPU.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::value_parser;
use tokio::time::sleep;

use crate::{
    agent::{connect_all, next_text},
    figures::{Report, micros_each, number, per_second},
    process::{Place, Server, raise_open_files},
};

/// Joins, rosters and buffers settle this long before memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// `ringforge-load idle`.
#[derive(Clone, Debug, clap::Args)]
pub struct Idle {
    #[command(flatten)]
    place: Place,
    /// The bare server instead.
    #[arg(long, conflicts_with_all = ["server", "ready"])]
    bare: bool,
    /// Agents, each with its own name.
    #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(2..=19_000))]
    agents: u32,
    /// Fleets they are spread over.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000))]
    fleets: u32,
    /// Seconds to stay once all are there.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=3_600))]
    hold: u32,
    /// Presence frames the agents ask for: each (the default of the protocol), delta or none.
    #[arg(long, default_value = "each")]
    presence: String,
}

/// Connects half of the agents, then the rest, and reads the server's memory each time.
///
/// # Errors
/// The server or a connection failed.
pub async fn run(idle: &Idle) -> Result<Report> {
    raise_open_files(u64::from(idle.agents) + 100)?;
    let server = if idle.bare { Server::bare()? } else { Server::at(&idle.place, idle.fleets as usize)? };
    let doors = server.ready.doors(idle.fleets as usize)?;
    let agents = idle.agents as usize;
    sleep(SETTLE).await;
    let before = server.rss()?;
    let mut listening = Vec::with_capacity(agents);
    let (mut cpu, mut time) = (Duration::ZERO, Duration::ZERO);
    let mut rss = Vec::new();
    for part in [0..agents / 2, agents / 2..agents] {
        let (cpu_before, begun) = (server.cpu()?, Instant::now());
        for (_, mut socket) in connect_all(&doors, part, &idle.presence).await? {
            listening.push(tokio::spawn(async move { while next_text(&mut socket).await.is_ok() {} }));
        }
        time += begun.elapsed();
        sleep(SETTLE).await;
        cpu += server.cpu_since(cpu_before)?;
        rss.push(server.rss()?);
    }
    let cpu_before = server.cpu()?;
    sleep(Duration::from_secs(idle.hold.into())).await;
    let held = server.cpu_since(cpu_before)?.as_secs_f64() / f64::from(idle.hold);
    let lost = listening.iter().filter(|agent| agent.is_finished()).count();

    let mut report = Report::new(format!("{} idle agents in {} fleets", idle.agents, idle.fleets));
    let count = u64::from(idle.agents);
    let half = count / 2;
    report.row("server", &server.ready.version);
    report.row("presence", &idle.presence);
    report.row("RSS before, MB", format!("{:.1}", megabytes(before)));
    report.row("RSS after, MB", format!("{:.1}", megabytes(rss[1])));
    report.row("**RSS an idle agent, kB**", format!("{:.1}", kilobytes_each(before, rss[1], count)));
    report.row(
        "the same, second half of the agents only",
        format!("{:.1}", kilobytes_each(rss[0], rss[1], count - half)),
    );
    report.row("connects/s (32 at a time)", format!("{:.0}", per_second(count, time)));
    report.row("server CPU a connect, us", format!("{:.0}", micros_each(cpu, count)));
    report.row("server CPU while all are idle, % of a core", format!("{:.1}", held * 100.0));
    report.fail_if(lost > 0, format!("{lost} connections ended by themselves"));
    listening.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(report)
}

fn megabytes(bytes: u64) -> f64 {
    number(bytes) / 1e6
}

fn kilobytes_each(before: u64, after: u64, count: u64) -> f64 {
    (number(after) - number(before)) / 1e3 / number(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_slope() {
        assert!((kilobytes_each(50_000_000, 90_000_000, 5_000) - 8.0).abs() < 1e-9);
        assert!(kilobytes_each(2_000, 1_000, 1) < 0.0);
    }
}
