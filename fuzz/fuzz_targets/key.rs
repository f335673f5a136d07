//! API keys as text: what was made is well formed, nothing with a typo in it is, and hints never tell a key.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringforge_command_api::key;
use ringforge_domain::tenant::KeyType;
use ringforge_ports::clock::SeededIds;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    kind: u8,
    /// A letter of the key, and what it becomes.
    typo: (u8, char),
    text: &'a str,
}

fuzz_target!(|input: Input| {
    let (prefix, kind) = [("rf_live_", KeyType::Live), ("rf_test_", KeyType::Test), ("rf_admin_", KeyType::Admin)]
        [usize::from(input.kind) % 3];
    let made = key::new(kind, &*SeededIds::new(input.seed));
    assert!(made.starts_with(prefix) && key::well_formed(&made), "{made}");
    let typo = typo(&made, input.typo);
    assert_eq!(key::well_formed(&typo), typo == made, "{typo}");

    if key::well_formed(input.text) {
        let digits = input.text.rsplit('_').next().unwrap_or_default();
        assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{}", input.text);
        assert!(key::hint(input.text).len() < input.text.len() - 16, "{}", input.text);
    }
    assert!(input.text.starts_with(&key::hint(input.text)));
    let hash = key::hash(input.text);
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
});

/// With one letter changed.
fn typo(key: &str, (at, letter): (u8, char)) -> String {
    let mut letters: Vec<char> = key.chars().collect();
    let at = usize::from(at) % letters.len();
    letters[at] = letter;
    letters.into_iter().collect()
}
