//! Installations on real servers: Kafka, Postgres and Redis, whose addresses are in the environment (`scripts/services run`).

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// What tells the servers' addresses.
const VARIABLES: [&str; 3] = ["TEST_KAFKA", "TEST_POSTGRES", "TEST_REDIS"];
/// Partitions of the pool: fleets are spread over some.
const PARTITIONS: &str = "4";

/// The servers that are there.
pub struct Servers {
    kafka: String,
    postgres: String,
    redis: String,
}

impl Servers {
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
        let [kafka, postgres, redis] = VARIABLES.map(|variable| env::var(variable).expect("it is there"));
        Some(Self { kafka, postgres, redis })
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
        let stores = stores.map(|(store, url)| (format!("RINGFORGE__STORES__{store}"), url));
        // Named by its URL: the database that is there already.
        run(Command::new("createdb").args(["--maintenance-db", &self.postgres, &name]));
        let mut topics = Command::new(env!("CARGO_BIN_EXE_ringforge"));
        topics.args(["topics", "create", "--partitions", PARTITIONS, "--replication", "1", "--min-insync", "1"]);
        run(topics.envs(stores.clone()));
        stores.into()
    }
}

fn run(command: &mut Command) {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
