//! A disk that fails at the Nth operation, for every N of a short life: first start, commands of two agents, a checkpoint, an
//! end. After a failed write of the log nothing is acknowledged and the process ends; a failed write of the read models is
//! tried again. Whatever it was, a restart has everything that was acknowledged and nothing that was refused.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]
#![cfg(target_os = "linux")]

#[path = "support.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringforge_adapters::log::embedded::{OpenError, repair};
use ringforge_ports::names;
use serde_json::{Value, json};
use support::{Client, Got, Options, SOON, Server};

/// Servers at a time.
const AT_ONCE: u64 = 6;
/// Longer than until the write-ahead logs are moved into their files.
const CHECKPOINT: Duration = Duration::from_millis(260);
const CONFIG: &str = "[timing]\nreply_timeout_ms = 500\n";
/// What the process ends with where its disk makes it.
const GONE: i32 = 137;

/// Which files fail, as their names begin.
const LOG: &str = names::LOG_FILE;
const READS: &str = "reads-";

/// One operation that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    file: &'static str,
    how: &'static str,
    at: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at operation {} on {}*", self.how, self.at, self.file)
    }
}

/// What an agent was told of a command that writes a key of its own.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Acked,
    Refused,
    Unknown,
}

/// A command, and whether the disk had failed for good before it was sent.
#[derive(Debug)]
struct Sent {
    key: String,
    after_the_fault: bool,
    told: Told,
}

/// A server whose disk can fail, for one life after the other.
struct Bench {
    server: Server,
    shim: PathBuf,
}

impl Bench {
    fn new(shim: &Path) -> Self {
        let mut server = Server::start(Options { config: CONFIG.to_owned(), ..Options::default() });
        assert_eq!(server.terminate(), Some(0));
        Self { server, shim: shim.to_owned() }
    }

    fn home(&self) -> PathBuf {
        self.server.data().parent().expect("a parent").to_owned()
    }

    /// Made when the disk fails.
    fn told(&self) -> PathBuf {
        self.home().join("told")
    }

    fn struck(&self) -> bool {
        self.told().exists()
    }

    /// Whether the disk has failed so that the process ends. That a file cannot be made longer ahead of a checkpoint is no
    /// failure, as long as it can be written.
    fn must_end(&self, fault: Fault) -> bool {
        let failed = || fs::read_to_string(self.told()).expect("it says what failed");
        self.struck() && (fault.how == "exit" || fault.file == LOG && !failed().starts_with("ftruncate"))
    }

