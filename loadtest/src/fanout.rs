//! Fan-out: every agent of a fleet sees every event of it. Beside the bare server in the same rounds, and other servers.

use anyhow::Result;
use clap::value_parser;

use crate::{
    agent::Hello,
    dialect::Dialect,
    figures::{Report, micros_each, shown_spread},
    load::{Group, Outcome, Shape, round},
    peer::Systems,
    process::raise_open_files,
    quiet::{Cost, Noise, Rounds, rounds, show_parts},
};

/// `ringforge-load fanout`.
#[derive(Clone, Debug, clap::Args)]
pub struct Fanout {
    #[command(flatten)]
    systems: Systems,
    #[command(flatten)]
    rounds: Rounds,
    #[command(flatten)]
    size: Size,
    /// Events a second in each fleet.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// Who is there.
#[derive(Clone, Debug, clap::Args)]
pub struct Size {
    /// Fleets.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    pub fleets: u32,
    /// Agents in each fleet.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000))]
    pub agents: u32,
    /// Agents in each fleet that publish, taking turns.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    pub publishers: u32,
    /// Bytes of each event's payload.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=60_000))]
    pub bytes: u32,
    /// Seconds of each round, the first not measured.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(2..=3_600))]
    pub seconds: u32,
    /// Presence frames the agents ask for: each, delta or none.
    #[arg(long, default_value = "none")]
    pub presence: String,
    /// Agents accept several lines in a message.
    #[arg(long)]
    pub batch: bool,
    /// Agents that do not publish are at another edge than those that do, and it is measured what reaches them.
    #[arg(long)]
    pub across: bool,
}

impl Size {
    /// What happens in each fleet at this rate.
    pub fn shape(&self, rate: u32) -> Shape {
        Shape {
            agents: self.agents as usize,
            publishers: self.publishers as usize,
            asking: 0,
            stalled: 0,
            across: self.across,
            rate,
            bytes: self.bytes as usize,
            hello: Hello { batch: self.batch, ..Hello::presence(&self.presence) },
        }
    }

    /// Connections it needs.
    pub fn sockets(&self) -> u64 {
        u64::from(self.fleets) * u64::from(self.agents)
    }
}

type Measured = (Outcome, Cost);

/// Runs all rounds; in each, all servers take turns.
///
/// # Errors
/// A server or a connection failed.
pub async fn run(fanout: &Fanout) -> Result<Report> {
    let systems = fanout.systems.list()?;
    raise_open_files(fanout.size.sockets() + 100)?;
    let Fanout { rate, size: Size { fleets, agents, bytes, seconds, batch, .. }, .. } = fanout;
    let title = format!("Fan-out: {fleets} fleets x {agents} agents x {rate} events/s of {bytes} bytes");
    let mut report = Report::new(title + if *batch { ", batch" } else { "" });
    report.row("a round", format!("{seconds} s, fresh servers, the first second not measured"));
    let one = async |_| {
        let (mut measured, mut noise) = (Vec::new(), Noise::default());
        for system in &systems {
            let server = fanout.systems.start(*system, *fleets as usize).await?;
            let doors = server.doors(*fleets as usize)?;
            let (mut outcomes, cost) =
                round(&server, &[Group { doors, shape: fanout.size.shape(*rate) }], *seconds).await?;
            noise = noise.and(cost.noise);
            measured.push((outcomes.remove(0), cost));
        }
        Ok((measured, noise))
    };
    let found: Vec<Vec<Measured>> = rounds(fanout.rounds, &mut report, one).await?;
    for (place, system) in systems.iter().enumerate() {
        let own: Vec<&Measured> = found.iter().map(|round| &round[place]).collect();
        show(&mut report, *system, &own);
    }
    if let [Dialect::Bare, Dialect::Ringforge, ..] = systems[..] {
        let ratios: Vec<f64> = found.iter().map(|round| each(&round[1]) / each(&round[0])).collect();
        report.metric("ratio", "ringforge: server CPU a delivery, as a ratio to bare in the same round", &ratios, 2);
    }
    Ok(report)
}

fn each((outcome, cost): &Measured) -> f64 {
    micros_each(cost.server, outcome.measured)
}

fn show(report: &mut Report, system: Dialect, rounds: &[&Measured]) {
    let values = |value: &dyn Fn(&Measured) -> f64| rounds.iter().map(|round| value(round)).collect::<Vec<_>>();
    let name = system.name();
    let delivery = values(&each);
    let p99 = values(&|(outcome, _)| outcome.latencies.quantile_ms(0.99));
    let ack_p99 = values(&|(outcome, _)| outcome.acks.quantile_ms(0.99));
    let p50 = values(&|(outcome, _)| outcome.latencies.quantile_ms(0.5));
    report.row(format!("{name}: deliveries/s"), shown_spread(&values(&|(outcome, _)| outcome.rate), 0));
    if system == Dialect::Ringforge {
        report.metric("delivery_us", "ringforge: server CPU a delivery, us", &delivery, 2);
        report.metric("p50_ms", "ringforge: latency from due time p50, ms", &p50, 2);
        report.metric("p99_ms", "ringforge: latency from due time p99, ms", &p99, 2);
        report.metric("ack_p99_ms", "ringforge: ack from due time p99, ms", &ack_p99, 2);
    } else {
        report.row(format!("{name}: server CPU a delivery, us"), shown_spread(&delivery, 2));
        report.row(format!("{name}: latency from due time p50, ms"), shown_spread(&p50, 2));
        report.row(format!("{name}: latency from due time p99, ms"), shown_spread(&p99, 2));
        if system.acks() {
            report.row(format!("{name}: ack from due time p99, ms"), shown_spread(&ack_p99, 2));
        }
    }
    let whole = rounds.first().map_or("its core", |(_, cost)| cost.whole());
    let server = format!("server CPU, % of {whole}");
    for (what, value) in [
        ("sent after due time p99, ms", values(&|(outcome, _)| outcome.lateness.quantile_ms(0.99))),
        (server.as_str(), values(&|(_, cost)| cost.server_percent())),
        ("client CPU, % of its core", values(&|(_, cost)| cost.client_percent())),
    ] {
        report.row(format!("{name}: {what}"), shown_spread(&value, 2));
    }
    let costs: Vec<_> = rounds.iter().map(|(outcome, cost)| (cost, outcome.measured)).collect();
    show_parts(report, "a delivery", &costs);
    report
        .row(format!("{name}: deliveries checked"), rounds.iter().map(|(outcome, _)| outcome.deliveries).sum::<u64>());
    for (outcome, _) in rounds {
        outcome.check(report, name);
        report.fail_if(outcome.measured == 0, format!("{name}: nothing was delivered"));
    }
}
