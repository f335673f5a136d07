//! Free JSON as text: any JSON on the wire, a string field in Avro. The text is kept as it was written.

use std::{collections::HashSet, fmt};

use apache_avro::{
    AvroSchemaComponent, Schema,
    schema::{Name, NamespaceRef, RecordField},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser,
};
use serde_json::{Value, value::RawValue};

/// A JSON value kept as its text, so that it comes back as it was given.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Wraps text that is known to be one JSON value.
    ///
    /// # Errors
    /// The text is not JSON.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<&RawValue>(text).map(|raw| Self(raw.get().into()))
    }

    /// The JSON of anything that can be written as such.
    ///
    /// # Panics
    /// It cannot: a map whose keys are no texts, for one.
    pub fn of(value: &impl Serialize) -> Self {
        Self(serde_json::to_string(value).expect("it serialises").into())
    }

    /// What the text says.
    ///
    /// # Errors
    /// It says something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The tree.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).expect("a Json is made only from valid JSON")
    }

    /// Whether it is the JSON `null`.
    pub fn is_null(&self) -> bool {
        &*self.0 == "null"
    }

    /// The string inside, if it is one.
    pub fn as_str(&self) -> Option<String> {
        if self.0.starts_with('"') { serde_json::from_str(&self.0).ok() } else { None }
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_str(&self.0);
        }
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            return Ok(Self(raw.get().into()));
        }
        let text = text(deserializer)?;
        serde_json::from_str::<Tree>(&text).map_err(de::Error::custom)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// What can be JSON and still no tree: a number beyond all numbers, hundreds of lists in each other. No door lets it in, and
/// nobody could read it from a log.
struct Tree;

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Self;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<IgnoredAny, Self>()?.is_some() {}
        Ok(self)
    }
}

/// A field that may be `null` and is not absent then. Avro says it with a union.
pub(crate) fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    if from.is_human_readable() { Json::deserialize(from).map(Some) } else { Option::deserialize(from) }
}

/// Reads a string without assuming that the format can lend it.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer)
}

impl AvroSchemaComponent for Json {
    fn get_schema_in_ctxt(_: &mut HashSet<Name>, _: NamespaceRef) -> Schema {
        Schema::String
    }

    fn get_record_fields_in_ctxt(_: &mut HashSet<Name>, _: NamespaceRef) -> Option<Vec<RecordField>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_as_written() {
        for text in ["1.0", "{\"b\":1,\"a\":[1e3,null]}", "\"\\u00e9\"", "9007199254740993"] {
            let json: Json = serde_json::from_str(text).expect("valid");
            assert_eq!(serde_json::to_string(&json).expect("serialises"), text);
        }
        assert!(Json::parse("{").is_err());
    }

    #[test]
    fn a_text_is_told_from_the_rest() {
        let json = |text: &str| Json::parse(text).expect("valid");
        assert_eq!(json(r#""a\u00e9""#).as_str().as_deref(), Some("a\u{e9}"));
        for text in ["1", "null", "[\"a\"]", "{}", "true"] {
            assert_eq!((json(text).as_str(), json(text).is_null()), (None, text == "null"), "{text}");
            assert_eq!((format!("{:?}", json(text)), Json::from(&json(text).value())), (text.to_owned(), json(text)));
        }
        assert!(json("[1]").read::<Vec<u8>>().is_ok_and(|list| list == [1]) && json("1").read::<String>().is_err());
    }
}