    /// Nothing is there, and the next life has this disk.
    fn prepare(&mut self, fault: Fault) {
        let _ = fs::remove_dir_all(self.server.data());
        let _ = fs::remove_file(self.told());
        fs::write(self.home().join("stderr"), "").expect("it is emptied");
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        let environment = [
            ("LD_PRELOAD", text(self.shim.clone())),
            ("FAULTY_FILES", text(self.server.data().join(fault.file))),
            ("FAULTY_AT", fault.at.to_string()),
            ("FAULTY_HOW", fault.how.to_owned()),
            ("FAULTY_TOLD", text(self.told())),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        self.server.with_options(|options| options.environment = environment);
    }

    /// Lives a short life; gives what was sent, and how it ended if it ended.
    fn live(&mut self, fault: Fault) -> (Vec<Sent>, Option<i32>) {
        self.prepare(fault);
        if let Err(why) = self.server.try_restart() {
            assert!(self.struck(), "{fault}: it did not start although nothing failed: {why}");
            let code = [1, GONE].into_iter().find(|code| why.contains(&format!("unix_wait_status({})", code << 8)));
            self.clear(fault, code);
            return (Vec::new(), code);
        }
        let mut sent = Vec::new();
        block_on(self.script(fault, &mut sent));
        // Whatever has failed by now ends the process by itself, or not at all.
        if !self.must_end(fault) && self.server.alive() {
            self.server.ask_to_end();
        }
        let code = self.server.ended();
        if code != Some(0) {
            self.clear(fault, code);
        }
        (sent, code)
    }

    /// It said why it ended, once, or had no time to.
    fn clear(&self, fault: Fault, code: Option<i32>) {
        let said = self.server.stderr();
        assert!(!said.contains("panicked"), "{fault}: {said}");
        if fault.how == "exit" {
            assert_eq!(code, Some(GONE), "{fault}: {said}");
            return;
        }
        assert_eq!(code, Some(1), "{fault}: {said}");
        let messages: Vec<&str> = said.lines().filter(|line| line.starts_with("ringforge: ")).collect();
        let [message] = messages[..] else { panic!("{fault}: no single message: {said}") };
        let names = ["the log", "read models", "data directory", "keys"].iter().any(|what| message.contains(what));
        let why = ["disk", "I/O error", "full", "space", "Input/output"].iter().any(|why| message.contains(why));
        assert!(names && why, "{fault}: what is wrong? {message}");
    }

    /// Two agents write, one command at a time each, before and after a checkpoint.
    async fn script(&self, fault: Fault, sent: &mut Vec<Sent>) {
        let server = &self.server;
        let mut agents = Vec::new();
        for name in ["ada", "ben"] {
            let more = json!({ "presence": "none" });
            if let Some((client, _)) = Client::try_enter(server.ws_url(), server.first_key(), name, more).await {
                agents.push((name, client));
            }
        }
        for round in 0..5 {
            if round == 3 {
                tokio::time::sleep(CHECKPOINT).await;
            }
            for (name, client) in &mut agents {
                let (key, after_the_fault) = (format!("{name}/{round}"), self.must_end(fault));
                let frame = json!({ "type": "memory", "action": "set", "key": key, "value": key, "ref": round });
                client.send(&frame).await;
                let told = told(client, round).await;
                sent.push(Sent { key, after_the_fault, told });
            }
        }
    }

    /// The next life, on a disk that works, has what it must.
    fn check(&mut self, fault: Fault, sent: &[Sent]) {
        self.server.with_options(|options| options.environment.clear());
        match repair::check(&self.server.data().join(LOG), 2) {
            Ok(found) => assert!(found.is_whole(), "{fault}: {found:?}"),
            Err(OpenError::Io(error)) if error.kind() == ErrorKind::NotFound && sent.is_empty() => {}
            Err(error) => panic!("{fault}: {error}"),
        }
        self.server.try_restart().unwrap_or_else(|why| panic!("{fault}: it does not start again: {why}"));
        let found = block_on(entries(&self.server));
        for sent in sent {
            let there = found.get(&sent.key).is_some_and(|value| *value == json!(sent.key));
            match sent.told {
                Told::Acked => assert!(there, "{fault}: {} was acknowledged and is lost", sent.key),
                Told::Refused => assert!(!there, "{fault}: {} was refused and is there", sent.key),
                Told::Unknown => {}
            }
        }
        assert_eq!(self.server.terminate(), Some(0), "{fault}: {}", self.server.stderr());
        if fault.file == READS {
            self.delete_read_models();
            self.server.restart();
            assert_eq!(block_on(entries(&self.server)), found, "{fault}: read models made anew say the same");
            assert_eq!(self.server.terminate(), Some(0));
        }
    }

    fn delete_read_models(&self) {
        for file in fs::read_dir(self.server.data()).expect("the data directory") {
            let path = file.expect("a file").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(READS)) {
                fs::remove_file(path).expect("it is deleted");
            }
        }
    }

    /// Whether the fault came to pass; panics unless everything holds.
    fn holds(&mut self, fault: Fault) -> bool {
        let (sent, code) = self.live(fault);
        let struck = self.struck();
        if !struck {
            assert_eq!(code, Some(0), "{fault}: nothing failed: {}", self.server.stderr());
            assert!(sent.iter().all(|sent| sent.told == Told::Acked), "{fault}: nothing failed: {sent:?}");
        }
        if fault.file == LOG {
            let late = sent.iter().find(|sent| sent.after_the_fault && sent.told == Told::Acked);
            assert!(late.is_none(), "{fault}: acknowledged after the disk failed: {late:?}");
        } else if fault.how == "eio" && !sent.is_empty() {
            assert_eq!(code, Some(0), "{fault}: one failed write of the read models is tried again");
        }
        self.check(fault, &sent);
        struck
    }
}

