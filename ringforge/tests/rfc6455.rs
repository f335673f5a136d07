//! The rules of RFC 6455 over raw TCP, frame by frame: what breaks one ends the connection with its code, before and after
//! authentication alike; what keeps them is answered.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "sockets/raw.rs"]
#[allow(dead_code, reason = "other tests need the rest of it")]
mod raw;
#[path = "support.rs"]
mod support;

use raw::{Op, Raw};
use serde_json::json;
use support::Server;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame with this first byte, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => vec![short],
        (_, Ok(medium)) => [&[126][..], &medium.to_be_bytes()].concat(),
        _ => [&[127][..], &(payload.len() as u64).to_be_bytes()].concat(),
    };
    written(first, &length, payload)
}

/// A masked frame whose length is written like this.
fn written(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first, length[0] | 0x80];
    bytes.extend(&length[1..]);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// A message that is answered, as text.
fn ask(reference: &str) -> String {
    json!({ "type": "ping", "ref": reference }).to_string()
}

/// Every row ends the connection with its code, and nothing comes after.
async fn end_with(rows: Vec<(String, Vec<u8>, u16)>) {
    let server = Server::plain();
    for (name, bytes, code) in rows {
        for known in [false, true] {
            let mut raw = if known { Raw::enter(&server, &name).await } else { Raw::open(&server).await };
            raw.send(&bytes).await;
            // What came too late.
            raw.send(&frame(FIN | TEXT, ask("late").as_bytes())).await;
            assert_eq!(raw.closed().await, code, "{name}, authenticated: {known}");
            assert_eq!(raw.closed().await, 1006, "{name}: then the stream ends");
        }
    }
}

fn row(name: impl Into<String>, bytes: impl Into<Vec<u8>>, code: u16) -> (String, Vec<u8>, u16) {
    (name.into(), bytes.into(), code)
}

#[tokio::test]
async fn heads_that_mean_nothing() {
    let mut rows = Vec::new();
    for bit in [0x40, 0x20, 0x10] {
        for op in [TEXT, BINARY, PING, CLOSE] {
            rows.push(row(format!("reserved bit {bit:#x}, opcode {op}"), frame(FIN | bit | op, b""), 1002));
        }
    }
    for op in (3..8).chain(11..16) {
        rows.push(row(format!("opcode {op}"), frame(FIN | op, b"{}"), 1002));
        rows.push(row(format!("opcode {op}, not the last"), frame(op, b"{}"), 1002));
    }
    for op in [TEXT, BINARY, CONTINUATION, PING, CLOSE] {
        rows.push(row(format!("opcode {op}, not masked"), [FIN | op, 2, b'{', b'}'], 1002));
    }
    end_with(rows).await;
}

#[tokio::test]
async fn control_frames_are_whole_and_short() {
    let mut rows = Vec::new();
    for op in [PING, PONG, CLOSE] {
        rows.push(row(format!("opcode {op} in fragments"), frame(op, b""), 1002));
        rows.push(row(format!("opcode {op} with 126 bytes"), frame(FIN | op, &[b'x'; 126]), 1002));
        rows.push(row(format!("opcode {op} with 70,000 bytes"), frame(FIN | op, &vec![b'x'; 70_000]), 1002));
    }
    end_with(rows).await;
}

#[tokio::test]
async fn fragments_have_a_beginning_and_an_end() {
    let whole = || frame(FIN | TEXT, ask("whole").as_bytes());
    end_with(vec![
        row("continues nothing", frame(FIN | CONTINUATION, b"{}"), 1002),
        row("continues nothing, not the last", frame(CONTINUATION, b"{}"), 1002),
        row("text inside of text", [frame(TEXT, b"{"), whole()].concat(), 1002),
        row("a fragment of bytes inside of text", [frame(TEXT, b"{"), frame(BINARY, b"}")].concat(), 1002),
        row("text inside of bytes", [frame(BINARY, b"{"), whole()].concat(), 1002),
    ])
    .await;
    // Among those that are known: the first message of a stranger is its `auth`.
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "whole").await;
    raw.send(&[whole(), frame(FIN | CONTINUATION, b"{}")].concat()).await;
    assert_eq!(raw.closed().await, 1002, "continues what was whole");
}

#[tokio::test]
async fn text_is_utf8() {
    let mut rows = Vec::new();
    for (name, bytes) in [
        ("a byte that is none", &b"\"\xff\""[..]),
        ("a rest without its beginning", b"\"\x80\""),
        ("a beginning without its rest", b"\"\xc3"),
        ("overlong", b"\"\xc0\xaf\""),
        ("overlong, of three", b"\"\xe0\x80\xaf\""),
        ("half a pair", b"\"\xed\xa0\x80\""),
        ("beyond the last", b"\"\xf4\x90\x80\x80\""),
    ] {
        rows.push(row(name, frame(FIN | TEXT, bytes), 1007));
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            let cut = [frame(TEXT, head), frame(FIN | PING, b"between"), frame(FIN | CONTINUATION, tail)].concat();
            rows.push(row(format!("{name}, cut at {at}"), cut, 1007));
        }
        rows.push(row(format!("{name}, as a reason"), close(1000, bytes), 1007));
    }
    end_with(rows).await;
}

