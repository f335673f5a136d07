//! The directory: files come into being under `writing`, and are linked to their place below `objects` when they are whole and
//! durable. A link never replaces anything, so that an object is written once, whoever else writes.
//!
//! ```text
//!   lock            held while it is open
//!   writing/{id}    what is being written; what a dead process left is removed when it is opened
//!   objects/{key}
//! ```
//!
//! Directories stay when they become empty: to remove one while another file comes into it is not worth it.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_domain::limits;
use ringforge_ports::{
    Error,
    blobs::{Body, ContentType, Head, Key, Sum, damaged},
    clock::Ids,
};

use super::{OpenError, layout};

/// The directory of a store.
pub(super) struct Store {
    objects: PathBuf,
    writing: PathBuf,
    ids: Arc<dyn Ids>,
    /// Directories that would survive a power cut.
    durable: Mutex<BTreeSet<PathBuf>>,
    _lock: File,
}

/// A file that is being written. It is removed unless it was published.
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    sum: Sum,
}

/// An object's file.
pub(super) struct Stored {
    file: File,
    key: Key,
    pub(super) head: Head,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) from: u64,
    pub(super) length: u64,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // If that fails it is removed when the store is opened again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Temporary {
    fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.sum.add(piece);
        }
        Ok(())
    }

    /// What was written.
    pub(super) fn head(&self, content_type: ContentType) -> Head {
        self.sum.clone().head(content_type)
    }
}

