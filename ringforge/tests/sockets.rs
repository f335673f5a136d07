//! What a connection does with frames that no library would send, told byte by byte.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "sockets/raw.rs"]
mod raw;
#[path = "support.rs"]
mod support;

use std::time::{Duration, Instant};

use raw::{Op, Raw};
use ringforge_domain::limits::{
    EARLY_FRAME_BYTES_MAX, FRAGMENTS_MAX, HEADER_BYTES_MAX, HEADERS_MAX, PENDING_MAX, PINGS_BURST, REQUESTS_MAX,
    SILENT_ADDRESS_MAX, SILENT_MAX,
};
use serde_json::{Value, json};
use support::{Client, Options, Server};

/// A command in one line.
fn set(key: &str) -> String {
    json!({ "type": "memory", "action": "set", "key": key, "value": 1, "ref": key }).to_string()
}

/// `text` in so many fragments; a ping after each of the first few.
fn pieces(text: &str, count: usize, pings: usize) -> Vec<u8> {
    let (head, last) = text.split_at(count - 1);
    let mut bytes = Vec::new();
    for (at, piece) in head.as_bytes().chunks(1).chain([last.as_bytes()]).enumerate() {
        let op = if at == 0 { Op::Text } else { Op::Continuation };
        bytes.extend(raw::frame(op, at + 1 == count, piece));
        if at < pings {
            bytes.extend(raw::frame(Op::Ping, true, b"p"));
        }
    }
    bytes
}

/// Asks until it is so.
async fn soon(mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async { while !is_so().await {} };
    tokio::time::timeout(Duration::from_secs(15), asking).await.expect("it is so in time");
}

/// Somebody else on the same server still gets answers.
async fn others_are_served(server: &Server) {
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "other", json!({})).await;
    assert_eq!(client.ask(&json!({ "type": "ping", "ref": 1 })).await["type"], "pong");
}

#[tokio::test]
async fn a_message_in_too_many_fragments_is_too_big() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "pieces").await;
    // Pings between the fragments are none.
    raw.send(&pieces(&set("at-most"), FRAGMENTS_MAX, 3)).await;
    raw.reply("at-most").await;
    // What came before it in the same segment is submitted, whether or not there is time for an answer.
    let mut bytes = raw::text(&set("before"));
    bytes.extend(pieces(&set("one-more"), FRAGMENTS_MAX + 1, 0));
    raw.send(&bytes).await;
    assert_eq!(raw.closed().await, 1009);
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "other", json!({})).await;
    let get = json!({ "type": "memory", "action": "get", "key": "before", "ref": 1 });
    soon(async || client.ask(&get).await["event"] == "entry").await;
}

#[tokio::test]
async fn fragments_without_end_are_noticed_when_the_bound_is_passed() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "endless").await;
    let mut bytes = raw::frame(Op::Text, false, b"");
    for _ in 0..FRAGMENTS_MAX {
        bytes.extend(raw::frame(Op::Continuation, false, b""));
    }
    raw.send(&bytes).await;
    assert_eq!(raw.closed().await, 1009);
}

#[tokio::test]
async fn pings_are_answered_and_a_flood_of_them_is_not() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "pings").await;
    for text in ["one", "two"] {
        raw.send(&raw::frame(Op::Ping, true, text.as_bytes())).await;
        assert_eq!(raw.next_of(Op::Pong).await, text.as_bytes());
    }
    let flood: Vec<u8> = (0..10_000).flat_map(|_| raw::frame(Op::Ping, true, b"again")).collect();
    raw.send(&flood).await;
    assert_eq!(raw.closed().await, 4029);
    let mut raw = Raw::enter(&server, "pongs").await;
    let flood: Vec<u8> = (0..=PINGS_BURST).flat_map(|_| raw::frame(Op::Pong, true, b"")).collect();
    raw.send(&flood).await;
    assert_eq!(raw.closed().await, 4029);
    others_are_served(&server).await;
}

#[tokio::test]
async fn whoever_sends_more_than_may_wait_is_read_again_as_soon_as_there_are_answers() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "hasty").await;
    // Nothing else happens to it: neither its silence nor anybody's news.
    let began = Instant::now();
    let commands = (0..5 * PENDING_MAX).flat_map(|number| raw::text(&set(&number.to_string())));
    raw.send(&commands.collect::<Vec<u8>>()).await;
    raw.reply(&(5 * PENDING_MAX - 1).to_string()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "it was not read for {:?}", began.elapsed());
}