#[tokio::test]
async fn lengths_are_written_in_one_way() {
    let text = ask("long");
    let len = u8::try_from(text.len()).expect("short");
    let (medium, long) = ([126, 0, len], [127, 0, 0, 0, 0, 0, 0, 0, len]);
    let mut rows = vec![
        row("16 bits for few", written(FIN | TEXT, &medium, text.as_bytes()), 1002),
        row("64 bits for few", written(FIN | TEXT, &long, text.as_bytes()), 1002),
        row("64 bits for 300", written(FIN | TEXT, &[127, 0, 0, 0, 0, 0, 0, 1, 44], &[b' '; 300]), 1002),
        row("16 bits for a ping", written(FIN | PING, &[126, 0, 1], b"p"), 1002),
        row("a length with its first bit set", written(FIN | TEXT, &[127, 0x80, 0, 0, 0, 0, 0, 0, 0], b"{}"), 1002),
    ];
    // Nothing of it is waited for, and no room is made.
    for shift in [21, 32, 40, 62] {
        let length = [&[127][..], &(1_u64 << shift).to_be_bytes()].concat();
        rows.push(row(format!("2^{shift} bytes"), written(FIN | TEXT, &length, b"{"), 1009));
        rows.push(row(
            format!("2^{shift} bytes, continued"),
            [frame(TEXT, b"{"), written(FIN | CONTINUATION, &length, b"}")].concat(),
            1009,
        ));
    }
    end_with(rows).await;
}

#[tokio::test]
async fn goodbyes_are_returned_with_their_code() {
    let mut rows = vec![
        row("no code", frame(FIN | CLOSE, b""), 1005),
        row("half a code", frame(FIN | CLOSE, &[3]), 1002),
        row("the longest reason", close(1000, &[b'x'; 123]), 1000),
        row("a reason", close(4_321, "Grüße".as_bytes()), 4_321),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        rows.push(row(format!("code {code}"), close(code, b""), code));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        rows.push(row(format!("code {code}"), close(code, b""), 1002));
    }
    let inside = [frame(TEXT, b"{"), close(1001, b"")].concat();
    rows.push(row("in the middle of a message", inside, 1001));
    end_with(rows).await;
}

#[tokio::test]
async fn what_keeps_the_rules_is_answered() {
    let server = Server::plain();
    let mut raw = Raw::enter(&server, "pings").await;
    for len in [0, 1, 4, 125] {
        let payload = vec![0xfe; len];
        raw.send(&frame(FIN | PING, &payload)).await;
        assert_eq!(raw.next_of(Op::Pong).await, payload, "a ping of {len} bytes");
    }
    raw.send(&frame(FIN | PONG, b"nobody asked")).await;
    // Cut between all of its bytes, in the middle of characters too, with a ping on the way; and an empty end.
    let text = ask("Grüße 😀");
    let mut bytes = frame(TEXT, b"");
    for (at, byte) in text.bytes().enumerate() {
        bytes.extend(frame(CONTINUATION, &[byte]));
        if at == 20 {
            bytes.extend(frame(FIN | PING, b"between"));
        }
    }
    bytes.extend(frame(FIN | CONTINUATION, b""));
    raw.send(&bytes).await;
    assert_eq!(raw.next_of(Op::Pong).await, b"between", "before the answer");
    assert_eq!(raw.reply("Grüße 😀").await["type"], "pong");
    // Bytes are no text and need not be UTF-8; a message of nothing is one.
    for bytes in [frame(FIN | BINARY, b"\xff"), frame(FIN | TEXT, b"")] {
        raw.send(&bytes).await;
        let told = raw.frame_where(|frame| frame["type"] == "error").await;
        assert_eq!(told["code"], "invalid_message", "{told}");
    }
    // However it is cut on its way.
    for byte in frame(FIN | TEXT, ask("slowly").as_bytes()) {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.reply("slowly").await["type"], "pong");
    // Each length, where it is written in another way from.
    for len in [125, 126, 65_535, 65_536] {
        let reference = format!("of {len}");
        let text = ask(&reference);
        let text = text.clone() + &" ".repeat(len - text.len());
        raw.send(&frame(FIN | TEXT, text.as_bytes())).await;
        assert_eq!(raw.reply(&reference).await["type"], "pong", "{len} bytes");
    }
    raw.send(&close(1000, b"")).await;
    assert_eq!(raw.closed().await, 1000);
}
