//! Idle agents: what a connected agent that says nothing costs in memory, as a slope over the number of agents, and what
//! connecting it costs in CPU.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::value_parser;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    agent::{Hello, connect_all, listen},
    apart::{Counted, between, show_counted},
    dialect::Dialect,
    figures::{Report, micros_each, number, per_second, shown_spread, slope},
    peer::Systems,
    process::{Server, raise_open_files},
    quiet::{Meter, Noise, Rounds, rounds},
};

/// Joins, rosters and buffers settle this long before memory is read.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Memory is read after each of so many parts of the agents.
const PARTS: usize = 3;

/// `ringforge-load idle`.
#[derive(Clone, Debug, clap::Args)]
pub struct Idle {
    #[command(flatten)]
    systems: Systems,
    #[command(flatten)]
    rounds: Rounds,
    /// Agents, each with its own name.
    #[arg(long, default_value_t = 9_000, value_parser = value_parser!(u32).range(3..=19_000))]
    agents: u32,
    /// Fleets they are spread over.
    #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(1..=1_000))]
    fleets: u32,
    /// Seconds to stay once all are there.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=3_600))]
    hold: u32,
    /// Presence frames the agents ask for: each (the default of the protocol), delta or none.
    #[arg(long, default_value = "each")]
    presence: String,
}

/// What one server cost.
struct Found {
    kilobytes_each: f64,
    megabytes: f64,
    connect_micros: f64,
    connects_a_second: f64,
    held_percent: f64,
    lost: usize,
    /// What servers below counted while they connected, and while all were idle.
    counted: [Counted; 2],
}

/// Connects the agents part by part and reads the server's memory each time.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(idle: &Idle) -> Result<Report> {
    raise_open_files(u64::from(idle.agents) + 100)?;
    let systems = idle.systems.list()?;
    let mut report =
        Report::new(format!("{} idle agents in {} fleets, presence {}", idle.agents, idle.fleets, idle.presence));
    let one = async |_| {
        let (mut all, mut noise) = (Vec::new(), Noise::default());
        for system in &systems {
            let server = idle.systems.start(*system, idle.fleets as usize).await?;
            let (found, heard) = measure(idle, &server).await?;
            noise = noise.and(heard);
            all.push(found);
        }
        Ok((all, noise))
    };
    let found = rounds(idle.rounds, &mut report, one).await?;
    for (place, system) in systems.iter().enumerate() {
        let values = |value: fn(&Found) -> f64| found.iter().map(|round| value(&round[place])).collect::<Vec<_>>();
        let (rss, connect) = (values(|found| found.kilobytes_each), values(|found| found.connect_micros));
        let name = system.name();
        if *system == Dialect::Ringforge {
            report.metric("rss_kb", "ringforge: RSS an idle agent, kB (slope)", &rss, 1);
            report.metric("connect_us", "ringforge: server CPU a connect and all it causes, us", &connect, 0);
        } else {
            report.row(format!("{name}: RSS an idle agent, kB (slope)"), shown_spread(&rss, 1));
            report.row(format!("{name}: server CPU a connect and all it causes, us"), shown_spread(&connect, 0));
        }
        report.row(format!("{name}: RSS in the end, MB"), shown_spread(&values(|found| found.megabytes), 1));
        report.row(
            format!("{name}: connects/s, 32 at a time"),
            shown_spread(&values(|found| found.connects_a_second), 0),
        );
        let held = values(|found| found.held_percent);
        report.row(format!("{name}: server CPU while all are idle, % of a core"), shown_spread(&held, 1));
        for (thing, of, count) in
            [("a connect", 0, f64::from(idle.agents)), ("a second at rest", 1, f64::from(idle.hold))]
        {
            let counted: Vec<_> = found.iter().map(|round| (&round[place].counted[of], count)).collect();
            show_counted(&mut report, thing, &counted);
        }
        let lost: usize = found.iter().map(|round| round[place].lost).sum();
        report.fail_if(lost > 0, format!("{name}: {lost} connections ended by themselves"));
    }
    Ok(report)
}

async fn measure(idle: &Idle, server: &Server) -> Result<(Found, Noise)> {
    let doors = server.doors(idle.fleets as usize)?;
    let agents = idle.agents as usize;
    sleep(SETTLE).await;
    let before = server.counted()?;
    let mut listening = Vec::with_capacity(agents);
    let (mut cpu, mut time, mut noise, mut rss) = (Duration::ZERO, Duration::ZERO, Noise::default(), Vec::new());
    for part in 0..PARTS {
        let part = part * agents / PARTS..(part + 1) * agents / PARTS;
        let (meter, begun) = (Meter::start(server)?, std::time::Instant::now());
        for (_, socket) in connect_all(&doors, part, &Hello::presence(&idle.presence)).await? {
            listening.push(tokio::spawn(listen(socket)));
        }
        time += begun.elapsed();
        sleep(SETTLE).await;
        let cost = meter.stop(server)?;
        cpu += cost.server;
        noise = noise.and(cost.noise);
        rss.push((number(listening.len() as u64), number(server.rss()?)));
    }
    let connected = server.counted()?;
    let cpu_before = server.cpu()?;
    sleep(Duration::from_secs(idle.hold.into())).await;
    let held = server.cpu_since(cpu_before)?.as_secs_f64() / f64::from(idle.hold);
    let counted = [between(&before, &connected), between(&connected, &server.counted()?)];
    let lost = listening.iter().filter(|agent| agent.is_finished()).count();
    listening.iter().for_each(JoinHandle::abort);
    let bytes_each = slope(&rss);
    ensure!(bytes_each.is_finite(), "too few agents for a slope");
    let found = Found {
        kilobytes_each: bytes_each / 1e3,
        megabytes: rss[PARTS - 1].1 / 1e6,
        connect_micros: micros_each(cpu, idle.agents.into()),
        connects_a_second: per_second(idle.agents.into(), time),
        held_percent: held * 100.0,
        lost,
        counted,
    };
    Ok((found, noise))
}
