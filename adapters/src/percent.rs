//! Percent-encoding, in which a URL says what would mean something else there.

use std::fmt::Write as _;

/// Percent-encodes all but what is unreserved in a URL.
pub fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all");
        }
    }
    encoded
}

/// What was percent-encoded; `None` if it was not.
pub fn from_percent(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        if byte == b'%' {
            let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            rest = &rest[2..];
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_read_back() {
        for text in ["", "a/b", "100%", "\u{e9} ~", "a+b"] {
            assert_eq!(from_percent(&percent(text)).as_deref(), Some(text));
        }
        assert_eq!(percent("a/b c%"), "a%2Fb%20c%25");
        for text in ["%", "%2", "%zz", "%+f", "%ff"] {
            assert_eq!(from_percent(text), None, "{text}");
        }
    }
}
