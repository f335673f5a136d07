//! Atomic operations on a value: append, incr, merge (RFC 7396), and sets. They happen in the fold, so none is lost.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::ValueType;
use crate::{
    code::{Code, Refusal},
    json::Json,
    limits::{INTEGER_MAX, OP_VALUE_BYTES_MAX},
};

/// How a set combines with what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum Op {
    // String to string, or elements to array.
    #[default]
    Append,
    // Adds a number; missing is 0, the step is 1 unless given.
    Incr,
    // RFC 7396; missing is `{}`.
    Merge,
    // Elements that are not there yet, in order.
    AddToSet,
    // Elements that go.
    RemoveFromSet,
}

impl Op {
    /// The new value.
    ///
    /// # Errors
    /// `invalid_message` with `details.type`, what is there being of the wrong type or too large a number; `payload_too_large`.
    pub fn on(self, before: Option<&Json>, with: Option<&Json>) -> Result<Json, Refusal> {
        let before = before.map(Json::value);
        let with = with.map(Json::value);
        let after = match self {
            Self::Append => append(before, with.unwrap_or(Value::Null))?,
            Self::Incr => incr(before.as_ref(), with.as_ref())?,
            Self::Merge => {
                let mut target = before.unwrap_or_else(|| Value::Object(Map::new()));
                merge(&mut target, with.unwrap_or(Value::Null));
                target
            }
            Self::AddToSet => {
                let mut set = elements(before)?;
                for element in listed(with) {
                    if !set.contains(&element) {
                        set.push(element);
                    }
                }
                Value::Array(set)
            }
            Self::RemoveFromSet => {
                let gone = listed(with);
                Value::Array(elements(before)?.into_iter().filter(|element| !gone.contains(element)).collect())
            }
        };
        grown(&after)
    }
}

/// The bound on what an `op` may grow a value to.
fn grown(value: &Value) -> Result<Json, Refusal> {
    let json = Json::from(value);
    if json.text().len() <= OP_VALUE_BYTES_MAX {
        return Ok(json);
    }
    Err(Refusal::new(Code::PayloadTooLarge).with("limit", OP_VALUE_BYTES_MAX))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong(value: &Value, wanted: &str) -> Refusal {
    Refusal::invalid("op", format!("This `op` needs {wanted}.")).with("type", type_of(value))
}

fn append(before: Option<Value>, with: Value) -> Result<Value, Refusal> {
    match (before, with) {
        (None, with) => Ok(with),
        (Some(Value::String(text)), Value::String(more)) => Ok(Value::String(text + &more)),
        (Some(Value::Array(mut list)), with) => {
            list.extend(listed(Some(with)));
            Ok(Value::Array(list))
        }
        (Some(Value::String(_)), with) => Err(wrong(&with, "a string to append")),
        (Some(before), _) => Err(wrong(&before, "a string or an array")),
    }
}

fn incr(before: Option<&Value>, with: Option<&Value>) -> Result<Value, Refusal> {
    let (zero, one) = (Value::from(0), Value::from(1));
    let (before, step) = (before.unwrap_or(&zero), with.unwrap_or(&one));
    if let (Some(number), Some(step)) = (before.as_i64(), step.as_i64()) {
        let sum = number.checked_add(step).filter(|sum| sum.unsigned_abs() <= INTEGER_MAX);
        return sum.map(Value::from).ok_or_else(|| wrong(before, "a sum within 2^53"));
    }
    let number = before.as_f64().ok_or_else(|| wrong(before, "a number"))?;
    let step = step.as_f64().ok_or_else(|| wrong(step, "a number to add"))?;
    Number::from_f64(number + step).map(Value::Number).ok_or_else(|| wrong(before, "a sum that is a number"))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn elements(before: Option<Value>) -> Result<Vec<Value>, Refusal> {
    match before {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(wrong(&other, "an array")),
    }
}

fn listed(with: Option<Value>) -> Vec<Value> {
    match with {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    }
}

/// Whether a value is of the type that its writer says.
///
/// # Errors
/// `invalid_message` with `details.type`.
pub fn typed(hint: Option<ValueType>, value: Option<&Json>) -> Result<(), Refusal> {
    let (Some(hint), Some(value)) = (hint, value) else { return Ok(()) };
    let tree = value.value();
    let fits = match hint {
        ValueType::Text => tree.is_string(),
        ValueType::Json => true,
        ValueType::Embedding => {
            tree.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_number))
        }
        ValueType::FileRef => tree.is_string() || tree.is_object(),
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::invalid("value", "`value` is not of the type it is said to be.").with("type", type_of(&tree)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(op: Op, before: &str, with: &str) -> String {
        let json = |text: &str| (!text.is_empty()).then(|| Json::parse(text).expect("valid"));
        match op.on(json(before).as_ref(), json(with).as_ref()) {
            Ok(after) => after.text().to_owned(),
            Err(refusal) => format!("{:?}", refusal.details.get("type").map(Json::value)),
        }
    }

    #[test]
    fn operations_combine() {
        assert_eq!(on(Op::Append, r#""a""#, r#""b""#), r#""ab""#);
        assert_eq!(on(Op::Append, "[1]", "[2,3]"), "[1,2,3]");
        assert_eq!(on(Op::Append, "[1]", "2"), "[1,2]");
        assert_eq!(on(Op::Append, "", "[1]"), "[1]");
        assert_eq!(on(Op::Append, "1", "2"), r#"Some(String("number"))"#);
        assert_eq!(on(Op::Incr, "", ""), "1");
        assert_eq!(on(Op::Incr, "41", "1"), "42");
        assert_eq!(on(Op::Incr, "1.5", "1"), "2.5");
        assert_eq!(on(Op::Incr, r#""x""#, "1"), r#"Some(String("string"))"#);
        assert_eq!(on(Op::Incr, "1", r#""x""#), r#"Some(String("string"))"#);
        assert_eq!(on(Op::Incr, "9007199254740991", ""), "9007199254740992");
        assert_eq!(on(Op::Incr, "9007199254740992", ""), r#"Some(String("number"))"#);
        assert_eq!(on(Op::Incr, "-9007199254740992", "-1"), r#"Some(String("number"))"#);
        assert_eq!(on(Op::Incr, "1e308", "1e308"), r#"Some(String("number"))"#);
        assert_eq!(on(Op::Merge, r#"{"a":1,"b":{"c":2}}"#, r#"{"a":null,"b":{"d":3}}"#), r#"{"b":{"c":2,"d":3}}"#);
        assert_eq!(on(Op::AddToSet, "[1]", "[1,2,2]"), "[1,2]");
        assert_eq!(on(Op::RemoveFromSet, "[1,2,3]", "[2]"), "[1,3]");
        assert_eq!(on(Op::AddToSet, "{}", "1"), r#"Some(String("object"))"#);
    }
}
