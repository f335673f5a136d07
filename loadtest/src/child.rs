//! Processes that are started for a measurement: how they say that they are ready, and that they end with their owner.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::agent::Door;

/// A server that is not ready by then has failed.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Lines that wait to be read.
const LINES: usize = 64;

/// The line that a server prints when it is ready, as far as it is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ready {
    /// Its version.
    pub version: String,
    /// How long it took, as it says itself.
    pub ready_ms: f64,
    /// Where agents connect.
    pub ws_url: String,
    tenants: Vec<Tenant>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Tenant {
    fleets: Vec<Fleet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Fleet {
    agent_key: String,
}

impl Ready {
    /// A way in for each of `count` fleets.
    ///
    /// # Errors
    /// The server has fewer.
    pub fn doors(&self, count: usize) -> Result<Vec<Door>> {
        let fleets = self.tenants.iter().flat_map(|tenant| &tenant.fleets);
        let doors: Vec<_> = fleets.take(count).map(|fleet| Door::new(&self.ws_url, &fleet.agent_key)).collect();
        ensure!(doors.len() == count, "the server has {} fleets, the run needs {count}", doors.len());
        Ok(doors)
    }
}

/// A child that ends with its owner.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resident memory of a process in bytes.
pub(crate) fn rss(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.context("no Rss in smaps_rollup")? * 1024)
}

/// A process that was started and says lines, the first of them that it is ready.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Running,
    /// What it says, and when.
    pub lines: Receiver<(Instant, String)>,
    log: PathBuf,
}

impl Starting {
    /// Starts it; what it complains of is in `log`.
    pub(crate) fn of(mut command: Command, log: PathBuf) -> Result<Self> {
        let errors = fs::File::create(&log).context("make the server's log")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("take the server's stdout")?;
        let (sender, lines) = sync_channel(LINES);
        // Reads on whether or not anybody listens, so that the server never waits for a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.try_send((Instant::now(), line));
            }
        });
        Ok(Self { child: Running(child), lines, log })
    }

    /// Waits until it is ready.
    pub(crate) fn ready(self) -> Result<(Running, Instant, Ready)> {
        let Ok((at, line)) = self.lines.recv_timeout(READY_WITHIN) else {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the server did not get ready; it said:\n{said}");
        };
        let ready = serde_json::from_str(&line).with_context(|| format!("read the ready line: {line}"))?;
        Ok((self.child, at, ready))
    }
}

/// Writes the bootstrap file for tenants of these many fleets.
pub(crate) fn bootstrap(folder: &Path, tenants: &[usize]) -> Result<()> {
    let mut text = String::new();
    for (tenant, fleets) in tenants.iter().enumerate() {
        let names: Vec<String> = (0..*fleets).map(|fleet| format!("\"load-{fleet}\"")).collect();
        writeln!(text, "[[tenant]]\nname = \"load-{tenant}\"\nfleets = [{}]", names.join(", "))?;
    }
    fs::write(folder.join("bootstrap.toml"), text).context("write the bootstrap file")
}
