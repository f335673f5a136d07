//! What an index knows of a memory entry: its tags, and every three characters in a row of its text. It only narrows a search
//! down; what is found is looked at all the same.

use ringforge_domain::ids::Scope;

/// Characters in a row that an index of words knows.
pub(super) const TRIGRAM: usize = 3;

/// The characters that are indexed: SQLite's index passes over NUL.
pub(super) fn indexed(text: &str) -> Vec<char> {
    text.chars().filter(|char| *char != '\0').collect()
}

/// A number for three characters or a tag of a fleet, so that one index is an index of each fleet. Of two texts that share a
/// number one is looked at in vain. Numbers are stored: they never change.
pub(super) fn term(scope: Scope, text: &str) -> i32 {
    folded(fnv(of_scope(scope), text.as_bytes()))
}

fn of_scope(Scope { tenant, fleet }: Scope) -> u64 {
    [tenant.bits(), fleet.bits()].iter().fold(FNV_BASIS, |state, bits| fnv(state, &bits.to_be_bytes()))
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a, going on from `state`.
fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The terms of an entry, each once.
#[cfg(feature = "cluster")]
pub(super) fn terms<'a>(scope: Scope, text: &str, tags: impl Iterator<Item = &'a str>) -> Vec<i32> {
    let chars = indexed(text);
    let base = of_scope(scope);
    let mut buffer = [0; 4 * TRIGRAM];
    let mut terms: Vec<i32> = tags.map(|tag| folded(fnv(base, tag.as_bytes()))).collect();
    terms.extend(chars.windows(TRIGRAM).map(|trigram| {
        let mut len = 0;
        for char in trigram {
            len += char.encode_utf8(&mut buffer[len..]).len();
        }
        folded(fnv(base, &buffer[..len]))
    }));
    terms.sort_unstable();
    terms.dedup();
    terms
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are put together")]
fn folded(number: u64) -> i32 {
    ((number ^ (number >> 32)) as u32).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_never_numbered_anew() {
        assert_eq!(
            ["abc", "\"red\"", "\u{65e5}\u{672c}\u{8a9e}"].map(|text| term(Scope::OPERATOR, text)),
            [-933_057_971, 1_342_730_521, -170_391_102]
        );
    }
}
