//! What is wrong with servers so that nothing can start on them: one message that names the setting and the fix, in time, and
//! never a password.

use std::{
    env,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    cluster::Servers,
    refusals::{output, refused},
    support::{Client, Options, SOON, Server},
};

/// How long a refusal may take.
const BOUND: Duration = Duration::from_secs(15);

/// What a process has in its environment to find its servers.
struct Installation(Vec<(String, String)>);

impl Installation {
    /// A new one; `None`: there are no servers, which is said.
    fn of(name: &str) -> Option<Self> {
        Some(Self(Servers::of(name)?.install()))
    }

    fn variable(store: &str) -> String {
        format!("RINGFORGE__STORES__{store}")
    }

    /// Where a store is.
    fn url(&self, store: &str) -> &str {
        let known = self.0.iter().find(|(name, _)| *name == Self::variable(store));
        known.map(|(_, url)| url.as_str()).expect("it is set")
    }

    /// With a store elsewhere a start is refused with all of `what`, and the name of the setting.
    fn refuses(&self, store: &str, url: &str, what: &[&str]) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
        command.args(["all", "--json", "--port", "0", "--data"]).arg(home.path()).env("RINGFORGE_LOG", "off");
        command.envs(self.0.iter().cloned()).env(Self::variable(store), url);
        let begun = Instant::now();
        let output = output(command, 2 * BOUND);
        assert!(begun.elapsed() < BOUND, "it took {:?}: {output:?}", begun.elapsed());
        let setting = format!("stores.{} ({})", store.to_lowercase(), Self::variable(store));
        refused(&output, &[what, &[setting.as_str()]].concat());
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hidden"), "{output:?}");
    }

    /// Whom it trusts, or nobody but the system does.
    fn trusting(mut self, authorities: &str) -> Self {
        self.0.push(("SSL_CERT_FILE".to_owned(), authorities.to_owned()));
        self
    }

    /// With these settings it starts; it has ended when this returns. What it said.
    fn starts(&self) -> String {
        let mut server = Server::start(Options { environment: self.0.clone(), ..Options::default() });
        assert_eq!(server.terminate(), Some(0));
        server.stderr()
    }

    /// Does something to the read models, or asks them.
    fn psql(&self, sql: &str) -> String {
        psql(self.url("READS"), sql)
    }
}

fn psql(url: &str, sql: &str) -> String {
    succeeds(Command::new("psql").args([url, "-v", "ON_ERROR_STOP=1", "-qAtc", sql]))
}

fn succeeds(command: &mut Command) -> String {
    let ended = command.output().expect("it is there");
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).expect("text")
}

#[test]
fn a_log_that_is_not_there() {
    let Some(installation) = Installation::of("a_log_that_is_not_there") else { return };
    let (servers, _) = installation.url("LOG").rsplit_once('/').expect("a prefix");
    installation.refuses("LOG", "kafka://127.0.0.1:1/none", &["127.0.0.1:1", "refused", "Is one running there"]);
    installation.refuses("LOG", "kafka://127.0.0.1/none", &["HOST:PORT"]);
    installation.refuses(
        "LOG",
        &format!("{servers}/none"),
        &["no topics begin with none", "`ringforge topics create`"],
    );
}

#[test]
fn read_models_that_are_not_there() {
    let Some(installation) = Installation::of("read_models_that_are_not_there") else { return };
    let there = installation.url("READS");
    let (_, place) = there.split_once('@').expect("a login");
    for (url, what) in [
        ("postgres://app:hidden@127.0.0.1:1/none", "is the server there"),
        (&format!("{there}_none"), "there is no such database: create it"),
        (&format!("postgres://nobody:hidden@{place}"), "does not take this user and password"),
        ("postgres://app:hidden@host:port/none", "postgres://user@host/database"),
        ("mysql://app:hidden@host/none", "must be sqlite: or postgres:"),
    ] {
        installation.refuses("READS", url, &[what]);
    }
}

