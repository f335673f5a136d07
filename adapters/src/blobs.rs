//! Objects on something that keeps them, and what the URLs of all of them have in common.

pub mod file;
pub mod lazy;
#[cfg(feature = "cluster")]
pub mod s3;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ringforge_domain::limits;
use ringforge_ports::blobs::{Head, Sha256};

use crate::percent::percent;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_text() {
        let text = base64(Sha256([7; 32]));
        assert_eq!(from_base64(&text), Some(Sha256([7; 32])));
        for other in [text.trim_end_matches('='), &text.replace("Bwc=", "Bwd="), "", "Bwc="] {
            assert_eq!(from_base64(other), None, "{other}");
        }
    }
}
