//! One pass over the text of a frame before anything is built from it: depth, duplicate keys, numbers that are not
//! the same in every language.

use std::{collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::{
    code::Refusal,
    limits::{INTEGER_MAX, JSON_DEPTH_MAX},
};

/// Whether `text` is one JSON object that every reader would understand alike.
///
/// # Errors
/// `invalid_message`, saying what is wrong and where.
pub fn scan(text: &str) -> Result<(), Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::invalid("", "A message is one JSON object.").fix("Send a JSON object with a `type`."));
    }
    let mut from = serde_json::Deserializer::from_str(text);
    let checked = Checked { depth: 1 }.deserialize(&mut from).and_then(|()| from.end());
    checked.map_err(|error| {
        let refusal = Refusal::invalid("", format!("The message is not acceptable JSON: {error}."));
        if error.to_string().starts_with("nested") { refusal.with("limit", JSON_DEPTH_MAX) } else { refusal }
    })
}

/// A value at a depth.
#[derive(Clone, Copy)]
struct Checked {
    depth: usize,
}

impl Checked {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == JSON_DEPTH_MAX + 1 {
            return Err(E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        if number.is_finite() { Ok(()) } else { Err(E::custom("a number is too large")) }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        if number <= INTEGER_MAX { Ok(()) } else { Err(E::custom("an integer is beyond 2^53; send it as a string")) }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.visit_u64(number.unsigned_abs())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        while items.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inside = self.deeper()?;
        let mut keys = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
            }
            entries.next_value_seed(inside)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readers_would_understand_differently_is_refused() {
        let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(scan(&deep(32)).is_ok());
        assert!(scan(&deep(33)).is_err());
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
        ] {
            assert!(scan(text).is_err(), "{text}");
        }
        assert!(scan(r#"{"a":[-9007199254740992,0.1,null,true,"x"]}"#).is_ok());
    }
}
