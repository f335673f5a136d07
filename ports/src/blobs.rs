//! Objects: bytes under a key, written once and never changed, for what is too large for the log. Clients reach them through
//! signed URLs and never see anything else of the store.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use ringforge_domain::limits;

use crate::Error;

/// The name of an object. Segments of `A-Z a-z 0-9 . _ = -` joined by `/`, none of which begins with a dot: it can neither
/// leave a directory nor mean anything in a URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

/// A media type, as it stands in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType(String);

/// A SHA-256 digest. Its text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct Invalid {
    text: String,
    what: &'static str,
}

/// What is known of an object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes.
    pub length: u64,
    /// Of which type.
    pub content_type: ContentType,
    /// Their digest.
    pub sha256: Sha256,
}

/// The bytes of an object, piece by piece. An error is the last item.
pub type Body = BoxStream<'static, Result<Bytes, Error>>;

/// An object that is there.
pub struct Object {
    /// What is known of it.
    pub head: Head,
    /// Its bytes, read when they are asked for.
    pub body: Body,
}

/// A request that whoever holds it may make, without any other credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// The HTTP method.
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Headers that must be sent exactly so.
    pub headers: Vec<(String, String)>,
}

/// Bytes under keys, written once.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// A request that uploads the object `head` as `key`, good for `ttl` in whole seconds. Whoever holds it can do nothing else:
    /// the status is 403 for another key, a header that differs or is missing, and an expired URL; it is 400 to 405 for another
    /// method and an altered URL; 400 for other bytes than the digest tells; 412 where an object is already, even the same. None
    /// of these stores or changes anything. `TooLarge`: a longer `ttl` than `limits::BLOB_URL_TTL_MAX`, or more than
    /// `UPLOAD_BYTES_MAX` bytes. It says nothing of whether there is an object.
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error>;

    /// A request that downloads the object `key` as an attachment named `file_name`, whatever that contains, with its length and
    /// type; also a range of its bytes. Good for `ttl` in whole seconds; `TooLarge` as for uploads. The status is 403 for another
    /// key and an expired URL, 400 to 405 for another method and an altered URL, 404 where no object is.
    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error>;

    /// Stores `body` as `key`, however it is cut, and tells what was stored: all of it, so that it survives the death of this
    /// process, or nothing. Until then nobody sees any of it. An object that is there is not replaced: `Conflict`, unless it
    /// is the same, so that a put may be repeated; of several at once, one wins. An error of `body` is passed on. `TooLarge`:
    /// more than `limits::BLOB_BYTES_MAX`.
    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error>;

    /// The object `key`, however it came there. Its bytes come in pieces of at most `limits::BLOB_PIECE_BYTES_MAX`; if they are
    /// not those that were stored, `Corrupt` is the last item: what came before must not be trusted until the end.
    async fn get(&self, key: &Key) -> Result<Option<Object>, Error>;

    /// What is known of the object `key`.
    async fn head(&self, key: &Key) -> Result<Option<Head>, Error> {
        Ok(self.get(key).await?.map(|object| object.head))
    }

    /// Makes `to` the same as `from` and tells what it is; `None` if there is no `from`. What happens to `from` later does not
    /// touch it. An object that is there is not replaced: `Conflict`, unless it is the same; of several at once, one wins.
    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error>;

    /// From now on there is no object `key`, nor need there have been one. The key may be used again.
    async fn delete(&self, key: &Key) -> Result<(), Error>;

    /// Up to `limit` (at most `limits::BLOBS_PAGE_MAX`) keys that begin with `prefix`, which need not end at a `/`, in the order
    /// of their bytes, from the first behind `after`. Fewer than that: there are no more.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error>;
}

/// The whole seconds of an acceptable `ttl`.
pub fn check_ttl(ttl: Duration) -> Result<u64, Error> {
    if ttl > limits::BLOB_URL_TTL_MAX {
        let what = format!("a URL for {} s, at most {} s", ttl.as_secs(), limits::BLOB_URL_TTL_MAX.as_secs());
        return Err(Error::TooLarge(what));
    }
    Ok(ttl.as_millis().div_ceil(1_000).try_into().unwrap_or(1).max(1))
}

