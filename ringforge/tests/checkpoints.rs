//! The log is trimmed behind checkpoints while events go on, and what it no longer has comes back from them: in a data directory
//! and on Kafka, Postgres and S3.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[cfg(feature = "cluster")]
#[path = "support/cluster.rs"]
mod cluster;
#[path = "support.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use ringforge_adapters::{log::embedded::EmbeddedLog, reads::sqlite::SqliteReads};
use ringforge_domain::{
    position::{Offset, Partition},
    row::digest,
};
use ringforge_ports::{
    Services,
    clock::{SystemClock, SystemIds},
    log::Log,
    memory::{blobs::MemoryBlobs, live::MemoryLive},
    names,
    reads::{Reads, every_row},
};
use ringforge_projectors::Projector;
use serde_json::{Value, json};
use support::{Client, Options, Server};
use tokio::task::JoinHandle;

/// A checkpoint each 0.3 s, and what is older than 0.9 s is trimmed.
const HASTE: &str = "[checkpoints]\nevery_minutes = 0.005\n[log]\nretention_hours = 0.00025\n";
/// The same, and nothing more is trimmed: what is made anew begins with a checkpoint that must stay.
const CALM: &str = "[checkpoints]\nevery_minutes = 0.005\n";
/// How long it may take until something is trimmed.
const TRIMMED: Duration = Duration::from_mins(1);

/// An agent that sets keys until it is told to end, then says how often it did.
struct Traffic {
    goes_on: Arc<AtomicBool>,
    sets: JoinHandle<u64>,
}

