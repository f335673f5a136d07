//! Memory and rosters over HTTP: what is written at one process is read at another.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    cluster::Servers,
    support::{Client, Options, Server},
};

/// An answer over HTTP.
pub struct Answer {
    /// Its status.
    pub status: u16,
    head: String,
    /// What it says, `null` if that is no JSON.
    pub body: Value,
}

impl Answer {
    /// One of its headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// Asks a process over HTTP.
pub fn http(ready: &Value, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let address = ready["rest_url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let headers = headers.iter().map(|(name, value)| [name, ": ", value, "\r\n"].concat()).collect::<String>();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

/// The processes of this role, by their ready lines.
pub fn lines(server: &Server, role: &str) -> Vec<Value> {
    Server::numbers(role).into_iter().map(|number| server.ready_of(number).clone()).collect()
}

/// What is another's looks as if there were nothing, to an agent's key and to an admin's.
fn strangers_see_nothing(server: &Server, gate: &Value, answers: &Value) {
    let id = |tenant: &str, fleet: &str| server.fleet(tenant, fleet)["id"].as_str().expect("an id").to_owned();
    let bearer = |key: &Value| format!("Bearer {}", key.as_str().expect("a key"));
    let agent = || bearer(&server.fleet("dev", "default")["agent_key"]);
    let admin = bearer(&server.tenant("other")["admin_key"]);
    for (bearer, fleet) in
        [(agent(), id("other", "default")), (agent(), id("dev", "side")), (admin, id("dev", "default"))]
    {
        for (method, body) in [("GET", ""), ("PUT", r#"{"value":1}"#), ("DELETE", "")] {
            let process = if method == "GET" { answers } else { gate };
            let asked = |fleet: &str| {
                http(process, method, &format!("/v1/fleets/{fleet}/memory/plan/a"), &[("Authorization", &bearer)], body)
            };
            let (refused, nothing) = (asked(&fleet), asked("fl_0000000000000000000000"));
            assert_eq!((refused.status, &refused.body), (404, &nothing.body), "{method} {fleet}");
        }
    }
}

/// What no role has a say in is told as they tell it.
fn refusals_are_told_alike(gate: &Value, answers: &Value, path: &str, authorized: (&str, &str)) {
    for (process, method, path, status) in [
        (gate, "POST", path, 405),
        (answers, "PUT", path, 405),
        (answers, "GET", "/v1/fleets/default/memory?colour=red", 400),
        (answers, "GET", "/v1/fleets/default/memory?limit=many", 400),
        (answers, "GET", "/v1/nothing", 404),
    ] {
        let refused = http(process, method, path, &[authorized], "{}");
        assert_eq!((refused.status, &refused.body["status"]), (status, &json!(status)), "{path}: {}", refused.body);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{path}");
        assert!(refused.body["fix"].is_string() && refused.body["code"].is_string(), "{path}: {}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_one_process_is_read_at_another() {
    let Some(servers) = Servers::of("what_is_written_at_one_process_is_read_at_another") else { return };
    let tenants = ["dev", "other"].map(|name| (name.to_owned(), vec!["default".to_owned(), "side".to_owned()])).into();
    let server = Server::start(Options { environment: servers.install(), apart: true, tenants, ..Options::default() });
    let (gates, answers) = (lines(&server, "command-api"), lines(&server, "query-api"));
    let (fleet, bearer) = (&server.fleet("dev", "default")["id"], format!("Bearer {}", server.first_key()));
    let path = format!("/v1/fleets/{}/memory/plan/a", fleet.as_str().expect("an id"));
    let authorized = ("Authorization", bearer.as_str());
    let (mut version, mut last) = (String::new(), 0);
    for number in 0..20 {
        let gate = &gates[number % gates.len()];
        let condition = if number == 0 { ("If-None-Match", "*") } else { ("If-Match", version.as_str()) };
        let written = http(gate, "PUT", &path, &[authorized, condition], &json!({ "value": number }).to_string());
        assert_eq!(written.status, 200, "{}", written.body);
        let position = written.header("X-RingForge-Position").expect("a position").to_owned();
        let asked = [authorized, ("X-RingForge-Min-Position", position.as_str())];
        let read = http(&answers[0], "GET", &path, &asked, "");
        assert_eq!((read.status, &read.body["value"]), (200, &json!(number)), "{}", read.body);
        assert_eq!(read.header("etag"), written.header("etag"));
        version = written.header("etag").expect("a version").to_owned();
        last = position.parse::<u64>().expect("a number");
    }
    // One that is in the log and not yet applied is waited for.
    let projectors = Server::numbers("projectors");
    for number in &projectors {
        server.signal(*number, "STOP");
    }
    let next = (last + 1).to_string();
    let asked = [authorized, ("X-RingForge-Min-Position", next.as_str())];
    let late = std::thread::scope(|threads| {
        let write = threads.spawn(|| http(&gates[0], "PUT", &path, &[authorized], r#"{"value":19}"#));
        std::thread::sleep(Duration::from_millis(500));
        let read = threads.spawn(|| http(&answers[0], "GET", &path, &asked, ""));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!write.is_finished() && !read.is_finished(), "nobody projects");
        for number in &projectors {
            server.signal(*number, "CONT");
        }
        assert_eq!(write.join().expect("it is answered").status, 200);
        read.join().expect("it is answered")
    });
    assert_eq!((late.status, &late.body["version"]), (200, &json!(21)), "{}", late.body);
    // An agent at each edge sees it as well.
    for edge in lines(&server, "edge") {
        let url = edge["ws_url"].as_str().expect("an address");
        let (mut agent, _) = Client::enter(url, server.first_key(), "ada", json!({})).await;
        let got = agent.ask(&json!({ "type": "memory", "action": "get", "key": "plan/a", "ref": 1 })).await;
        assert_eq!(got["entry"]["value"], 19, "{got}");
    }
    let stale = http(&gates[0], "PUT", &path, &[authorized, ("If-Match", "\"1\"")], r#"{"value":1}"#);
    assert_eq!((stale.status, &stale.body["code"]), (412, &json!("conflict")), "{}", stale.body);
    let ahead = [authorized, ("X-RingForge-Min-Position", "999999999")];
    let ahead = http(&answers[0], "GET", &path, &ahead, "");
    assert_eq!((ahead.status, &ahead.body["code"]), (400, &json!("invalid_message")), "{}", ahead.body);
    strangers_see_nothing(&server, &gates[0], &answers[0]);
    assert_eq!(http(&answers[0], "GET", "/v1/fleets/default/memory/none", &[authorized], "").status, 404);
    assert_eq!(http(&answers[0], "GET", &path, &[], "").status, 401);
    let gone = http(&gates[1], "DELETE", &path, &[authorized], "");
    let position = gone.header("X-RingForge-Position").expect("a position").to_owned();
    let asked = [authorized, ("X-RingForge-Min-Position", position.as_str())];
    assert_eq!(http(&answers[0], "GET", &path, &asked, "").status, 404);
    let agents = http(&answers[0], "GET", "/v1/fleets/default/agents", &[authorized], "");
    assert_eq!(agents.body["data"][0]["name"], "ada", "{}", agents.body);
    refusals_are_told_alike(&gates[0], &answers[0], &path, authorized);
}
