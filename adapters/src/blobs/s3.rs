//! Objects in a bucket of S3, or of whatever speaks like it. Its own checksums guard what comes in one request; what comes in
//! parts has no digest of the whole there, so that we keep it in the object's metadata.

mod address;
mod open;
mod parts;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    presigning::{PresignedRequest, PresigningConfig},
    types::ChecksumMode,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_domain::limits;
use ringforge_ports::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Object, Signed, Sum, check_same, check_ttl, check_upload, damaged},
    clock::{Clock, Ids},
};

pub use address::InvalidAddress;
pub use open::OpenError;

use super::{base64, disposition, from_base64};
use address::Address;
use parts::Parts;

/// The metadata that tells the digest of an object which came in parts.
const DIGEST: &str = "sha256";

/// Objects in a bucket.
pub struct S3Blobs {
    bucket: Bucket,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// A bucket, to be asked from anywhere.
#[derive(Clone)]
struct Bucket {
    client: Client,
    name: String,
    prefix: String,
}

/// An object that is there, and the tag of exactly these bytes.
struct Found {
    head: Head,
    tag: String,
}

impl S3Blobs {
    /// Opens the bucket at `s3://..` and tries it: whether it is there, whether we may use it, and whether its clock is ours.
    pub async fn open(address: &str, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Arc<Self>, OpenError> {
        let address: Address = address.parse()?;
        let client = open::client(&address).await?;
        open::check(&client, &address, &*clock).await?;
        let bucket = Bucket { client, name: address.bucket, prefix: address.prefix };
        bucket.sweep(&*clock).await;
        Ok(Arc::new(Self { bucket, clock, ids }))
    }

    /// The same without trying it: for a store that is away just now.
    pub async fn attach(address: &str, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Arc<Self>, OpenError> {
        let address: Address = address.parse()?;
        let client = open::client(&address).await?;
        let bucket = Bucket { client, name: address.bucket, prefix: address.prefix };
        Ok(Arc::new(Self { bucket, clock, ids }))
    }

    /// A URL lives at least as long as asked: its beginning is cut to the second.
    fn presigning(&self, ttl: Duration) -> Result<PresigningConfig, Error> {
        let seconds = check_ttl(ttl)?;
        let now = Duration::from_micros(self.clock.wall().0.try_into().unwrap_or(0));
        PresigningConfig::builder()
            .start_time(UNIX_EPOCH + now)
            .expires_in(Duration::from_secs(seconds + 1))
            .build()
            .map_err(|error| failed("sign a URL", &error))
    }
}

fn signed(method: &'static str, request: &PresignedRequest) -> Signed {
    let mut headers: Vec<_> = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    headers.sort_unstable();
    Signed { method, url: request.uri().to_owned(), headers }
}

impl Bucket {
    fn path(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn find(&self, key: &Key) -> Result<Option<Found>, Error> {
        let request = self.client.head_object().bucket(&self.name).key(self.path(key));
        let found = match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(found) => found,
            Err(error) if status(&error) == Some(404) => return self.is_missing(key).await.map(|()| None),
            Err(error) => return Err(refused("look for an object", &error)),
        };
        // A digest of parts ends in their number: that is not the digest of the object.
        let whole = found.checksum_sha256().and_then(from_base64);
        let kept = found.metadata().and_then(|metadata| metadata.get(DIGEST)?.parse().ok());
        let content_type = found.content_type().and_then(|content_type| content_type.parse().ok());
        let length = found.content_length().and_then(|length| u64::try_from(length).ok());
        let (Some(sha256), Some(content_type), Some(length)) = (whole.or(kept), content_type, length) else {
            return Err(Error::Corrupt(format!(
                "object {key}: its length, type or digest is not known; we did not write it"
            )));
        };
        let tag = found.e_tag().unwrap_or_default().to_owned();
        Ok(Some(Found { head: Head { length, content_type, sha256 }, tag }))
    }

    /// The answer to a look has no words: only that to a read tells a missing object from a missing bucket or an unknown user.
    async fn is_missing(&self, key: &Key) -> Result<(), Error> {
        let request = self.client.get_object().bucket(&self.name).key(self.path(key)).range("bytes=0-0");
        match request.send().await {
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(refused("look for an object", &error)),
            Ok(_) => Err(Error::Unavailable(format!("object {key} came while it was looked for; try again"))),
        }
    }

    /// What writing `head` as `key` came to that found an object there.
    async fn settle(&self, key: &Key, head: Head) -> Result<Head, Error> {
        match self.find(key).await? {
            Some(there) => check_same(key, &there.head, head),
            None => Err(Error::Unavailable(format!("store {key}: others were at it; try again"))),
        }
    }

    /// Stores what comes in one request.
    async fn put_whole(&self, key: &Key, head: Head, bytes: Bytes) -> Result<Head, Error> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(self.path(key))
            .content_type(head.content_type.as_str())
            .checksum_sha256(base64(head.sha256))
            .if_none_match("*")
            .body(bytes.into());
        match request.send().await {
            Ok(_) => Ok(head),
            Err(error) if is_there(&error) => self.settle(key, head).await,
            Err(error) => Err(refused("store an object", &error)),
        }
    }

    /// Makes the object at `path`, of this tag, the object `key` as well. Always in parts, be it one: servers that copy in one request
    /// even where they should not, complete only where nothing is.
    async fn copy(&self, path: &str, tag: &str, head: Head, key: &Key) -> Result<Head, Error> {
        if let Some(there) = self.find(key).await? {
            return check_same(key, &there.head, head);
        }
        if head.length == 0 {
            return self.put_whole(key, head, Bytes::new()).await;
        }
        self.copy_parts(path, tag, head, key, limits::BLOB_COPY_BYTES_MAX).await
    }

    /// Reads a part of the object of this tag; what breaks off is asked for again.
    async fn read(&self, key: &Key, tag: &str, from: u64, end: u64) -> Result<Bytes, Error> {
        let mut tries = 1;
        loop {
            let request = self.client.get_object().bucket(&self.name).key(self.path(key)).if_match(tag);
            let answer = request.range(format!("bytes={from}-{}", end - 1)).send().await;
            let answer = answer.map_err(|error| refused("read an object", &error))?;
            match tokio::time::timeout(limits::S3_ATTEMPT, answer.body.collect()).await {
                Ok(Ok(bytes)) => return Ok(bytes.into_bytes()),
                Ok(Err(error)) if tries >= limits::S3_ATTEMPTS_MAX => return Err(failed("read an object", &error)),
                Err(error) if tries >= limits::S3_ATTEMPTS_MAX => return Err(failed("read an object", &error)),
                _ => tries += 1,
            }
        }
    }

    /// The bytes of an object, with the next piece on its way while one is looked at.
    fn body(self, key: Key, found: Found) -> Body {
        let Found { head, tag } = found;
        let piece = limits::BLOB_PIECE_BYTES_MAX as u64;
        let length = head.length;
        let ranges = (0..length.div_ceil(piece)).map(move |at| (at * piece, length.min((at + 1) * piece)));
        let (bucket, name) = (self, key.clone());
        let fetched = stream::iter(ranges).map(move |(from, end)| {
            let (bucket, name, tag) = (bucket.clone(), name.clone(), tag.clone());
            async move { bucket.read(&name, &tag, from, end).await }
        });
        verified(fetched.buffered(2).boxed(), key, head)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let (mut keys, mut token) = (Vec::new(), None);
        while keys.len() < limit {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_start_after(after.map(|after| self.path(after)))
                .set_continuation_token(token)
                .max_keys(i32::try_from(limit - keys.len()).unwrap_or(i32::MAX));
            let page = request.send().await.map_err(|error| refused("list objects", &error))?;
            let names = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&self.prefix));
            // What has no name that we give is not ours, or not finished.
            keys.extend(names.filter_map(|name| name.parse::<Key>().ok()));
            token = page.next_continuation_token().map(ToOwned::to_owned);
            if token.is_none() {
                break;
            }
        }
        Ok(keys)
    }
}

