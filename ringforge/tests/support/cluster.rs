//! Installations on real servers: Kafka, Postgres, Redis and S3, whose addresses are in the environment (`scripts/services run`).

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// What tells the servers' addresses.
const VARIABLES: [&str; 4] = ["TEST_KAFKA", "TEST_POSTGRES", "TEST_REDIS", "TEST_S3"];

/// The servers that are there.
pub struct Servers {
    /// The log's address.
    pub kafka: String,
    /// Of the read models.
    pub postgres: String,
    /// Of the live bus.
    pub redis: String,
    /// Of the objects, if there are any.
    pub objects: Option<String>,
}

impl Servers {
    /// Partitions of the pool: fleets are spread over some.
    pub const PARTITIONS: u16 = 4;

    /// Those of the environment. `None`: there are none, and the test `name` is skipped, which it says; where tests must not be
    /// skipped (`CI` is set) it panics.
    pub fn of(name: &str) -> Option<Self> {
        let missing: Vec<_> = VARIABLES.into_iter().filter(|variable| env::var_os(variable).is_none()).collect();
        if !missing.is_empty() {
            assert!(
                env::var_os("CI").is_none(),
                "{name}: {missing:?} are not set; run tests with scripts/services run"
            );
            eprintln!("SKIPPED {name}: {missing:?} are not set");
            return None;
        }
        let [kafka, postgres, redis, objects] = VARIABLES.map(|variable| env::var(variable).expect("it is there"));
        Some(Self { kafka, postgres, redis, objects: Some(objects) })
    }

    /// A new installation: topics, a database and a prefix that nobody else has. What a process needs in its environment.
    pub fn install(&self) -> Vec<(String, String)> {
        static INSTALLED: AtomicU32 = AtomicU32::new(0);
        let number = INSTALLED.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let (server, _) = self.postgres.rsplit_once('/').expect("a database is named");
        let stores = [
            ("LOG", format!("{}/{name}", self.kafka)),
            ("READS", format!("{server}/{name}")),
            ("LIVE", format!("{}?prefix={name}", self.redis)),
        ];
        let mut environment: Vec<_> = stores.map(|(store, url)| (format!("RINGFORGE__STORES__{store}"), url)).into();
        let objects = self.objects.as_ref().map(|objects| format!("{objects}/{name}"));
        environment.extend(objects.map(|url| ("RINGFORGE__STORES__BLOBS".to_owned(), url)));
        environment.push(("RINGFORGE__SECRETS__SEAL".to_owned(), "5e".repeat(32)));
        // Named by its URL: the database that is there already.
        run(Command::new("createdb").args(["--maintenance-db", &self.postgres, &name]));
        let mut topics = Command::new(env!("CARGO_BIN_EXE_ringforge"));
        let partitions = Self::PARTITIONS.to_string();
        let [replication, insync] = if self.kafka.split(',').count() < 3 { ["1", "1"] } else { ["3", "2"] };
        topics.args(["topics", "create", "--partitions", &partitions, "--replication", replication]);
        topics.args(["--min-insync", insync]);
        run(topics.envs(environment.clone()));
        environment
    }
}

fn run(command: &mut Command) {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
