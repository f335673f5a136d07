//! A thousand agents join one fleet within a second and ask for presence as a difference: what it costs, how many frames
//! it takes, and when everyone knows everyone.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::value_parser;
use memchr::memmem;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    agent::{Door, Hello, connect, name},
    figures::{Report, number, shown_spread},
    process::{Place, Server, raise_open_files},
    quiet::{Meter, Noise, Rounds, rounds},
    wire::NAME,
};

/// Rosters that are not complete by then never will be.
const COMPLETE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a member's bare id as a frame could tell it: 1,000 agents who join 1,000 make 106 MB of them.
const BARE_ID: f64 = 106.0;

/// `ringforge-load join`.
#[derive(Clone, Debug, clap::Args)]
pub struct Join {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    rounds: Rounds,
    /// Agents that join.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(2..=1_000))]
    agents: u32,
    /// Milliseconds within which they are due.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=600_000))]
    within_ms: u32,
    /// Presence frames they ask for: each or delta.
    #[arg(long, default_value = "delta")]
    presence: String,
}

/// Who one agent knows.
#[derive(Debug, Default)]
struct View {
    known: BTreeSet<u64>,
    frames: u64,
    /// Parses every frame whole, instead of looking for names only: a few agents do, so that the rest can be believed.
    is_thorough: bool,
}