/// `TooLarge` for more bytes than one upload may have.
pub fn check_upload(head: &Head) -> Result<(), Error> {
    if head.length <= limits::UPLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(Error::TooLarge(format!("an upload of {} bytes, at most {}", head.length, limits::UPLOAD_BYTES_MAX)))
}

/// `TooLarge` for more bytes than an object may have.
pub fn check_length(length: u64) -> Result<(), Error> {
    if length <= limits::BLOB_BYTES_MAX {
        return Ok(());
    }
    Err(Error::TooLarge(format!("an object of more than {} bytes", limits::BLOB_BYTES_MAX)))
}

/// What writing `head` as `key` comes to where `there` is already.
pub fn check_same(key: &Key, there: &Head, head: Head) -> Result<Head, Error> {
    if *there == head { Ok(head) } else { Err(Error::Conflict(format!("there is another object {key}"))) }
}

/// The bytes of `key` were not those that its head tells.
pub fn damaged(key: &Key) -> Error {
    Error::Corrupt(format!("object {key}: its bytes are not those that were stored"))
}

/// Sums up bytes as they come.
#[derive(Clone, Default)]
pub struct Sum {
    hasher: sha2::Sha256,
    length: u64,
}

impl Sum {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.hasher, bytes);
        self.length += bytes.len() as u64;
    }

    /// How many there were.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What they come to.
    pub fn head(self, content_type: ContentType) -> Head {
        let sha256 = Sha256(sha2::Digest::finalize(self.hasher).into());
        Head { length: self.length, content_type, sha256 }
    }
}

impl Key {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._=-".contains(&byte);
        let is_segment =
            |segment: &str| !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed);
        let bounded = text.len() <= limits::BLOB_KEY_BYTES_MAX;
        if bounded && text.split('/').all(is_segment) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid { text: text.to_owned(), what: "the key of an object" })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl ContentType {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentType {
    type Err = Invalid;

    /// Servers may take several spaces for one: there are none such.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let trimmed = text.trim() == text && !text.contains("  ");
        let typed = text.split_once('/').is_some_and(|(major, minor)| !major.is_empty() && !minor.is_empty());
        if visible && trimmed && typed && text.len() <= limits::CONTENT_TYPE_BYTES_MAX {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid { text: text.to_owned(), what: "a content type" })
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Sha256 {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Sha256 {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid { text: text.to_owned(), what: "a SHA-256 digest" };
        let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(invalid)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Signed {
    /// Whoever sees the URL may use it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Signed({} {})", self.method, self.url.split('?').next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_in_their_place() {
        for text in ["a", "a/b", "tn_0/fl_1/x.json", "kind/date=2026-01-02/part-0.parquet", "_manifest.json"] {
            assert_eq!(text.parse::<Key>().map(|key| key.to_string()), Ok(text.to_owned()));
        }
        let long = "a".repeat(limits::BLOB_KEY_BYTES_MAX + 1);
        for text in
            ["", "/a", "a/", "a//b", "..", "a/../b", "./a", ".a", "a b", "a\\b", "a%2fb", "\u{e9}", "a\0", &long]
        {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn content_types_are_one_header_value() {
        for text in ["text/plain", "text/plain; charset=utf-8", "application/vnd.a+json"] {
            assert!(text.parse::<ContentType>().is_ok(), "{text}");
        }
        for text in ["", "text", "/plain", "text/", " text/plain", "text/a;  b", "text/a\r\nX: y", "text/\u{e9}"] {
            assert!(text.parse::<ContentType>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn digests_read_back() {
        let digest = Sha256::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "ba", "zz7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"] {
            assert!(text.parse::<Sha256>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_url_lives_whole_seconds_within_its_bound() {
        let millis = |ttl| check_ttl(Duration::from_millis(ttl)).ok();
        assert_eq!((millis(0), millis(1), millis(1_000), millis(1_001)), (Some(1), Some(1), Some(1), Some(2)));
        assert!(check_ttl(limits::BLOB_URL_TTL_MAX).is_ok());
        assert!(check_ttl(limits::BLOB_URL_TTL_MAX + Duration::from_millis(1)).is_err());
    }

    #[test]
    fn a_signed_url_is_a_secret() {
        let signed = Signed { method: "GET", url: "http://a/b?signature=c".into(), headers: Vec::new() };
        assert_eq!(format!("{signed:?}"), "Signed(GET http://a/b)");
    }
}
