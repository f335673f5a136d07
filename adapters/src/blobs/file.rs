//! Objects in a directory. Their URLs are signed here and served by whoever listens: it asks `authorize`, then `write` or
//! `read`, and knows nothing else of them.

mod layout;
mod sign;
mod store;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ringforge_domain::limits;
use ringforge_ports::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Object, Signed, check_same, check_ttl, check_upload},
    clock::{Clock, Ids},
};

pub use sign::Header;

use sign::Signer;
use store::{Slice, Store};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or this one) has it open.
    #[error("the objects in {} are in use: another process has them open", path.display())]
    Locked {
        /// Their directory.
        path: PathBuf,
    },
    /// The disk or its file system said no.
    #[error("open the objects in {}: {error}", path.display())]
    Io {
        /// Their directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// What a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// To write an object, these bytes and no others.
    Upload {
        /// Its key.
        key: Key,
        /// What was declared.
        head: Head,
    },
    /// To read an object.
    Download {
        /// Its key.
        key: Key,
        /// The header that names the download.
        disposition: String,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// It was not signed so, or is too late.
    #[error("forbidden: {0}")]
    Forbidden(&'static str),
    /// The body is not what was declared.
    #[error("the body is not what was declared")]
    OtherBytes,
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// There is an object already.
    #[error("there is an object already")]
    Exists,
    /// The range begins behind the end.
    #[error("the object has {0} bytes")]
    Range(u64),
    /// The store failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Refused {
    /// Its HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Forbidden(_) => 403,
            Self::OtherBytes => 400,
            Self::NotFound => 404,
            Self::Exists => 412,
            Self::Range(_) => 416,
            Self::Failed(_) => 503,
        }
    }
}

/// The answer to a download.
pub struct Download {
    /// The HTTP status.
    pub status: u16,
    /// Its headers, all of them.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent. After an error the connection must be cut: what was sent is not the object.
    pub body: Body,
}

/// Objects in a directory of this machine.
pub struct FileBlobs {
    store: Arc<Store>,
    signer: Signer,
    clock: Arc<dyn Clock>,
}

impl FileBlobs {
    /// Opens the store in `directory`, or creates it. URLs begin with `public`, where this process is reached; the first of `keys`
    /// signs them, all are accepted, so that a key may be replaced while its URLs are about.
    pub fn open(
        directory: &Path,
        public: &str,
        keys: &[[u8; 32]],
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Arc<Self>, OpenError> {
        let store = Arc::new(Store::open(directory, ids)?);
        Ok(Arc::new(Self { store, signer: Signer::new(public, keys), clock }))
    }

    /// What a request may do: its method, its path with the query as they came, and its headers.
    pub fn authorize(&self, method: &str, path_and_query: &str, header: Header<'_>) -> Result<Grant, Refused> {
        self.signer.authorize(method, path_and_query, header, self.clock.wall())
    }

    /// Writes what was granted. Once it has resolved the object survives a power cut.
    pub async fn write(&self, key: &Key, head: &Head, body: Body) -> Result<(), Refused> {
        if self.store.head(key).await?.is_some() {
            return Err(Refused::Exists);
        }
        let temporary = self.store.write(body, head.length).await.map_err(|error| match error {
            Error::TooLarge(_) => Refused::OtherBytes,
            other => Refused::Failed(other),
        })?;
        let written = temporary.head(head.content_type.clone());
        if written != *head {
            return Err(Refused::OtherBytes);
        }
        if self.store.publish(temporary, key, head).await?.is_some() { Err(Refused::Exists) } else { Ok(()) }
    }

    /// Reads what was granted: all of it, or what the header `range` asks for.
    pub async fn read(&self, key: &Key, disposition: String, range: Option<&str>) -> Result<Download, Refused> {
        let stored = self.store.open_object(key).await?.ok_or(Refused::NotFound)?;
        let head = stored.head.clone();
        let slice = match range {
            Some(range) => slice(range, head.length)?,
            None => None,
        };
        let mut headers = vec![
            ("accept-ranges", "bytes".to_owned()),
            ("content-disposition", disposition),
            ("content-type", head.content_type.to_string()),
            ("etag", format!("\"{}\"", head.sha256)),
            ("x-content-type-options", "nosniff".to_owned()),
        ];
        let Some(Slice { from, length }) = slice else {
            headers.push(("content-length", head.length.to_string()));
            return Ok(Download { status: 200, headers, body: stored.body(None) });
        };
        headers.push(("content-length", length.to_string()));
        headers.push(("content-range", format!("bytes {from}-{}/{}", from + length - 1, head.length)));
        Ok(Download { status: 206, headers, body: stored.body(Some(Slice { from, length })) })
    }
}

/// The part that one range asks for (RFC 9110); `None` for all of it, also where it is not understood.
fn slice(range: &str, length: u64) -> Result<Option<Slice>, Refused> {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let (from, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, length.min(last.saturating_add(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, length),
        (Err(_), Ok(last)) if first.is_empty() => {
            (if last == 0 { length } else { length.saturating_sub(last) }, length)
        }
        _ => return Ok(None),
    };
    if from >= length { Err(Refused::Range(length)) } else { Ok(Some(Slice { from, length: end - from })) }
}

#[async_trait]
impl Blobs for FileBlobs {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        check_upload(head)?;
        Ok(self.signer.upload(key, head, check_ttl(ttl)?, self.clock.wall()))
    }

    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error> {
        Ok(self.signer.download(key, file_name, check_ttl(ttl)?, self.clock.wall()))
    }

    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error> {
        let temporary = self.store.write(body, limits::BLOB_BYTES_MAX).await?;
        let head = temporary.head(content_type.clone());
        match self.store.publish(temporary, key, &head).await? {
            Some(there) => check_same(key, &there, head),
            None => Ok(head),
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let stored = self.store.open_object(key).await?;
        Ok(stored.map(|stored| Object { head: stored.head.clone(), body: stored.body(None) }))
    }

    async fn head(&self, key: &Key) -> Result<Option<Head>, Error> {
        self.store.head(key).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        let Some(head) = self.store.head(from).await? else { return Ok(None) };
        match self.store.link(from, to).await? {
            Some(there) => check_same(to, &there, head).map(Some),
            None => Ok(Some(head)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.store.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        self.store.list(prefix, after, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_or_all_or_nothing() {
        let part = |range| slice(range, 10).map(|slice| slice.map(|slice| (slice.from, slice.length))).ok();
        for (range, want) in [("bytes=0-0", (0, 1)), ("bytes=3-", (3, 7)), ("bytes=-3", (7, 3)), ("bytes=9-99", (9, 1))]
        {
            assert_eq!(part(range), Some(Some(want)), "{range}");
        }
        for range in ["", "bytes=", "bytes=-", "bytes=a-b", "bytes=3-2", "bytes=0-1,3-4", "items=0-1"] {
            assert_eq!(part(range), Some(None), "{range}");
        }
        for range in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(part(range), None, "{range}");
        }
        assert!(slice("bytes=0-", 0).is_err(), "an empty object has no first byte");
    }
}
