//! The client against a stub that speaks just enough of the public protocol, rightly or wrongly: what an honest server
//! says passes, what a wrong one says is found.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use ringforge_loadtest::{
    agent::{Door, Hello, connect, listen},
    check::Faults,
    ingest::{Tally, publish},
    replay::ask,
    socket::Socket,
    wire::{WANTED_KIND, history, set},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::{accept_async, tungstenite::Message};

/// What the stub does.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Honest,
    /// Acknowledges every tenth command twice.
    Repeats,
    /// Gives every tenth event the position of the one before.
    StandsStill,
    /// Leaves the third item out of a replay.
    Skips,
    /// Closes when an agent has come in.
    Closes,
}

async fn stub(habit: Habit) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let mut socket = accept_async(stream).await.expect("a WebSocket");
        socket.send(Message::text(r#"{"type":"auth_required","version":"1.0"}"#)).await.expect("sent");
        let mut log: Vec<Value> = Vec::new();
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let asked: Value = serde_json::from_str(&text).expect("JSON");
            for answer in answers(habit, &asked, &mut log) {
                socket.send(Message::text(answer.to_string())).await.expect("sent");
            }
            if habit == Habit::Closes {
                return socket.close(None).await.expect("closed");
            }
        }
    });
    address
}

fn answers(habit: Habit, asked: &Value, log: &mut Vec<Value>) -> Vec<Value> {
    let reference = &asked["ref"];
    match asked["type"].as_str().expect("a type") {
        "auth" if asked["api_key"] != "good" => vec![json!({"type": "auth_error", "retry": false})],
        "auth" => vec![json!({"type": "auth_ok"}), json!({"type": "ping"}), json!({"type": "presence"})],
        "pong" => vec![],
        "replay" => replayed(habit, asked, log),
        area => {
            log.push(asked.clone());
            let tenth = log.len().is_multiple_of(10);
            let position = log.len() - usize::from(habit == Habit::StandsStill && tenth);
            let ack = json!({"type": area, "event": "any_ok", "ref": reference, "position": position});
            let own = json!({"type": area, "event": "any", "position": position});
            if habit == Habit::Repeats && tenth { vec![ack.clone(), own, ack] } else { vec![own, ack] }
        }
    }
}

fn replayed(habit: Habit, asked: &Value, log: &[Value]) -> Vec<Value> {
    let reference = &asked["ref"];
    let mut found: Vec<&Value> = log.iter().filter(|event| event["event"]["kind"] == asked["kinds"][0]).collect();
    if habit == Habit::Skips {
        found.remove(2);
    }
    let total = found.len();
    let mut frames = vec![json!({"type": "replay", "event": "start", "ref": reference, "total": total})];
    frames.extend(found.into_iter().enumerate().map(|(index, event)| {
        let original = json!({"type": "activity", "event": "broadcast", "activity": event["event"]});
        json!({"type": "replay", "event": "item", "ref": reference, "index": index, "original": original})
    }));
    frames.push(json!({"type": "replay", "event": "end", "ref": reference, "delivered": total}));
    frames
}

async fn agent(habit: Habit) -> Socket {
    let door = Door::new(&format!("ws://{}/ws", stub(habit).await), "good");
    connect(&door, "agent", &Hello::default()).await.expect("let in")
}

fn always() -> Range<Instant> {
    let now = Instant::now();
    now..now + Duration::from_mins(10)
}

#[tokio::test]
async fn a_bad_key_is_an_error_not_a_wait() {
    let door = Door::new(&format!("ws://{}/ws", stub(Habit::Honest).await), "bad");
    let error = connect(&door, "agent", &Hello::default()).await.expect_err("refused");
    assert!(format!("{error:#}").contains("auth_error"), "{error:#}");
}

#[tokio::test]
async fn a_connection_that_the_server_closes_has_ended() {
    let mut socket = agent(Habit::Closes).await;
    let ended = loop {
        if let Err(error) = socket.read(|_| {}).await {
            break error;
        }
    };
    assert!(format!("{ended:#}").contains("the server closed the connection"), "{ended:#}");
    // An idle agent whose connection ends is noticed: its task is over.
    listen(agent(Habit::Closes).await).await;
}

#[tokio::test]
async fn acks_are_checked_over_a_socket() {
    let expected = [
        (Habit::Honest, Faults::default()),
        (Habit::Repeats, Faults { duplicates: 10, ..Faults::default() }),
        (Habit::StandsStill, Faults { positions: 10, ..Faults::default() }),
    ];
    for (habit, faults) in expected {
        for window in [1, 16] {
            let mut socket = agent(habit).await;
            let tally = Mutex::new(Tally::default());
            // One more command after the last repetition, so that it is read as well.
            let make = |number| (number < 101).then(|| set(0, number, 64));
            let flight = publish(&mut socket, window, make, always(), &tally).await.expect("connected");
            assert_eq!((flight.acks.count(), flight.acks.waiting()), (101, 0));
            assert_eq!(flight.faults(), faults, "window {window}");
        }
    }
}

#[tokio::test]
async fn a_replay_is_exactly_what_was_written() {
    for (habit, passes) in [(Habit::Honest, true), (Habit::Skips, false)] {
        let mut socket = agent(habit).await;
        let make = |number: usize| (number < 50).then(|| history(number, 100, number.is_multiple_of(10)));
        publish(&mut socket, 8, make, always(), &Mutex::default()).await.expect("connected");
        for round in 0..2 {
            let replayed = ask(&mut socket, round, "kinds", WANTED_KIND, &[0, 10, 20, 30, 40]).await;
            assert_eq!(replayed.is_ok(), passes, "{replayed:?}");
        }
    }
}