#[tokio::test]
async fn a_stranger_cannot_make_us_wait_for_a_large_message() {
    let server = Server::plain();
    let mut raw = Raw::open(&server).await;
    // Only its header: nothing of the message is waited for.
    raw.send(&raw::head(Op::Text, true, EARLY_FRAME_BYTES_MAX + 1)).await;
    assert_eq!(raw.closed().await, 1009);
    // Right after `auth`, before its answer, everything is allowed.
    let mut raw = Raw::open(&server).await;
    let auth = json!({ "type": "auth", "api_key": server.first_key(), "agent": { "name": "large" } });
    let value = "x".repeat(2 * EARLY_FRAME_BYTES_MAX);
    let large = json!({ "type": "memory", "action": "set", "key": "large", "value": value, "ref": "large" });
    let bytes = [raw::text(&auth.to_string()), raw::text(&large.to_string())].concat();
    raw.send(&bytes).await;
    assert_eq!(raw.reply("large").await["event"], "set_ok");
}

#[tokio::test]
async fn nothing_wins_a_stranger_time() {
    let config = "[timing]\nauth_timeout_ms = 600\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let mut raw = Raw::open(&server).await;
    let since = Instant::now();
    // An `auth` that is always about to come, with signs of life between its pieces.
    raw.send(&raw::frame(Op::Text, false, b"{")).await;
    for piece in [raw::frame(Op::Continuation, false, b" "), raw::frame(Op::Pong, true, b"")].iter().cycle().take(9) {
        tokio::time::sleep(Duration::from_millis(80)).await;
        raw.send(piece).await;
    }
    assert_eq!(raw.closed().await, 4401);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn the_reason_arrives_although_we_had_not_read_everything() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "huge").await;
    // Far more than fits anywhere: the end of it cannot have been read when the goodbye is sent.
    let bytes = raw::frame(Op::Text, true, &vec![b'x'; 4 << 20]);
    raw.send(&bytes).await;
    assert_eq!(raw.closed().await, 1009);
}

#[tokio::test]
async fn what_cannot_be_read_is_said_goodbye_to_with_its_reason() {
    let server = Server::plain();
    let mut unmasked = raw::text("{}");
    // Neither the bit nor the mask.
    unmasked[1] &= 0x7f;
    unmasked.drain(2..6);
    let broken = [
        ("unmasked", unmasked, 1002),
        ("continues", raw::frame(Op::Continuation, true, b"{}"), 1002),
        ("fragmented-ping", raw::frame(Op::Ping, false, b""), 1002),
        ("not-utf8", raw::frame(Op::Text, true, b"\"\xff\""), 1007),
        ("cut-utf8", raw::frame(Op::Text, true, b"\xc3"), 1007),
    ];
    for (name, bytes, code) in broken {
        let mut raw = Raw::enter(&server, name).await;
        raw.send(&bytes).await;
        assert_eq!(raw.closed().await, code, "{name}");
    }
    others_are_served(&server).await;
}

