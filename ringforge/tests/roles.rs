//! Roles in processes of their own, on Kafka, Postgres and Redis: how they share the work, what one of them does while another is
//! away, and that whoever writes at one reads it at another.

#![allow(clippy::disallowed_methods, reason = "tests meet the real clock")]

#[path = "support/cluster.rs"]
mod cluster;
#[cfg(feature = "cluster")]
#[path = "roles/dedicated.rs"]
mod dedicated;
#[path = "roles/letters.rs"]
mod letters;
#[path = "roles/rest.rs"]
mod rest;
#[path = "roles/storms.rs"]
mod storms;
#[path = "support.rs"]
mod support;
#[cfg(feature = "cluster")]
#[path = "roles/upgrade.rs"]
mod upgrade;

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cluster::Servers;
use rest::{http, lines};
use serde_json::{Value, json};
use support::{Client, Got, Options, SOON, Server};

/// How long a partition may be nobody's after its projector died: it is missed after six seconds, and then dealt out again.
const TAKEOVER: Duration = Duration::from_secs(30);

/// An installation whose roles run apart; `None`: there are no servers, which is said.
fn apart(name: &str, more: &[(&str, &str)]) -> Option<Server> {
    let mut environment = Servers::of(name)?.install();
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Some(Server::start(Options { environment, apart: true, ..Options::default() }))
}

/// A Redis of the test's own.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(port: Option<u16>) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let port = port.unwrap_or_else(free);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(port.to_string());
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server starts");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < SOON, "redis-server listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    fn end(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is waited for");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_live_bus_everything_goes_on_and_says_so() {
    let name = "without_the_live_bus_everything_goes_on_and_says_so";
    let Some(mut environment) = Servers::of(name).map(|servers| servers.install()) else { return };
    let mut redis = Redis::start(None);
    let url = format!("redis://127.0.0.1:{}", redis.port);
    environment.retain(|(name, _)| name != "RINGFORGE__STORES__LIVE");
    environment.push(("RINGFORGE__STORES__LIVE".to_owned(), url));
    let server = Server::start(Options { environment, apart: true, ..Options::default() });
    let edges = lines(&server, "edge");
    let url = |at: usize| edges[at]["ws_url"].as_str().expect("an address");
    let (mut writer, _) = Client::enter(url(0), server.first_key(), "ada", json!({})).await;
    let (mut reader, _) = Client::enter(url(1), server.first_key(), "ben", json!({})).await;
    reader.ask(&json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true, "ref": 1 })).await;
    let set = |number: u32| json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
    let health = |edge: &Value| {
        let ready = http(edge, "GET", "/health/ready", &[], "");
        (ready.status, ready.body["status"].clone(), ready.body["live"].clone())
    };
    assert_eq!(health(&edges[0]), (200, json!("ok"), json!("ok")));
    let mut number = 2;
    for away in [false, true, false, true, false] {
        if away {
            redis.end();
        } else if number > 2 {
            redis = Redis::start(Some(redis.port));
        }
        for _ in 0..5 {
            let ack = writer.ask(&set(number)).await;
            assert_ne!(ack["type"], "error", "{ack}");
            let changed = reader.frame_where(|frame| frame["event"] == "changed").await;
            assert_eq!(changed["value"], number, "each once and in order: {changed}");
            number += 1;
        }
        let begun = Instant::now();
        let expected =
            if away { (200, json!("degraded"), json!("unavailable")) } else { (200, json!("ok"), json!("ok")) };
        while edges.iter().any(|edge| health(edge) != expected) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?} is not {expected:?}", health(&edges[0]));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // Somebody comes in while it is away, and somewhere else that began meanwhile.
    redis.end();
    let (mut eve, _) = Client::enter(url(0), server.first_key(), "eve", json!({})).await;
    assert_ne!(eve.ask(&set(900)).await["type"], "error");
    reader.frame_where(|frame| frame["event"] == "joined" && frame["name"] == "eve").await;
    let [gone, _] = *Server::numbers("edge") else { panic!("there are two edges") };
    let mut server = server;
    server.kill9_one(gone);
    server.restart_one(gone);
    let edge = server.ready_of(gone).clone();
    assert_eq!(health(&edge), (200, json!("degraded"), json!("unavailable")));
    let (mut fay, _) =
        Client::enter(edge["ws_url"].as_str().expect("an address"), server.first_key(), "fay", json!({})).await;
    reader.frame_where(|frame| frame["event"] == "joined" && frame["name"] == "fay").await;
    assert_ne!(fay.ask(&set(901)).await["type"], "error");
    let _back = Redis::start(Some(redis.port));
    let begun = Instant::now();
    while health(&edge) != (200, json!("ok"), json!("ok")) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not found: {:?}", health(&edge));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks until a verdict comes, and says how long that took.
