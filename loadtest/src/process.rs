//! Processes: starts a server on its own core, reads what it costs from /proc, keeps this client on another core.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    agent::Door,
    apart::{Apart, Counted},
    child::{Ready, Running, Starting, bootstrap, rss},
    cpu::{CORES, Moment, cpu},
    dialect::Dialect,
};

/// Which server to measure.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Place {
    /// Binary to start, with a fresh data directory, on core 0.
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Ready line (JSON) of a server that runs already.
    #[arg(long, value_name = "FILE", conflicts_with = "server", requires = "pid")]
    pub ready: Option<PathBuf>,
    /// Process of that server.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Start its roles in processes of their own, on servers that this script knows.
    #[arg(long, value_name = "SCRIPT", requires = "server", conflicts_with_all = ["fsync_ms", "purge"])]
    pub apart: Option<PathBuf>,
    /// Milliseconds that the server started here waits longer for every fsync.
    #[arg(long, default_value_t = 0, requires = "server")]
    pub fsync_ms: u32,
    /// The server started here gives memory back to the system as soon as it is free: what is left of bursts hides small things.
    #[arg(long, requires = "server")]
    pub purge: bool,
}

/// A server being measured. One that was started here ends with it.
#[derive(Debug)]
pub struct Server {
    /// What it said when it was ready.
    pub ready: Ready,
    /// From the start of the process to its ready line.
    pub wall: Duration,
    /// When the process was started.
    pub begun: Moment,
    dialect: Dialect,
    pid: u32,
    child: Option<Running>,
    folder: Option<TempDir>,
    apart: Option<Apart>,
}

impl Server {
    /// The server of `place`, with a tenant for each number of fleets if it is started here.
    ///
    /// # Errors
    /// No server is named, or it does not get ready.
    pub fn at(place: &Place, tenants: &[usize]) -> Result<Self> {
        if let (Some(binary), Some(script)) = (&place.server, &place.apart) {
            let before = Self::before(Dialect::Ringforge)?;
            return Ok(Self { apart: Some(Apart::start(binary, script, tenants)?), ..before });
        }
        match (&place.server, &place.ready, place.pid) {
            (Some(binary), ..) => Self::ringforge(binary, tenants, place),
            (None, Some(file), Some(pid)) => {
                let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
                let ready = serde_json::from_str(text.lines().next().unwrap_or_default())
                    .with_context(|| format!("read the ready line in {}", file.display()))?;
                Ok(Self { ready, pid, ..Self::before(Dialect::Ringforge)? })
            }
            _ => bail!("name a server: --server PATH, or --ready FILE with --pid N"),
        }
    }