#[test]
fn read_models_of_another_log_or_build() {
    let Some(installation) = Installation::of("read_models_of_another_log_or_build") else { return };
    let Some(other) = Installation::of("read_models_of_another_log_or_build") else { return };
    installation.starts();
    let reads = installation.url("READS");
    other.refuses("READS", reads, &["of a log of generation", "an empty database"]);
    installation.psql("INSERT INTO ringforge.partitions VALUES (99, 7, 7)");
    installation.refuses("READS", reads, &["partition 99", "fewer partitions", "another prefix"]);
    installation.psql("DELETE FROM ringforge.partitions WHERE partition = 99");
    installation.psql("UPDATE ringforge.partitions SET applied = applied + 1000");
    installation.refuses("READS", reads, &["of another log", "an empty database"]);
    installation.psql("UPDATE ringforge.partitions SET applied = applied - 1000");
    installation.starts();
    installation.psql(
        "INSERT INTO ringforge._sqlx_migrations SELECT 9999, description, installed_on, success, checksum, execution_time
        FROM ringforge._sqlx_migrations LIMIT 1",
    );
    installation.refuses("READS", reads, &["newer version of this program", "migration 9999", "run that one"]);
}

/// A Redis of a test's own, which ends with it.
struct Redis {
    url: String,
    child: Child,
}

impl Redis {
    fn with(settings: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.args(settings).stdout(Stdio::null()).spawn().expect("redis-server starts");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < SOON, "redis-server listens");
            thread::sleep(Duration::from_millis(10));
        }
        Self { url: format!("redis://127.0.0.1:{port}"), child }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_live_bus_that_is_not_as_it_must_be() {
    let Some(installation) = Installation::of("a_live_bus_that_is_not_as_it_must_be") else { return };
    installation.refuses("LIVE", "redis://:hidden@host:port", &["redis://host:port"]);
    let evicts = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    installation.refuses("LIVE", &evicts.url, &["allkeys-lru", "CONFIG SET maxmemory-policy noeviction"]);
    let closed = Redis::with(&["--requirepass", "secret"]);
    for url in [closed.url.clone(), closed.url.replace("redis://", "redis://:hidden@")] {
        installation.refuses("LIVE", &url, &["refuses user or password"]);
    }
}

#[test]
fn what_is_risky_is_told_and_no_reason_not_to_start() {
    let Some(installation) = Installation::of("what_is_risky_is_told_and_no_reason_not_to_start") else { return };
    let said = installation.starts();
    // One broker has the log, and the login of the tests may do everything.
    for what in ["what a broker loses may be lost", "the login of the read models is a superuser"] {
        assert_eq!(said.matches(what).count(), 1, "{what}: {said}");
    }
}

/// What speaks TLS: the file of the authorities, then Kafka, Postgres and Redis.
fn over_tls() -> [String; 4] {
    ["CA", "KAFKA", "POSTGRES", "REDIS"]
        .map(|what| env::var(format!("TEST_TLS_{what}")).expect("scripts/services tells it"))
}

#[tokio::test]
async fn everything_may_be_reached_over_tls_with_a_login() {
    let name = "everything_may_be_reached_over_tls_with_a_login";
    let Some(Installation(mut environment)) = Installation::of(name) else { return };
    let [authorities, kafka, postgres, redis] = over_tls();
    let name = format!("tls_{}", std::process::id());
    environment.retain(|(name, _)| !name.starts_with("RINGFORGE__STORES"));
    // A password need not be in the environment.
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("reads");
    std::fs::write(&file, format!("{postgres}/{name}?sslmode=verify-full\n")).expect("it is written");
    let file = file.to_str().expect("text").to_owned();
    for (store, url) in [
        ("LOG", format!("{kafka}/{name}?tls=true&sasl=SCRAM-SHA-256")),
        ("READS__FILE", file),
        ("LIVE", format!("{redis}?prefix={name}")),
    ] {
        environment.push((Installation::variable(store), url));
    }
    let Installation(environment) = Installation(environment).trusting(&authorities);
    psql(&format!("{postgres}/postgres"), &format!("CREATE DATABASE {name}"));
    let mut topics = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    topics.args(["topics", "create", "--partitions", "2", "--replication", "1", "--min-insync", "1"]);
    succeeds(topics.envs(environment.iter().cloned()));
    let mut server = Server::start(Options { environment, ..Options::default() });
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let set = json!({ "type": "memory", "action": "set", "key": "plan", "value": 7, "ref": 1 });
    assert_eq!(agent.ask(&set).await["event"], "set_ok");
    let get = json!({ "type": "memory", "action": "get", "key": "plan", "ref": 2 });
    assert_eq!(agent.ask(&get).await["entry"]["value"], 7);
    agent.close().await;
    let (code, server) = tokio::task::spawn_blocking(move || (server.terminate(), server)).await.expect("it ends");
    assert_eq!(code, Some(0));
    assert!(!server.stderr().contains(":secret"), "{}", server.stderr());
}

