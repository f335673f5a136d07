//! Typed ids with their prefixes. They are made outside (`ports::Ids`); here they are only typed, written and read.

use std::{collections::HashSet, fmt, str::FromStr};

use apache_avro::{
    AvroSchemaComponent, Schema,
    schema::{Name, NamespaceRef, RecordField},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::base62;

/// Characters after the prefix: two words in base62.
const DIGITS: usize = 2 * base62::DIGITS;

/// A text that is not the id it should be.
#[derive(Debug, thiserror::Error)]
#[error("expected {prefix} and 22 base62 characters")]
pub struct InvalidId {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta] $name:ident $prefix:literal),+ $(,)?) => {
    $(
        #[$doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What its text begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Types 128 bits, time-ordered if they were (UUID v7).
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            pub const fn bits(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_id($prefix, self.0, out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                read_id($prefix, text).map(Self).ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = crate::json::text(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl AvroSchemaComponent for $name {
            fn get_schema_in_ctxt(_: &mut HashSet<Name>, _: NamespaceRef) -> Schema {
                Schema::String
            }

            fn get_record_fields_in_ctxt(_: &mut HashSet<Name>, _: NamespaceRef) -> Option<Vec<RecordField>> {
                None
            }
        }
    )+

        /// The same bits as every kind of id: its prefix and its text.
        #[cfg(any(test, feature = "world"))]
        pub(crate) fn every(bits: u128) -> Vec<(&'static str, String)> {
            vec![$(($prefix, $name::from_bits(bits).to_string())),+]
        }

        /// The bits behind the text of any kind of id.
        #[cfg(test)]
        fn bits_of(text: &str) -> Option<u128> {
            [$(text.parse::<$name>().map($name::bits)),+].into_iter().find_map(Result::ok)
        }
    };
}

id! {
    /// A tenant.
    TenantId "tn_",
    /// A fleet of a tenant.
    FleetId "fl_",
    /// An agent: the same name in the same fleet keeps it for ever.
    AgentId "ag_",
    /// An API key (not the secret).
    KeyId "key_",
    /// A memory entry, kept over versions.
    MemoryId "mem_",
    /// A direct message.
    MessageId "msg_",
    /// One connection's life in the log.
    SessionId "ses_",
    /// One append of one command.
    CommandId "cmd_",
    /// One life of one edge process.
    EdgeId "edge_",
}

impl TenantId {
    /// The operator's commands have no tenant.
    pub const NONE: Self = Self(0);
}

impl FleetId {
    /// The directory's events have no fleet.
    pub const NONE: Self = Self(0);
}

/// Whose: every row, topic key, path and frame belongs to one tenant and one of its fleets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The tenant.
    pub tenant: TenantId,
    /// Its fleet; `FleetId::NONE` in the directory.
    pub fleet: FleetId,
}

impl Scope {
    /// Of the whole installation.
    pub const OPERATOR: Self = Self { tenant: TenantId::NONE, fleet: FleetId::NONE };

    /// The directory of one tenant.
    pub fn directory(tenant: TenantId) -> Self {
        Self { tenant, fleet: FleetId::NONE }
    }
}

fn write_id(prefix: &str, bits: u128, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [high, low] = words(bits).map(base62::write);
    let mut digits = [0; DIGITS];
    digits[..base62::DIGITS].copy_from_slice(&high);
    digits[base62::DIGITS..].copy_from_slice(&low);
    out.write_str(prefix)?;
    out.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

/// Both halves, the high one first.
fn words(bits: u128) -> [u64; 2] {
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    [half(bits >> 64), half(bits)]
}

fn read_id(prefix: &str, text: &str) -> Option<u128> {
    let digits = text.strip_prefix(prefix)?.as_bytes();
    if digits.len() != DIGITS {
        return None;
    }
    let (high, low) = digits.split_at(base62::DIGITS);
    Some((u128::from(base62::read(high)?) << 64) | u128::from(base62::read(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_keep_their_order() {
        let (low, high) = (AgentId::from_bits(7), AgentId::from_bits(u128::MAX));
        assert!(low.to_string() < high.to_string());
        for id in [low, high] {
            assert_eq!(id.to_string().parse::<AgentId>().ok(), Some(id));
            assert_eq!(id.to_string().len(), "ag_".len() + DIGITS);
        }
    }

    #[test]
    fn every_kind_of_id_reads_back_in_full_width() {
        for bits in [0, 1, u128::from(u64::MAX), 1 << 64, u128::MAX - 1, u128::MAX] {
            for (prefix, text) in every(bits) {
                assert_eq!((text.strip_prefix(prefix).map(str::len), bits_of(&text)), (Some(DIGITS), Some(bits)));
            }
        }
    }

    #[test]
    fn another_kind_of_id_is_refused() {
        for text in
            ["", "ag_", "ag_1", "fl_0000000000000000000007", "ag_zzzzzzzzzzzzzzzzzzzzzz", "ag_00000000000000000000!7"]
        {
            assert!(text.parse::<AgentId>().is_err(), "{text}");
        }
    }
}
