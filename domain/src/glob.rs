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
    let (parent, below) = pattern.strip_suffix("/*").map_or((pattern, false), |parent| (parent, true));
    let mut pattern: Vec<&str> = parent.split('/').collect();
    if below {
        // At least one more segment.
        pattern.extend(["*", "**"]);
    }
    let key: Vec<&str> = key.split('/').collect();
    segments(&pattern, &key)
}

/// `**` among segments. Everything else takes exactly one segment, so it is enough to go back to the last `**`: the time
/// is at most the product of both lengths.
fn segments(pattern: &[&str], key: &[&str]) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut stars: Option<(usize, usize)> = None;
    while here < key.len() {
        match pattern.get(at) {
            Some(&"**") => {
                stars = Some((at, here));
                at += 1;
                continue;
            }
            Some(segment) if within(segment.as_bytes(), key[here].as_bytes()) => {
                at += 1;
                here += 1;
                continue;
            }
            _ => {}
        }
        let Some((back, taken)) = stars else { return false };
        stars = Some((back, taken + 1));
        at = back + 1;
        here = taken + 1;
    }
    pattern[at..].iter().all(|segment| *segment == "**")
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
            ("a/**/b/*", "a/b/b", true),
            ("a/**/b/*", "a/x/b", false),
            ("**/a/b", "a/a/b", true),
            ("**/*", "a", true),
            ("x/**/a/**/b", "x/a/c/b", true),
            ("x/**/a/**/b", "x/c/b", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} on {key}");
        }
    }

    /// What a pattern means, word by word, in whatever time.
    fn means(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"**", rest)) => (0..=key.len()).any(|taken| means(rest, &key[taken..])),
            Some((segment, rest)) => key.first().is_some_and(|first| fits(segment, first) && means(rest, &key[1..])),
        }
    }

    fn fits(segment: &str, text: &str) -> bool {
        match segment.split_at_checked(1) {
            None => text.is_empty(),
            Some(("*", rest)) => (0..=text.len()).any(|taken| fits(rest, &text[taken..])),
            Some((letter, rest)) => text.strip_prefix(letter).is_some_and(|text| fits(rest, text)),
        }
    }

    /// Every text of these letters that is no longer.
    fn texts(letters: &str, longest: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        for at in 0.. {
            let Some(text) = texts.get(at).filter(|text| text.len() < longest).cloned() else { break };
            texts.extend(letters.chars().map(|letter| format!("{text}{letter}")));
        }
        texts
    }

    #[test]
    fn every_short_pattern_means_what_its_words_say() {
        let keys = texts("ab/", 5);
        for pattern in texts("a*/", 5).into_iter().filter(|pattern| check(pattern).is_ok()) {
            let mut words: Vec<&str> = pattern.split('/').collect();
            match (words.len(), words.last()) {
                (1, Some(&"*")) => words = vec!["**"],
                (2.., Some(&"*")) => words.push("**"),
                _ => {}
            }
            for key in &keys {
                let segments: Vec<&str> = key.split('/').collect();
                assert_eq!(matches(&pattern, key), means(&words, &segments), "{pattern} on {key}");
            }
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        // Taking every split of the key would be some hundred million steps for each of these.
        let key = "a/".repeat(250) + "b";
        for _ in 0..100 {
            assert!(!matches("**/a/**/a/**/a/**/c", &key));
        }
    }

    #[test]
    fn a_pattern_has_bounds() {
        for fits in ["a", "*", "a/b c", &"*".repeat(GLOB_STARS_MAX), &"a".repeat(GLOB_BYTES_MAX)] {
            assert_eq!(check(fits), Ok(()), "{fits}");
        }
        for (over, limit) in
            [("*".repeat(GLOB_STARS_MAX + 1), GLOB_STARS_MAX), ("a".repeat(GLOB_BYTES_MAX + 1), GLOB_BYTES_MAX)]
        {
            assert_eq!(check(&over).expect_err("out of bounds").fact("limit"), limit, "{over}");
        }
        for wrong in ["", " ", "\t", "a\0"] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }
}