impl Store {
    pub(super) fn open(directory: &Path, ids: Arc<dyn Ids>) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked { path: directory.to_owned() },
            TryLockError::Error(error) => failed(error),
        })?;
        let (objects, writing) = (directory.join("objects"), directory.join("writing"));
        let prepare = || {
            remove_all(&writing)?;
            fs::create_dir_all(&writing)?;
            fs::create_dir_all(&objects)?;
            sync(directory)?;
            sync(directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        };
        prepare().map_err(failed)?;
        Ok(Self { objects, writing, ids, durable: Mutex::default(), _lock: lock })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.objects.join(key.as_str())
    }

    fn durable(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.durable.lock().expect("no panic while the lock is held")
    }

    /// Writes a body to a file that nobody else sees, at most `length_max` bytes, else `TooLarge`.
    pub(super) async fn write(&self, body: Body, length_max: u64) -> Result<Temporary, Error> {
        let path = self.writing.join(format!("{:032x}", self.ids.next()));
        let mut temporary = blocking("create a file", move || {
            let file = File::create_new(&path)?;
            Ok(Temporary { file, path, sum: Sum::default() })
        })
        .await?;
        let mut body = body.fuse();
        loop {
            let (mut pieces, mut length) = (Vec::new(), 0);
            while length < limits::BLOB_WRITE_BYTES
                && let Some(piece) = body.try_next().await?
            {
                length += piece.len();
                pieces.push(piece);
            }
            if pieces.is_empty() {
                return Ok(temporary);
            }
            if temporary.sum.length() + length as u64 > length_max {
                return Err(Error::TooLarge(format!("an object of more than {length_max} bytes")));
            }
            temporary = blocking("write an object", move || temporary.write(&pieces).map(|()| temporary)).await?;
        }
    }

    /// Makes a file that is written the object `key`. If there is one already, that one stays and is told.
    pub(super) async fn publish(
        self: &Arc<Self>,
        mut temporary: Temporary,
        key: &Key,
        head: &Head,
    ) -> Result<Option<Head>, Error> {
        let (store, key, footer) = (Arc::clone(self), key.clone(), layout::footer(head));
        blocking("store an object", move || {
            temporary.file.write_all(&footer)?;
            temporary.file.sync_data()?;
            store.place(&temporary.path, &key)
        })
        .await
    }

    /// Makes `to` another name of `from`, as nothing can tell them apart.
    pub(super) async fn link(self: &Arc<Self>, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        let (store, from, to) = (Arc::clone(self), self.path(from), to.clone());
        blocking("copy an object", move || store.place(&from, &to)).await
    }

    /// Links a durable file to its place, durably. What is there already stays and is told.
    fn place(&self, from: &Path, key: &Key) -> io::Result<Option<Head>> {
        let path = self.path(key);
        let directory = path.parent().unwrap_or(&self.objects);
        self.make_durable(directory)?;
        let there = match fs::hard_link(from, &path) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = find(&path, key)?.ok_or(ErrorKind::IsADirectory)?;
                Some(there.head)
            }
            Err(error) => return Err(error),
        };
        // Also if it was there: whoever has linked it may not have come to that yet.
        sync(directory)?;
        Ok(there)
    }

    /// Makes a directory with all above it, each entry durable. Not even one that is there need be: its maker may have died.
    fn make_durable(&self, directory: &Path) -> io::Result<()> {
        if directory == self.objects || self.durable().contains(directory) {
            return Ok(());
        }
        let parent = directory.parent().unwrap_or(&self.objects);
        self.make_durable(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(ErrorKind::NotADirectory.into()),
            made => made?,
        }
        sync(parent)?;
        let mut durable = self.durable();
        if durable.len() >= limits::BLOB_DIRECTORIES_MAX {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(())
    }

    /// The object `key`, to be read.
    pub(super) async fn open_object(&self, key: &Key) -> Result<Option<Stored>, Error> {
        let (path, key) = (self.path(key), key.clone());
        blocking("open an object", move || find(&path, &key)).await
    }

    pub(super) async fn head(&self, key: &Key) -> Result<Option<Head>, Error> {
        Ok(self.open_object(key).await?.map(|stored| stored.head))
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<(), Error> {
        let path = self.path(key);
        blocking("delete an object", move || match fs::remove_file(&path) {
            Ok(()) => sync(path.parent().expect("it is in a directory")),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    /// The keys of a page, in order.
    pub(super) async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let walk = Walk {
            prefix: prefix.to_owned(),
            after: after.map_or_else(String::new, Key::to_string),
            limit: limit.min(limits::BLOBS_PAGE_MAX),
            found: Vec::new(),
        };
        let objects = self.objects.clone();
        blocking("list objects", move || {
            let mut walk = walk;
            walk.go(&objects, "")?;
            Ok(walk.found)
        })
        .await
    }
}

/// A walk through the directories, in the order of keys.
struct Walk {
    prefix: String,
    after: String,
    limit: usize,
    found: Vec<Key>,
}

impl Walk {
    /// Through a directory whose keys begin with `above`.
    fn go(&mut self, directory: &Path, above: &str) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // Nobody but us puts anything here; what has another name than ours is none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_directory = entry.file_type()?.is_dir();
            let name = format!("{above}{name}{}", if is_directory { "/" } else { "" });
            if self.wants(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in names {
            if self.found.len() >= self.limit {
                return Ok(());
            }
            match name.strip_suffix('/') {
                Some(path) => self.go(&directory.join(path.rsplit('/').next().unwrap_or(path)), &name)?,
                None => self.found.extend(name.parse::<Key>()),
            }
        }
        Ok(())
    }

    /// Whether a name, or one below a directory of that name, may be on the page.
    fn wants(&self, name: &str) -> bool {
        if name.ends_with('/') {
            let leads = self.prefix.starts_with(name) || name.starts_with(&self.prefix);
            return leads && (self.after.starts_with(name) || *name > *self.after);
        }
        name.starts_with(&self.prefix) && *name > *self.after
    }
}

impl Stored {
    /// Its bytes, or a part of them. Whether they are those that were stored can only be told of all.
    pub(super) fn body(self, slice: Option<Slice>) -> Body {
        let all = Slice { from: 0, length: self.head.length };
        let reading = Reading { left: slice.unwrap_or(all), sum: slice.is_none().then(Sum::default), stored: self };
        stream::try_unfold(reading, |mut reading| async move {
            blocking("read an object", move || Ok(reading.next()?.map(|piece| (piece, reading)))).await
        })
        .boxed()
    }
}

/// An object that is being read.
struct Reading {
    stored: Stored,
    left: Slice,
    sum: Option<Sum>,
}

impl Reading {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let head = &self.stored.head;
        if self.left.length == 0 {
            let sum = self.sum.take().map(|sum| sum.head(head.content_type.clone()));
            if sum.is_some_and(|sum| sum != *head) {
                return Err(io::Error::other(damaged(&self.stored.key)));
            }
            return Ok(None);
        }
        let length = self.left.length.min(limits::BLOB_WRITE_BYTES as u64);
        let mut piece = vec![0; usize::try_from(length).expect("it is bounded")];
        self.stored.file.seek(SeekFrom::Start(self.left.from))?;
        self.stored.file.read_exact(&mut piece)?;
        self.left = Slice { from: self.left.from + length, length: self.left.length - length };
        if let Some(sum) = &mut self.sum {
            sum.add(&piece);
        }
        Ok(Some(piece.into()))
    }
}

/// The object in a file, if there is one.
fn find(path: &Path, key: &Key) -> io::Result<Option<Stored>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_dir() {
        return Ok(None);
    }
    let head = layout::read(&mut file)?.ok_or_else(|| io::Error::other(damaged(key)))?;
    Ok(Some(Stored { file, key: key.clone(), head }))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn remove_all(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does work that may wait for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(what, error)),
        Err(error) => Err(Error::Unavailable(format!("{what}: {error}"))),
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Error::Conflict(format!("{what}: a key is also the beginning of another"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::Unavailable(format!("{what}: no space is left, make some or move the objects"))
        }
        _ => match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::Unavailable(format!("{what}: {error}")),
        },
    }
}