#[test]
fn servers_that_nobody_vouches_for_and_logins_that_they_do_not_take() {
    let name = "servers_that_nobody_vouches_for_and_logins_that_they_do_not_take";
    let Some(installation) = Installation::of(name) else { return };
    let [authorities, kafka, postgres, redis] = over_tls();
    let (log, reads) = (format!("{kafka}/none?tls=true"), format!("{postgres}/postgres?sslmode=verify-full"));
    for (store, url) in [("LOG", &log), ("READS", &reads), ("LIVE", &redis)] {
        installation.refuses(store, url, &["certificate", "SSL_CERT_FILE"]);
    }
    let installation = installation.trusting(&authorities);
    let hidden = |url: &str| url.replace(":secret@", ":hidden@");
    installation.refuses("LOG", &hidden(&log), &["refuse the login", "put the right one into the address"]);
    installation.refuses("READS", &hidden(&reads), &["does not take this user and password"]);
    installation.refuses(
        "READS",
        &format!("{reads}&sslrootcert=x").replace("verify-full", "require"),
        &["verify-full"],
    );
    // One that speaks TLS is spoken to without.
    installation.refuses("LOG", &format!("{kafka}/none"), &["do its security settings fit?"]);
}

/// What one of the log's partitions holds is not what was applied: as after its topics were cut short, or deleted and made anew.
#[cfg(feature = "cluster")]
#[tokio::test]
async fn a_log_that_was_written_anew_halts_whoever_projects_it() {
    use ringforge_adapters::log::kafka::{Cluster, KafkaLog, Shape, create};
    use ringforge_domain::{ids::Scope, position::Partition};
    use ringforge_ports::log::{Log as _, Record};

    let Some(Installation(mut environment)) = Installation::of("a_log_that_was_written_anew_halts") else { return };
    let first = Installation(environment.clone());
    let first = tokio::task::spawn_blocking(move || (first.starts(), first).1).await.expect("it ends");
    let log = KafkaLog::open(&Cluster::at(first.url("LOG")).expect("an address")).await.expect("the log opens");
    let url = format!("{}_anew", first.url("LOG"));
    let anew = Cluster::at(&url).expect("an address");
    let shape =
        Shape { pool_partitions: log.partitions().shared - 1, dedicated: 0, replication: 1, min_insync_replicas: 1 };
    let bounds = log.bounds(Partition::DIRECTORY).await.expect("bounds");
    create(&anew, shape, bounds.generation).await.expect("the topics are made");
    let anew = KafkaLog::open(&anew).await.expect("the log opens");
    for partition in log.partitions().iter() {
        let count = log.bounds(partition).await.expect("bounds").end.0 + 7;
        let record = Record { scope: Scope::OPERATOR, bytes: b"anew"[..].into() };
        let records = (0..count).map(|_| record.clone()).collect();
        anew.append(partition, records).await.expect("appended");
    }
    let applied = "SELECT partition, applied FROM ringforge.partitions WHERE applied > 0 ORDER BY 1";
    let before = first.psql(applied);
    let home = tempfile::tempdir().expect("a temporary directory");
    environment.push((Installation::variable("LOG"), url));
    let errors = std::fs::File::create(home.path().join("stderr")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args(["projectors", "--json", "--port", "0", "--data"]).arg(home.path()).envs(environment);
    let mut child = command.stdout(Stdio::null()).stderr(errors).spawn().expect("it runs");
    let begun = Instant::now();
    let said = loop {
        let said = std::fs::read_to_string(home.path().join("stderr")).expect("it reads");
        let halted = said.lines().filter(|line| line.contains("is not the one that was applied")).count();
        if halted >= before.lines().count() {
            break said;
        }
        assert!(begun.elapsed() < 4 * SOON, "{before}: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(said.contains("ERROR") && said.contains("the projector cannot go on"), "{said}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = first.psql(applied);
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    assert!(before.lines().all(|line| after.lines().any(|other| other == line)), "{before} {after}");
}
