//! Event ids: an authenticated position. Opaque to clients, the same everywhere for the same event, worthless in another fleet.

use std::{fmt, sync::Arc};

use crate::{
    base62,
    ids::Scope,
    position::{Generation, Offset, StreamRef},
};

/// What every event id begins with.
pub(crate) const PREFIX: &str = "evt_";

/// Words of an event id: generation and record hash, wire position, tag.
const WORDS: usize = 3;

/// What an event id says, once it is known to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the stream it was made in.
    pub generation: Generation,
    /// The place.
    pub offset: Offset,
    /// 32 bits of the record's hash, so that a reused offset is noticed.
    pub hash: u32,
}

/// The keyed seal of one installation. Its keys live in the data directory or the secret store.
#[derive(Clone)]
pub struct Seal {
    /// The one in use, then those that were.
    keys: Arc<[[u8; 32]]>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Seal(secret)")
    }
}

impl Seal {
    /// With this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self::of(vec![key])
    }

    /// With these keys, one at least: the first seals, and what any of them sealed is known again.
    pub fn of(keys: Vec<[u8; 32]>) -> Self {
        Self { keys: keys.into() }
    }

    /// Tells the key in use from others, and nothing else of it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.keys[0])
    }

    /// Whether what was sealed with the key of this fingerprint is known again.
    pub fn knows(&self, fingerprint: &str) -> bool {
        self.keys.iter().any(|key| self::fingerprint(key) == fingerprint)
    }

    /// The event id of a place in a fleet's stream.
    pub fn event_id(&self, scope: &Scope, stream: StreamRef, cursor: Cursor) -> String {
        let life = (u64::from(cursor.generation.0) << 32) | u64::from(cursor.hash);
        let wire = stream.wire(cursor.offset);
        let mut text = String::with_capacity(PREFIX.len() + WORDS * base62::DIGITS);
        text.push_str(PREFIX);
        for word in [life, wire, tag(&self.keys[0], scope, life, wire)] {
            text.extend(base62::write(word).map(char::from));
        }
        text
    }

    /// Reads an event id; `None` if it was not made by us for this fleet and stream.
    pub fn open(&self, scope: &Scope, stream: StreamRef, event_id: &str) -> Option<Cursor> {
        let digits = event_id.strip_prefix(PREFIX)?.as_bytes();
        if digits.len() != WORDS * base62::DIGITS {
            return None;
        }
        let word = |at: usize| base62::read(&digits[at * base62::DIGITS..(at + 1) * base62::DIGITS]);
        let (life, wire, tag) = (word(0)?, word(1)?, word(2)?);
        // Comparisons of whole words: their time says nothing of where they differ.
        if !self.keys.iter().any(|key| tag == self::tag(key, scope, life, wire)) {
            return None;
        }
        let halves = (u32::try_from(life >> 32).ok()?, u32::try_from(life & u64::from(u32::MAX)).ok()?);
        Some(Cursor { generation: Generation(halves.0), offset: stream.offset(wire)?, hash: halves.1 })
    }
}

fn tag(key: &[u8; 32], scope: &Scope, life: u64, wire: u64) -> u64 {
    let mut input = [0; 48];
    input[..16].copy_from_slice(&scope.tenant.bits().to_be_bytes());
    input[16..32].copy_from_slice(&scope.fleet.bits().to_be_bytes());
    input[32..40].copy_from_slice(&life.to_be_bytes());
    input[40..].copy_from_slice(&wire.to_be_bytes());
    word(blake3::keyed_hash(key, &input).as_bytes())
}

fn fingerprint(key: &[u8; 32]) -> String {
    format!("{:016x}", word(&blake3::derive_key("RingForge 2026 fingerprint of a secret", key)))
}

/// The first 64 bits.
fn word(hash: &[u8; 32]) -> u64 {
    u64::from_be_bytes(*hash.first_chunk().expect("8 of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{FleetId, TenantId},
        position::Partition,
    };

    #[test]
    fn only_the_fleet_it_was_made_for_can_use_it() {
        let seal = Seal::new([7; 32]);
        let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(2) };
        let other = Scope { fleet: FleetId::from_bits(3), ..scope };
        let stream = StreamRef { partition: Partition(1), epoch: 0 };
        let cursor = Cursor { generation: Generation(u32::MAX), offset: Offset(123), hash: 456 };
        let id = seal.event_id(&scope, stream, cursor);
        assert_eq!(seal.open(&scope, stream, &id), Some(cursor));
        assert_eq!(id, "evt_LygHZwPV2TY0000000001z0Cdb1ii8X3Q", "the same everywhere and for ever");
        assert_eq!(seal.open(&other, stream, &id), None);
        let elsewhere = Scope { tenant: TenantId::from_bits(2), ..scope };
        assert_eq!(seal.open(&elsewhere, stream, &id), None);
        assert_eq!(seal.open(&scope, StreamRef { epoch: 1, ..stream }, &id), None, "before it moved");
        assert_eq!(Seal::new([8; 32]).open(&scope, stream, &id), None);
        assert_eq!(format!("{seal:?}"), "Seal(secret)");
        let next = Seal::of(vec![[9; 32], [7; 32]]);
        assert_eq!(next.open(&scope, stream, &id), Some(cursor), "what the last key sealed");
        let newer = next.event_id(&scope, stream, cursor);
        assert_eq!((seal.open(&scope, stream, &newer), next.open(&scope, stream, &newer)), (None, Some(cursor)));
        assert_eq!(seal.fingerprint(), "b8398386e1ed1990", "the same everywhere and for ever");
        assert!(next.knows(&seal.fingerprint()) && !seal.knows(&next.fingerprint()));
        for at in 4..id.len() {
            let mut forged = id.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert_eq!(seal.open(&scope, stream, &forged), None, "{forged}");
        }
    }
}