async fn answered(agent: &mut Client, number: u32) -> Duration {
    let asked = Instant::now();
    while asked.elapsed() < TAKEOVER {
        let set = json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
        agent.send(&set).await;
        loop {
            match agent.next(TAKEOVER).await {
                Got::Frame(frame) if frame["ref"] == number && frame["type"] == "error" => break,
                Got::Frame(frame) if frame["ref"] == number => return asked.elapsed(),
                Got::Frame(_) => {}
                other => panic!("an answer should come, not {other:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody took over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_that_dies_is_replaced_and_one_that_stood_still_does_no_harm() {
    let name = "a_projector_that_dies_is_replaced_and_one_that_stood_still_does_no_harm";
    let Some(mut server) = apart(name, &[("RINGFORGE__TIMING__REPLY_TIMEOUT_MS", "30000")]) else { return };
    let (mut agent, _) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    answered(&mut agent, 0).await;
    let projectors = Server::numbers("projectors");
    for (number, projector) in projectors.iter().enumerate() {
        server.kill9_one(*projector);
        let took = answered(&mut agent, 10 + u32::try_from(number).expect("few")).await;
        eprintln!("a projector died: the next verdict came after {} ms", took.as_millis());
        server.restart_one(*projector);
    }
    // One after the other stands still for longer than its session, while the others go on for it.
    for (number, projector) in projectors.iter().enumerate() {
        server.signal(*projector, "STOP");
        answered(&mut agent, 20 + u32::try_from(number).expect("few")).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        answered(&mut agent, 30 + u32::try_from(number).expect("few")).await;
        server.signal(*projector, "CONT");
        for again in 0..20 {
            answered(&mut agent, 40 + again).await;
        }
    }
    let got = agent.ask(&json!({ "type": "memory", "action": "get", "key": "k", "ref": "end" })).await;
    // Each was set once, whoever folded it.
    assert_eq!(got["entry"]["version"], 47, "{got}");
}

/// Adds one to a counter, again and again with the same idempotency key, at any edge, until it is answered. Meanwhile `look` starts
/// again who has ended.
async fn adds(
    server: &mut Server,
    look: &mut impl FnMut(&mut Server),
    number: u32,
    agent: &mut Option<Client>,
) -> Value {
    let begun = Instant::now();
    while begun.elapsed() < 2 * TAKEOVER {
        look(server);
        if agent.is_none() {
            let enters = Client::try_enter(server.next_url(), server.first_key(), "ada", json!({}));
            // It may be that nobody is there who could let it in.
            let entered = tokio::time::timeout(SOON / 4, enters).await;
            *agent = entered.ok().flatten().map(|(client, _)| client);
        }
        let Some(client) = agent else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let key = format!("add-{number}");
        let add = json!({ "type": "memory", "action": "set", "key": "n", "op": "incr", "ref": number, "idempotency_key": key });
        client.send(&add).await;
        let sent = Instant::now();
        loop {
            match client.next(Duration::from_secs(1)).await {
                Got::Frame(frame) if frame["ref"] == number && frame["type"] == "error" => break,
                Got::Frame(frame) if frame["ref"] == number => return frame,
                Got::Frame(_) => {}
                Got::Nothing if sent.elapsed() < SOON => look(server),
                Got::Closed(_) | Got::Nothing => {
                    *agent = None;
                    break;
                }
            }
        }
    }
    panic!("no answer to {number}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_role_ends_nothing_is_lost_or_done_twice() {
    let name = "wherever_a_role_ends_nothing_is_lost_or_done_twice";
    let (projector, edge) = (Server::numbers("projectors"), Server::numbers("edge"));
    // After a commit and before anybody hears of it, amid one, before and after an append.
    let faults = [
        (projector[0], "live.publish.before=exit@12"),
        (projector[1], "reads.commit.after=exit@12"),
        (edge[0], "log.append.after=exit@5"),
        (edge[1], "log.append.before=exit@9"),
    ];
    let Some(servers) = Servers::of(name) else { return };
    let faults_of = faults.iter().map(|(of, fault)| (*of, (*fault).to_owned())).collect();
    let options = Options { environment: servers.install(), apart: true, faults_of, ..Options::default() };
    let mut server = Server::start(options);
    let (mut agent, mut number) = (None, 0);
    let (mut has, mut left) = (faults, faults.map(|(_, fault)| fault).to_vec());
    let mut look = |server: &mut Server, left: &mut Vec<&str>| {
        for (of, fault) in &mut has {
            if server.alive_one(*of) {
                continue;
            }
            left.retain(|other| other != fault);
            // What has not happened to its like happens to itself: the other may have nothing to do from now on.
            let like = if projector.contains(of) { &projector } else { &edge };
            let next = faults.iter().find(|(one, fault)| like.contains(one) && left.contains(fault));
            *fault = next.map_or("", |(_, fault)| fault);
            server.with_options(|options| {
                options.faults_of.retain(|(faulty, _)| faulty != of);
                options.faults_of.extend(next.map(|(_, fault)| (*of, (*fault).to_owned())));
            });
            server.restart_one(*of);
        }
    };
    while !left.is_empty() {
        number += 1;
        assert!(number < 400, "all of them end at some time, and {left:?} did not:\n{}", server.stderr());
        if number % 10 == 0 {
            // At the other edge: however often it has come back, each is to have its share.
            agent = None;
        }
        let answer = adds(&mut server, &mut |server| look(server, &mut left), number, &mut agent).await;
        assert_eq!(answer["version"], number, "each counts once: {answer}");
    }
    let again = adds(&mut server, &mut |server| look(server, &mut left), 1, &mut agent).await;
    assert_eq!((&again["version"], &again["duplicate"]), (&json!(1), &json!(true)), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_goes_on_at_another_edge_when_its_own_dies() {
    let Some(mut server) = apart("an_agent_goes_on_at_another_edge_when_its_own_dies", &[]) else { return };
    let edges = Server::numbers("edge");
    let url =
        |server: &Server, at: usize| server.ready_of(edges[at])["ws_url"].as_str().expect("an address").to_owned();
    let (mut writer, _) = Client::enter(&url(&server, 1), server.first_key(), "ben", json!({})).await;
    let (mut reader, welcome) = Client::enter(&url(&server, 0), server.first_key(), "ada", json!({})).await;
    reader.ask(&json!({ "type": "memory", "action": "subscribe", "pattern": "*", "values": true, "ref": 1 })).await;
    let set = |number: u32| json!({ "type": "memory", "action": "set", "key": "k", "value": number, "ref": number });
    let (mut last, mut seen) = (Value::Null, Vec::new());
    for number in 2..40 {
        let ack = writer.ask(&set(number)).await;
        assert_ne!(ack["type"], "error", "{ack}");
        if number < 20 {
            let changed = reader.frame_where(|frame| frame["event"] == "changed").await;
            seen.push(changed["value"].clone());
            last = changed["event_id"].clone();
        } else if number == 20 {
            server.kill9_one(edges[0]);
        }
    }
    let resume = json!({ "resume_token": welcome["resume_token"], "last_event_id": last });
    let (mut reader, _) = Client::enter(&url(&server, 1), server.first_key(), "ada", resume).await;
    let mut recovered = false;
    while seen.len() < 38 || !recovered {
        let frame = reader.frame_where(|frame| frame["event"] == "changed" || frame["event"] == "resumed").await;
        if frame["event"] == "resumed" {
            assert_eq!(frame["recovered"], true, "{frame}");
            recovered = true;
        } else {
            seen.push(frame["value"].clone());
        }
    }
    let all: Vec<Value> = (2..40).map(Value::from).collect();
    assert_eq!(seen, all, "each once, in order");
    server.restart_one(edges[0]);
    let (_, welcome) = Client::enter(&url(&server, 0), server.first_key(), "eve", json!({})).await;
    assert_eq!(welcome["type"], "auth_ok");
}

/// Starts one role with this environment, and gives what it says when it does not start.
fn refused(role: &str, environment: &[(String, String)]) -> String {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
    command.args([role, "--json", "--port", "0", "--data"]).arg(data.path()).env("RINGFORGE_LOG", "error");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    refusal(command)
}

/// What a command says that does not start.
fn refusal(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is waited for") {
            break status;
        }
        if begun.elapsed() > TAKEOVER {
            let _ = child.kill();
            panic!("it started: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(!status.success(), "it ended well: {command:?}");
    std::io::read_to_string(child.stderr.take().expect("stderr is piped")).expect("text")
}

#[test]
fn a_role_alone_refuses_stores_of_one_process() {
    for role in ["edge", "command-api", "projectors", "query-api"] {
        let said = refused(role, &[]);
        for setting in ["stores.log", "stores.reads", "stores.live", "RINGFORGE__STORES__LOG", "kafka://"] {
            assert!(said.contains(setting), "{role} should name {setting}: {said}");
        }
    }
}

#[test]
fn settings_are_checked_without_a_start() {
    let check = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringforge"));
        let ended =
            command.arg("check-config").args(arguments).envs(variables.iter().copied()).output().expect("it runs");
        (ended.status.success(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned())
    };
    assert!(check(&[], &[]).0);
    let (good, said) = check(&["--role", "edge"], &[]);
    assert!(!good && said.contains("stores.log"), "{said}");
    let (good, said) = check(&[], &[("RINGFORGE__SECRETS__SEAL", "abc")]);
    assert!(!good && said.contains("secrets.seal") && !said.contains("abc"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_another_seal_does_not_start_and_a_successor_does() {
    let name = "a_process_with_another_seal_does_not_start_and_a_successor_does";
    let Some(servers) = Servers::of(name) else { return };
    let (old, new) = ("5e".repeat(32), "a1".repeat(32));
    let mut environment = servers.install();
    let mut server = Server::start(Options { environment: environment.clone(), apart: true, ..Options::default() });
    environment.retain(|(name, _)| name != "RINGFORGE__SECRETS__SEAL");
    let said = refused("edge", &environment);
    assert!(said.contains("secrets.seal"), "{said}");
    environment.push(("RINGFORGE__SECRETS__SEAL".to_owned(), new.clone()));
    let said = refused("edge", &environment);
    assert!(said.contains("secrets.seal") && said.contains("fingerprint") && !said.contains(&new), "{said}");
    // What the old key sealed is known again under the new one.
    let (mut agent, welcome) = Client::enter(server.ws_url(), server.first_key(), "ada", json!({})).await;
    let ack = agent.ask(&json!({ "type": "memory", "action": "set", "key": "k", "value": 1, "ref": 1 })).await;
    agent.close().await;
    server.with_options(|options| {
        let both = format!("{new},{old}");
        options.environment.retain(|(name, _)| name != "RINGFORGE__SECRETS__SEAL");
        options.environment.push(("RINGFORGE__SECRETS__SEAL".to_owned(), both));
    });
    let edge = Server::numbers("edge")[0];
    server.kill9_one(edge);
    server.restart_one(edge);
    let url = server.ready_of(edge)["ws_url"].as_str().expect("an address").to_owned();
    let resume = json!({ "resume_token": welcome["resume_token"], "last_event_id": ack["event_id"] });
    let (mut agent, _) = Client::enter(&url, server.first_key(), "ada", resume).await;
    let resumed = agent.frame_where(|frame| frame["event"] == "resumed").await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    // Whoever knows only the old one is out from now on.
    environment.retain(|(name, _)| name != "RINGFORGE__SECRETS__SEAL");
    environment.push(("RINGFORGE__SECRETS__SEAL".to_owned(), old));
    let said = refused("query-api", &environment);
    assert!(said.contains("fingerprint"), "{said}");
}