impl Traffic {
    async fn start(server: &Server, name: &'static str) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let on = Arc::clone(&goes_on);
        let more = json!({ "presence": "none" });
        let (mut agent, _) = Client::enter(server.next_url(), server.first_key(), name, more).await;
        let sets = tokio::spawn(async move {
            let mut number = 0;
            while on.load(Ordering::Relaxed) {
                number += 1;
                let set = json!({ "type": "memory", "action": "set", "key": format!("busy/{name}/{}", number % 50), "value": number, "ref": number });
                let done = agent.ask(&set).await;
                assert_eq!(done["event"], "set_ok", "{done}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            agent.close().await;
            number
        });
        Self { goes_on, sets }
    }

    async fn end(self) -> u64 {
        self.goes_on.store(false, Ordering::Relaxed);
        self.sets.await.expect("every set is answered")
    }
}

/// Sets the key that will be older than the log, and gives the event.
async fn set_old(server: &Server) -> Value {
    let (mut ada, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({ "presence": "none" })).await;
    let set =
        json!({ "type": "memory", "action": "set", "key": "old", "value": { "kept": true }, "tags": ["t"], "ref": 1 });
    let done = ada.ask(&set).await;
    ada.close().await;
    done["event_id"].clone()
}

/// The old key is there, with its version, and found by its tag.
async fn old_is_there(server: &Server) {
    let (mut ada, _) = Client::enter(server.next_url(), server.first_key(), "ada", json!({ "presence": "none" })).await;
    let got = ada.ask(&json!({ "type": "memory", "action": "get", "key": "old", "ref": 2 })).await;
    assert_eq!((&got["entry"]["value"], &got["entry"]["version"]), (&json!({ "kept": true }), &json!(1)), "{got}");
    let found = ada.ask(&json!({ "type": "memory", "action": "query", "tags": ["t"], "ref": 3 })).await;
    assert_eq!(found["entries"][0]["key"], "old", "{found}");
    ada.close().await;
}

/// Waits until an agent that saw nothing after `event` is told that the log begins later.
async fn until_trimmed(server: &Server, event: &Value) {
    let begun = Instant::now();
    loop {
        let more = json!({ "presence": "none", "last_event_id": event });
        let (mut eve, _) = Client::enter(server.next_url(), server.first_key(), "eve", more).await;
        let resumed = eve.frame_where(|frame| frame["event"] == "resumed").await;
        eve.close().await;
        if resumed["recovered"] == false {
            assert_eq!(resumed["reason"], "expired", "{resumed}");
            return;
        }
        assert!(begun.elapsed() < TRIMMED, "nothing is trimmed:\n{}", server.stderr());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the server has told `what`: the client of S3 tries again for a while before it gives up.
async fn until_told(server: &Server, what: &str) {
    let begun = Instant::now();
    while !server.stderr().contains(what) {
        assert!(begun.elapsed() < TRIMMED, "it is never told:\n{}", server.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn rebuild(arguments: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.arg("rebuild").args(arguments).envs(environment.iter().cloned());
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    output
}

fn open_log(data: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(&data.join(names::LOG_FILE), 2, SystemClock::start()).expect("the log opens")
}

/// The file of the read models.
async fn reads_file(data: &Path) -> PathBuf {
    let log = open_log(data);
    let generation = log.bounds(Partition::POOL).await.expect("bounds").generation;
    log.close().await;
    data.join(names::reads_file(generation))
}

/// Digest and position of the pool.
async fn digest_of(reads: &Arc<dyn Reads>, partition: Partition) -> (String, Offset) {
    let (rows, applied) = every_row(reads, partition).await.expect("rows");
    (digest(&rows, applied.upto), applied.upto)
}

/// The same of a file, after everything that the log has.
async fn digest_after_all(data: &Path, file: &Path) -> (String, Offset) {
    let log = open_log(data);
    let sqlite = SqliteReads::open(file).await.expect("the read models open");
    let reads: Arc<dyn Reads> = Arc::clone(&sqlite) as _;
    let clock = SystemClock::start();
    let live = MemoryLive::new(Arc::clone(&clock) as _);
    let (blobs, ids) = (MemoryBlobs::new(), Arc::new(SystemIds));
    let services = Services { log: Arc::clone(&log) as _, reads: Arc::clone(&reads), live, blobs, clock, ids };
    let end = log.bounds(Partition::POOL).await.expect("bounds").end;
    let mut projector = Projector::open(services, Partition::POOL).await.expect("it opens");
    let mut records = log.read(Partition::POOL, projector.applied());
    while projector.applied() < end {
        let batch = records.next().await.expect("it follows").expect("what comes next is there");
        projector.step(batch).await.expect("applied");
    }
    let found = digest_of(&reads, Partition::POOL).await;
    sqlite.close();
    log.close().await;
    found
}

fn copy(file: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).expect("a directory");
    let copy = to.join("reads.db");
    fs::copy(file, &copy).expect("a copy");
    copy
}

/// A server whose log was trimmed past the old key.
async fn trimmed() -> Server {
    let mut server = Server::start(Options { config: HASTE.to_owned(), ..Options::default() });
    trim(&mut server).await;
    server
}

/// Lets events go on until the log has lost the old key.
async fn trim(server: &mut Server) {
    let event = set_old(server).await;
    let traffic = Traffic::start(server, "busy").await;
    until_trimmed(server, &event).await;
    traffic.end().await;
    assert_eq!(server.terminate(), Some(0));
    server.with_options(|options| CALM.clone_into(&mut options.config));
    server.restart();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_comes_back_from_a_checkpoint() {
    let mut server = trimmed().await;
    old_is_there(&server).await;
    assert_eq!(server.terminate(), Some(0));
    let data = server.data();
    let log = open_log(&data);
    assert!(log.bounds(Partition::POOL).await.expect("bounds").oldest > Offset(0), "it was trimmed");
    log.close().await;
    let file = reads_file(&data).await;
    let before = copy(&file, &data.join("before"));

    SqliteReads::delete(&file).expect("deleted");
    server.restart();
    old_is_there(&server).await;
    assert_eq!(server.terminate(), Some(0));
    let after = copy(&file, &data.join("after"));
    assert_eq!(digest_after_all(&data, &after).await, digest_after_all(&data, &before).await);

    // Without checkpoints there is nothing to begin with: that is said, and the log stays as it is.
    SqliteReads::delete(&file).expect("deleted");
    fs::rename(data.join(names::BLOBS_DIRECTORY), data.join("lost")).expect("they are lost");
    let refused = server.try_restart().expect_err("it cannot begin");
    assert!(refused.contains("gone, oldest kept is"), "{refused}");
    fs::remove_dir_all(data.join(names::BLOBS_DIRECTORY)).unwrap_or_default();
    fs::rename(data.join("lost"), data.join(names::BLOBS_DIRECTORY)).expect("they are found");
    server.restart();
    old_is_there(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_are_made_anew_while_events_go_on() {
    let mut server = trimmed().await;
    let data = server.data();
    let directory = data.to_str().expect("a path");
    let traffic = [Traffic::start(&server, "one").await, Traffic::start(&server, "two").await];
    let output = tokio::task::spawn_blocking({
        let directory = directory.to_owned();
        move || rebuild(&["--data", &directory], &[])
    });
    let output = output.await.expect("it ran");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("from the next start on"), "{said}");
    for traffic in traffic {
        assert!(traffic.end().await > 0, "events went on");
    }
    assert_eq!(server.terminate(), Some(0));
    let file = reads_file(&data).await;
    let (before, rebuilt) = (copy(&file, &data.join("before")), rebuilt(&data));
    let rebuilt = copy(&rebuilt[0], &data.join("rebuilt"));
    let was = digest_after_all(&data, &before).await;
    assert_eq!(digest_after_all(&data, &rebuilt).await, was, "made anew, and kept all the time");

    server.restart();
    old_is_there(&server).await;
    assert_eq!(self::rebuilt(&data), Vec::<PathBuf>::new(), "they are in use");
    assert_eq!(server.terminate(), Some(0));
    // Without a server it is done here.
    rebuild(&["--data", directory], &[]);
    assert_eq!(self::rebuilt(&data).len(), 1);
    server.restart();
    old_is_there(&server).await;
    assert_eq!(server.terminate(), Some(0));
    let now = copy(&file, &data.join("now"));
    assert_eq!(digest_after_all(&data, &now).await, digest_after_all(&data, &before).await);
}

/// Read models that were made anew and are not used yet.
fn rebuilt(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data).expect("the data directory").map(|file| file.expect("a file").path());
    let is_rebuilt = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("rebuilt-") && file.extension().is_some_and(|end| end == "db")
    };
    files.filter(is_rebuilt).collect()
}

#[cfg(feature = "cluster")]
mod on_servers {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        process::Command,
    };

    use ringforge_adapters::{
        log::kafka::{Cluster, KafkaLog},
        reads::postgres::PostgresReads,
    };
    use ringforge_domain::position::Partitions;

    use super::{cluster::Servers, *};

    fn value<'a>(environment: &'a [(String, String)], store: &str) -> &'a str {
        let name = format!("RINGFORGE__STORES__{store}");
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()).expect("it is set")
    }

    /// Every partition of a database.
    async fn digests(url: &str, partitions: Partitions) -> Vec<(String, Offset)> {
        let postgres = Arc::new(PostgresReads::open(url).await.expect("the read models open"));
        let reads: Arc<dyn Reads> = Arc::clone(&postgres) as _;
        let mut found = Vec::new();
        for partition in partitions.iter() {
            found.push(digest_of(&reads, partition).await);
        }
        postgres.close().await;
        found
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_database_is_filled_from_checkpoints_while_events_go_on() {
        let Some(servers) = Servers::of("a_database_is_filled_from_checkpoints_while_events_go_on") else { return };
        let environment = servers.install();
        let options =
            Options { environment: environment.clone(), apart: true, config: HASTE.to_owned(), ..Options::default() };
        let mut server = Server::start(options);
        trim(&mut server).await;
        let traffic = [Traffic::start(&server, "one").await, Traffic::start(&server, "two").await];

        let was = value(&environment, "READS").to_owned();
        let (place, name) = was.rsplit_once('/').expect("a database is named");
        let now = format!("{place}/{name}_anew");
        let made = Command::new("createdb").args(["--maintenance-db", &was, &format!("{name}_anew")]).status();
        assert!(made.is_ok_and(|made| made.success()), "a database is made");
        let anew = {
            let (environment, now) = (environment.clone(), now.clone());
            move || rebuild(&["--into", &now], &environment)
        };
        let output = tokio::task::spawn_blocking(anew.clone()).await.expect("it ran");
        assert!(String::from_utf8_lossy(&output.stdout).contains("level with the log"));
        for traffic in traffic {
            assert!(traffic.end().await > 0, "events went on");
        }
        old_is_there(&server).await;
        assert_eq!(server.terminate(), Some(0));

        // Both at the end of the log: the old ones are by themselves.
        let log =
            KafkaLog::open(&Cluster::at(value(&environment, "LOG")).expect("an address")).await.expect("it opens");
        let (partitions, mut trimmed) = (log.partitions(), 0);
        for partition in partitions.iter() {
            trimmed += log.bounds(partition).await.expect("bounds").oldest.0;
        }
        assert!(trimmed > 0, "the log was trimmed");
        log.close().await;
        rebuild(&["--into", &was], &environment);
        tokio::task::spawn_blocking(anew).await.expect("it goes on");
        assert_eq!(digests(&now, partitions).await, digests(&was, partitions).await);

        server.with_options(|options| {
            options.environment.retain(|(name, _)| name != "RINGFORGE__STORES__READS");
            options.environment.push(("RINGFORGE__STORES__READS".to_owned(), now));
        });
        server.restart();
        old_is_there(&server).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_objects_everything_goes_on() {
        // Nobody listens there.
        let blobs = ("RINGFORGE__STORES__BLOBS".to_owned(), "s3://test:test@127.0.0.1:1/bucket".to_owned());
        let options = Options { config: HASTE.to_owned(), environment: vec![blobs], ..Options::default() };
        let mut server = Server::start(options);
        set_old(&server).await;
        let traffic = Traffic::start(&server, "busy").await;
        let address =
            server.ready["rest_url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address");
        let mut health = TcpStream::connect(address).expect("it listens");
        let asked = "GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        health.write_all(asked.as_bytes()).expect("it is asked");
        let mut answer = String::new();
        health.read_to_string(&mut answer).expect("it answers");
        let body = answer.split("\r\n\r\n").nth(1).and_then(|body| serde_json::from_str::<Value>(body).ok());
        let body = body.expect("a body");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!((&body["status"], &body["blobs"]), (&json!("degraded"), &json!("unavailable")), "{body}");
        until_told(&server, "checkpoints cannot be looked at yet").await;
        assert!(traffic.end().await > 10, "nobody waits for them");
        old_is_there(&server).await;
        assert_eq!(server.terminate(), Some(0));
        let log = open_log(&server.data());
        assert_eq!(log.bounds(Partition::POOL).await.expect("bounds").oldest, Offset(0), "nothing is trimmed");
        log.close().await;
    }
}
