//! Patterns over memory keys: exact, `prefix/*`, `*`, `**`. Matching takes linear space and bounded time.

use crate::{
    code::Refusal,
    limits::{GLOB_BYTES_MAX, GLOB_STARS_MAX},
};

/// Whether `pattern` may be subscribed to.
///
/// # Errors
/// `invalid_message`: empty, longer than 256 bytes, or with more than 8 stars.
pub fn check(pattern: &str) -> Result<(), Refusal> {
    if pattern.trim().is_empty() || pattern.contains('\0') {
        return Err(Refusal::invalid("pattern", "`pattern` must not be empty.")
            .fix("Use a key, `prefix/*`, or `*` for every key."));
    }
    if pattern.len() > GLOB_BYTES_MAX {
        return Err(Refusal::over("pattern", GLOB_BYTES_MAX));
    }
    if pattern.bytes().filter(|byte| *byte == b'*').count() > GLOB_STARS_MAX {
        return Err(Refusal::invalid("pattern", "`pattern` has too many stars.").with("limit", GLOB_STARS_MAX));
    }
    Ok(())
}

/// Whether `key` is one that `pattern` means: a trailing `/*` is every key below, at any depth; a lone `*` is every key;
/// `*` elsewhere stays inside one segment; `**` is any number of segments.
pub fn matches(pattern: &str, key: &str) -> bool {
    if pattern == "*" || pattern == "**" {
        return true;
    }
    if !pattern.contains('*') {
        return pattern == key;
    }
    let (pattern, below) = pattern.strip_suffix("/*").map_or((pattern, false), |parent| (parent, true));
    let pattern: Vec<&str> = pattern.split('/').collect();
    let key: Vec<&str> = key.split('/').collect();
    segments(&pattern, &key, below)
}

/// Compares segment by segment; `below` asks for at least one more segment after the pattern.
fn segments(pattern: &[&str], key: &[&str], below: bool) -> bool {
    let Some((first, rest)) = pattern.split_first() else {
        return if below { !key.is_empty() } else { key.is_empty() };
    };
    if *first == "**" {
        return (0..=key.len()).any(|skip| segments(rest, &key[skip..], below));
    }
    match key.split_first() {
        Some((segment, others)) => within(first.as_bytes(), segment.as_bytes()) && segments(rest, others, below),
        None => false,
    }
}

/// `*` inside one segment: the classic two-pointer match.
fn within(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, here));
            at += 1;
        } else if pattern.get(at) == Some(&text[here]) {
            at += 1;
            here += 1;
        } else if let Some((back, taken)) = star {
            star = Some((back, taken + 1));
            at = back + 1;
            here = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_the_protocol_says() {
        for (pattern, key, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", true),
            ("a/*", "a", false),
            ("a/*", "ab", false),
            ("*", "any/thing", true),
            ("*/x", "a/x", true),
            ("*/x", "a/b/x", false),
            ("a*c/d", "abc/d", true),
            ("a*c/d", "ab/c/d", false),
            ("**/x", "a/b/x", true),
            ("**/x", "x", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**", "a/b/c", true),
            ("a/**/*", "a/b", true),
            ("te*", "test", true),
            ("te*", "te/st", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} on {key}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let key = "a/".repeat(250) + "b";
        assert!(!matches("**/a/**/a/**/a/**/c", &key));
        assert!(check("*********").is_err());
    }
}
