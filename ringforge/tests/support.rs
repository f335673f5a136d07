//! The real binary and a small WebSocket client, for tests that meet RingForge as agents and operators do.

#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests wait by the real clock")]

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async_with_config,
    tungstenite::{Error, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
};

/// How long anything that must happen may take.
pub const SOON: Duration = Duration::from_secs(10);

/// How long a server may take to end: its promise, and as much again for a busy machine.
const END: Duration = Duration::from_secs(20);
/// How long it may take to become ready on a busy machine.
const READY: Duration = Duration::from_mins(1);

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The text of a config file; empty: none.
    pub config: String,
    /// Tenants with their fleets; empty: the default tenant `dev` with the fleet `default`.
    pub tenants: Vec<(String, Vec<String>)>,
    /// What else a bootstrap file says of the last of them.
    pub bootstrap: String,
    /// Test-only faults, by name.
    pub faults: Vec<String>,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
    /// Those of one process each, by its number, in the place of these.
    pub each: Vec<Vec<(String, String)>>,
    /// The data directory; none: one of its own.
    pub data: Option<PathBuf>,
    /// What the shell does before it becomes the server, such as `ulimit -n 64`; empty: there is no shell.
    pub before: String,
    /// Every role in processes of their own.
    pub apart: bool,
    /// Test-only faults of single processes, by their number.
    pub faults_of: Vec<(usize, String)>,
    /// How long a start may take, if not [`READY`].
    pub ready_within: Option<Duration>,
}

/// A running installation: `ringforge all` over a data directory of its own, or every role in processes of their own. It is
/// killed when dropped.
pub struct Server {
    /// The ready line of this life. Of several processes: the one with the keys, and an edge's address.
    pub ready: Value,
    options: Options,
    processes: Vec<Process>,
    home: tempfile::TempDir,
    /// Where agents connect, one after the other.
    edges: Vec<String>,
    next: AtomicUsize,
}

/// One process of it.
struct Process {
    child: Child,
    ready: Value,
}

/// The roles of an installation in processes of their own. The first command-api makes the tenants.
const ROLES: [&str; 7] = ["projectors", "projectors", "command-api", "command-api", "edge", "edge", "query-api"];

impl Server {
    /// The processes of an installation whose roles run apart.
    pub const PROCESSES: usize = ROLES.len();

