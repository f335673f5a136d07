//! Whether a frame is the expected one. Everything must be equal, nothing may be more; patterns stand only for what nobody
//! can know beforehand: `<class>`, or `<class:name>`, which remembers the value and wants the same one the next time.

use std::{collections::BTreeMap, io::Read as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use ringforge_domain::position::LogTime;
use serde_json::{Map, Value};

/// What has been remembered, by name.
pub type Known = BTreeMap<String, Value>;

/// Whether a value belongs to a class of patterns. Classes are for ids, times, positions and tokens.
fn belongs(class: &str, value: &Value) -> Result<bool, String> {
    let prefixed =
        |prefix: &str| value.as_str().is_some_and(|text| text.starts_with(prefix) && text.len() > prefix.len() + 8);
    Ok(match class {
        "event_id" => prefixed("evt_"),
        "agent_id" => prefixed("ag_"),
        "message_id" => prefixed("msg_"),
        "memory_id" => prefixed("mem_"),
        "session_id" => prefixed("ses_"),
        "key_id" => prefixed("key_"),
        "node" => prefixed("edge_"),
        "resume_token" => prefixed("rt_"),
        "cursor" => value.as_str().is_some_and(|text| !text.is_empty()),
        "time" => value.as_str().is_some_and(|text| text.ends_with('Z') && LogTime::parse(text).is_some()),
        "position" => value.is_u64(),
        "ms" | "bytes" => value.as_u64().is_some_and(|number| number > 0),
        "version" => value.as_str().is_some_and(|text| text.split('.').count() == 3),
        "server" => value.as_str().is_some_and(|text| text.starts_with("ringforge/")),
        other => return Err(format!("there is no pattern <{other}>")),
    })
}

/// Replaces `$name` by what is remembered, and `{"$repeat": "x", "times": 9}` by a long text or list.
pub fn filled(value: &Value, known: &Known) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) if text.starts_with('$') => {
            known.get(&text[1..]).cloned().ok_or_else(|| format!("nothing is remembered as {text}"))?
        }
        Value::Array(list) => Value::Array(list.iter().map(|item| filled(item, known)).collect::<Result<_, _>>()?),
        Value::Object(fields) => match (fields.get("$repeat"), fields.get("times").and_then(Value::as_u64)) {
            (Some(Value::String(part)), Some(times)) => part.repeat(usize::try_from(times).unwrap_or(0)).into(),
            (Some(item), Some(times)) => Value::Array((0..times).map(|_| item.clone()).collect()),
            _ => {
                let filled = fields.iter().map(|(name, value)| Ok((name.clone(), filled(value, known)?)));
                Value::Object(filled.collect::<Result<Map<_, _>, String>>()?)
            }
        },
        other => other.clone(),
    })
}

/// How strictly frames are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// No field more, no field less.
    Exactly,
    /// At least what is expected; of lists, at least these elements.
    AtLeast,
}

/// Compares, and remembers what the patterns name.
///
/// # Errors
/// Where and how they differ.
pub fn matches(expected: &Value, got: &Value, extent: Extent, known: &mut Known) -> Result<(), String> {
    compare("", expected, got, extent, known)
}

