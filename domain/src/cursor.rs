//! Event ids: an authenticated position. Opaque to clients, the same everywhere for the same event, worthless in another fleet.

use std::fmt;

use crate::{
    ids::Scope,
    position::{Generation, Offset, StreamRef},
};

/// Bytes before the tag: generation, wire position, record hash.
const BODY: usize = 16;
/// Bytes of the tag.
const TAG: usize = 8;
/// Base62 digits of each half of the 24 bytes.
const HALF: usize = 17;

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

/// The keyed seal of one installation. The key lives in the data directory or the secret store.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
}

impl fmt::Debug for Seal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Seal(secret)")
    }
}

impl Seal {
    /// With this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The event id of a place in a fleet's stream.
    pub fn event_id(&self, scope: &Scope, stream: StreamRef, cursor: Cursor) -> String {
        let mut bytes = [0; BODY + TAG];
        bytes[..4].copy_from_slice(&cursor.generation.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&stream.wire(cursor.offset).to_be_bytes());
        bytes[12..BODY].copy_from_slice(&cursor.hash.to_be_bytes());
        let tag = self.tag(scope, &bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&tag);
        let half = |from: usize| {
            let mut wide = [0; 16];
            wide[4..].copy_from_slice(&bytes[from..from + 12]);
            base62::encode(u128::from_be_bytes(wide))
        };
        format!("evt_{:0>HALF$}{:0>HALF$}", half(0), half(12))
    }

    /// Reads an event id; `None` if it was not made by us for this fleet and stream.
    pub fn open(&self, scope: &Scope, stream: StreamRef, event_id: &str) -> Option<Cursor> {
        let digits = event_id.strip_prefix("evt_").filter(|digits| digits.len() == 2 * HALF && digits.is_ascii())?;
        let mut bytes = [0; BODY + TAG];
        for (part, digits) in [&digits[..HALF], &digits[HALF..]].into_iter().enumerate() {
            let wide = base62::decode(digits).ok()?.to_be_bytes();
            if wide[..4] != [0; 4] {
                return None;
            }
            bytes[part * 12..part * 12 + 12].copy_from_slice(&wide[4..]);
        }
        let tag = blake3::Hash::from(wide_tag(&bytes[BODY..]));
        if tag != blake3::Hash::from(wide_tag(&self.tag(scope, &bytes[..BODY]))) {
            return None;
        }
        let number =
            |from: usize, to: usize| bytes[from..to].iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        Some(Cursor {
            generation: Generation(u32::try_from(number(0, 4)).ok()?),
            offset: stream.offset(number(4, 12))?,
            hash: u32::try_from(number(12, 16)).ok()?,
        })
    }

    fn tag(&self, scope: &Scope, body: &[u8]) -> [u8; TAG] {
        let mut input = [0; 32 + BODY];
        input[..16].copy_from_slice(&scope.tenant.bits().to_be_bytes());
        input[16..32].copy_from_slice(&scope.fleet.bits().to_be_bytes());
        input[32..].copy_from_slice(body);
        let hash = blake3::keyed_hash(&self.key, &input);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hash.as_bytes()[..TAG]);
        tag
    }
}

/// Widens a tag so that blake3's constant-time comparison can be used.
fn wide_tag(tag: &[u8]) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..TAG].copy_from_slice(tag);
    wide
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
        assert_eq!(seal.open(&other, stream, &id), None);
        assert_eq!(Seal::new([8; 32]).open(&scope, stream, &id), None);
        for at in 4..id.len() {
            let mut forged = id.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert_eq!(seal.open(&scope, stream, &forged), None, "{forged}");
        }
    }
}
