//! The one port: health, and what it does to those who come and say nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Client, Options, Server};

/// Silent sockets of one address that are let in.
const SILENT_MAX: usize = ringforge_domain::limits::SILENT_ADDRESS_MAX;

fn address(server: &Server) -> String {
    server.ready["rest_url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address").to_owned()
}

/// One request, the whole answer.
pub fn request(address: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
        if head.contains("Upgrade") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: &str, path: &str) -> (u16, Value) {
    let answer = request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("not JSON: {answer}")))
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn health_is_told() {
    let server = Server::plain();
    let address = address(&server);
    let (status, health) = get(&address, "/health");
    assert_eq!((status, &health["status"]), (200, &json!("ok")));
    assert!(health["uptime"].is_u64(), "{health}");
    let (status, ready) = get(&address, "/health/ready");
    assert_eq!(status, 200);
    for service in ["kafka", "redis", "storage", "s3"] {
        assert_eq!(ready[service], "ok", "{ready}");
    }
    assert_eq!(get(&address, "/health/live"), (200, json!({ "accepting_connections": true })));
    let (status, nothing) = get(&address, "/nothing");
    assert_eq!((status, &nothing["code"]), (404, &json!("not_found")));
}

#[test]
fn a_slow_head_is_cut_off() {
    let config = "[timing]\nupgrade_timeout_ms = 300\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let since = Instant::now();
    // A head that never ends.
    let answer = request(&address(&server), "GET /ws HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}: {answer}");
    // Nor does one that trickles in.
    let mut stream = TcpStream::connect(address(&server)).expect("it connects");
    let since = Instant::now();
    while stream.write_all(b"G").is_ok() {
        assert!(since.elapsed() < Duration::from_secs(5), "still read");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn who_says_nothing_is_sent_away() {
    let config = "[timing]\nauth_timeout_ms = 200\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let mut client = Client::connect(server.ws_url()).await;
    assert_eq!(client.frame().await["type"], "auth_required");
    let error = client.frame().await;
    assert_eq!((&error["type"], &error["code"]), (&json!("auth_error"), &json!("unauthorized")));
    assert_eq!(client.closed().await, 4401);
}

#[tokio::test]
async fn silent_sockets_are_capped_and_the_next_is_told_when_to_come_back() {
    let config = "[timing]\nauth_timeout_ms = 60000\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let address = address(&server);
    let mut silent = Vec::new();
    for _ in 0..SILENT_MAX {
        silent.push(Client::connect(server.ws_url()).await);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    // They count once they have been silent for a second.
    let answer = loop {
        let answer = request(&address, UPGRADE);
        if !answer.starts_with("HTTP/1.1 101") {
            break answer;
        }
        assert!(Instant::now() < deadline, "a socket more is let in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "), "{answer}");
    assert_eq!(get(&address, "/health").0, 200, "health is told all the same");
    // A place is free as soon as one of them speaks or leaves.
    let mut speaker = silent.pop().expect("there are some");
    speaker.send(&json!({ "type": "auth", "api_key": server.first_key(), "agent": { "name": "late" } })).await;
    speaker.frame_where(|frame| frame["type"] == "auth_ok").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !request(&address, UPGRADE).starts_with("HTTP/1.1 101") {
        assert!(Instant::now() < deadline, "no place although one spoke");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
