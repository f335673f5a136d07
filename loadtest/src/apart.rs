//! An installation whose roles are processes of their own, on servers that a script knows (`servers.sh`): started for a
//! measurement; what each of its processes uses, what the servers count. The script speaks to the servers, never this client.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    agent::Door,
    child::{Ready, Running, Starting, bootstrap, rss},
    cpu::{cpu, cpu_of_family},
    figures::{Report, shown_spread},
};

/// What is started. The command-api makes the tenants; agents are spread over the edges.
const ROLES: [&str; 4] = ["projectors", "command-api", "edge", "edge"];
/// A role that takes longer to end has failed.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// Numbers with their names.
pub type Counted = Vec<(String, f64)>;

/// The installation. It ends with its owner, and its databases with it.
#[derive(Debug)]
pub struct Apart {
    script: PathBuf,
    binary: PathBuf,
    name: String,
    settings: Vec<(String, String)>,
    folder: TempDir,
    roles: Vec<Role>,
    servers: Vec<(String, u32)>,
}

#[derive(Debug)]
struct Role {
    name: String,
    ready: Ready,
    child: Running,
}

impl Apart {
    /// Starts one with tenants of these many fleets.
    ///
    /// # Errors
    /// The script fails, or a role does not get ready.
    pub fn start(binary: &Path, script: &Path, tenants: &[usize]) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("load_{}_{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().context("make a folder for data directories")?;
        bootstrap(folder.path(), tenants)?;
        let mut apart = Self {
            script: script.to_owned(),
            binary: binary.to_owned(),
            name,
            settings: Vec::new(),
            folder,
            roles: Vec::new(),
            servers: Vec::new(),
        };
        let setting = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        apart.settings = apart.ask("new")?.lines().filter_map(setting).collect();
        let process = |line: &str| {
            let (id, name) = line.split_once(' ')?;
            Some((name.to_owned(), id.parse().ok()?))
        };
        apart.servers = apart.ask("processes")?.lines().filter_map(process).collect();
        ensure!(!apart.servers.is_empty(), "{} names no processes", script.display());
        apart.begin(&ROLES)?;
        Ok(apart)
    }

    /// Starts roles, all at once: they wait for each other.
    fn begin(&mut self, roles: &[&str]) -> Result<()> {
        let mut starting = Vec::new();
        for (number, role) in roles.iter().enumerate() {
            let same = roles[..number].iter().filter(|other| *other == role).count();
            let name = if same == 0 { (*role).to_owned() } else { format!("{role}-{}", same + 1) };
            let folder = self.folder.path();
            let mut command = Command::new(&self.binary);
            command.args([role, "--port", "0", "--bind", "127.0.0.1", "--json", "--data"]).arg(folder.join(&name));
            if *role == "command-api" {
                command.arg("--bootstrap").arg(folder.join("bootstrap.toml"));
            }
            command.envs(self.settings.iter().map(|(name, value)| (name, value)));
            starting.push((Starting::of(command, folder.join(format!("{name}.log")))?, name));
        }
        for (starting, name) in starting {
            let (child, _, ready) = starting.ready().with_context(|| format!("start {name}"))?;
            self.roles.push(Role { name, ready, child });
        }
        Ok(())
    }

    /// Ends all roles in order.
    ///
    /// # Errors
    /// One of them does not end.
    pub fn end(&mut self) -> Result<()> {
        for role in &self.roles {
            let status = Command::new("kill").arg(role.child.0.id().to_string()).status().context("run kill")?;
            ensure!(status.success(), "{} cannot be ended", role.name);
        }
        let begun = Instant::now();
        for role in &mut self.roles {
            while role.child.0.try_wait().context("wait for a role's end")?.is_none() {
                ensure!(begun.elapsed() < ENDED_WITHIN, "{} does not end", role.name);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.roles.clear();
        Ok(())
    }

    /// Empties the read models. All roles have ended.
    ///
    /// # Errors
    /// The script fails.
    pub fn empty(&self) -> Result<()> {
        self.ask("empty").map(drop)
    }

    /// Starts projectors alone.
    ///
    /// # Errors
    /// They do not get ready.
    pub fn project(&mut self) -> Result<()> {
        self.begin(&["projectors"])
    }

    /// A way in for each of `count` fleets: each at another edge than the one before it, if there are several.
    ///
    /// # Errors
    /// It has fewer.
    pub fn doors(&self, count: usize) -> Result<Vec<Door>> {
        let edges: Vec<&str> =
            self.roles.iter().map(|role| role.ready.ws_url.as_str()).filter(|url| !url.is_empty()).collect();
        ensure!(!edges.is_empty(), "no edge runs");
        let mut ways = Err(anyhow::anyhow!("no role knows the keys"));
        for role in &self.roles {
            ways = ways.or_else(|_| role.ready.doors(count));
        }
        let mut ways = ways?;
        for (fleet, door) in ways.iter_mut().enumerate() {
            edges[fleet % edges.len()].clone_into(&mut door.url);
            door.far = Some(edges[(fleet + 1) % edges.len()].to_owned());
        }
        Ok(ways)
    }

    /// CPU time of the roles.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu(&self) -> Result<Duration> {
        self.roles.iter().map(|role| cpu(&role.child.0.id().to_string())).sum()
    }

    /// CPU time of each role and each server.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn parts(&self) -> Result<Vec<(String, Duration)>> {
        let roles = self.roles.iter().map(|role| Ok((role.name.clone(), cpu(&role.child.0.id().to_string())?)));
        let servers = self.servers.iter().map(|(name, id)| Ok((name.clone(), cpu_of_family(*id)?)));
        servers.chain(roles).collect()
    }