    /// Starts a ringforge binary with tenants of these many fleets.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn ringforge(binary: &Path, tenants: &[usize], place: &Place) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a data directory")?;
        bootstrap(folder.path(), tenants)?;
        let mut command = ringforge(binary, folder.path(), place.fsync_ms)?;
        if place.purge {
            command.env("MIMALLOC_PURGE_DELAY", "0");
        }
        Self::start(command, folder)
    }

    /// Starts the bare fan-out server of this binary.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn bare() -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for the server's log")?;
        let mut command = pinned(&std::env::current_exe().context("find this binary")?);
        command.arg("bare");
        Ok(Self { dialect: Dialect::Bare, ..Self::start(command, folder)? })
    }

    /// Starts the server of this binary that only writes.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn flood(bytes: u32) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for the server's log")?;
        let mut command = pinned(&std::env::current_exe().context("find this binary")?);
        command.args(["flood", "--bytes", &bytes.to_string()]);
        Self::start(command, folder)
    }

    /// Ends the server, lets `change` work on its data directory, and starts it again.
    ///
    /// # Errors
    /// It cannot be ended, changed or started.
    pub fn restart(mut self, binary: &Path, change: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let folder = self.folder.take().context("only a server that was started here is started again")?;
        let status = Command::new("kill").arg(self.pid.to_string()).status().context("end the server")?;
        ensure!(status.success(), "the server cannot be ended");
        if let Some(mut child) = self.child.take() {
            child.0.wait().context("wait for the server's end")?;
        }
        change(&folder.path().join("data"))?;
        let command = ringforge(binary, folder.path(), 0)?;
        Self::start(command, folder)
    }

    /// A way in for each of `count` fleets.
    ///
    /// # Errors
    /// The server has fewer.
    pub fn doors(&self, count: usize) -> Result<Vec<Door>> {
        let url = &self.ready.ws_url;
        let mut doors = match self.dialect {
            Dialect::Ringforge => match &self.apart {
                Some(apart) => apart.doors(count)?,
                None => self.ready.doors(count)?,
            },
            Dialect::Bare => (0..count).map(|fleet| Door::bare(url, fleet)).collect(),
            dialect => {
                let door = Door { url: url.clone(), far: None, dialect, key: String::new(), fleet: 0 };
                vec![door; count]
            }
        };
        doors.iter_mut().enumerate().for_each(|(fleet, door)| door.fleet = fleet);
        Ok(doors)
    }

    /// A server that is started next.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub(crate) fn before(dialect: Dialect) -> Result<Self> {
        let ready = Ready::default();
        let (begun, wall) = (Moment::now()?, Duration::ZERO);
        Ok(Self { ready, wall, begun, dialect, pid: 0, child: None, folder: None, apart: None })
    }

    /// Runs a command that is no RingForge, its output in `folder`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn run(mut command: Command, dialect: Dialect, url: String, folder: TempDir) -> Result<Self> {
        let log = fs::File::create(folder.path().join("server.log")).context("make the server's log")?;
        let errors = log.try_clone().context("share the server's log")?;
        let before = Self::before(dialect)?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
        let mut server = Self { pid: child.id(), child: Some(Running(child)), folder: Some(folder), ..before };
        server.ready.ws_url = url;
        Ok(server)
    }

    /// Whether a server started here still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.0.try_wait(), Ok(None)))
    }

    /// What a server started here wrote, for an error message.
    pub(crate) fn said(&self) -> String {
        let log = self.folder.as_ref().map(|folder| folder.path().join("server.log"));
        log.and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default()
    }

    /// How often a server with `--fsync-ms` made a file durable so far.
    pub fn fsyncs(&self) -> u64 {
        let count = self.folder.as_ref().map(|folder| folder.path().join(FSYNCS));
        count.and_then(|count| fs::metadata(count).ok()).map_or(0, |count| count.len())
    }

    fn start(command: Command, folder: TempDir) -> Result<Self> {
        let before = Self::before(Dialect::Ringforge)?;
        let (child, at, ready) = Starting::of(command, folder.path().join("server.log"))?.ready()?;
        let wall = at - before.begun.at;
        Ok(Self { pid: child.0.id(), child: Some(child), folder: Some(folder), wall, ready, ..before })
    }

    /// CPU time it has used, of all its threads; where its roles run apart, of all of them.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu(&self) -> Result<Duration> {
        match &self.apart {
            Some(apart) => apart.cpu(),
            None => cpu(&self.pid.to_string()),
        }
    }

    /// CPU time it has used since it was `before`.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_since(&self, before: Duration) -> Result<Duration> {
        Ok(self.cpu()?.saturating_sub(before))
    }

    /// Where its roles run apart: CPU time of each process.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn parts(&self) -> Result<Vec<(String, Duration)>> {
        self.apart.as_ref().map_or_else(|| Ok(Vec::new()), Apart::parts)
    }

    /// Where they do: what the servers below have counted.
    ///
    /// # Errors
    /// They do not say.
    pub fn counted(&self) -> Result<Counted> {
        self.apart.as_ref().map_or_else(|| Ok(Counted::new()), Apart::counted)
    }

    /// Where they do: the installation.
    pub fn apart(&mut self) -> Option<&mut Apart> {
        self.apart.as_mut()
    }

    /// Its resident memory in bytes; where its roles run apart, of all of them.
    ///
    /// # Errors
    /// It is gone.
    pub fn rss(&self) -> Result<u64> {
        match &self.apart {
            Some(apart) => apart.rss(),
            None => rss(self.pid),
        }
    }
}

/// Whether there is a core for each side.
fn two_cores() -> bool {
    Path::new("/sys/devices/system/cpu/cpu1").exists()
}

