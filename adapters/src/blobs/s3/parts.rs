//! Objects that are too large for one request: they are put together under a name that nobody lists, as only at their end is known
//! what they are, and then copied by the store itself to where they belong.

use std::time::Duration;

use aws_sdk_s3::{
    config::{Builder, timeout::TimeoutConfig},
    operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use ringforge_domain::limits;
use ringforge_ports::{
    Error,
    blobs::{Body, ContentType, Head, Key, Sha256, Sum, check_length},
    clock::Clock,
};

use super::{Bucket, DIGEST, base64, failed, is_there, refused, summed};

/// What is not finished lies here. No key begins with a dot, so that none is listed.
const STAGED: &str = ".staged/";

/// An object that is whole, but not in its place.
pub(super) struct Staged {
    pub(super) path: String,
    pub(super) tag: String,
    pub(super) head: Head,
}

/// Requests that the store works on for a while.
fn patient() -> Builder {
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(limits::S3_COPY).operation_timeout(limits::S3_COPY);
    Builder::new().timeout_config(timeouts.build())
}

/// A body cut into parts, and what they come to.
pub(super) struct Parts {
    body: Body,
    rest: BytesMut,
    sum: Sum,
}

impl Parts {
    pub(super) fn new(body: Body) -> Self {
        Self { body, rest: BytesMut::new(), sum: Sum::default() }
    }

    /// The next part, of exactly the length of one but for the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.rest.len() < limits::BLOB_PART_BYTES
            && let Some(piece) = self.body.try_next().await?
        {
            self.rest.extend_from_slice(&piece);
        }
        let length = self.rest.len().min(limits::BLOB_PART_BYTES);
        if length == 0 {
            return Ok(None);
        }
        check_length(self.sum.length() + length as u64)?;
        let (sum, part) = summed(self.sum.clone(), self.rest.split_to(length).freeze()).await?;
        self.sum = sum;
        Ok(Some(part))
    }

    /// What all parts come to.
    pub(super) fn head(&self, content_type: &ContentType) -> Head {
        self.sum.clone().head(content_type.clone())
    }
}

/// A multipart upload that goes on.
struct Upload<'a> {
    bucket: &'a Bucket,
    path: &'a str,
    id: String,
    done: Vec<CompletedPart>,
}

impl<'a> Upload<'a> {
    /// Of parts that we send, each with its digest.
    async fn begin(bucket: &'a Bucket, path: &'a str, content_type: &ContentType) -> Result<Self, Error> {
        Self::send(bucket, path, |request| {
            request.content_type(content_type.as_str()).checksum_algorithm(ChecksumAlgorithm::Sha256)
        })
        .await
    }

    /// Of parts of another object, whose digests are for the store to know: the object's own is kept with it.
    async fn begin_copy(bucket: &'a Bucket, path: &'a str, head: &Head) -> Result<Self, Error> {
        Self::send(bucket, path, |request| {
            request.content_type(head.content_type.as_str()).metadata(DIGEST, head.sha256.to_string())
        })
        .await
    }

    async fn send(
        bucket: &'a Bucket,
        path: &'a str,
        describe: impl FnOnce(CreateMultipartUploadFluentBuilder) -> CreateMultipartUploadFluentBuilder,
    ) -> Result<Self, Error> {
        let request = bucket.client.create_multipart_upload().bucket(&bucket.name).key(path);
        let begun = describe(request).send().await.map_err(|error| refused("begin an object", &error))?;
        let id = begun.upload_id.ok_or_else(|| failed("begin an object", &"S3 gave no id"))?;
        Ok(Self { bucket, path, id, done: Vec::new() })
    }

    fn number(&self) -> i32 {
        i32::try_from(self.done.len() + 1).unwrap_or(i32::MAX)
    }