    /// Resident memory of the roles.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn rss(&self) -> Result<u64> {
        self.roles.iter().map(|role| rss(role.child.0.id())).sum()
    }

    /// What the servers have counted so far, and how large what they keep is.
    ///
    /// # Errors
    /// The script fails.
    pub fn counted(&self) -> Result<Counted> {
        Ok(numbers(&self.ask("counters")?))
    }

    /// What is where, a line each.
    ///
    /// # Errors
    /// The script fails: something is where it must not be.
    pub fn facts(&self) -> Result<Vec<String>> {
        Ok(self.ask("facts")?.lines().map(str::to_owned).collect())
    }

    /// How far the partition is projected that is furthest.
    ///
    /// # Errors
    /// The script fails.
    pub fn applied(&self) -> Result<u64> {
        let text = self.ask("applied")?;
        text.trim().parse().with_context(|| format!("read how far it is projected: {text}"))
    }

    /// Begins to look at how far that is, again and again.
    ///
    /// # Errors
    /// The script cannot be run.
    pub fn follow(&self) -> Result<Following> {
        let mut command = Command::new(&self.script);
        command.args(["follow", &self.name]);
        Ok(Following(Starting::of(command, self.folder.path().join("follow.log"))?))
    }

    /// A bare round trip through the broker, again and again for so long.
    ///
    /// # Errors
    /// The script fails.
    pub fn round_trip(&self, seconds: u32, bytes: u32) -> Result<Counted> {
        let text = run(Command::new(&self.script).args(["round-trip", &seconds.to_string(), &bytes.to_string()]))?;
        Ok(numbers(&text))
    }

    fn ask(&self, what: &str) -> Result<String> {
        run(Command::new(&self.script).args([what, &self.name]))
    }
}

/// Somebody who looks at how far the partition is projected that is furthest.
#[derive(Debug)]
pub struct Following(Starting);

impl Following {
    /// The time of each look and what was seen, until it is `upto`.
    ///
    /// # Errors
    /// It takes longer than `within`.
    pub fn until(&self, upto: u64, within: Duration) -> Result<Vec<(Instant, u64)>> {
        let (begun, mut seen) = (Instant::now(), Vec::new());
        loop {
            let left = within.saturating_sub(begun.elapsed());
            let Ok((at, line)) = self.0.lines.recv_timeout(left) else {
                bail!("not all is projected in {within:?}: the last look was {:?}", seen.last());
            };
            // It says other things as well.
            let Ok(applied) = line.trim().parse() else { continue };
            seen.push((at, applied));
            if applied >= upto {
                return Ok(seen);
            }
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.roles.clear();
        // What is left fills the disk of a later round at worst.
        let _ = self.ask("drop");
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lines of `NUMBER NAME`.
fn numbers(text: &str) -> Counted {
    let number = |line: &str| {
        let (number, name) = line.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines().filter_map(number).collect()
}

/// What was counted between two looks.
pub fn between(before: &Counted, after: &Counted) -> Counted {
    let since = |(name, value): &(String, f64)| {
        let before = before.iter().find(|(other, _)| other == name).map_or(0.0, |(_, value)| *value);
        (name.clone(), value - before)
    };
    after.iter().map(since).collect()
}

/// Shows what was counted in some rounds, for each of so many things; what never changed is left out.
pub fn show_counted(report: &mut Report, thing: &str, rounds: &[(&Counted, f64)]) {
    let names = rounds.first().map(|(counted, _)| *counted).into_iter().flatten().map(|(name, _)| name);
    for name in names {
        let of = |counted: &Counted| counted.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        let each: Vec<f64> = rounds.iter().filter_map(|(counted, count)| Some(of(counted)? / count.max(1.0))).collect();
        if each.iter().any(|each| *each != 0.0) {
            let decimals = if each.iter().any(|each| *each < 10.0) { 3 } else { 0 };
            report.row(format!("{name}, {thing}"), shown_spread(&each, decimals));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_count_is_told_for_each_thing() {
        let before = numbers("100 bytes of WAL\nnot a number\n5 transactions\n");
        let after = numbers("4100 bytes of WAL\n6 transactions\n");
        let counted = between(&before, &after);
        assert_eq!(counted, [("bytes of WAL".to_owned(), 4_000.0), ("transactions".to_owned(), 1.0)]);
        let mut report = Report::new("counted");
        show_counted(&mut report, "a command", &[(&counted, 4.0), (&counted, 2.0)]);
        let text = report.to_string();
        assert!(text.contains("| bytes of WAL, a command | 1500 (1000 to 2000) |"), "{text}");
        assert!(text.contains("| transactions, a command | 0.375 (0.250 to 0.500) |"), "{text}");
    }

    #[test]
    fn a_script_that_fails_says_why() {
        let failed = run(Command::new("sh").args(["-c", "echo no such server >&2; exit 3"]));
        assert!(failed.is_err_and(|error| error.to_string().contains("no such server")));
    }
}