impl View {
    /// Learns from one frame.
    ///
    /// # Errors
    /// It is an error, or not JSON.
    fn take(&mut self, line: &[u8]) -> Result<()> {
        ensure!(!line.starts_with(br#"{"type":"error""#), "refused: {}", String::from_utf8_lossy(line));
        self.frames += u64::from(line.starts_with(br#"{"type":"presence""#));
        let head = &line[..line.len().min(40)];
        let has = |event: &[u8]| memmem::find(head, event).is_some();
        let only_adds = has(br#""roster""#) || has(br#""joined""#) || (has(br#""delta""#) && gone(line).is_none());
        if self.is_thorough || !only_adds {
            return self.parse(line);
        }
        self.known.extend(NAME.numbers(line));
        Ok(())
    }

    fn parse(&mut self, line: &[u8]) -> Result<()> {
        let frame: Value = serde_json::from_slice(line).context("read a frame")?;
        let number = |agent: &Value| agent["name"].as_str()?.strip_prefix("load-")?.parse().ok();
        let all = |agents: &Value| agents.as_array().into_iter().flatten().filter_map(number).collect::<Vec<u64>>();
        match frame["event"].as_str().filter(|_| frame["type"] == "presence") {
            Some("roster") => self.known.extend(all(&frame["agents"])),
            Some("delta") => {
                self.known.extend(all(&frame["joined"]));
                self.known.retain(|agent| !all(&frame["left"]).contains(agent));
            }
            Some("joined") => self.known.extend(number(&frame)),
            Some("left") => self.known.retain(|agent| number(&frame) != Some(*agent)),
            _ => {}
        }
        Ok(())
    }
}

/// Whether a `delta` tells of agents that left.
fn gone(line: &[u8]) -> Option<usize> {
    memmem::find(line, br#""left":[{"#)
}

/// What all agents saw together.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    bytes: u64,
    complete: usize,
    last_complete: Option<Instant>,
    trouble: Option<String>,
}

impl Seen {
    /// Whether everyone came in and knew everyone in the end.
    fn check(&self, count: usize) -> Result<()> {
        if let Some(trouble) = &self.trouble {
            bail!("an agent failed: {trouble}");
        }
        ensure!(self.complete == count, "{} of {count} rosters were complete in the end", self.complete);
        Ok(())
    }
}

/// What one round found.
struct Round {
    cpu: f64,
    frames: f64,
    bytes: f64,
    complete: f64,
}

/// Runs it.
///
/// # Errors
/// The server or a connection failed, or a roster never was complete.
pub async fn run(join: &Join) -> Result<Report> {
    raise_open_files(u64::from(join.agents) + 100)?;
    let Join { agents, within_ms, presence, .. } = join;
    let mut report = Report::new(format!("{agents} agents join one fleet within {within_ms} ms, presence {presence}"));
    let found = rounds(join.rounds, &mut report, async |_| round(join).await).await?;
    let values = |value: fn(&Round) -> f64| found.iter().map(value).collect::<Vec<_>>();
    let pairs = number(u64::from(*agents).pow(2));
    let bytes = values(|round| round.bytes);
    report.metric("cpu_s", "server CPU, s", &values(|round| round.cpu), 2);
    let shares: Vec<f64> = found.iter().map(|round| round.frames / pairs).collect();
    report.metric("frames_share", "presence frames, as a share of joins x members", &shares, 4);
    report.metric("complete_s", "last join due to everyone knows everyone, s", &values(|round| round.complete), 2);
    let ratios: Vec<f64> = bytes.iter().map(|bytes| bytes / (pairs * BARE_ID)).collect();
    report.metric(
        "bytes_ratio",
        format!("bytes received, as a ratio to joins x members x {BARE_ID} bytes"),
        &ratios,
        2,
    );
    report.row("MB received", shown_spread(&bytes.iter().map(|bytes| bytes / 1e6).collect::<Vec<_>>(), 1));
    Ok(report)
}

async fn round(join: &Join) -> Result<(Round, Noise)> {
    let server = Server::at(&join.place, &[1])?;
    let door = Arc::new(server.doors(1)?.remove(0));
    let (seen, count): (Arc<Mutex<Seen>>, _) = (Arc::default(), join.agents as usize);
    let hello = Arc::new(Hello::presence(&join.presence));
    let meter = Meter::start(&server)?;
    let start = Instant::now() + Duration::from_millis(100);
    let mut agents = JoinSet::new();
    for agent in 0..count {
        let (door, seen, hello) = (Arc::clone(&door), Arc::clone(&seen), Arc::clone(&hello));
        let place = u32::try_from(agent).context("count the agents")?;
        let due = start + Duration::from_millis(join.within_ms.into()) * place / join.agents;
        agents.spawn(async move {
            sleep_until(due).await;
            if let Err(error) = member(&door, agent, count, &hello, &seen).await {
                with(&seen, |seen| seen.trouble = Some(format!("{error:#}")));
            }
        });
    }
    let deadline = start + COMPLETE_WITHIN;
    while with(&seen, |seen| seen.complete < count && seen.trouble.is_none()) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    // Deltas that are still due belong to the cost.
    sleep(Duration::from_millis(500)).await;
    let cost = meter.stop(&server)?;
    let seen = with(&seen, std::mem::take);
    seen.check(count)?;
    // From when it was due: a server that lets agents wait at the door is not faster for it.
    let last_due = start + Duration::from_millis(join.within_ms.into()) * (join.agents - 1) / join.agents;
    let complete = seen.last_complete.context("nobody joined")?.saturating_duration_since(last_due).as_secs_f64();
    let (frames, bytes) = (number(seen.frames), number(seen.bytes));
    Ok((Round { cpu: cost.server.as_secs_f64(), frames, bytes, complete }, cost.noise))
}

fn with<T>(seen: &Mutex<Seen>, act: impl FnOnce(&mut Seen) -> T) -> T {
    act(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One agent: joins, and reads on for ever.
async fn member(door: &Door, agent: usize, count: usize, hello: &Hello, seen: &Mutex<Seen>) -> Result<()> {
    let mut socket = connect(door, &name(agent), hello).await?;
    let mut view = View { is_thorough: agent.is_multiple_of(100), ..View::default() };
    let (mut was_complete, mut counted) = (false, 0);
    loop {
        let mut trouble = None;
        socket
            .read(|message| {
                for line in message.split(|byte| *byte == b'\n') {
                    trouble = trouble.take().or(view.take(line).err());
                }
            })
            .await?;
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let is_complete = view.known.len() == count;
        with(seen, |seen| {
            seen.frames += std::mem::take(&mut view.frames);
            seen.bytes += socket.received - std::mem::replace(&mut counted, socket.received);
            if is_complete != was_complete {
                seen.last_complete = Some(Instant::now());
                if is_complete { seen.complete += 1 } else { seen.complete -= 1 }
            }
        });
        was_complete = is_complete;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_that_is_not_complete_is_a_failure() {
        let seen =
            |complete, trouble: Option<&str>| Seen { complete, trouble: trouble.map(str::to_owned), ..Seen::default() };
        assert!(seen(3, None).check(3).is_ok());
        assert!(seen(2, None).check(3).is_err() && seen(3, Some("closed")).check(3).is_err());
    }

    #[test]
    fn a_view_is_the_roster_and_every_change() {
        for is_thorough in [false, true] {
            let mut view = View { is_thorough, ..View::default() };
            for line in [
                r#"{"type":"auth_ok"}"#,
                r#"{"type":"presence","event":"roster","agents":[{"name":"load-1"},{"name":"load-2"}]}"#,
                r#"{"type":"presence","event":"delta","joined":[{"name":"load-5"}],"left":[],"changed":[]}"#,
                r#"{"type":"presence","event":"delta","joined":[{"name":"load-3"}],"left":[{"name":"load-1"}]}"#,
                r#"{"type":"presence","event":"joined","name":"load-4"}"#,
                r#"{"type":"presence","event":"left","name":"load-3"}"#,
            ] {
                view.take(line.as_bytes()).expect("a frame");
            }
            assert_eq!((view.known, view.frames), ([2, 4, 5].into(), 5));
        }
        assert!(View::default().take(br#"{"type":"error","code":"busy"}"#).is_err());
        assert!(View::default().take(b"{").is_err());
    }
}