    async fn part(&mut self, part: Bytes) -> Result<(), Error> {
        let (number, checksum) = (self.number(), base64(digest(part.clone()).await?));
        let client = &self.bucket.client;
        let request =
            client.upload_part().bucket(&self.bucket.name).key(self.path).upload_id(&self.id).part_number(number);
        let sent = request.checksum_sha256(&checksum).body(part.into()).send().await;
        let sent = sent.map_err(|error| refused("store a part", &error))?;
        let done = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).checksum_sha256(checksum);
        self.done.push(done.build());
        Ok(())
    }

    /// A part that the store has already: of the object at `from`, of this tag.
    async fn copied(&mut self, from: &str, tag: &str, range: &str) -> Result<(), Error> {
        let (number, client) = (self.number(), &self.bucket.client);
        let request = client.upload_part_copy().bucket(&self.bucket.name).key(self.path).upload_id(&self.id);
        let request = request.copy_source(format!("{}/{from}", self.bucket.name)).copy_source_if_match(tag);
        let request = request.copy_source_range(range).part_number(number);
        let copied = request.customize().config_override(patient()).send().await;
        let copied = copied.map_err(|error| refused("copy a part", &error))?.copy_part_result;
        let copied = copied.ok_or_else(|| failed("copy a part", &"S3 does not tell what it copied"))?;
        let done = CompletedPart::builder().part_number(number).set_e_tag(copied.e_tag);
        self.done.push(done.build());
        Ok(())
    }

    /// Makes it whole where there is no object; `None` where there is one. Gives its tag.
    async fn complete(&mut self) -> Result<Option<String>, Error> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done))).build();
        let client = &self.bucket.client;
        let request = client.complete_multipart_upload().bucket(&self.bucket.name).key(self.path).upload_id(&self.id);
        let request = request.if_none_match("*").multipart_upload(parts).customize().config_override(patient());
        match request.send().await {
            Ok(whole) => Ok(Some(whole.e_tag.unwrap_or_default())),
            Err(error) if is_there(&error) => Ok(None),
            Err(error) => Err(refused("complete an object", &error)),
        }
    }

    /// What was sent is forgotten; if not now, then by the sweep.
    async fn abort(&self) {
        let client = &self.bucket.client;
        let request = client.abort_multipart_upload().bucket(&self.bucket.name).key(self.path).upload_id(&self.id);
        if let Err(error) = request.send().await {
            tracing::debug!("an upload is left to the sweep: {}", refused("abort it", &error));
        }
    }
}

impl Bucket {
    /// Puts an object together under a name of its own.
    pub(super) async fn stage(
        &self,
        id: u128,
        content_type: &ContentType,
        first: Bytes,
        mut parts: Parts,
    ) -> Result<Staged, Error> {
        let path = format!("{}{STAGED}{id:032x}", self.prefix);
        let mut upload = Upload::begin(self, &path, content_type).await?;
        let sent = async {
            upload.part(first).await?;
            while let Some(part) = parts.next().await? {
                upload.part(part).await?;
            }
            upload.complete().await?.ok_or_else(|| failed("complete an object", &"its name is taken"))
        };
        match sent.await {
            Ok(tag) => Ok(Staged { head: parts.head(content_type), path, tag }),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// Lets the store copy an object, so many bytes at a time.
    pub(super) async fn copy_parts(
        &self,
        from: &str,
        tag: &str,
        head: Head,
        key: &Key,
        part: u64,
    ) -> Result<Head, Error> {
        let path = self.path(key);
        let mut upload = Upload::begin_copy(self, &path, &head).await?;
        let copied = async {
            let mut at = 0;
            while at < head.length {
                let end = head.length.min(at + part);
                upload.copied(from, tag, &format!("bytes={at}-{}", end - 1)).await?;
                at = end;
            }
            upload.complete().await
        };
        let copied = copied.await;
        if !matches!(copied, Ok(Some(_))) {
            upload.abort().await;
        }
        match copied? {
            Some(_) => Ok(head),
            None => self.settle(key, head).await,
        }
    }

    /// Removes what was staged. What stays is left to the sweep.
    pub(super) async fn remove(&self, path: &str) {
        if let Err(error) = self.client.delete_object().bucket(&self.name).key(path).send().await {
            tracing::debug!("a staged object is left to the sweep: {}", refused("delete it", &error));
        }
    }

    /// Removes what those who died have left, once it is so old that nobody can be at it. One page of each: the next process that
    /// starts goes on. Parts of a copy that was cut off are left to the bucket's own rule: they lie where others' may.
    pub(super) async fn sweep(&self, clock: &dyn Clock) {
        let staged = format!("{}{STAGED}", self.prefix);
        let before =
            Duration::from_micros(clock.wall().0.try_into().unwrap_or(0)).saturating_sub(limits::S3_STAGED_MAX);
        let is_old = |time: Option<&aws_sdk_s3::primitives::DateTime>| {
            time.is_some_and(|time| time.secs() < i64::try_from(before.as_secs()).unwrap_or(0))
        };
        if let Ok(page) = self.client.list_objects_v2().bucket(&self.name).prefix(&staged).send().await {
            for object in page.contents().iter().filter(|object| is_old(object.last_modified())) {
                self.remove(object.key().unwrap_or_default()).await;
            }
        }
        if let Ok(page) = self.client.list_multipart_uploads().bucket(&self.name).prefix(&staged).send().await {
            for upload in page.uploads().iter().filter(|upload| is_old(upload.initiated())) {
                let (path, id) = (upload.key().unwrap_or_default(), upload.upload_id().unwrap_or_default().to_owned());
                Upload { bucket: self, path, id, done: Vec::new() }.abort().await;
            }
        }
    }
}

/// The digest of a part, where it holds nobody up.
async fn digest(part: Bytes) -> Result<Sha256, Error> {
    let digesting = tokio::task::spawn_blocking(move || Sha256::of(&part));
    digesting.await.map_err(|error| failed("sum up a part", &error))
}

#[cfg(test)]
mod tests;
