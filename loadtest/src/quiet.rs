//! What a stretch of time cost, and whether the two cores were ours alone: a round in which somebody else had them is
//! measured again.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use clap::value_parser;

use crate::{
    cpu::{Core, Moment, cores, machine, own_cpu},
    figures::{Report, micros_each, shown_spread},
    process::Server,
};

/// A round may be thrown away so often for each that is wanted.
const TRIES_A_ROUND: u32 = 3;

/// How often to measure, and how quiet it must be.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Rounds {
    /// Rounds.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Per cent of a core that others may use while a round is measured; more, and it is measured again.
    #[arg(long, default_value_t = 5.0)]
    pub others: f64,
}

/// Time that was not ours, as shares of a core: the worse of both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// Used by other processes.
    pub others: f64,
    /// Taken by the machine below.
    pub stolen: f64,
}

impl Noise {
    /// The worse of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { others: self.others.max(other.others), stolen: self.stolen.max(other.stolen) }
    }

    /// Per cent of a core, whoever had it.
    pub fn percent(self) -> f64 {
        (self.others + self.stolen) * 100.0
    }
}

/// What a stretch of time cost.
#[derive(Clone, Debug)]
pub struct Cost {
    /// CPU of the server; where its roles run apart, of all of them.
    pub server: Duration,
    /// Where they do: CPU of each process, those below them included.
    pub parts: Vec<(String, Duration)>,
    /// CPU of this process.
    pub client: Duration,
    /// Its length.
    pub wall: Duration,
    /// What others had of it.
    pub noise: Noise,
}

impl Cost {
    /// The client's share of its core, in per cent. Near 100, the client is what is measured.
    pub fn client_percent(&self) -> f64 {
        100.0 * self.client.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// Of what the server's share is told.
    pub fn whole(&self) -> &'static str {
        if self.parts.is_empty() { "its core" } else { "a core, all roles" }
    }

    /// The server's share of its core, in per cent.
    pub fn server_percent(&self) -> f64 {
        100.0 * self.server.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A stretch of time that has begun.
#[derive(Debug)]
pub struct Meter {
    server: Duration,
    parts: Vec<(String, Duration)>,
    begun: Moment,
}

impl Meter {
    /// Begins now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn start(server: &Server) -> Result<Self> {
        Ok(Self { server: server.cpu()?, parts: server.parts()?, begun: Moment::now()? })
    }

    /// Began when the server was started.
    pub fn from_exec(server: &Server) -> Self {
        Self { server: Duration::ZERO, parts: Vec::new(), begun: server.begun }
    }

    /// Ends now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn stop(&self, server: &Server) -> Result<Cost> {
        let (cores, machine, wall) = (cores()?, machine()?, self.begun.at.elapsed());
        let client = own_cpu()?.saturating_sub(self.begun.client);
        let mut parts = server.parts()?;
        let server = server.cpu_since(self.server)?;
        for (name, used) in &mut parts {
            let before = self.parts.iter().find(|(other, _)| other == name);
            *used = used.saturating_sub(before.map_or(Duration::ZERO, |(_, before)| *before));
        }
        if !parts.is_empty() {
            // Nobody has a core of his own.
            let ours = client + parts.iter().map(|(_, used)| *used).sum::<Duration>();
            let noise = noise(&self.begun.machine, &machine, ours, wall, machine.number);
            return Ok(Cost { server, parts, client, wall, noise });
        }
        // Where there is one core for both, it is listed twice and both are on it.
        let ours = if cores[0].number == cores[1].number { [server + client; 2] } else { [server, client] };
        let noise = (0..2).map(|side| noise(&self.begun.cores[side], &cores[side], ours[side], wall, 1));
        let noise = noise.reduce(Noise::and).unwrap_or_default();
        Ok(Cost { server, parts, client, wall, noise })
    }
}

/// Of so many cores, whose idle and stolen time is told together.
fn noise(before: &Core, after: &Core, ours: Duration, wall: Duration, cores: usize) -> Noise {
    let share = |time: Duration| time.as_secs_f64() / wall.as_secs_f64().max(1e-9);
    let (idle, stolen) = (after.idle.saturating_sub(before.idle), after.stolen.saturating_sub(before.stolen));
    let all = wall * u32::try_from(cores).unwrap_or(u32::MAX);
    Noise { others: share(all.saturating_sub(idle + stolen + ours)), stolen: share(stolen) }
}

