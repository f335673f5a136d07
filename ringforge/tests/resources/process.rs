//! What the kernel says of a process, and how many files this one may open.

use std::{
    fs,
    process::{self, Command},
    time::Duration,
};

/// Clock ticks of `/proc`, a second.
const TICKS: u64 = 100;

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    fn read(self, what: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{what}", self.0)).unwrap_or_default()
    }

    /// CPU time it has used, of all its threads.
    pub fn cpu(self) -> Duration {
        let stat = self.read("stat");
        let (_, fields) = stat.rsplit_once(") ").expect("it runs");
        let ticks =
            fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>();
        Duration::from_millis(ticks * 1_000 / TICKS)
    }

    /// Its resident memory in MB; zero if it is gone.
    pub fn resident_mb(self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1_024 / 1_000_000
    }

    /// Its open files.
    pub fn open_files(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }
}

/// Lets this process, and the servers that it starts from then on, open so many files, or as many as it may: that many.
pub fn raise_open_files(wanted: u64) -> u64 {
    let (soft, hard) = open_files();
    if soft >= wanted {
        return soft;
    }
    let limit = format!("--nofile={}:{hard}", wanted.min(hard));
    let raised = Command::new("prlimit").args(["--pid", &process::id().to_string(), &limit]).status();
    // Where there is no `prlimit`, the test has to do with less.
    if raised.is_ok_and(|status| status.success()) { wanted.min(hard) } else { soft }
}

/// Soft and hard limit.
fn open_files() -> (u64, u64) {
    let limits = Process(process::id()).read("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("there is such a limit");
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(u64::MAX));
    (numbers.next().expect("the soft one"), numbers.next().expect("the hard one"))
}
