//! Servers of a test's own, which it may kill: Kafka, Postgres, Redis and S3, each process of ours on ways of its own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use super::{cluster::Servers, proxy::Proxy};

/// A server that processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The log.
    Kafka,
    /// The read models.
    Postgres,
    /// The live bus.
    Redis,
    /// The objects.
    S3,
}

impl Store {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Kafka, Self::Postgres, Self::Redis, Self::S3];

    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::S3 => "s3",
        }
    }

    /// The variables that tell its address: the servers', and a process's.
    fn variables(self) -> (&'static str, &'static str) {
        match self {
            Self::Kafka => ("TEST_KAFKA", "RINGFORGE__STORES__LOG"),
            Self::Postgres => ("TEST_POSTGRES", "RINGFORGE__STORES__READS"),
            Self::Redis => ("TEST_REDIS", "RINGFORGE__STORES__LIVE"),
            Self::S3 => ("TEST_S3", "RINGFORGE__STORES__BLOBS"),
        }
    }
}

/// The servers, and the ways to them.
pub struct Own {
    home: TempDir,
    /// What a process finds in its environment that goes straight there.
    pub environment: Vec<(String, String)>,
    /// Of each process, by its number.
    ways: Vec<[Proxy; 4]>,
    /// Those whose ways lead through a proxy: several brokers tell their clients where each of them is.
    harmable: &'static [Store],
}

impl Own {
    /// Starts them, with a new installation of so many processes.
    pub fn begin(processes: usize, brokers: usize) -> Self {
        Self::begin_on(processes, brokers, None)
    }

    /// The same, with a disk of so many MiB for the broker.
    pub fn begin_narrow(processes: usize, mib: u32) -> Self {
        Self::begin_on(processes, 1, Some(mib))
    }

    fn begin_on(processes: usize, brokers: usize, mib: Option<u32>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let begun: Vec<[_; 4]> = (0..processes).map(|_| Store::ALL.map(|_| Proxy::bind())).collect();
        // Kafka tells its clients where it is: a port for each that comes by another way.
        let doors: Vec<u16> = begun.iter().map(|_| free_port()).collect();
        let pairs: Vec<String> =
            doors.iter().zip(&begun).map(|(door, [(_, proxy), ..])| format!("{door}:{proxy}")).collect();
        let pairs = if brokers == 1 { pairs.join(" ") } else { String::new() };
        let disk = mib.map_or_else(String::new, |mib| mib.to_string());
        let starts = command(&home, &["begin"]).env("BROKERS", brokers.to_string()).env("KAFKA_PROXIES", pairs);
        starts.env("KAFKA_DISK_MIB", disk).run();
        let told = fs::read_to_string(home.path().join("run/env")).expect("they tell their addresses");
        let address = |store: Store| {
            let lines = told.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(name, _)| *name == store.variables().0).map(|(_, url)| url.to_owned()).next()
        };
        let [kafka, postgres, redis, s3] = Store::ALL.map(|store| address(store).expect("each has an address"));
        let ports = [&postgres, &redis, &s3].map(|url| port(url));
        let ways = begun.into_iter().zip(doors).map(|([log, reads, live, blobs], door)| {
            let [to_reads, to_live, to_blobs] = ports;
            [
                Proxy::lead(log, door),
                Proxy::lead(reads, to_reads),
                Proxy::lead(live, to_live),
                Proxy::lead(blobs, to_blobs),
            ]
        });
        let ways = ways.collect();
        let harmable = if brokers == 1 { &Store::ALL[..] } else { &[Store::Postgres, Store::Redis, Store::S3] };
        let environment = Servers { kafka, postgres, redis, objects: Some(s3) }.install();
        Self { home, environment, ways, harmable }
    }

    /// What each process finds in its environment in the place of that.
    pub fn each(&self) -> Vec<Vec<(String, String)>> {
        let of = |ways: &[Proxy; 4]| {
            let harmable = |(store, _): &(Store, _)| self.harmable.contains(store);
            let variables = Store::ALL.into_iter().zip(ways).filter(harmable).map(|(store, way)| {
                let url = self.url(store);
                let (there, here) = (format!("127.0.0.1:{}", port(url)), format!("127.0.0.1:{}", way.port));
                (store.variables().1.to_owned(), url.replacen(&there, &here, 1))
            });
            variables.collect()
        };
        self.ways.iter().map(of).collect()
    }

    /// The address that goes straight there.
    pub fn url(&self, store: Store) -> &str {
        let variable = store.variables().1;
        &self.environment.iter().find(|(name, _)| name == variable).expect("each is there").1
    }

    /// The way of a process to a server.
    pub fn way(&self, process: usize, store: Store) -> &Proxy {
        &self.ways[process][store as usize]
    }

    /// All ways.
    pub fn ways(&self) -> impl Iterator<Item = &Proxy> {
        self.ways.iter().flatten()
    }

    /// Does this to one broker of several, as `scripts/services` says it.
    pub fn broker(&self, what: &str, number: usize) {
        command(&self.home, &[what, &format!("kafka{}", number + 1)]).run();
    }

    /// `kill -9`.
    pub fn kill(&self, store: Store) {
        command(&self.home, &["kill", store.name()]).run();
    }

    /// Starts one again that was killed.
    pub fn again(&self, store: Store) {
        command(&self.home, &["again", store.name()]).run();
    }

    /// It stands still.
    pub fn freeze(&self, store: Store) {
        command(&self.home, &["freeze", store.name()]).run();
    }

    /// It goes on.
    pub fn thaw(&self, store: Store) {
        command(&self.home, &["thaw", store.name()]).run();
    }

    /// Redis forgets everything: once it goes on, if it stands still. One that is away has nothing to forget.
    pub fn flush(&self) {
        let port = port(self.url(Store::Redis)).to_string();
        let _ = command_of("timeout", &["1", "redis-cli", "-p", &port, "FLUSHALL"]).status();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = command(&self.home, &["end"]).0.status();
    }
}

/// A command that must succeed.
struct Ran(Command);

impl Ran {
    fn env(mut self, name: &str, value: String) -> Self {
        self.0.env(name, value);
        self
    }

    fn run(mut self) {
        let status = self.0.status().unwrap_or_else(|error| panic!("{:?}: {error}", self.0));
        assert!(status.success(), "{:?}: {status}", self.0);
    }
}

/// `scripts/services`, for these servers.
fn command(home: &TempDir, arguments: &[&str]) -> Ran {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/services");
    let mut command = command_of(script.to_str().expect("a path that is text"), arguments);
    command.env("RUN", home.path().join("run"));
    Ran(command)
}

fn command_of(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdout(std::process::Stdio::null());
    command
}

fn free_port() -> u16 {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|bound| bound.local_addr());
    bound.expect("a free port").port()
}

/// The port that a URL names.
fn port(url: &str) -> u16 {
    let (_, rest) = url.split_once("127.0.0.1:").expect("it is of this machine");
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a port")
}
