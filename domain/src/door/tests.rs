//! What a text means, and what is said of one that means nothing.

use serde_json::{Value, json};

use super::*;
use crate::{activity, direct, limits::JSON_DEPTH_MAX, memory, presence, replay};

fn received(frame: &Value) -> Received {
    parse(&frame.to_string(), &Limits::default()).unwrap_or_else(|(_, refusal)| panic!("{frame}: {refusal:?}"))
}

fn command(frame: &Value) -> Command {
    match received(frame).incoming {
        Incoming::Command(command) => command,
        other => panic!("{other:?}"),
    }
}

fn refused(text: &str) -> (Option<Json>, Refusal) {
    parse(text, &Limits::default()).expect_err(text)
}

fn set(frame: &Value) -> memory::Set {
    match command(frame) {
        Command::MemorySet(set) => set,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrapped_and_flat_mean_the_same() {
    let flat = json!({"type": "memory", "action": "set", "key": "a", "value": {"x": [1]}, "tags": ["t"], "ref": "1"});
    let wrapped = json!({"type": "memory", "action": "set", "ref": "1", "payload": {"key": "a", "value": {"x": [1]}, "tags": ["t"]}});
    let mixed = json!({"type": "memory", "action": "set", "ref": "1", "key": "a", "payload": {"value": {"x": [1]}, "tags": ["t"]}});
    assert_eq!(received(&flat).incoming, received(&wrapped).incoming);
    assert_eq!(received(&flat).incoming, received(&mixed).incoming);
    assert_eq!(received(&flat).meta, received(&wrapped).meta);
    assert_eq!([&flat, &wrapped].map(|frame| received(frame).wrapped), [false, true]);
}

#[test]
fn a_name_means_the_same_with_escapes() {
    let plain = received(&json!({"type": "memory", "action": "get", "key": "a", "ref": "1"}));
    for text in [
        r#"{"type":"memory","action":"get","key":"a","ref":"1","gr\u00f6\u00dfe":1}"#,
        r#"{"type":"memory","action":"get","\u006bey":"a","r\u0065f":"1"}"#,
        r#"{"type":"memory","action":"get","ref":"1","key":"a","payload":{"gr\u00f6\u00dfe":1}}"#,
    ] {
        let received = parse(text, &Limits::default()).expect(text);
        assert_eq!((received.incoming, received.meta), (plain.incoming.clone(), plain.meta.clone()), "{text}");
    }
    for text in [
        r#"{"type":"memory","action":"get","ref":"1","key":"a","k\u0065y":"b"}"#,
        r#"{"type":"memory","action":"get","ref":"1","key":"a","payload":{"k\u0065y":"b"}}"#,
        r#"{"type":"memory","action":"get","ref":"1","k\u0065y":1}"#,
    ] {
        let (reference, refusal) = refused(text);
        assert_eq!((reference, refusal.code), (Json::parse("\"1\"").ok(), Code::InvalidMessage), "{text}");
        assert!(format!("{refusal:?}").contains("key"), "{refusal:?}");
    }
}

#[test]
fn a_value_comes_back_as_it_was_written() {
    let text = r#"{"type":"memory","action":"set","key":"a","value":{"b":1.50,"a":"\u00e9"}}"#;
    let Ok(Received { incoming: Incoming::Command(Command::MemorySet(set)), .. }) = parse(text, &Limits::default())
    else {
        panic!("a set")
    };
    assert_eq!(set.value.as_ref().map(Json::text), Some(r#"{"b":1.50,"a":"\u00e9"}"#));
    assert_eq!(set.check(&Limits::default()), Ok(()));
}

use crate::act::Act as _;

#[test]
fn null_is_a_value_and_absence_is_not() {
    let null = set(&json!({"type": "memory", "action": "set", "key": "a", "value": null}));
    assert_eq!(null.value.as_ref().map(Json::text), Some("null"));
    let absent = set(&json!({"type": "memory", "action": "set", "key": "a"}));
    assert_eq!(absent.value, None);
    assert!(absent.check(&Limits::default()).is_err());
    let optional =
        set(&json!({"type": "memory", "action": "set", "key": "a", "value": 1, "ttl": null, "metadata": null}));
    assert_eq!((optional.ttl, optional.metadata), (None, None));
}

#[test]
fn a_type_inside_the_payload_of_a_set_is_its_type_hint() {
    let wrapped =
        json!({"type": "memory", "action": "set", "payload": {"key": "a", "value": [1.5], "type": "embedding"}});
    assert_eq!(set(&wrapped).type_hint, Some(memory::ValueType::Embedding));
    let flat = json!({"type": "memory", "action": "set", "key": "a", "value": "x", "type_hint": "text"});
    assert_eq!(set(&flat).type_hint, Some(memory::ValueType::Text));
}

#[test]
fn names_in_both_places_clash() {
    for (frame, field) in [
        (json!({"type": "memory", "action": "get", "payload": {"key": "a", "type": "x"}}), "type"),
        (json!({"type": "memory", "action": "get", "key": "a", "payload": {"key": "b"}}), "key"),
        (json!({"type": "memory", "action": "get", "payload": {"key": "a", "action": "b"}}), "action"),
        (json!({"type": "memory", "action": "get", "ref": 1, "payload": {"key": "a", "ref": 2}}), "ref"),
        (json!({"type": "memory", "action": "get", "payload": {"key": "a", "ref": 2}}), "ref"),
        (
            json!({"type": "memory", "action": "set", "type_hint": "text", "payload": {"key": "a", "value": "x", "type": "text"}}),
            "type_hint",
        ),
        (json!({"type": "presence", "action": "update", "state": "busy", "status": "busy"}), "state"),
        (json!({"type": "memory", "action": "get", "payload": [1]}), "payload"),
        (json!({"type": "memory", "action": "get", "payload": "x"}), "payload"),
    ] {
        let (_, refusal) = refused(&frame.to_string());
        assert_eq!((refusal.code, refusal.fact("field")), (Code::InvalidMessage, json!(field)), "{frame}");
    }
}

#[test]
fn other_names_mean_the_same() {
    let update = command(&json!({"type": "presence", "action": "update", "status": "busy", "current_task": "t"}));
    let expected = presence::Update {
        state: Some(presence::State::Busy),
        task: Some("t".to_owned()),
        ..presence::Update::default()
    };
    assert_eq!(update, expected.into());
    let guarded = set(&json!({"type": "memory", "action": "set", "key": "a", "value": 1, "if_version": 3}));
    assert_eq!(guarded.expected_version, Some(3));
    for action in ["start", "request"] {
        let replay = received(&json!({"type": "replay", "action": action, "match": "all"}));
        let expected = replay::Request { matching: Some("all".to_owned()), ..replay::Request::default() };
        assert_eq!(replay.incoming, Incoming::Query(Query::ReplayRequest(expected)));
    }
}

#[test]
fn an_activity_has_two_forms_in_two_shapes() {
    let nested =
        json!({"type": "activity", "action": "broadcast", "scope": "fleet", "event": {"kind": "alert", "tags": ["x"]}});
    let flat = json!({"type": "activity", "action": "broadcast", "kind": "alert", "event_tags": ["x"]});
    let wrapped =
        json!({"type": "activity", "action": "broadcast", "payload": {"event": {"kind": "alert", "tags": ["x"]}}});
    let expected = activity::Broadcast {
        kind: "alert".to_owned(),
        event_tags: vec!["x".to_owned()],
        ..activity::Broadcast::default()
    };
    for frame in [nested, flat, wrapped] {
        assert_eq!(command(&frame), expected.clone().into(), "{frame}");
    }
}

#[test]
fn the_payload_of_a_direct_message_is_the_message() {
    let expected = direct::Send {
        to: "bob".to_owned(),
        payload: Json::parse(r#"{"to":"x","type":"y"}"#).ok(),
        ..direct::Send::default()
    };
    for frame in [
        json!({"type": "direct", "action": "send", "to": "bob", "payload": {"to": "x", "type": "y"}}),
        json!({"type": "direct", "action": "send", "to": "bob", "message": {"to": "x", "type": "y"}}),
        json!({"type": "direct", "action": "send", "payload": {"to": "bob", "payload": {"to": "x", "type": "y"}}}),
        json!({"type": "direct", "action": "send", "payload": {"to": "bob", "message": {"to": "x", "type": "y"}}}),
    ] {
        assert_eq!(command(&frame), expected.clone().into(), "{frame}");
    }
    let bare = json!({"type": "direct", "action": "send", "to": "bob", "payload": "hi", "correlation_id": 7});
    let Command::DirectSend(send) = command(&bare) else { panic!("a send") };
    assert_eq!(send.payload.as_ref().map(Json::text), Some("\"hi\""));
    assert_eq!(send.correlation_id.as_ref().map(Json::text), Some("7"));
    let (_, twice) = refused(r#"{"type":"direct","action":"send","to":"b","payload":1,"message":2}"#);
    assert_eq!(twice.code, Code::InvalidMessage);
}

#[test]
fn signs_of_life_are_signals() {
    for frame in [
        json!({"type": "heartbeat"}),
        json!({"type": "heartbeat", "load": 0.5, "status": "busy"}),
        json!({"type": "presence", "action": "heartbeat"}),
        json!({"type": "ping", "ref": 4}),
        json!({"type": "pong"}),
    ] {
        assert!(matches!(received(&frame).incoming, Incoming::Signal(_)), "{frame}");
    }
    assert!(matches!(received(&json!({"type": "auth", "api_key": "k"})).incoming, Incoming::Auth(_)));
    assert!(received(&json!({"type": "auth", "payload": {"api_key": "k"}})).wrapped);
}

#[test]
fn half_a_character_in_a_ref_is_not_told_again() {
    for text in [r#"{"type":"ping","ref":"\ud800"}"#, r#"{"type":"nope","ref":"a\udc00b"}"#] {
        let (reference, refusal) = refused(text);
        assert_eq!((reference, refusal.fact("field")), (None, json!("ref")), "{text}");
    }
    let whole = parse(r#"{"type":"ping","ref":"\ud83d\ude00"}"#, &Limits::default()).expect("a whole character");
    assert_eq!(whole.meta.reference.and_then(|told| told.as_str()).as_deref(), Some("😀"));
}

#[test]
fn what_does_not_exist_or_is_ours_alone_is_refused() {
    for frame in [
        json!({"type": "gossip", "ref": 1}),
        json!({"type": "memory", "action": "steal", "ref": 1}),
        json!({"type": "memory", "ref": 1}),
        json!({"type": "x".repeat(10_000), "ref": 1}),
        json!({"action": "set", "ref": 1}),
        json!({"type": 7, "ref": 1}),
        json!({"type": null, "ref": 1}),
        json!({"type": "memory", "action": 7, "ref": 1}),
        json!({"type": "memory", "action": "get", "key": 7, "ref": 1}),
        json!({"type": "memory", "action": "get", "ref": 1}),
    ] {
        let (reference, refusal) = refused(&frame.to_string());
        assert_eq!((refusal.code, reference.as_ref().map(Json::text)), (Code::InvalidMessage, Some("1")), "{frame}");
        assert!(refusal.message.len() < 200);
    }
    for kind in CommandKind::ALL.iter().filter(|kind| kind.internal()) {
        let (area, action) = kind.text().split_once('.').expect("two words");
        let (_, refusal) = refused(&json!({"type": area, "action": action, "message": "x"}).to_string());
        assert!(refusal.message.contains("There is no message"), "{}: {}", kind.text(), refusal.message);
    }
}

#[test]
fn every_kind_for_clients_can_be_called() {
    for kind in CommandKind::ALL.iter().filter(|kind| !kind.internal()) {
        let (area, action) = kind.text().split_once('.').expect("two words");
        let outcome = parse(&json!({"type": area, "action": action}).to_string(), &Limits::default());
        let known = outcome.map_or_else(|(_, refusal)| !refusal.message.contains("There is no"), |_| true);
        assert!(known, "{}", kind.text());
    }
    for kind in QueryKind::ALL {
        assert_eq!(QueryKind::parse(kind.text()), Some(*kind));
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let frame = json!({"type": "memory", "action": "get", "key": "a", "colour": "red", "payload": {"shape": 1}});
    assert!(matches!(received(&frame).incoming, Incoming::Query(Query::MemoryGet(_))));
}

#[test]
fn a_ref_is_told_as_it_was_given() {
    for (given, echoed) in [(json!("r"), Some("\"r\"")), (json!(-7), Some("-7")), (Value::Null, None)] {
        let frame = json!({"type": "ping", "ref": given});
        assert_eq!(received(&frame).meta.reference.as_ref().map(Json::text), echoed);
        let (reference, _) = refused(&json!({"type": "gossip", "ref": given}).to_string());
        assert_eq!(reference.as_ref().map(Json::text), echoed);
    }
    let longest = json!("x".repeat(TOKEN_BYTES_MAX - 2));
    assert!(received(&json!({"type": "ping", "ref": longest})).meta.reference.is_some());
    for given in [
        json!("x".repeat(TOKEN_BYTES_MAX - 1)),
        json!(1.5),
        json!([1]),
        json!({}),
        json!(true),
        json!("x".repeat(TOKEN_BYTES_MAX + 1)),
    ] {
        let (reference, refusal) = refused(&json!({"type": "ping", "ref": given}).to_string());
        assert_eq!((reference, refusal.code), (None, Code::InvalidMessage), "{given}");
    }
}

#[test]
fn errors_carry_the_ref_wherever_it_can_be_read() {
    let deep = format!("{}1{}", "[".repeat(JSON_DEPTH_MAX + 1), "]".repeat(JSON_DEPTH_MAX + 1));
    for text in [
        r#"{"type":"ping","ref":"r","a":1,"a":2}"#.to_owned(),
        r#"{"type":"ping","ref":"r","a":9007199254740993}"#.to_owned(),
        r#"{"type":"presence","action":"update","ref":"r","state":"asleep"}"#.to_owned(),
        r#"{"type":"memory","action":"get","ref":"r","payload":{"key":"a","type":1}}"#.to_owned(),
        format!(r#"{{"type":"ping","ref":"r","a":{deep}}}"#),
        format!(r#"{{"type":"ping","ref":"r","a":"{}"}}"#, "x".repeat(Limits::default().message_bytes)),
    ] {
        let (reference, _) = refused(&text);
        assert_eq!(reference.as_ref().map(Json::text), Some("\"r\""), "{}", &text[..60]);
    }
    for text in ["", "[]", "1", "null", "\"x\"", "{", "{}}", r#"{"type":"ping","ref":"r""#, "\u{0}"] {
        let (reference, refusal) = refused(text);
        assert_eq!((reference, refusal.code), (None, Code::InvalidMessage), "{text}");
    }
}

#[test]
fn what_was_sent_is_not_told_again_at_length() {
    let long = "é".repeat(9_000);
    for text in [
        json!({"type": long}).to_string(),
        json!({"type": "memory", "action": long}).to_string(),
        json!({"type": "memory", "action": "get", "key": {"a": long}}).to_string(),
        json!({"type": "presence", "action": "update", "state": long}).to_string(),
        json!({"type": "replay", "action": "request", "agents": long}).to_string(),
        json!({"type": "direct", "action": "ack", "message_id": long}).to_string(),
        format!(r#"{{"type":"ping","{long}":1,"{long}":2}}"#),
    ] {
        let message = refused(&text).1.message;
        assert!(message.chars().count() < 400, "{message}");
    }
}

#[test]
fn each_type_has_its_size() {
    let limits = Limits::default();
    let big = "x".repeat(limits.message_bytes);
    let commands = CommandKind::ALL.iter().map(|kind| kind.text());
    let kinds = commands.chain(QueryKind::ALL.iter().map(|kind| kind.text()));
    let kinds = kinds.chain(SignalKind::ALL.iter().map(|kind| kind.text())).chain([Auth::TYPE, "nothing"]);
    for kind in kinds.filter(|kind| *kind != CommandKind::MemorySet.text()) {
        let (area, action) = kind.split_once('.').unzip();
        for frame in [
            json!({"type": area.unwrap_or(kind), "action": action, "ref": 1, "more": big}),
            json!({"type": area.unwrap_or(kind), "action": action, "ref": 1, "payload": {"more": big}}),
        ] {
            let (reference, refusal) = refused(&frame.to_string());
            assert_eq!((refusal.code, &refusal.fact("limit")), (Code::PayloadTooLarge, &json!(limits.message_bytes)));
            assert_eq!(reference.as_ref().map(Json::text), Some("1"), "{kind}");
        }
    }
    let room = limits.message_bytes - json!({"type": "ping", "more": ""}).to_string().len();
    let exact = |bytes: usize| json!({"type": "ping", "more": "x".repeat(bytes)}).to_string();
    assert!(parse(&exact(room), &limits).is_ok());
    assert_eq!(refused(&exact(room + 1)).1.code, Code::PayloadTooLarge);
    let fits = set(&json!({"type": "memory", "action": "set", "key": "a", "value": big}));
    assert_eq!(fits.check(&limits), Ok(()));
    // Its quotes count.
    let value = |bytes: usize| {
        set(&json!({"type": "memory", "action": "set", "key": "a", "value": "x".repeat(bytes - 2)})).check(&limits)
    };
    assert_eq!(value(limits.memory_value_bytes), Ok(()));
    assert_eq!(value(limits.memory_value_bytes + 1).expect_err("too large").code, Code::PayloadTooLarge);
}

#[test]
fn what_comes_beside_a_command_is_bounded() {
    let frame = json!({"type": "ping", "idempotency_key": "k", "caused_by": "evt_1", "trace": "t", "ref": 1});
    let meta = received(&frame).meta;
    assert_eq!(
        (meta.idempotency_key.as_deref(), meta.caused_by.as_deref(), meta.trace.as_deref()),
        (Some("k"), Some("evt_1"), Some("t"))
    );
    assert_eq!(
        received(&json!({"type": "ping", "payload": {"idempotency_key": "k"}})).meta.idempotency_key,
        meta.idempotency_key
    );
    for (name, bytes) in
        [("idempotency_key", IDEMPOTENCY_KEY_BYTES_MAX), ("caused_by", TOKEN_BYTES_MAX), ("trace", TOKEN_BYTES_MAX)]
    {
        for text in [String::new(), "x".repeat(bytes + 1)] {
            let (_, refusal) = refused(&json!({"type": "ping", name: text}).to_string());
            assert_eq!(refusal.fact("limit"), bytes, "{name}");
        }
        assert!(parse(&json!({"type": "ping", name: "x".repeat(bytes)}).to_string(), &Limits::default()).is_ok());
        assert_eq!(refused(&json!({"type": "ping", name: 7}).to_string()).1.code, Code::InvalidMessage);
    }
    // So many keys besides `type`, flat, inside the payload, and in both.
    let keys =
        |from: usize, to: usize| (from..to).map(|at| (at.to_string(), json!(1))).collect::<serde_json::Map<_, _>>();
    let flat = |count: usize| {
        let mut frame = json!({"type": "ping"});
        frame.as_object_mut().expect("an object").extend(keys(0, count));
        frame
    };
    let inside = |count: usize| json!({"type": "ping", "payload": keys(0, count)});
    let both = |count: usize| {
        let mut frame = flat(count / 2);
        frame["payload"] = Value::Object(keys(count / 2, count));
        frame
    };
    let most = ENVELOPE_KEYS_MAX - 1;
    for fits in [flat(most), inside(most), both(most)] {
        assert!(parse(&fits.to_string(), &Limits::default()).is_ok());
    }
    for over in [flat(most + 1), inside(most + 1), both(most + 1)] {
        let (_, refusal) = refused(&over.to_string());
        assert_eq!((refusal.code, refusal.fact("limit")), (Code::InvalidMessage, json!(ENVELOPE_KEYS_MAX)));
    }
}

#[test]
fn a_field_that_does_not_fit_is_named() {
    for (frame, field) in [
        (json!({"type": "memory", "action": "get"}), "key"),
        (json!({"type": "memory", "action": "get", "key": 7}), "key"),
        (json!({"type": "memory", "action": "set", "key": "a", "tags": "t", "value": 1}), "tags"),
        (json!({"type": "memory", "action": "set", "key": "a", "value": 1, "reads": [{"key": "b"}]}), "version"),
        (json!({"type": "direct", "action": "send", "to": "bob", "priority": "none", "message": 1}), "priority"),
        (json!({"type": "activity", "action": "broadcast", "event": {"kind": 1}}), "event"),
        (json!({"type": "nothing", "action": "here"}), "type"),
        (json!({"action": "set"}), "type"),
        (json!({"type": 1}), "type"),
        (json!({"type": "memory", "action": 1}), "action"),
    ] {
        let (_, refusal) = refused(&frame.to_string());
        assert_eq!((refusal.code, refusal.fact("field")), (Code::InvalidMessage, json!(field)), "{frame}");
    }
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(text in "\\PC{0,80}", tail in "[\\[\\]{}\",:0-9a-z \\\\]{0,80}") {
        let _ = parse(&text, &Limits::default());
        let _ = parse(&format!("{{\"type\":\"memory\",{tail}"), &Limits::default());
    }
}
