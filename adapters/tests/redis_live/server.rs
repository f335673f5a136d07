//! A Redis server of a test's own, which ends with it.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use redis::FromRedisValue;

/// A server without replicas, on a port that was free.
pub struct Server {
    pub port: u16,
    more: Vec<String>,
    child: Child,
    /// Where it keeps what it must know of its cluster.
    dir: tempfile::TempDir,
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Server {
    /// Starts one for the test of this name, which is skipped where there is no `redis-server`.
    #[expect(clippy::disallowed_methods, reason = "whether a test may be skipped is no configuration of the product")]
    pub fn start(test: &str) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{test}: redis-server is missing; scripts/services install");
            eprintln!("SKIPPED {test}: redis-server is missing");
            return None;
        }
        Some(Self::with(&[]))
    }

    /// Starts one with more settings.
    pub fn with(more: &[String]) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a directory"), free_port());
        let more = more.to_vec();
        let child = Self::spawn(port, &dir, &more);
        Self { port, more, child, dir }
    }

    fn spawn(port: u16, dir: &tempfile::TempDir, more: &[String]) -> Child {
        let port = port.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(dir.path()).args(more).stdout(Stdio::null());
        let child = command.spawn().expect("it starts");
        let listens = || TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
        let waits = (0..500).take_while(|_| !listens()).inspect(|_| thread::sleep(Duration::from_millis(10))).count();
        assert!(waits < 500, "redis-server on port {port} did not listen within 5 s");
        child
    }

    /// What its clients are told.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Asks it for something.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it is there");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Without a word.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ends");
    }

    /// After a kill: on the same port, with nothing in memory.
    pub fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.dir, &self.more);
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// It stands still, and its connections stay.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
