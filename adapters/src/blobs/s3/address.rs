//! Where a bucket is, as a URL:
//!
//! ```text
//!   s3://ACCESS:SECRET@HOST[:PORT]/BUCKET[/PREFIX][?region=..&tls=false]    any server that speaks S3
//!   s3://BUCKET[/PREFIX][?region=..]                                       AWS, with the credentials of its environment
//! ```

use std::{fmt, net::IpAddr, str::FromStr};

use ringforge_ports::blobs::Key;

use crate::percent::from_percent;

/// A bucket, and where it is.
pub(super) struct Address {
    /// `None`: AWS.
    pub(super) server: Option<Server>,
    pub(super) bucket: String,
    /// What every key begins with: nothing, or ending in `/`.
    pub(super) prefix: String,
    pub(super) region: Option<String>,
}

/// A server, and who we are to it.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) access: String,
    pub(super) secret: String,
}

/// Why a URL is none of S3. It never tells a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL of the objects {0}; it is s3://ACCESS:SECRET@HOST:PORT/BUCKET[/PREFIX] or s3://BUCKET[/PREFIX]")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |what: &str| InvalidAddress(what.to_owned());
        let rest = text.strip_prefix("s3://").ok_or_else(|| invalid("does not begin with s3://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut region, mut tls) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("region", name)) => region = Some(name.to_owned()),
                Some(("tls", "true")) => tls = Some(true),
                Some(("tls", "false")) => tls = Some(false),
                _ => return Err(invalid("may say region=.. and tls=true or tls=false, and nothing else")),
            }
        }
        let (server, path) = match rest.rsplit_once('@') {
            Some((user, rest)) => {
                let (access, secret) = user.split_once(':').ok_or_else(|| invalid("tells no secret"))?;
                let (host, path) = rest.split_once('/').ok_or_else(|| invalid("names no bucket"))?;
                let plain = |text| from_percent(text).filter(|text| !text.is_empty());
                let (access, secret) = plain(access).zip(plain(secret)).ok_or_else(|| invalid("tells no secret"))?;
                let scheme = if tls.unwrap_or_else(|| !is_loopback(host)) { "https" } else { "http" };
                (Some(Server { url: format!("{scheme}://{host}"), access, secret }), path)
            }
            None => (None, rest),
        };
        let (bucket, prefix) = path.trim_end_matches('/').split_once('/').unwrap_or((path.trim_end_matches('/'), ""));
        if !is_bucket(bucket) {
            return Err(invalid("names no bucket: 3 to 63 of a-z 0-9 . -"));
        }
        if !prefix.is_empty() && prefix.parse::<Key>().is_err() {
            return Err(invalid("has a prefix with other than A-Z a-z 0-9 . _ = - /"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { server, bucket: bucket.to_owned(), prefix, region })
    }
}

impl Address {
    /// Who serves it, for people.
    pub(super) fn host(&self) -> &str {
        self.server.as_ref().map_or("AWS", |server| &server.url)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Address({} {} {})", self.host(), self.bucket, self.prefix)
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let ip: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
    name == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

fn is_bucket(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (3..=63).contains(&name.len()) && name.bytes().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, InvalidAddress> {
        text.parse()
    }

    #[test]
    fn servers_and_buckets_are_told() {
        for (text, url, bucket, prefix) in [
            ("s3://a:b@127.0.0.1:9000/bucket", "http://127.0.0.1:9000", "bucket", ""),
            ("s3://a:b@[::1]:9000/bucket/", "http://[::1]:9000", "bucket", ""),
            ("s3://a:b@[::1]/bucket/", "http://[::1]", "bucket", ""),
            ("s3://a:b@localhost/bucket/a/b", "http://localhost", "bucket", "a/b/"),
            ("s3://a:b@minio:9000/bucket/a/", "https://minio:9000", "bucket", "a/"),
            ("s3://a:b@minio:9000/bucket?tls=false&region=eu", "http://minio:9000", "bucket", ""),
            ("s3://a:b@localhost:9000/bucket?tls=true", "https://localhost:9000", "bucket", ""),
        ] {
            let address = parse(text).expect("an address");
            let server = address.server.expect("a server");
            assert_eq!(
                (server.url.as_str(), server.access.as_str(), server.secret.as_str()),
                (url, "a", "b"),
                "{text}"
            );
            assert_eq!((address.bucket.as_str(), address.prefix.as_str()), (bucket, prefix), "{text}");
        }
        let address = parse("s3://my-bucket/mesh?region=eu-central-1").expect("an address");
        assert!(address.server.is_none());
        assert_eq!((address.bucket.as_str(), address.prefix.as_str()), ("my-bucket", "mesh/"));
        assert_eq!(address.region.as_deref(), Some("eu-central-1"));
    }

    #[test]
    fn secrets_may_contain_anything_and_are_never_told() {
        let address = parse("s3://a:s%2Fe+c%40r%3Aet@host/bucket").expect("an address");
        assert!(!format!("{address:?}").contains("s/e"));
        assert_eq!(address.server.map(|server| server.secret), Some("s/e+c@r:et".to_owned()));
    }

    #[test]
    fn odd_addresses_are_refused_without_their_secret() {
        for text in [
            "",
            "s3:",
            "s3://",
            "http://a:hidden@h/bucket",
            "s3://a:hidden@h",
            "s3://a:hidden@h/",
            "s3://a@h/bucket",
            "s3://:hidden@h/bucket",
            "s3://a:@h/bucket",
            "s3://a:hidden@h/BUCKET",
            "s3://a:hidden@h/bu",
            "s3://a:hidden@h/-bucket",
            "s3://a:hidden@h/bucket/../a",
            "s3://a:hidden@h/bucket?tls=no",
            "s3://a:hidden@h/bucket?x",
            "s3://a:%zz@h/bucket",
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