/// The same pieces, and at their end whether they are what they should be.
fn verified(pieces: Body, key: Key, head: Head) -> Body {
    let state = (pieces, Some(Sum::default()), key, head);
    stream::try_unfold(state, |(mut pieces, sum, key, head)| async move {
        let Some(sum) = sum else { return Ok(None) };
        let Some(piece) = pieces.try_next().await? else {
            let is_whole = sum.head(head.content_type.clone()) == head;
            return if is_whole { Ok(None) } else { Err(damaged(&key)) };
        };
        let (sum, piece) = summed(sum, piece).await?;
        Ok(Some((piece, (pieces, Some(sum), key, head))))
    })
    .boxed()
}

/// Sums up where it holds nobody up.
async fn summed(mut sum: Sum, piece: Bytes) -> Result<(Sum, Bytes), Error> {
    let summing = tokio::task::spawn_blocking(move || {
        sum.add(&piece);
        (sum, piece)
    });
    summing.await.map_err(|error| failed("sum up an object", &error))
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// There is an object, or somebody is about to make one.
fn is_there<E>(error: &SdkError<E>) -> bool {
    matches!(status(error), Some(409 | 412))
}

/// What came of a request, in the words of who said it.
fn reason<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> String {
    if let (Some(status), Some(code)) = (status(error), error.code()) {
        return format!("{status} {code}: {}", error.message().unwrap_or_default());
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A request that did not succeed.
fn refused<E: ProvideErrorMetadata + std::error::Error + 'static>(what: &str, error: &SdkError<E>) -> Error {
    let advice = match (error.code(), status(error)) {
        (Some("NoSuchBucket"), _) => "; is the bucket in the URL of the objects still there?",
        (Some(_), Some(401 | 403)) => "; are the credentials in the URL of the objects good, and may they do that?",
        _ => "",
    };
    Error::Unavailable(format!("{what}: {}{advice}", reason(error)))
}

fn failed(what: &str, why: &impl fmt::Display) -> Error {
    Error::Unavailable(format!("{what}: {why}"))
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        check_upload(head)?;
        let bucket = &self.bucket;
        let request = bucket
            .client
            .put_object()
            .bucket(&bucket.name)
            .key(bucket.path(key))
            .content_length(i64::try_from(head.length).unwrap_or(i64::MAX))
            .content_type(head.content_type.as_str())
            .checksum_sha256(base64(head.sha256))
            .if_none_match("*");
        let request = request.presigned(self.presigning(ttl)?).await;
        Ok(signed("PUT", &request.map_err(|error| refused("sign an upload", &error))?))
    }

    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error> {
        let bucket = &self.bucket;
        let request = bucket.client.get_object().bucket(&bucket.name).key(bucket.path(key));
        let request =
            request.response_content_disposition(disposition(file_name)).presigned(self.presigning(ttl)?).await;
        Ok(signed("GET", &request.map_err(|error| refused("sign a download", &error))?))
    }

    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error> {
        let mut parts = Parts::new(body);
        let first = parts.next().await?.unwrap_or_default();
        if first.len() < limits::BLOB_PART_BYTES {
            return self.bucket.put_whole(key, parts.head(content_type), first).await;
        }
        let staged = self.bucket.stage(self.ids.next(), content_type, first, parts).await?;
        let stored = self.bucket.copy(&staged.path, &staged.tag, staged.head, key).await;
        self.bucket.remove(&staged.path).await;
        stored
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let Some(found) = self.bucket.find(key).await? else { return Ok(None) };
        let head = found.head.clone();
        Ok(Some(Object { head, body: self.bucket.clone().body(key.clone(), found) }))
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        let Some(found) = self.bucket.find(from).await? else { return Ok(None) };
        self.bucket.copy(&self.bucket.path(from), &found.tag, found.head, to).await.map(Some)
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let request = self.bucket.client.delete_object().bucket(&self.bucket.name).key(self.bucket.path(key));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(refused("delete an object", &error)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        self.bucket.list(prefix, after, limit.min(limits::BLOBS_PAGE_MAX)).await
    }
}