/// Shows what each process had of some rounds, each with the number of things that were done.
pub fn show_parts(report: &mut Report, thing: &str, rounds: &[(&Cost, u64)]) {
    let names = rounds.first().map(|(cost, _)| &cost.parts).into_iter().flatten().map(|(name, _)| name);
    for name in names {
        let used: Vec<(Duration, Duration, u64)> = rounds
            .iter()
            .filter_map(|(cost, count)| {
                Some((cost.parts.iter().find(|(other, _)| other == name)?.1, cost.wall, *count))
            })
            .collect();
        let percent: Vec<f64> =
            used.iter().map(|(used, wall, _)| 100.0 * used.as_secs_f64() / wall.as_secs_f64().max(1e-9)).collect();
        let each: Vec<f64> = used.iter().map(|(used, _, count)| micros_each(*used, *count)).collect();
        let shown = format!("{}; {}", shown_spread(&percent, 0), shown_spread(&each, 1));
        report.row(format!("CPU of {name}, % of a core; us {thing}"), shown);
    }
}

/// Measures until enough rounds were quiet, or it was tried too often: then the quietest of them stand in, and the report
/// says so. `one` makes the round with this number.
///
/// # Errors
/// A round failed.
pub async fn rounds<T>(
    wanted: Rounds,
    report: &mut Report,
    mut one: impl AsyncFnMut(u32) -> Result<(T, Noise)>,
) -> Result<Vec<T>> {
    let mut found: Vec<(f64, T)> = Vec::new();
    let quiet = |found: &[(f64, T)]| found.iter().filter(|(noise, _)| *noise <= wanted.others).count();
    let mut tries = 0;
    while quiet(&found) < wanted.rounds as usize && tries < wanted.rounds * TRIES_A_ROUND {
        let (round, noise) = one(tries).await?;
        found.push((noise.percent(), round));
        tries += 1;
    }
    let missing = (wanted.rounds as usize).saturating_sub(quiet(&found));
    found.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let thrown: Vec<_> = found.drain(wanted.rounds as usize..).collect();
    let worst = |rounds: &[(f64, T)]| rounds.last().map_or(0.0, |(noise, _)| *noise);
    let mut shown = format!("{} (others had up to {:.1} % of a core)", wanted.rounds, worst(&found));
    if !thrown.is_empty() {
        write!(shown, "; {} thrown away (up to {:.1} %)", thrown.len(), worst(&thrown))?;
    }
    report.row("rounds", shown);
    report.fail_if(
        missing > 0,
        format!("not quiet: in {missing} rounds others had more than {} % of a core", wanted.others),
    );
    Ok(found.into_iter().map(|(_, round)| round).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_used_is_what_is_left() {
        let before = Core::default();
        let after = Core { number: 0, idle: Duration::from_millis(250), stolen: Duration::from_millis(50) };
        let found = noise(&before, &after, Duration::from_millis(400), Duration::from_secs(1), 1);
        assert!((found.others - 0.3).abs() < 1e-9 && (found.stolen - 0.05).abs() < 1e-9);
        assert!((found.percent() - 35.0).abs() < 1e-9);
        assert!(noise(&before, &after, Duration::from_secs(2), Duration::from_secs(1), 1).others.abs() < 1e-9);
        let both = noise(&before, &after, Duration::from_millis(400), Duration::from_secs(1), 2);
        assert!((both.others - 1.3).abs() < 1e-9);
    }

    #[test]
    fn what_each_process_had_is_shown_of_all_rounds() {
        let cost = |millis: u64| Cost {
            server: Duration::ZERO,
            parts: vec![("edge-1".to_owned(), Duration::from_millis(millis))],
            client: Duration::ZERO,
            wall: Duration::from_secs(1),
            noise: Noise::default(),
        };
        let mut report = Report::new("parts");
        show_parts(&mut report, "a command", &[(&cost(100), 1_000), (&cost(300), 1_000), (&cost(200), 1_000)]);
        let text = report.to_string();
        let row = "| CPU of edge-1, % of a core; us a command | 20 (10 to 30); 200.0 (100.0 to 300.0) |";
        assert!(text.contains(row), "{text}");
    }

    async fn run(shares: &[f64], wanted: u32) -> (Vec<usize>, Report) {
        let mut report = Report::new("rounds");
        let one = async |round: u32| {
            let others = shares[round as usize % shares.len()];
            Ok((round as usize, Noise { others, stolen: 0.0 }))
        };
        let wanted = Rounds { rounds: wanted, others: 5.0 };
        let found = rounds(wanted, &mut report, one).await.expect("no round fails");
        (found, report)
    }

    #[tokio::test]
    async fn a_loud_round_is_thrown_away_and_said() {
        let (found, report) = run(&[0.0, 0.5, 0.01], 3).await;
        assert_eq!(found, [0, 3, 2]);
        assert!(report.passed() && report.to_string().contains("1 thrown away (up to 50.0 %)"), "{report}");
    }

    #[tokio::test]
    async fn it_ends_where_it_is_never_quiet_and_that_is_a_failure() {
        let (found, report) = run(&[0.5, 0.3, 0.4], 2).await;
        assert_eq!(found.len(), 2);
        assert!(!report.passed() && report.to_string().contains("not quiet: in 2 rounds"), "{report}");
    }
}
