//! One pass over the text of a frame before anything is built from it: depth, duplicate keys, numbers that are not
//! the same in every language.

use std::{cell::Cell, collections::BTreeSet, fmt};

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
    let large = Cell::new(false);
    let checked = Checked { depth: 1, large: &large }.deserialize(&mut from).and_then(|()| from.end());
    let checked = checked.and_then(|()| if large.get() { no_long_integer(text) } else { Ok(()) });
    checked.map_err(|error| {
        let refusal = Refusal::invalid("", format!("The message is not acceptable JSON: {error}."));
        if error.to_string().starts_with("nested") { refusal.with("limit", JSON_DEPTH_MAX) } else { refusal }
    })
}

/// What is said of an integer that is not the same in every language.
const BEYOND: &str = "an integer is beyond 2^53; send it as a string";
/// From here on an integer fits no type of ours and is read as a float.
const FLOATS: f64 = 9e18;
/// The digits it has then, at least.
const LONG: usize = 19;

/// Whether an object holds such an integer, as it is written.
fn no_long_integer(object: &str) -> serde_json::Result<()> {
    let (mut quoted, mut escaped, mut fraction, mut digits) = (false, false, false, 0);
    for byte in object.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'0'..=b'9' => digits += 1,
            b'.' | b'e' | b'E' => fraction = true,
            b'+' | b'-' => {}
            _ if digits >= LONG && !fraction => return Err(Error::custom(BEYOND)),
            _ => (fraction, digits) = (false, 0),
        }
    }
    Ok(())
}

/// The first so many characters of what somebody sent, to be told again.
pub fn shortened(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(end, _)| &text[..end])
}

/// A value at a depth.
#[derive(Clone, Copy)]
struct Checked<'a> {
    depth: usize,
    /// Set when a number is read that may be an integer although it is a float.
    large: &'a Cell<bool>,
}

impl Checked<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == JSON_DEPTH_MAX + 1 {
            return Err(E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
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

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.large.set(self.large.get() || number.abs() > FLOATS);
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        if number <= INTEGER_MAX { Ok(()) } else { Err(E::custom(BEYOND)) }
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
                return Err(A::Error::custom(format_args!("duplicate key `{}`", shortened(&key, 64))));
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
            r#"{"a":[-9007199254740993]}"#,
            r#"{"a":9223372036854775808}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":-9223372036854775809}"#,
            r#"{"\"":"\\","a":{"b":[1e300,100000000000000000000]}}"#,
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
        ] {
            assert!(scan(text).is_err(), "{text}");
        }
        for text in [
            r#"{"a":[-9007199254740992,9007199254740992,0.1,null,true,"x"]}"#,
            r#"{"a":[1e300,1e+00000000000000000001]}"#,
            r#"{"a":[1e300,-1E+300,18446744073709551616.0,12345678901234567890e1]}"#,
            r#"{"a":[1e300,"18446744073709551616","\" 18446744073709551616 "],"18446744073709551616":1}"#,
        ] {
            assert_eq!(scan(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_told_again_has_so_many_characters() {
        assert_eq!([0, 2, 3, 4].map(|chars| shortened("aéo", chars)), ["", "aé", "aéo", "aéo"]);
    }
}