fn compare(at: &str, expected: &Value, got: &Value, extent: Extent, known: &mut Known) -> Result<(), String> {
    match (expected, got) {
        (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => {
            pattern(at, &text[1..text.len() - 1], got, known)
        }
        (Value::String(text), _) if text.starts_with('$') => {
            let wanted = known.get(&text[1..]).ok_or_else(|| format!("{at}: nothing is remembered as {text}"))?;
            if wanted == got { Ok(()) } else { Err(format!("{at}: {got} is not {text} = {wanted}")) }
        }
        (Value::Object(wanted), _) if wanted.contains_key("$repeat") => {
            let same = filled(expected, known)? == *got;
            if same { Ok(()) } else { Err(format!("{at}: not what is repeated in {expected}")) }
        }
        (Value::Object(wanted), Value::Object(fields)) => object(at, wanted, fields, extent, known),
        (Value::Array(wanted), Value::Array(list)) if extent == Extent::AtLeast => at_least(at, wanted, list, known),
        (Value::Array(wanted), Value::Array(list)) => {
            if wanted.len() != list.len() {
                return Err(format!("{at}: {} elements, not {}", list.len(), wanted.len()));
            }
            let pairs = wanted.iter().zip(list).enumerate();
            pairs
                .into_iter()
                .try_for_each(|(n, (wanted, got))| compare(&format!("{at}[{n}]"), wanted, got, extent, known))
        }
        // The lines inside a compressed batch.
        (Value::Array(_), Value::String(packed)) if at.rsplit('.').next() == Some("data") => {
            let lines =
                Value::Array(unpacked(packed).ok_or_else(|| format!("{at}: not gzip of JSON lines in base64"))?);
            compare(at, expected, &lines, extent, known)
        }
        (Value::Number(wanted), Value::Number(number)) if wanted.as_f64() == number.as_f64() => Ok(()),
        _ if expected == got => Ok(()),
        _ => Err(format!("{at}: {got} is not {expected}")),
    }
}

fn pattern(at: &str, text: &str, got: &Value, known: &mut Known) -> Result<(), String> {
    let (class, name) = text.split_once(':').map_or((text, None), |(class, name)| (class, Some(name)));
    if !belongs(class, got)? {
        return Err(format!("{at}: {got} is not <{class}>"));
    }
    let Some(name) = name else { return Ok(()) };
    match known.get(name) {
        Some(before) if before != got => Err(format!("{at}: {got} is not the {name} of before, {before}")),
        Some(_) => Ok(()),
        None => {
            known.insert(name.to_owned(), got.clone());
            Ok(())
        }
    }
}

fn object(
    at: &str,
    wanted: &Map<String, Value>,
    fields: &Map<String, Value>,
    extent: Extent,
    known: &mut Known,
) -> Result<(), String> {
    // What is remembered here may be asked for beside it.
    let asks = |value: &Value| value.as_str().is_some_and(|text| text.starts_with('$'));
    let (later, first): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, value)| asks(value));
    for (name, value) in first.into_iter().chain(later) {
        let got = fields.get(name).ok_or_else(|| format!("{at}.{name} is missing"))?;
        compare(&format!("{at}.{name}"), value, got, extent, known)?;
    }
    let more = fields.iter().find(|(name, _)| extent == Extent::Exactly && !wanted.contains_key(*name));
    more.map_or(Ok(()), |(name, value)| Err(format!("{at}.{name} is unexpected: {value}")))
}

fn at_least(at: &str, wanted: &[Value], list: &[Value], known: &mut Known) -> Result<(), String> {
    for item in wanted {
        let found = list.iter().any(|got| compare(at, item, got, Extent::AtLeast, known).is_ok());
        if !found {
            return Err(format!("{at}: {item} is not among {}", Value::Array(list.to_vec())));
        }
    }
    Ok(())
}

fn unpacked(packed: &str) -> Option<Vec<Value>> {
    let bytes = STANDARD.decode(packed).ok()?;
    let mut text = String::new();
    GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).ok()?;
    text.lines().map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_found() {
        let mut known = Known::from([("alice".to_owned(), json!("ag_1"))]);
        let mut same = |expected: Value, got: Value| matches(&expected, &got, Extent::Exactly, &mut known).is_ok();
        assert!(same(
            json!({"a": "$alice", "n": 1, "e": "<event_id:e>"}),
            json!({"a": "ag_1", "n": 1.0, "e": "evt_123456789"})
        ));
        assert!(same(json!("$e"), json!("evt_123456789")) && !same(json!("<event_id:e>"), json!("evt_1234567890")));
        assert!(!same(json!({"a": 1}), json!({"a": 1, "b": 2})) && !same(json!({"a": 1, "b": 2}), json!({"a": 1})));
        assert!(
            !same(json!([1]), json!([1, 2]))
                && !same(json!("<position>"), json!("1"))
                && !same(json!("<nobody>"), json!(1))
        );
        assert!(!same(json!("<time>"), json!("yesterday")) && same(json!("<time>"), json!("2026-02-06T08:30:00Z")));
    }
}
