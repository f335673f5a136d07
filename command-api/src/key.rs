//! API keys as text: `rf_<type>_` and 32 base62 characters, the last 6 a CRC-32 so that typos are answered offline.

use std::fmt::Write as _;

use ringforge_domain::tenant::KeyType;
use ringforge_ports::clock::Ids;
use sha2::{Digest, Sha256};

/// Random characters of a key.
const RANDOM: usize = 26;
/// Check characters of a key.
const CHECK: usize = 6;
/// The characters.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new key. Shown once; only its hash is kept.
pub fn new(key_type: KeyType, ids: &dyn Ids) -> String {
    let mut text = prefix(key_type).to_owned();
    let bytes = ids.secret();
    // 26 of 32 unpredictable bytes, each reduced: 154 bits, the bias of 256 mod 62 costs less than one.
    text.extend(bytes[..RANDOM].iter().map(|byte| char::from(BASE62[usize::from(*byte) % BASE62.len()])));
    let check = check(&text);
    text + &check
}

/// A new resume token.
pub fn resume_token(ids: &dyn Ids) -> String {
    let mut text = "rt_".to_owned();
    text.extend(ids.secret().iter().map(|byte| char::from(BASE62[usize::from(*byte) % BASE62.len()])));
    text
}

/// Whether a text can be a key at all.
pub fn well_formed(text: &str) -> bool {
    let digits = digits(text).filter(|digits| digits.len() == RANDOM + CHECK && digits.is_ascii());
    let Some(digits) = digits else { return false };
    digits.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && check(&text[..text.len() - CHECK]) == text[text.len() - CHECK..]
}

/// Whether a text begins as keys do: somebody took it for one.
pub fn is_meant(text: &str) -> bool {
    digits(text).is_some()
}

/// What follows the type of a key.
fn digits(text: &str) -> Option<&str> {
    [KeyType::Live, KeyType::Test, KeyType::Admin].into_iter().find_map(|kind| text.strip_prefix(prefix(kind)))
}

/// What may be said of a key in logs and limits: its type and first characters.
pub fn hint(text: &str) -> String {
    text.chars().take(14).collect()
}

/// SHA-256 in hex: what is kept of keys and tokens. They are random, so no slow hash is needed.
pub fn hash(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
    }
    hex
}

fn prefix(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Live => "rf_live_",
        KeyType::Test => "rf_test_",
        KeyType::Admin => "rf_admin_",
    }
}

fn check(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECK];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use ringforge_ports::clock::SeededIds;

    use super::*;

    #[test]
    fn a_typo_is_noticed_offline() {
        let key = new(KeyType::Live, &*SeededIds::new(1));
        assert_eq!(key.len(), "rf_live_".len() + 32);
        assert!(well_formed(&key));
        for at in "rf_live_".len()..key.len() {
            let mut typo = key.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(!well_formed(&String::from_utf8(typo).expect("ascii")));
        }
        assert!(!well_formed("rf_live_"));
        assert_eq!(hash("").len(), 64);
    }
}