#[tokio::test]
async fn no_extension_is_agreed_on_and_none_is_accepted() {
    let server = Server::plain();
    let extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (mut raw, head) = Raw::upgrade(&server, extension).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(!head.to_ascii_lowercase().contains("sec-websocket-extensions"), "{head}");
    raw.next_of(Op::Text).await;
    // A frame that says it is compressed.
    let mut bytes = raw::text("{}");
    bytes[0] |= 0x40;
    raw.send(&bytes).await;
    assert_eq!(raw.closed().await, 1002);
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused_with_its_reason() {
    let server = Server::plain();
    let whole = ["Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13", raw::KEY];
    let ask = async |lines: &[&str], first: &str| raw::ask(&server, first, lines).await;
    assert!(ask(&whole, "GET /ws HTTP/1.1").await.starts_with("HTTP/1.1 101 "), "the whole");
    for left_out in 0..whole.len() {
        let lines: Vec<&str> = (0..whole.len()).filter(|at| *at != left_out).map(|at| whole[at]).collect();
        let answer = ask(&lines, "GET /ws HTTP/1.1").await;
        let status = if whole[left_out].contains("Version") { "426" } else { "400" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "without `{}`: {answer}", whole[left_out]);
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
        assert_eq!(body["code"], "invalid_message", "{answer}");
    }
    let old = ask(&[whole[0], whole[1], "Sec-WebSocket-Version: 8", raw::KEY], "GET /ws HTTP/1.1").await;
    assert!(old.starts_with("HTTP/1.1 426 ") && old.contains("sec-websocket-version: 13\r\n"), "{old}");
    assert!(ask(&whole, "POST /ws HTTP/1.1").await.starts_with("HTTP/1.1 405 "), "another method");
    assert!(ask(&whole, "GET /ws HTTP/1.0").await.starts_with("HTTP/1.0 426 "), "an old HTTP");
}

#[tokio::test]
async fn a_key_in_the_address_is_refused_and_anything_else_there_ignored() {
    let server = Server::plain();
    let key = server.first_key();
    let whole = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", raw::KEY];
    let ask = async |query: &str| raw::ask(&server, &format!("GET /ws?{query} HTTP/1.1"), &whole).await;
    for query in
        [format!("api_key={key}"), format!("a=1&token={key}"), "key=rf_admin_".to_owned(), "api_key".to_owned()]
    {
        let answer = ask(&query).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{query}: {answer}");
        assert!(answer.contains("invalid_message") && !answer.contains(key), "{answer}");
    }
    for query in ["", "vsn=2.0.0", "name=rf_live"] {
        assert!(ask(query).await.starts_with("HTTP/1.1 101 "), "{query}");
    }
}

#[tokio::test]
async fn what_was_read_before_a_goodbye_is_submitted() {
    const COUNT: usize = 100;
    let server = Server::plain();
    let mut raw = Raw::open(&server).await;
    let auth = json!({ "type": "auth", "api_key": server.first_key(), "agent": { "name": "hasty" } });
    // Everything in one segment, and nothing is read.
    let mut bytes = raw::text(&auth.to_string());
    bytes.extend((0..COUNT).flat_map(|at| raw::text(&set(&format!("hasty/{at}")))));
    bytes.extend(raw::frame(Op::Close, true, &1_000_u16.to_be_bytes()));
    raw.send(&bytes).await;
    assert_eq!(raw.closed().await, 1000);
    let (mut client, _) = Client::enter(server.ws_url(), server.first_key(), "other", json!({})).await;
    let list = json!({ "type": "memory", "action": "list", "prefix": "hasty/", "limit": 1, "ref": 1 });
    soon(async || client.ask(&list).await["total"] == COUNT).await;
}

#[tokio::test]
async fn a_head_that_is_too_long_or_has_too_many_headers_is_refused() {
    let server = Server::plain();
    let ask = async |lines: &[&str]| raw::ask(&server, "GET /health HTTP/1.1", lines).await;
    // `Host` is one already.
    let many = |count: usize| (1..count).map(|at| format!("X-{at}: x")).collect::<Vec<_>>();
    let refs = |lines: &[String]| lines.iter().map(String::as_str).collect::<Vec<_>>().join("\r\n");
    assert!(ask(&[&refs(&many(HEADERS_MAX))]).await.starts_with("HTTP/1.1 200 "), "as many as there may be");
    assert!(ask(&[&refs(&many(HEADERS_MAX + 1))]).await.starts_with("HTTP/1.1 431 "), "one more");
    let long = |bytes: usize| format!("X-Long: {}", "x".repeat(bytes));
    assert!(ask(&[&long(HEADER_BYTES_MAX - 200)]).await.starts_with("HTTP/1.1 200 "), "as long as it may be");
    assert!(ask(&[&long(HEADER_BYTES_MAX + 1)]).await.starts_with("HTTP/1.1 431 "), "longer");
    others_are_served(&server).await;
}

#[tokio::test]
async fn silent_sockets_are_capped_in_all_and_whoever_authenticates_frees_its_place() {
    let config = "[timing]\nauth_timeout_ms = 60000\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let mut silent = Vec::new();
    for address in 1..=SILENT_MAX / SILENT_ADDRESS_MAX {
        for _ in 0..SILENT_ADDRESS_MAX {
            let (raw, head) = Raw::upgrade_from(&server, &format!("127.0.0.{address}"), "").await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            silent.push(raw);
        }
    }
    // They count once they have been silent for a second. This address has none of them.
    let another = async || Raw::upgrade_from(&server, "127.0.0.99", "").await.1;
    soon(async || {
        let head = another().await;
        head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: ")
    })
    .await;
    let _inside = silent.pop().expect("there are some").authenticated(&server, "late").await;
    soon(async || another().await.starts_with("HTTP/1.1 101 ")).await;
}

#[tokio::test]
async fn whoever_finds_no_place_is_told_so_and_whoever_has_one_goes_on() {
    let config = "[server]\nconnections_max = 2\n".to_owned();
    let server = Server::start(Options { config, ..Options::default() });
    let mut ada = Raw::enter(&server, "ada").await;
    let mut bob = Raw::enter(&server, "bob").await;
    for _ in 0..3 {
        let (_, head) = Raw::upgrade(&server, "").await;
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
    }
    let health = raw::ask(&server, "GET /health HTTP/1.1", &["Connection: close"]).await;
    assert!(health.starts_with("HTTP/1.1 200 "), "health is told all the same: {health}");
    for (raw, key) in [(&mut ada, "ada"), (&mut bob, "bob")] {
        raw.send(&raw::text(&set(key))).await;
        assert_eq!(raw.reply(key).await["event"], "set_ok");
    }
    let come_in = async || Raw::upgrade(&server, "").await.1.starts_with("HTTP/1.1 101 ");
    // One says goodbye; whoever comes in its place only drops the line.
    ada.send(&raw::frame(Op::Close, true, &1_000_u16.to_be_bytes())).await;
    assert_eq!(ada.closed().await, 1000);
    soon(come_in).await;
    soon(come_in).await;
    bob.send(&raw::text(&set("last"))).await;
    assert_eq!(bob.reply("last").await["event"], "set_ok");
}

#[tokio::test]
async fn who_says_nothing_at_all_takes_the_places_of_requests_only_until_its_time_is_over() {
    let patience = Duration::from_secs(4);
    let config = format!("[server]\nconnections_max = 1\n[timing]\nupgrade_timeout_ms = {}\n", patience.as_millis());
    let server = Server::start(Options { config, ..Options::default() });
    let mut ada = Raw::enter(&server, "ada").await;
    let (since, mut idle) = (Instant::now(), Vec::new());
    for _ in 0..REQUESTS_MAX {
        idle.push(Raw::connect(&server, "127.0.0.1").await);
    }
    // Every place for a request is taken: whoever comes now waits to be accepted, and is answered when they are cut off.
    let health = raw::ask(&server, "GET /health HTTP/1.1", &["Connection: close"]).await;
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    assert!(since.elapsed() > patience, "there was a place although they hold all: {:?}", since.elapsed());
    for raw in &mut idle {
        assert!(raw.is_cut_off().await, "it held its place for nothing");
    }
    ada.send(&raw::text(&set("ada"))).await;
    assert_eq!(ada.reply("ada").await["event"], "set_ok");
}

/// Kilobytes of memory that the server holds; `None` where there is no `/proc`.
fn resident(server: &Server) -> Option<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    Some(line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

#[tokio::test]
async fn a_silent_socket_costs_kilobytes() {
    const COUNT: usize = 60;
    let server = Server::plain();
    if resident(&server).is_none() {
        eprintln!("SKIPPED: the memory of a socket, because there is no /proc");
        return;
    }
    // The first ones also touch what all share: the runtime's stacks, the allocator's arenas.
    let mut sockets = open_many(&server, "127.0.0.1", COUNT).await;
    let before = resident(&server).expect("it was there");
    for address in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        sockets.extend(open_many(&server, address, COUNT).await);
    }
    let each = resident(&server).expect("it was there").saturating_sub(before) / (sockets.len() - COUNT);
    assert!(each < 32, "{each} kB a socket");
}

async fn open_many(server: &Server, from: &str, count: usize) -> Vec<Raw> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(Raw::upgrade_from(server, from, "").await.0);
    }
    sockets
}

#[tokio::test]
#[ignore = "long: make proof"]
async fn who_is_silent_for_90_seconds_has_left() {
    let server = Server::plain();
    let mut bob = Raw::enter(&server, "bob").await;
    let (mut ada, since) = (Raw::enter(&server, "ada").await, Instant::now());
    // Pings reach her, and she answers none.
    ada.patience = Duration::from_secs(100);
    let closed = tokio::spawn(async move { (ada.closed().await, since.elapsed()) });
    let is_gone = |frame: &Value| frame["type"] == "presence" && frame["event"] == "left" && frame["name"] == "ada";
    for number in 0.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bob.send(&raw::text(&json!({ "type": "ping", "ref": number }).to_string())).await;
        if is_gone(&bob.frame_where(|frame| frame["ref"] == number || is_gone(frame)).await) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(100), "she is still here");
    }
    assert!(since.elapsed() >= Duration::from_secs(89), "she was here: {:?}", since.elapsed());
    let (code, after) = closed.await.expect("it ran");
    assert_eq!(code, 4001);
    assert!((89..95).contains(&after.as_secs()), "{after:?}");
}
