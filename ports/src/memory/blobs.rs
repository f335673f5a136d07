//! Objects in memory. Nobody serves their URLs.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_domain::limits;

use crate::{
    Error,
    blobs::{
        Blobs, Body, ContentType, Head, Key, Object, Signed, Sum, check_length, check_same, check_ttl, check_upload,
    },
};

/// A store that dies with its process.
#[derive(Default)]
pub struct MemoryBlobs {
    objects: Mutex<BTreeMap<Key, (Head, Bytes)>>,
}

impl MemoryBlobs {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, (Head, Bytes)>> {
        self.objects.lock().expect("no panic while the lock is held")
    }

    fn find(&self, key: &Key) -> Option<(Head, Bytes)> {
        self.objects().get(key).cloned()
    }

    fn store(&self, key: &Key, head: Head, bytes: Bytes) -> Result<Head, Error> {
        let mut objects = self.objects();
        if let Some((there, _)) = objects.get(key) {
            return check_same(key, there, head);
        }
        objects.insert(key.clone(), (head.clone(), bytes));
        Ok(head)
    }
}

#[async_trait]
impl Blobs for MemoryBlobs {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        check_ttl(ttl)?;
        check_upload(head)?;
        Ok(Signed { method: "PUT", url: format!("memory:{key}"), headers: Vec::new() })
    }

    async fn download_url(&self, key: &Key, _: &str, ttl: Duration) -> Result<Signed, Error> {
        check_ttl(ttl)?;
        Ok(Signed { method: "GET", url: format!("memory:{key}"), headers: Vec::new() })
    }

    async fn put(&self, key: &Key, content_type: &ContentType, mut body: Body) -> Result<Head, Error> {
        let (mut sum, mut bytes) = (Sum::default(), BytesMut::new());
        while let Some(piece) = body.try_next().await? {
            sum.add(&piece);
            check_length(sum.length())?;
            bytes.extend_from_slice(&piece);
        }
        self.store(key, sum.head(content_type.clone()), bytes.freeze())
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let Some((head, mut bytes)) = self.find(key) else { return Ok(None) };
        let pieces = std::iter::from_fn(move || {
            let length = bytes.len().min(limits::BLOB_PIECE_BYTES_MAX);
            (length > 0).then(|| Ok(bytes.split_to(length)))
        });
        Ok(Some(Object { head, body: stream::iter(pieces).boxed() }))
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        let Some((head, bytes)) = self.find(from) else { return Ok(None) };
        self.store(to, head, bytes).map(Some)
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.objects().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let objects = self.objects();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let named =
            objects.range((from, Bound::Unbounded)).map(|(key, _)| key).filter(|key| key.as_str().starts_with(prefix));
        Ok(named.take(limit.min(limits::BLOBS_PAGE_MAX)).cloned().collect())
    }
}
