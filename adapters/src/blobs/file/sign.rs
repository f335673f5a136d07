//! Signed URLs: an HMAC over everything that the holder must not change. Nothing here touches a file.
//!
//! ```text
//!   PUT {public}/blobs/{key}?expires=..&key=..&signature=..              headers: length, type, digest, if-none-match
//!   GET {public}/blobs/{key}?disposition=..&expires=..&key=..&signature=..
//! ```
//!
//! What is signed is never told twice: of an upload, the headers of the request itself are put under the signature.

use hmac::{Hmac, KeyInit, Mac};
use ringforge_domain::position::LogTime;
use ringforge_ports::{
    blobs::{Head, Key, Sha256, Signed},
    names,
};

use super::{Grant, Refused};
use crate::{
    blobs::{CHECKSUM, disposition, from_base64, upload_headers},
    percent::{from_percent, percent},
};

/// The keys that sign, and how they are told apart: by the beginning of a hash of each.
pub(super) struct Signer {
    public: String,
    /// The newest first: it signs, all verify.
    keys: Vec<(String, Hmac<sha2::Sha256>)>,
}

/// A header of a request, by its name in lower case.
pub type Header<'a> = &'a (dyn Fn(&str) -> Option<&'a str> + Sync);

const MICROS: i64 = 1_000_000;

impl Signer {
    /// URLs begin with `public`. The newest key comes first.
    pub(super) fn new(public: &str, keys: &[[u8; 32]]) -> Self {
        assert!(!keys.is_empty(), "a store signs with some key");
        let named = keys.iter().map(|key| {
            let id = blake3::derive_key("ringforge blob url key id", key);
            let id = Sha256(id).to_string()[..8].to_owned();
            (id, Hmac::new_from_slice(key).expect("an HMAC takes a key of any length"))
        });
        Self { public: public.trim_end_matches('/').to_owned(), keys: named.collect() }
    }

    pub(super) fn upload(&self, key: &Key, head: &Head, seconds: u64, now: LogTime) -> Signed {
        let url = self.sign(&upload(key, head), key, "", expiry(seconds, now));
        Signed { method: "PUT", url, headers: upload_headers(head) }
    }

    pub(super) fn download(&self, key: &Key, file_name: &str, seconds: u64, now: LogTime) -> Signed {
        let disposition = disposition(file_name);
        let query = format!("disposition={}&", percent(&disposition));
        let url = self.sign(&download(key, &disposition), key, &query, expiry(seconds, now));
        Signed { method: "GET", url, headers: Vec::new() }
    }

    fn sign(&self, what: &str, key: &Key, query: &str, expires: i64) -> String {
        let (id, hmac) = &self.keys[0];
        let signature = Sha256(hmac.clone().chain_update(signed(what, expires)).finalize().into_bytes().into());
        let (public, path) = (&self.public, names::BLOBS_PATH);
        format!("{public}{path}{key}?{query}expires={expires}&key={id}&signature={signature}")
    }

    /// What a request may do, if it is one that was signed.
    pub(super) fn authorize(
        &self,
        method: &str,
        path_and_query: &str,
        header: Header<'_>,
        now: LogTime,
    ) -> Result<Grant, Refused> {
        const UNSIGNED: Refused = Refused::Forbidden("the URL is not signed");
        let (path, query) = path_and_query.split_once('?').ok_or(UNSIGNED)?;
        let key: Key = path.strip_prefix(names::BLOBS_PATH).and_then(|key| key.parse().ok()).ok_or(UNSIGNED)?;
        let (what, grant, rest) = match method {
            "PUT" => {
                let head = declared(header).ok_or(Refused::Forbidden("a header is missing or not as it was signed"))?;
                (upload(&key, &head), Grant::Upload { key, head }, query)
            }
            "GET" => {
                let (disposition, rest) =
                    query.strip_prefix("disposition=").and_then(|rest| rest.split_once('&')).ok_or(UNSIGNED)?;
                let disposition = from_percent(disposition).ok_or(UNSIGNED)?;
                (download(&key, &disposition), Grant::Download { key, disposition }, rest)
            }
            _ => return Err(Refused::Forbidden("no URL is signed for this method")),
        };
        let (expires, id, signature) = parameters(rest).ok_or(UNSIGNED)?;
        let (_, hmac) = self
            .keys
            .iter()
            .find(|(known, _)| known == id)
            .ok_or(Refused::Forbidden("the key that signed is not known"))?;
        // In constant time, and before anything that was signed is believed.
        let verified = hmac.clone().chain_update(signed(&what, expires)).verify_slice(&signature.0);
        verified.map_err(|_| Refused::Forbidden("the signature is not that of this request"))?;
        if now.0 >= expires.saturating_mul(MICROS) {
            return Err(Refused::Forbidden("the URL has expired"));
        }
        Ok(grant)
    }
}

/// The last second of a URL, rounded up: it lives at least as long as asked.
fn expiry(seconds: u64, now: LogTime) -> i64 {
    now.0.div_euclid(MICROS).saturating_add(1).saturating_add_unsigned(seconds)
}

/// None of these can contain a line break, so that no two requests are signed the same.
fn upload(key: &Key, head: &Head) -> String {
    format!("PUT\n{key}\n{}\n{}\n{}", head.length, head.content_type, head.sha256)
}

fn download(key: &Key, disposition: &str) -> String {
    format!("GET\n{key}\n{}", percent(disposition))
}

fn signed(what: &str, expires: i64) -> String {
    format!("ringforge blob url 1\n{what}\n{expires}")
}

/// What the headers of an upload declare, each written as we write it.
fn declared(header: Header<'_>) -> Option<Head> {
    let head = Head {
        length: header("content-length")?.parse().ok()?,
        content_type: header("content-type")?.parse().ok()?,
        sha256: from_base64(header(CHECKSUM)?)?,
    };
    upload_headers(&head).iter().all(|(name, value)| header(name) == Some(value)).then_some(head)
}

/// Expiry, key id, signature: in this order, each written as we write it, and nothing else.
fn parameters(query: &str) -> Option<(i64, &str, Sha256)> {
    let (first, rest) = query.strip_prefix("expires=")?.split_once("&key=")?;
    let (id, last) = rest.split_once("&signature=")?;
    let (expires, signature): (i64, Sha256) = (first.parse().ok()?, last.parse().ok()?);
    (expires.to_string() == first && signature.to_string() == last).then_some((expires, id, signature))
}

#[cfg(test)]
mod tests;
