//! The protocol reference, for programs (`schemas/protocol.json`) and for people (`docs/protocol.md`).

use std::{collections::BTreeMap, fmt::Write as _};

use ringforge_domain::{
    auth::{Auth, VERSIONS},
    catalog::{CommandKind, QueryKind, SignalKind},
    close::Close,
    code::Code,
    limits::{self, Limits},
    schema::Registered,
};
use serde::Serialize;
use serde_json::{Value, json};

/// Fields that hold any JSON; in Avro they are strings of it.
const FREE: [&str; 5] = ["value", "payload", "data", "metadata", "correlation_id"];

/// Bounds that no operator changes.
fn bounds() -> [(&'static str, u64); 14] {
    let wide = |bound: usize| u64::try_from(bound).unwrap_or(u64::MAX);
    [
        ("JSON nesting", wide(limits::JSON_DEPTH_MAX)),
        ("largest integer", limits::INTEGER_MAX),
        ("fields of a message", wide(limits::ENVELOPE_KEYS_MAX)),
        ("bytes of ref, correlation_id, caused_by, trace", wide(limits::TOKEN_BYTES_MAX)),
        ("bytes of idempotency_key", wide(limits::IDEMPOTENCY_KEY_BYTES_MAX)),
        ("bytes of a pattern", wide(limits::GLOB_BYTES_MAX)),
        ("stars of a pattern", wide(limits::GLOB_STARS_MAX)),
        ("entries of reads", wide(limits::READS_MAX)),
        ("subscriptions of an agent", wide(limits::SUBSCRIPTIONS_MAX)),
        ("capabilities of an agent", wide(limits::CAPABILITIES_MAX)),
        ("messages waiting for one agent from one sender", limits::MAILBOX_PAIR_MAX.into()),
        ("messages waiting for one agent", limits::MAILBOX_MAX.into()),
        ("entries of a page", limits::PAGE_MAX.into()),
        ("items of a replay", limits::REPLAY_MAX.into()),
    ]
}

/// The wire as a program reads it.
pub fn json(known: &[Registered]) -> Value {
    let command = |kind: &CommandKind| {
        let own = known.iter().filter(|known| known.kind == kind.text());
        let newest = own.max_by_key(|known| known.version);
        json!({
            "kind": kind.text(),
            "record": kind.record(),
            "internal": kind.internal(),
            "schema_id": newest.map(|known| known.id),
            "version": newest.map(|known| known.version),
            "fields": described(&kind.fields()),
        })
    };
    let query = |kind: &QueryKind| json!({ "kind": kind.text(), "fields": described(&kind.fields()) });
    let signal = |kind: &SignalKind| json!({ "kind": kind.text(), "fields": described(&kind.fields()) });
    let error = |code: Code| {
        json!({ "code": code.text(), "status": code.status(), "retryable": code.retryable(),
            "message": code.message(), "fix": code.fix() })
    };
    let close = |close: Close| json!({ "code": close.code(), "reconnect": close.reconnect(), "reason": close.reason(), "meaning": close.meaning() });
    json!({
        "versions": VERSIONS,
        "auth": described(&Auth::fields()),
        "commands": CommandKind::ALL.iter().map(command).collect::<Vec<_>>(),
        "queries": QueryKind::ALL.iter().map(query).collect::<Vec<_>>(),
        "signals": SignalKind::ALL.iter().map(signal).collect::<Vec<_>>(),
        "errors": Code::ALL.map(error),
        "closes": Close::ALL.map(close),
        "limits": Limits::default(),
        "fixed_limits": BTreeMap::from(bounds()),
    })
}

/// The wire as a person reads it.
pub fn reference(intro: &str) -> String {
    let mut text = format!("{}\n\n## Auth\n\nThe first message: `{{\"type\":\"auth\", ..}}`.\n", intro.trim_end());
    text.push_str(&table(&described(&Auth::fields())));
    text.push_str("\n## Commands\n\nLogged, and answered with `<action>_ok` or `error`.\n");
    for kind in CommandKind::ALL.iter().filter(|kind| !kind.internal()) {
        text.push_str(&section(kind.text(), &kind.payload_schema(), &described(&kind.fields())));
    }
    text.push_str("\n## Queries\n\nAnswered from what was applied so far; never logged.\n");
    for kind in QueryKind::ALL {
        text.push_str(&section(kind.text(), &(), &described(&kind.fields())));
    }
    text.push_str("\n## Signals\n\nNever logged.\n");
    for kind in SignalKind::ALL {
        text.push_str(&section(kind.text(), &(), &described(&kind.fields())));
    }
    text.push_str(
        "\n## In the log only\n\nWritten by the server itself. Whoever reads the log as Avro meets them too.\n",
    );
    for kind in CommandKind::ALL.iter().filter(|kind| kind.internal()) {
        text.push_str(&section(kind.text(), &kind.payload_schema(), &described(&kind.fields())));
    }
    text + &errors() + &closes() + &bounded()
}

/// The fields of a payload: name, type, whether it must be there, other names, meaning.
fn described(fields: &[impl Serialize]) -> Vec<Value> {
    fields.iter().map(|field| describe(&serde_json::to_value(field).unwrap_or_default())).collect()
}

fn describe(field: &Value) -> Value {
    let name = field["name"].as_str().unwrap_or_default();
    let kind = &field["type"];
    let free = FREE.contains(&name) && type_of(kind) == "string";
    let required = field.get("default").is_none() && matches!(kind, Value::String(plain) if plain != "boolean");
    json!({
        "name": name,
        "type": if free { "any JSON".to_owned() } else { type_of(kind) },
        "required": required,
        "aliases": field.get("aliases").cloned().unwrap_or_else(|| json!([])),
        "doc": field["doc"].as_str().unwrap_or_default().replace('\n', " "),
    })
}

/// An Avro type in plain words.
fn type_of(kind: &Value) -> String {
    match kind {
        Value::Array(options) => options.iter().find(|option| **option != "null").map(type_of).unwrap_or_default(),
        Value::Object(named) => match named["type"].as_str() {
            Some("array") => format!("array of {}", type_of(&named["items"])),
            Some("enum") => {
                let symbols = named["symbols"].as_array().into_iter().flatten().filter_map(Value::as_str);
                symbols.collect::<Vec<_>>().join(" | ")
            }
            Some("record") => {
                let fields = named["fields"].as_array().into_iter().flatten();
                let inside =
                    |field: &Value| format!("{}: {}", field["name"].as_str().unwrap_or(""), type_of(&field["type"]));
                format!("{{{}}}", fields.map(inside).collect::<Vec<_>>().join(", "))
            }
            _ => type_of(&named["type"]),
        },
        Value::String(plain) => match plain.as_str() {
            "int" | "long" => "integer".to_owned(),
            "double" | "float" => "number".to_owned(),
            other => other.to_owned(),
        },
        _ => String::new(),
    }
}

fn section(kind: &str, schema: &impl Serialize, fields: &[Value]) -> String {
    let form = match kind.split_once('.') {
        Some((area, action)) => format!("{{\"type\":\"{area}\",\"action\":\"{action}\"}}"),
        None => format!("{{\"type\":\"{kind}\"}}"),
    };
    let mut text = format!("\n### `{kind}`\n\n`{form}`\n");
    let schema = serde_json::to_value(schema).unwrap_or_default();
    // The doc comment begins with the kind in backticks; what follows is for people.
    let doc = schema["doc"].as_str().unwrap_or_default().replace('\n', " ");
    if let Some((_, words)) = doc.split_once("`: ").or_else(|| doc.split_once("`. ")) {
        let _ = writeln!(text, "\n{}{}", words[..1].to_uppercase(), &words[1..]);
    }
    text + &table(fields)
}

fn table(fields: &[Value]) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let mut text = "\n| field | type | |\n|---|---|---|\n".to_owned();
    for field in fields {
        let word = |name: &str| field[name].as_str().unwrap_or_default().replace('|', "\\|");
        let aliases = field["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let aliases = aliases.fold(String::new(), |text, alias| text + &format!(" Also `{alias}`."));
        let required = if field["required"] == true { " (required)" } else { "" };
        let _ = writeln!(text, "| `{}` | {}{required} | {}{aliases} |", word("name"), word("type"), word("doc"));
    }
    text
}

fn errors() -> String {
    let mut text = "\n## Errors\n\n| code | HTTP | retry | what to do |\n|---|---|---|---|\n".to_owned();
    for code in Code::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let _ =
            writeln!(text, "| `{}` | {} | {retry} | {} {} |", code.text(), code.status(), code.message(), code.fix());
    }
    text
}

fn closes() -> String {
    let mut text = "\n## Close codes\n\n| code | reconnect | |\n|---|---|---|\n".to_owned();
    for close in Close::ALL {
        let back = if close.reconnect() { "yes" } else { "no" };
        writeln!(text, "| {} `{}` | {back} | {} |", close.code(), close.reason(), close.meaning())
            .expect("writing to a String cannot fail");
    }
    text
}

fn bounded() -> String {
    let mut text =
        "\n## Limits\n\nAn operator may change these; `auth_ok.config` tells them.\n\n| limit | default |\n|---|---|\n"
            .to_owned();
    if let Ok(Value::Object(limits)) = serde_json::to_value(Limits::default()) {
        for (name, value) in limits {
            let _ = writeln!(text, "| `{name}` | {value} |");
        }
    }
    text.push_str("\nThese are the same everywhere.\n\n| limit | |\n|---|---|\n");
    for (name, value) in bounds() {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text
}