    /// Starts one in a fresh directory and waits until it is ready.
    pub fn start(options: Options) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        fs::write(home.path().join("config.toml"), &options.config).expect("config is written");
        let plain = [("dev".to_owned(), vec!["default".to_owned()])];
        let tenants = if options.tenants.is_empty() { &plain[..] } else { &options.tenants };
        let tenants =
            tenants.iter().map(|(name, fleets)| format!("[[tenant]]\nname = {name:?}\nfleets = {fleets:?}\n"));
        let bootstrap = tenants.collect::<String>() + &options.bootstrap;
        fs::write(home.path().join("bootstrap.toml"), bootstrap).expect("bootstrap is written");
        let processes = launch(home.path(), &options).unwrap_or_else(|why| panic!("{why}"));
        let mut server =
            Self { ready: Value::Null, options, processes, home, edges: Vec::new(), next: AtomicUsize::new(0) };
        server.know();
        server
    }

    /// Takes note of what the ready lines say.
    fn know(&mut self) {
        let ready =
            |field: &str| self.processes.iter().map(|process| &process.ready).find(|line| !line[field].is_null());
        self.ready = ready("tenants").unwrap_or(&Value::Null).clone();
        self.edges =
            self.processes.iter().filter_map(|process| process.ready["ws_url"].as_str()).map(str::to_owned).collect();
        self.ready["ws_url"] = json!(self.edges[0]);
    }

    /// Starts one with all defaults.
    pub fn plain() -> Self {
        Self::start(Options::default())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.processes[0].child.id()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        data(self.home.path(), &self.options)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.id()
    }

    /// What it has written to stderr, in all its lives.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) {
        for process in &mut self.processes {
            process.child.kill().expect("it can be killed");
        }
        for process in &mut self.processes {
            process.child.wait().expect("it is waited for");
        }
    }

    /// SIGTERM, and its exit code; `None`: it died of a signal.
    pub fn terminate(&mut self) -> Option<i32> {
        self.ask_to_end();
        self.ended()
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_end(&mut self) {
        for process in &self.processes {
            let sent = Command::new("kill").args(["-TERM", &process.child.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()), "SIGTERM could be sent");
        }
    }

    /// Waits until it has ended: its exit code (of several processes the highest); `None`: it died of a signal.
    pub fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            let ended = self.processes.iter_mut().map(|process| process.child.try_wait().expect("it is waited for"));
            if let Some(all) = ended.collect::<Option<Vec<_>>>() {
                let codes: Option<Vec<i32>> = all.iter().map(std::process::ExitStatus::code).collect();
                return codes.and_then(|codes| codes.into_iter().max());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end:\n{}", self.stderr());
    }

    /// Deletes everything but the keys, as if the disk with the log were lost. It must have ended.
    pub fn lose_the_log(&mut self) {
        assert!(!self.alive(), "it still runs");
        for file in fs::read_dir(self.data()).expect("there is a data directory") {
            let path = file.expect("a file").path();
            if !path.ends_with(ringforge_ports::names::CREDENTIALS_FILE) {
                fs::remove_file(&path).expect("a file can be deleted");
            }
        }
    }

    /// Whether the process is still there.
    pub fn alive(&mut self) -> bool {
        self.processes.iter_mut().any(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// Starts it again over the same data, once it has ended.
    pub fn restart(&mut self) {
        self.try_restart().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Starts it over the same data and kills it after this long, ready or not.
    pub fn restart_and_kill9(&mut self, after: Duration) {
        assert!(!self.alive(), "it still runs");
        let child = spawn(self.home.path(), &self.options, 0);
        self.processes = vec![Process { child, ready: Value::Null }];
        std::thread::sleep(after);
        self.kill9();
    }

    /// Leaves the data and what it said behind, and says where.
    pub fn leave_behind(&mut self) -> &Path {
        self.home.disable_cleanup(true);
        self.home.path()
    }

    /// Like `restart`; what it said on stderr if it could not start.
    pub fn try_restart(&mut self) -> Result<(), String> {
        assert!(!self.alive(), "it still runs");
        self.processes = launch(self.home.path(), &self.options)?;
        self.know();
        Ok(())
    }

    /// Other options from the next restart on.
    pub fn with_options(&mut self, change: impl FnOnce(&mut Options)) {
        change(&mut self.options);
        fs::write(self.home.path().join("config.toml"), &self.options.config).expect("config is written");
    }

    /// Where agents connect.
    pub fn ws_url(&self) -> &str {
        self.ready["ws_url"].as_str().expect("the ready line has ws_url")
    }

    /// The numbers of the processes that have this role.
    pub fn numbers(role: &str) -> Vec<usize> {
        (0..ROLES.len()).filter(|number| ROLES[*number] == role).collect()
    }

    /// The ready line of one process.
    pub fn ready_of(&self, number: usize) -> &Value {
        &self.processes[number].ready
    }

    /// Sends one process a signal, by its name.
    pub fn signal(&self, number: usize, signal: &str) {
        let process = self.processes[number].child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal} could be sent");
    }

    /// `kill -9` of one process, and waits until it is gone.
    pub fn kill9_one(&mut self, number: usize) {
        let child = &mut self.processes[number].child;
        child.kill().expect("it can be killed");
        child.wait().expect("it is waited for");
    }

    /// Whether one process is still there.
    pub fn alive_one(&mut self, number: usize) -> bool {
        matches!(self.processes[number].child.try_wait(), Ok(None))
    }

    /// Starts one process again over its data, once it has ended.
    pub fn restart_one(&mut self, number: usize) {
        self.try_restart_one(number).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Like `restart_one`; what was said on stderr if it could not start.
    pub fn try_restart_one(&mut self, number: usize) -> Result<(), String> {
        let mut child = spawn(self.home.path(), &self.options, number);
        let ready = ready(&mut child, self.home.path(), &self.options)?;
        self.processes[number] = Process { child, ready };
        self.know();
        Ok(())
    }

    /// Where the next agent connects: at every edge in turn.
    pub fn next_url(&self) -> &str {
        &self.edges[self.next.fetch_add(1, Ordering::Relaxed) % self.edges.len()]
    }

    /// A tenant of the ready line.
    pub fn tenant(&self, name: &str) -> &Value {
        let tenants = self.ready["tenants"].as_array().expect("the ready line has tenants");
        tenants.iter().find(|tenant| tenant["name"] == name).unwrap_or_else(|| panic!("no tenant {name}"))
    }

    /// A fleet of the ready line.
    pub fn fleet(&self, tenant: &str, fleet: &str) -> &Value {
        let fleets = self.tenant(tenant)["fleets"].as_array().expect("a tenant has fleets");
        fleets.iter().find(|known| known["slug"] == fleet).unwrap_or_else(|| panic!("no fleet {fleet}"))
    }

    /// The agent key of a fleet.
    pub fn key(&self, tenant: &str, fleet: &str) -> &str {
        self.fleet(tenant, fleet)["agent_key"].as_str().expect("a fleet has an agent key")
    }

    /// The agent key of the first fleet.
    pub fn first_key(&self) -> &str {
        self.ready["tenants"][0]["fleets"][0]["agent_key"].as_str().expect("there is a fleet")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn data(home: &Path, options: &Options) -> PathBuf {
    options.data.clone().unwrap_or_else(|| home.join("data"))
}

/// The binary, in the place of a shell if something is to be done before.
fn binary(options: &Options) -> Command {
    let binary = env!("CARGO_BIN_EXE_ringforge");
    if options.before.is_empty() {
        return Command::new(binary);
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{} && exec \"$0\" \"$@\"", options.before)).arg(binary);
    shell
}

/// Starts the process of this number.
fn spawn(home: &Path, options: &Options, number: usize) -> Child {
    let errors = fs::OpenOptions::new().create(true).append(true).open(home.join("stderr")).expect("stderr is a file");
    let mut command = binary(options);
    let role = if options.apart { ROLES[number] } else { "all" };
    let data = data(home, options);
    let data = if options.apart { data.join(number.to_string()) } else { data };
    command.args([role, "--json", "--port", "0", "--data"]).arg(data);
    if !options.config.is_empty() {
        command.arg("--config").arg(home.join("config.toml"));
    }
    let creates = !options.apart || ROLES.iter().position(|role| *role == "command-api") == Some(number);
    if creates && (options.apart || !options.tenants.is_empty()) {
        command.arg("--bootstrap").arg(home.join("bootstrap.toml"));
    }
    let own = options.faults_of.iter().filter(|(of, _)| *of == number).map(|(_, fault)| fault);
    let faults: Vec<&str> = options.faults.iter().chain(own).map(String::as_str).collect();
    command.env("RINGFORGE_TEST_FAULTS", faults.join(","));
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    command.envs(options.each.get(number).into_iter().flatten().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(errors).spawn().expect("the binary starts")
}

fn launch(home: &Path, options: &Options) -> Result<Vec<Process>, String> {
    let count = if options.apart { ROLES.len() } else { 1 };
    // All at once: they wait for each other.
    let children: Vec<Child> = (0..count).map(|number| spawn(home, options, number)).collect();
    let mut processes = Vec::new();
    let mut failed = None;
    for mut child in children {
        if failed.is_some() {
            let _ = child.kill();
            let _ = child.wait();
            continue;
        }
        match ready(&mut child, home, options) {
            Ok(ready) => processes.push(Process { child, ready }),
            Err(why) => failed = Some(why),
        }
    }
    let Some(why) = failed else { return Ok(processes) };
    for mut process in processes {
        let _ = process.child.kill();
        let _ = process.child.wait();
    }
    Err(why)
}

/// Waits for its ready line.
fn ready(child: &mut Child, home: &Path, options: &Options) -> Result<Value, String> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let (said, line) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        said.send((read, line))
    });
    let (read, line) = line
        .recv_timeout(options.ready_within.unwrap_or(READY))
        .unwrap_or_else(|_| (Ok(0), "nothing in time".to_owned()));
    if let Ok(ready) = serde_json::from_str(&line) {
        return Ok(ready);
    }
    let _ = child.kill();
    let status = child.wait();
    let said = fs::read_to_string(home.join("stderr")).unwrap_or_default();
    Err(format!("it did not become ready ({read:?}, {status:?}, {line:?}):\n{said}"))
}

/// What comes over a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    /// One frame.
    Frame(Value),
    /// The end: the close code, 1006 if there was no close frame.
    Closed(u16),
    /// Nothing, in the time that was given.
    Nothing,
}

/// One WebSocket connection.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    waiting: VecDeque<Value>,
    /// Whether a message may hold several lines (`"batch": true`).
    pub batch: bool,
}

