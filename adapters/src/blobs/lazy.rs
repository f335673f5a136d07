//! Objects in a directory that is made with the first of them: most installations have none.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use ringforge_ports::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Object, Signed},
    clock::{Clock, Ids},
};

use super::file::FileBlobs;

/// Objects in a directory, once there are any.
pub struct LazyBlobs {
    directory: PathBuf,
    public: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    opened: Mutex<Option<Arc<FileBlobs>>>,
}

impl LazyBlobs {
    /// In `directory`; URLs begin with `public`.
    pub fn of(directory: &Path, public: String, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Arc<Self> {
        Arc::new(Self { directory: directory.to_owned(), public, clock, ids, opened: Mutex::default() })
    }

    /// The store, made if there is none.
    fn made(&self) -> Result<Arc<FileBlobs>, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blobs) = &*opened {
            return Ok(Arc::clone(blobs));
        }
        // Nobody is given a URL yet: no key need outlive the process.
        let keys = [self.ids.secret()];
        let (clock, ids) = (Arc::clone(&self.clock), Arc::clone(&self.ids));
        let blobs = FileBlobs::open(&self.directory, &self.public, &keys, clock, ids);
        let blobs = blobs.map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Arc::clone(opened.insert(blobs)))
    }

    /// The store, if there is one.
    fn there(&self) -> Result<Option<Arc<FileBlobs>>, Error> {
        if self.directory.exists() { self.made().map(Some) } else { Ok(None) }
    }
}

#[async_trait]
impl Blobs for LazyBlobs {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        self.made()?.upload_url(key, head, ttl).await
    }

    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error> {
        self.made()?.download_url(key, file_name, ttl).await
    }

    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error> {
        self.made()?.put(key, content_type, body).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        match self.there()? {
            Some(blobs) => blobs.get(key).await,
            None => Ok(None),
        }
    }

    async fn head(&self, key: &Key) -> Result<Option<Head>, Error> {
        match self.there()? {
            Some(blobs) => blobs.head(key).await,
            None => Ok(None),
        }
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        match self.there()? {
            Some(blobs) => blobs.copy(from, to).await,
            None => Ok(None),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        match self.there()? {
            Some(blobs) => blobs.delete(key).await,
            None => Ok(()),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        match self.there()? {
            Some(blobs) => blobs.list(prefix, after, limit).await,
            None => Ok(Vec::new()),
        }
    }
}
