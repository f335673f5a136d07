//! CPU time, as /proc tells it: of processes, and of the two cores that take part.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

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

/// CPU time of a process and all that came of it: of those that are there, and of those that somebody of them waited for.
///
/// # Errors
/// /proc cannot be read, or it is gone.
pub fn cpu_of_family(root: u32) -> Result<Duration> {
    let mut stats = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry.context("read /proc")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Whoever ended meanwhile is in its parent's time.
        let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        stats.extend(member(&text).map(|member| (process, member)));
    }
    ensure!(stats.contains_key(&root), "process {root} is gone");
    Ok(TICK * family(root, &stats))
}

/// The parent of a process, and what it used with those that it waited for.
fn member(stat: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let used: Option<Vec<u32>> = fields.get(11..15)?.iter().map(|field| field.parse().ok()).collect();
    Some((fields[1].parse().ok()?, used?.iter().sum()))
}

fn family(root: u32, stats: &BTreeMap<u32, (u32, u32)>) -> u32 {
    let of = |process: u32| {
        let mut next = Some(process);
        while let Some(process) = next {
            if process == root {
                return true;
            }
            next = stats.get(&process).map(|(parent, _)| *parent).filter(|parent| *parent != process);
        }
        false
    };
    stats.iter().filter(|(process, _)| of(**process)).map(|(_, (_, used))| used).sum()
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
    /// Of all cores together.
    pub machine: Core,
    /// When.
    pub at: Instant,
}

impl Moment {
    /// This one.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn now() -> Result<Self> {
        Ok(Self { client: own_cpu()?, cores: cores()?, machine: machine()?, at: Instant::now() })
    }
}

/// A line of /proc/stat.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Core {
    /// Which; of all together, how many they are.
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

/// All cores together.
///
/// # Errors
/// /proc cannot be read.
pub fn machine() -> Result<Core> {
    whole(&fs::read_to_string("/proc/stat").context("read /proc/stat")?).context("no cores in /proc/stat")
}

fn whole(stat: &str) -> Option<Core> {
    let all: Vec<Core> = (0..).map_while(|number| core(stat, number)).collect();
    let whole = Core {
        number: all.len(),
        idle: all.iter().map(|core| core.idle).sum(),
        stolen: all.iter().map(|core| core.stolen).sum(),
    };
    (whole.number > 0).then_some(whole)
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
        assert_eq!(whole(STAT), Some(Core { number: 2, idle: TICK * 1_705, stolen: TICK * 20 }));
        assert_eq!(whole("intr 1"), None);
    }

    #[test]
    fn a_family_is_counted_once_and_nobody_else() {
        let stat = |process: u32, parent: u32, used: u32| {
            let text = format!("{process} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {used} 1 2 3 20 0 1 0 99 0 0");
            (process, member(&text).expect("it can be read"))
        };
        let stats =
            BTreeMap::from([stat(1, 0, 1_000), stat(7, 1, 10), stat(8, 7, 100), stat(9, 8, 200), stat(10, 1, 5)]);
        assert_eq!(family(7, &stats), 10 + 100 + 200 + 3 * 6);
        assert_eq!(family(10, &stats), 11);
        assert_eq!(member("nothing"), None);
        assert!(cpu_of_family(std::process::id()).is_ok() && cpu_of_family(u32::MAX).is_err());
    }

    #[test]
    fn cpu_is_read_behind_any_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 5 0 99 1000 200";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("nothing"), None);
    }
}
