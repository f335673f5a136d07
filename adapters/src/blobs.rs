//! Objects on something that keeps them, and what the URLs of all of them have in common.

pub mod file;
#[cfg(feature = "cluster")]
pub mod s3;

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ringforge_domain::limits;
use ringforge_ports::blobs::{Head, Sha256};

/// The digest of an upload, in base64.
const CHECKSUM: &str = "x-amz-checksum-sha256";

fn base64(sha256: Sha256) -> String {
    BASE64.encode(sha256.0)
}

/// The digest behind exactly its text: no other text means the same.
fn from_base64(text: &str) -> Option<Sha256> {
    let sha256 = Sha256(BASE64.decode(text).ok()?.try_into().ok()?);
    (base64(sha256) == text).then_some(sha256)
}

/// The headers of an upload: the same for every adapter, so that a client need not know which it talks to.
fn upload_headers(head: &Head) -> Vec<(String, String)> {
    [
        ("content-length", head.length.to_string()),
        ("content-type", head.content_type.to_string()),
        ("if-none-match", "*".to_owned()),
        (CHECKSUM, base64(head.sha256)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// An attachment of this name (RFC 6266), or of one like it that can do no harm.
fn disposition(file_name: &str) -> String {
    let mut name = String::new();
    for c in file_name.chars() {
        if name.len() + c.len_utf8() > limits::FILE_NAME_BYTES_MAX {
            break;
        }
        name.push(if c.is_control() || "\"/\\".contains(c) { '_' } else { c });
    }
    // Old clients take `%` for an escape.
    let plain: String = name.chars().map(|c| if c.is_ascii() && c != '%' { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{}\"", if plain.is_empty() { "file" } else { &plain });
    if plain != name {
        text.push_str("; filename*=UTF-8''");
        text.push_str(&percent(&name));
    }
    text
}

/// Percent-encodes all but what is unreserved in a URL.
fn percent(text: &str) -> String {
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
fn from_percent(text: &str) -> Option<String> {
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

    #[test]
    fn a_digest_has_one_text() {
        let text = base64(Sha256([7; 32]));
        assert_eq!(from_base64(&text), Some(Sha256([7; 32])));
        for other in [text.trim_end_matches('='), &text.replace("Bwc=", "Bwd="), "", "Bwc="] {
            assert_eq!(from_base64(other), None, "{other}");
        }
    }
}