/// What a command comes to.
async fn told(client: &mut Client, reference: usize) -> Told {
    loop {
        match client.next(SOON).await {
            Got::Frame(frame) if frame["ref"] != json!(reference) => {}
            Got::Frame(frame) if frame["event"] == "set_ok" => return Told::Acked,
            Got::Frame(frame) if frame["outcome"] == "none" => return Told::Refused,
            Got::Frame(frame) => {
                assert_eq!(frame["outcome"], "unknown", "{frame}");
                return Told::Unknown;
            }
            Got::Closed(_) => return Told::Unknown,
            Got::Nothing => panic!("not answered, and not closed"),
        }
    }
}

/// Every memory entry there is.
async fn entries(server: &Server) -> BTreeMap<String, Value> {
    let (mut client, _) =
        Client::enter(server.ws_url(), server.first_key(), "reader", json!({ "presence": "none" })).await;
    let list = json!({ "type": "memory", "action": "list", "limit": 100, "values": true, "ref": 1 });
    let list = client.ask(&list).await;
    client.close().await;
    let entries = list["entries"].as_array().unwrap_or_else(|| panic!("no entries: {list}"));
    entries.iter().map(|entry| (entry["key"].as_str().unwrap_or_default().to_owned(), entry["value"].clone())).collect()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// The disk, compiled; `None`, and the test says so, where there is no compiler.
fn shim(directory: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_faults/faulty.c");
    let shim = directory.join("faulty.so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source).output();
    match compiled {
        Ok(output) if output.status.success() => Some(shim),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("SKIPPED: disks that fail, because there is no C compiler");
            None
        }
    }
}

/// How many operations a life has on these files.
fn operations(shim: &Path, file: &'static str) -> u64 {
    let mut bench = Bench::new(shim);
    let (sent, code) = bench.live(Fault { file, how: "eio", at: 0 });
    assert_eq!((sent.len(), code), (10, Some(0)), "{}", bench.server.stderr());
    let count = fs::read_to_string(bench.home().join("told.count")).expect("they are counted");
    count.parse().expect("a number")
}

/// Every `step`th operation of every kind of file fails in every way.
fn fail_every(step: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(shim) = shim(directory.path()) else { return };
    let mut faults = Vec::new();
    for file in [LOG, READS] {
        let count = operations(&shim, file);
        eprintln!("{count} operations on {file}*");
        assert!(count > 40, "{count} operations on {file}*");
        for how in ["eio", "enospc", "exit"] {
            // No two lives are quite the same.
            let first = 1 + faults.len() as u64 % step;
            faults.extend((first..=count).step_by(usize::try_from(step).expect("small")).map(|at| Fault {
                file,
                how,
                at,
            }));
        }
    }
    let (next, struck, failed) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let since = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                let mut bench = Bench::new(&shim);
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).expect("small");
                    let Some(fault) = faults.get(at) else { return };
                    if let Ok(came) = catch_unwind(AssertUnwindSafe(|| bench.holds(*fault))) {
                        struck.fetch_add(u64::from(came), Ordering::Relaxed);
                    } else {
                        failed.lock().expect("no panic while it is held").push(fault.to_string());
                        bench = Bench::new(&shim);
                    }
                }
            });
        }
    });
    let (struck, failed) = (struck.into_inner(), failed.into_inner().expect("no panic while it is held"));
    eprintln!("{} lives, {struck} with a disk that failed, {:?}", faults.len(), since.elapsed());
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), faults.len());
    assert!(struck * 10 > faults.len() as u64 * 9, "{struck} of {} disks failed", faults.len());
}

#[test]
fn a_disk_may_fail_now_and_then() {
    fail_every(97);
}

#[test]
#[ignore = "long: make proof"]
fn a_disk_may_fail_at_any_operation() {
    fail_every(1);
}