impl Client {
    /// Connects; nothing has been read yet.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, &[]).await
    }

    /// Connects with more headers on the upgrade.
    pub async fn connect_with(url: &str, headers: &[(&'static str, String)]) -> Self {
        let mut request = url.into_client_request().expect("an address");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header value"));
        }
        let connecting = connect_async_with_config(request, None, true);
        let connected = tokio::time::timeout(SOON, connecting).await.expect("connects in time");
        Self { socket: connected.expect("connects").0, waiting: VecDeque::new(), batch: false }
    }

    /// Connects, if it can.
    pub async fn try_connect(url: &str) -> Option<Self> {
        let (socket, _) = connect_async_with_config(url, None, true).await.ok()?;
        Some(Self { socket, waiting: VecDeque::new(), batch: false })
    }

    /// Connects over a socket that takes only so many bytes, about, before they are read.
    pub async fn connect_narrow(url: &str, bytes: u32) -> Self {
        let address = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("an address");
        let narrow = TcpSocket::new_v4().expect("a socket");
        narrow.set_recv_buffer_size(bytes).expect("a small buffer");
        let stream = narrow.connect(address.parse().expect("an address")).await.expect("connects");
        let (socket, _) = client_async(url, MaybeTlsStream::Plain(stream)).await.expect("upgrades");
        Self { socket, waiting: VecDeque::new(), batch: false }
    }

    /// Connects, authenticates with `key` as `name`, with more fields of `auth` from `more`; also says what `auth_ok` said.
    /// The roster is not read yet.
    pub async fn enter(url: &str, key: &str, name: &str, more: Value) -> (Self, Value) {
        Self::connect(url).await.enters(key, name, more).await
    }

    /// The same, over this connection.
    pub async fn enters(mut self, key: &str, name: &str, more: Value) -> (Self, Value) {
        let client = &mut self;
        assert_eq!(client.frame().await["type"], "auth_required");
        let mut auth = json!({ "type": "auth", "api_key": key, "agent": { "name": name } });
        let more = if let Value::Object(more) = more { more } else { serde_json::Map::new() };
        client.batch = more.get("batch") == Some(&Value::Bool(true));
        auth.as_object_mut().expect("an object").extend(more);
        client.send(&auth).await;
        let welcome = client.frame().await;
        assert_eq!(welcome["type"], "auth_ok", "{welcome}");
        (self, welcome)
    }

    /// Like `enter`, for tests that harm the server: `None` if it is away, or lets nobody in just now.
    pub async fn try_enter(url: &str, key: &str, name: &str, more: Value) -> Option<(Self, Value)> {
        let mut client = Self::try_connect(url).await?;
        let mut auth = json!({ "type": "auth", "api_key": key, "agent": { "name": name } });
        let more = if let Value::Object(more) = more { more } else { serde_json::Map::new() };
        auth.as_object_mut().expect("an object").extend(more);
        client.send(&auth).await;
        for wanted in ["auth_required", "auth_ok"] {
            match client.next(SOON).await {
                Got::Frame(frame) if frame["type"] == wanted && wanted == "auth_ok" => return Some((client, frame)),
                Got::Frame(frame) if frame["type"] == "auth_error" => return None,
                Got::Frame(frame) => assert_eq!(frame["type"], wanted, "{frame}"),
                Got::Closed(_) => return None,
                Got::Nothing => panic!("no {wanted} in time"),
            }
        }
        None
    }

    /// Sends one frame. A connection that is gone already shows when reading.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends text as it is.
    pub async fn send_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// Sends a binary message.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) {
        let _ = self.socket.send(Message::binary(bytes)).await;
    }

    /// Whatever comes next, within `wait`.
    pub async fn next(&mut self, wait: Duration) -> Got {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Got::Frame(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(message) = tokio::time::timeout(left, self.socket.next()).await else { return Got::Nothing };
            match message {
                Some(Ok(Message::Text(text))) => self.take(text.as_str()),
                Some(Ok(Message::Close(close))) => {
                    return Got::Closed(close.map_or(u16::from(CloseCode::Status), |close| close.code.into()));
                }
                Some(Ok(Message::Binary(bytes))) => panic!("a binary message of {} bytes", bytes.len()),
                Some(Ok(_)) => {}
                None
                | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_))) => {
                    return Got::Closed(CloseCode::Abnormal.into());
                }
                Some(Err(error)) => panic!("the connection broke: {error}"),
            }
        }
    }

    fn take(&mut self, text: &str) {
        let lines: Vec<&str> = if self.batch { text.lines().collect() } else { vec![text] };
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
        self.waiting.extend(lines.into_iter().map(read));
    }

    /// The next frame, which must come soon.
    pub async fn frame(&mut self) -> Value {
        match self.next(SOON).await {
            Got::Frame(frame) => frame,
            other => panic!("a frame should come, not {other:?}"),
        }
    }

    /// The next frame for which `wanted` holds; others are dropped.
    pub async fn frame_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "no such frame in time");
            let frame = self.frame().await;
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// The reply to this `ref`, flat; others are dropped.
    pub async fn reply(&mut self, reference: &Value) -> Value {
        self.frame_where(|frame| frame["ref"] == *reference).await
    }

    /// Sends one frame with a `ref` in it and returns its reply.
    pub async fn ask(&mut self, frame: &Value) -> Value {
        self.send(frame).await;
        self.reply(&frame["ref"]).await
    }

    /// Reads until the connection is closed, and returns the close code; frames before it are dropped.
    pub async fn closed(&mut self) -> u16 {
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "still open");
            match self.next(SOON).await {
                Got::Closed(code) => return code,
                Got::Frame(_) => {}
                Got::Nothing => panic!("still open"),
            }
        }
    }

    /// Says goodbye and reads until the other side did too.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        let _ = tokio::time::timeout(SOON, async { while let Some(Ok(_)) = self.socket.next().await {} }).await;
    }
}