pub(crate) fn pinned(binary: &Path) -> Command {
    if !two_cores() {
        return Command::new(binary);
    }
    let mut command = Command::new("taskset");
    command.arg("-c").arg(CORES[0].to_string()).arg(binary);
    command
}

/// Counts the fsyncs of a server, by its length.
const FSYNCS: &str = "fsyncs";

/// The command for a server whose bootstrap file and data are in `folder`.
fn ringforge(binary: &Path, folder: &Path, fsync_ms: u32) -> Result<Command> {
    let mut command = pinned(binary);
    command.args(["all", "--port", "0", "--bind", "127.0.0.1", "--json", "--no-demo", "--data"]);
    command.arg(folder.join("data")).arg("--bootstrap").arg(folder.join("bootstrap.toml"));
    if fsync_ms > 0 {
        command.env("LD_PRELOAD", slow_fsync(folder)?);
        command.env("SLOW_FSYNC_MS", fsync_ms.to_string()).env("SLOW_FSYNC_COUNT", folder.join(FSYNCS));
    }
    Ok(command)
}

/// Compiles what makes fsync slow.
fn slow_fsync(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("slow_fsync.c"), folder.join("slow_fsync.so"));
    fs::write(&source, include_str!("slow_fsync.c")).context("write slow_fsync.c")?;
    let arguments = ["-shared", "-fPIC", "-O2", "-o"];
    let output =
        Command::new("cc").args(arguments).arg(&library).arg(&source).arg("-ldl").output().context("run cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(library)
}

/// Keeps this process on its core. Call it before any other thread exists.
///
/// # Errors
/// `taskset` is missing or refuses.
pub fn pin_client() -> Result<()> {
    if !two_cores() {
        return Ok(());
    }
    let id = std::process::id().to_string();
    let output = Command::new("taskset").args(["-cp", &CORES[1].to_string(), &id]).output().context("run taskset")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Makes room for this many open files, here and in servers started later.
///
/// # Errors
/// The limit is lower and cannot be raised.
pub fn raise_open_files(needed: u64) -> Result<()> {
    if open_files()?.0 < needed {
        let hard = open_files()?.1;
        let id = std::process::id().to_string();
        let _ = Command::new("prlimit").args(["--pid", &id, &format!("--nofile={hard}:{hard}")]).status();
    }
    let (soft, hard) = open_files()?;
    ensure!(soft >= needed, "the run needs {needed} open files, the limit is {soft} (hard {hard}): ulimit -n {needed}");
    Ok(())
}

/// Soft and hard limit of open files.
fn open_files() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/limits").context("read /proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.unwrap_or_default().split_whitespace().map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).context("no open-file limit in /proc/self/limits")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn this_process_has_figures() {
        assert!(cpu("self").is_ok());
        let (soft, hard) = open_files().expect("limits");
        assert!(soft > 0 && soft <= hard);
        assert!(raise_open_files(hard + 1).is_err());
    }

    #[test]
    fn every_fsync_of_a_server_is_slower_and_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=1", "count=1", "conv=fdatasync", "status=none"]);
        command.arg(format!("of={}", folder.path().join("file").display()));
        let count = folder.path().join(FSYNCS);
        command.env("LD_PRELOAD", slow_fsync(folder.path()).expect("a C compiler"));
        command.env("SLOW_FSYNC_MS", "50").env("SLOW_FSYNC_COUNT", &count);
        let begun = Instant::now();
        assert!(command.status().expect("dd").success());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(fs::metadata(count).expect("counted").len(), 1);
    }

    #[test]
    fn doors_come_from_the_ready_line() {
        let line = r#"{"ready":true,"version":"0.1.0","ready_ms":210,"ws_url":"ws://127.0.0.1:4000/ws","tenants":[
            {"name":"load","fleets":[{"slug":"a","agent_key":"k1"},{"slug":"b","agent_key":"k2"}]}]}"#;
        let ready: Ready = serde_json::from_str(line).expect("a ready line");
        assert_eq!(ready.doors(2).expect("two").len(), 2);
        assert!(ready.doors(3).is_err());
        let bare = Server::before(Dialect::Bare).expect("a moment");
        assert_eq!(bare.doors(3).expect("any number").len(), 3);
    }
}
