//! Patterns over keys: the same answer as from a matcher that only follows the words of the protocol, and soon enough.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use ringforge_domain::glob;

/// How long the key is at which the time is taken.
const LONG: usize = 16 << 10;
/// Steps of the length of a pattern times that of the key take milliseconds; one power more takes minutes.
const SOON: Duration = Duration::from_secs(5);

// A pattern and, in the next line, a key.
fuzz_target!(|text: &str| {
    let Some((pattern, key)) = text.split_once('\n') else { return };
    assert_eq!(glob::matches(pattern, key), means(pattern, key), "`{pattern}` on `{key}`");
    if glob::check(pattern).is_ok() && !key.is_empty() {
        let key = key.repeat(LONG / key.len() + 1);
        let started = Instant::now();
        let _ = glob::matches(pattern, &key);
        assert!(started.elapsed() < SOON, "{:?} for `{pattern}`", started.elapsed());
    }
});

/// A lone `*` or `**` is every key, a trailing `/*` every key below, `**` any number of segments, `*` inside one.
fn means(pattern: &str, key: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    let key: Vec<&str> = key.split('/').collect();
    let mut segments: Vec<&str> = pattern.split('/').collect();
    if segments.len() > 1 && segments.ends_with(&["*"]) {
        segments.push("**");
    }
    fits(
        &segments,
        &key,
        |segment| *segment == "**",
        |segment, part| {
            let (segment, part): (Vec<char>, Vec<char>) = (segment.chars().collect(), part.chars().collect());
            fits(&segment, &part, |letter| *letter == '*', |letter, other| letter == other)
        },
    )
}

/// Whether a pattern, in which some stand for any number of anything, fits the whole: a table of all beginnings.
fn fits<T, U>(pattern: &[T], whole: &[U], is_any: impl Fn(&T) -> bool, is_one: impl Fn(&T, &U) -> bool) -> bool {
    let mut fitting = vec![false; whole.len() + 1];
    fitting[0] = true;
    for part in pattern {
        if is_any(part) {
            for at in 0..whole.len() {
                fitting[at + 1] |= fitting[at];
            }
        } else {
            for at in (0..whole.len()).rev() {
                fitting[at + 1] = fitting[at] && is_one(part, &whole[at]);
            }
            fitting[0] = false;
        }
    }
    fitting[whole.len()]
}
