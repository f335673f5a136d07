//! CPU time, as /proc tells it: of processes, and of the two cores that take part.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// The core of the servers and the core of this client.
pub const CORES: [usize; 2] = [0, 1];
/// /proc counts time in these, on every Linux.
pub const TICK: Duration = Duration::from_millis(10);

/// CPU time of this process.
///
/// # Errors
/// /proc cannot be read.
pub fn own_cpu() -> Result<Duration> {
    cpu("self")
}

/// CPU time of a process.
///
/// # Errors
/// /proc cannot be read.
pub fn cpu(process: &str) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ticks(&text).map(|ticks| TICK * ticks).with_context(|| format!("read {path}"))
}

/// `utime` and `stime`: fields 14 and 15, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What had been used at a moment, the server apart.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// CPU time of this process.
    pub client: Duration,
    /// Of the cores.
    pub cores: [Core; 2],
    /// When.
    pub at: Instant,
}

impl Moment {
    /// This one.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn now() -> Result<Self> {
        Ok(Self { client: own_cpu()?, cores: cores()?, at: Instant::now() })
    }
}

/// A line of /proc/stat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Core {
    /// Which.
    pub number: usize,
    /// Idle so long.
    pub idle: Duration,
    /// Taken by the machine below.
    pub stolen: Duration,
}

/// The cores of the server and of this client; where there is one, it is listed twice.
///
/// # Errors
/// /proc cannot be read.
pub fn cores() -> Result<[Core; 2]> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let core = |number: usize| core(&text, number);
    let first = core(CORES[0]).context("no first core in /proc/stat")?;
    Ok([first, core(CORES[1]).unwrap_or(first)])
}

/// user nice system idle iowait irq softirq steal. Only the idle time is measured; whether a core is busy is looked at every tick,
/// which says next to nothing about work that begins with a tick, as what is due at even times does.
fn core(stat: &str, number: usize) -> Option<Core> {
    let name = format!("cpu{number} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<u32> = line.split_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
    let [_, _, _, idle, iowait, _, _, stolen, ..] = ticks[..] else { return None };
    Some(Core { number, idle: TICK * (idle + iowait), stolen: TICK * stolen })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 10 50 800 5 3 7 20 0 0\ncpu1 0 0 0 900 0 0 0 0 0 0\nintr 1\n";

    #[test]
    fn a_core_is_read() {
        assert_eq!(core(STAT, 0), Some(Core { number: 0, idle: TICK * 805, stolen: TICK * 20 }));
        assert_eq!(core(STAT, 1), Some(Core { number: 1, idle: TICK * 900, ..Core::default() }));
        assert_eq!(core(STAT, 2), None);
        assert_eq!(core("cpu0 1 2", 0), None);
    }

    #[test]
    fn cpu_is_read_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 5 0 99 1000 200";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("nothing"), None);
    }
}
