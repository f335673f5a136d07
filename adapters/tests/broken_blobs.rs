//! Stores that are broken on purpose, one way each: the suite must reject every one, by the promise that says so, and accept the
//! intact one. A promise that rejects none of them would prove nothing, so that is tested too.

#[path = "blobs/serving.rs"]
#[allow(dead_code, reason = "the other half is for tests over a socket")]
mod serving;

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use ringforge_adapters::blobs::file::FileBlobs;
use ringforge_domain::{limits, position::LogTime};
use ringforge_ports::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Object, Sha256, Signed},
    clock::{ManualClock, SeededIds},
    contract::{
        Failure,
        blobs::{Answer, PROMISES, Subject},
    },
};
use tempfile::TempDir;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The last piece of an object is missing.
    LosesTheEnd,
    /// Every object is of one type.
    ForgetsTypes,
    /// An object comes in one piece.
    OnePiece,
    /// What is the beginning of a key is an object, too.
    InventsObjects,
    /// A put replaces what is there.
    Overwrites,
    /// A put of the same is a conflict.
    RefusesRepeats,
    /// Whoever puts is told that it was done.
    AllWin,
    /// An object is there before all of its bytes are.
    ShowsEarly,
    /// What came before an error is kept.
    KeepsHalf,
    /// An error of the body ends it.
    HidesErrors,
    /// Nobody looks whether bytes are those that were stored.
    TrustsBytes,
    /// What is copied is gone.
    Moves,
    /// A copy replaces what is there.
    CopyOverwrites,
    /// Deleted objects stay.
    KeepsDeleted,
    /// What begins alike is deleted as well.
    DeletesMore,
    /// Lists go backwards.
    ListsBackwards,
    /// A prefix is a directory.
    ListsDirectories,
    /// A page begins at the key that it should begin behind.
    RepeatsKeys,
    /// Pages may be longer than asked.
    LongPages,
    /// After a restart nothing is there.
    Forgets,
    /// Uploads are accepted and lost.
    LosesUploads,
    /// A URL is good for every key.
    AnyKey,
    /// A URL is good for every method.
    AnyMethod,
    /// Nobody looks at the parameters of a URL.
    AnyParameter,
    /// Nobody looks at headers.
    AnyHeader,
    /// Nobody looks whether the bytes are those that were declared.
    AnyBytes,
    /// An upload replaces what is there.
    UploadsOverwrite,
    /// An upload onto an object is accepted, and lost.
    AllUploadsWin,
    /// Downloads are shown where they come from.
    Inline,
    /// All is sent whatever was asked for.
    IgnoresRanges,
    /// A file name stands in the header as it is.
    RawNames,
    /// No URL needs to be signed.
    OpenDoor,
    /// URLs are good for ever.
    NeverExpires,
    /// URLs are good for as long as asked.
    Unbounded,
}

/// Every fault and the promises that must notice, among others.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::LosesTheEnd, &["what_is_got_is_what_was_put", "large_objects_come_in_pieces"]),
    (Fault::ForgetsTypes, &["what_is_got_is_what_was_put", "an_upload_url_uploads"]),
    (Fault::OnePiece, &["large_objects_come_in_pieces"]),
    (Fault::InventsObjects, &["what_was_not_put_is_not_there"]),
    (Fault::Overwrites, &["puts_do_not_overwrite"]),
    (Fault::RefusesRepeats, &["puts_do_not_overwrite"]),
    (Fault::AllWin, &["of_several_puts_one_wins"]),
    (Fault::ShowsEarly, &["nothing_is_seen_of_an_unfinished_put"]),
    (Fault::KeepsHalf, &["a_body_that_fails_leaves_nothing"]),
    (Fault::HidesErrors, &["a_body_that_fails_leaves_nothing"]),
    (Fault::TrustsBytes, &["damage_is_told"]),
    (Fault::Moves, &["copies_are_the_same"]),
    (Fault::CopyOverwrites, &["copies_do_not_overwrite"]),
    (Fault::KeepsDeleted, &["deleted_is_gone", "what_was_put_survives"]),
    (Fault::DeletesMore, &["deleted_is_gone"]),
    (Fault::ListsBackwards, &["lists_are_in_order"]),
    (Fault::ListsDirectories, &["lists_are_in_order"]),
    (Fault::RepeatsKeys, &["lists_come_in_pages"]),
    (Fault::LongPages, &["lists_come_in_pages"]),
    (Fault::Forgets, &["what_was_put_survives"]),
    (Fault::LosesUploads, &["an_upload_url_uploads"]),
    (Fault::AnyKey, &["an_upload_url_is_for_one_object", "a_download_url_is_for_one_object"]),
    (Fault::AnyMethod, &["an_upload_url_is_for_one_object", "a_download_url_is_for_one_object"]),
    (Fault::AnyParameter, &["an_upload_url_is_for_one_object", "a_download_url_is_for_one_object"]),
    (Fault::AnyHeader, &["the_bytes_are_those_that_were_declared", "uploads_do_not_overwrite"]),
    (Fault::AnyBytes, &["the_bytes_are_those_that_were_declared"]),
    (Fault::UploadsOverwrite, &["uploads_do_not_overwrite"]),
    (Fault::AllUploadsWin, &["uploads_do_not_overwrite"]),
    (Fault::Inline, &["a_download_url_downloads", "file_names_are_harmless"]),
    (Fault::IgnoresRanges, &["ranges_are_downloaded"]),
    (Fault::RawNames, &["file_names_are_harmless"]),
    (Fault::OpenDoor, &["nobody_gets_in_without_a_url"]),
    (Fault::NeverExpires, &["urls_expire"]),
    (Fault::Unbounded, &["urls_are_bounded"]),
];

/// Where URLs lead.
const PUBLIC: &str = "http://here";

/// The requests that were signed, with the file name of a download.
type Issued = Arc<Mutex<Vec<(Signed, String)>>>;

/// The intact store seen through a fault.
struct Broken {
    blobs: Arc<FileBlobs>,
    fault: Option<Fault>,
    issued: Issued,
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("no panic while the lock is held")
}

impl Broken {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn issue(&self, signed: Signed, name: &str) -> Signed {
        lock(&self.issued).push((signed.clone(), name.to_owned()));
        signed
    }

    async fn all(&self, prefix: &str) -> Result<Vec<Key>, Error> {
        self.blobs.list(prefix, None, limits::BLOBS_PAGE_MAX).await
    }
}

/// What came before an error.
fn before_error(body: Body) -> Body {
    body.take_while(|piece| future::ready(piece.is_ok())).boxed()
}

#[async_trait]
impl Blobs for Broken {
    async fn upload_url(&self, key: &Key, head: &Head, ttl: Duration) -> Result<Signed, Error> {
        let (mut head, mut ttl) = (head.clone(), ttl);
        if self.has(Fault::Unbounded) {
            (head.length, ttl) = (head.length.min(limits::UPLOAD_BYTES_MAX), ttl.min(limits::BLOB_URL_TTL_MAX));
        }
        Ok(self.issue(self.blobs.upload_url(key, &head, ttl).await?, ""))
    }

    async fn download_url(&self, key: &Key, file_name: &str, ttl: Duration) -> Result<Signed, Error> {
        Ok(self.issue(self.blobs.download_url(key, file_name, ttl).await?, file_name))
    }

    async fn put(&self, key: &Key, content_type: &ContentType, body: Body) -> Result<Head, Error> {
        let stored = self.blobs.head(key).await?;
        match self.fault {
            Some(Fault::Overwrites) => self.blobs.delete(key).await?,
            Some(Fault::RefusesRepeats) if stored.is_some() => return Err(Error::Conflict("again".into())),
            Some(Fault::ShowsEarly) => {
                self.blobs.put(key, content_type, stream::empty().boxed()).await?;
                let bytes = body.try_collect::<Vec<Bytes>>().await?.concat();
                self.blobs.delete(key).await?;
                let all = stream::iter([Ok(Bytes::from(bytes))]).boxed();
                return self.blobs.put(key, content_type, all).await;
            }
            Some(Fault::HidesErrors) => return self.blobs.put(key, content_type, before_error(body)).await,
            Some(Fault::KeepsHalf) => {
                let pieces: Vec<_> = body.collect().await;
                let error = pieces.iter().find_map(|piece| piece.clone().err());
                let head = self.blobs.put(key, content_type, before_error(stream::iter(pieces).boxed())).await?;
                return error.map_or(Ok(head), Err);
            }
            _ => {}
        }
        match self.blobs.put(key, content_type, body).await {
            Err(Error::Conflict(_)) if self.has(Fault::AllWin) => self.blobs.head(key).await?.ok_or(Error::Closed),
            stored => stored,
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let Some(mut object) = self.blobs.get(key).await? else {
            let below = self.all(&format!("{key}/")).await?;
            let head = Head { length: 0, content_type: "text/plain".parse().expect("a type"), sha256: Sha256::of(b"") };
            let invented = self.has(Fault::InventsObjects) && !below.is_empty();
            return Ok(invented.then(|| Object { head, body: stream::empty().boxed() }));
        };
        match self.fault {
            Some(Fault::LosesTheEnd) => {
                let mut pieces: Vec<_> = object.body.collect().await;
                pieces.pop();
                object.body = stream::iter(pieces).boxed();
            }
            Some(Fault::ForgetsTypes) => object.head.content_type = "text/plain".parse().expect("a type"),
            Some(Fault::OnePiece) => {
                let all = object.body.try_collect::<Vec<Bytes>>().await?.concat();
                object.body = stream::iter([Ok(Bytes::from(all))]).boxed();
            }
            Some(Fault::TrustsBytes) => object.body = before_error(object.body),
            _ => {}
        }
        Ok(Some(object))
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<Option<Head>, Error> {
        if self.has(Fault::CopyOverwrites) && from != to {
            self.blobs.delete(to).await?;
        }
        let copied = self.blobs.copy(from, to).await?;
        if self.has(Fault::Moves) {
            self.blobs.delete(from).await?;
        }
        Ok(copied)
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        if self.has(Fault::KeepsDeleted) {
            return Ok(());
        }
        if self.has(Fault::DeletesMore) {
            for key in self.all(key.as_str()).await? {
                self.blobs.delete(&key).await?;
            }
        }
        self.blobs.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Vec<Key>, Error> {
        let prefix =
            if self.has(Fault::ListsDirectories) { prefix.rsplit_once('/').map_or("", |(all, _)| all) } else { prefix };
        let mut keys = self.blobs.list(prefix, after, limit).await?;
        match self.fault {
            Some(Fault::ListsBackwards) => keys.reverse(),
            Some(Fault::RepeatsKeys) => {
                let first = after.filter(|_| !keys.is_empty());
                keys = first.cloned().into_iter().chain(keys).take(limit).collect();
            }
            Some(Fault::LongPages) if limit > 0 => keys = self.blobs.list(prefix, after, limit + 1).await?,
            _ => {}
        }
        Ok(keys)
    }
}

struct Bench {
    fault: Option<Fault>,
    directory: TempDir,
    clock: Arc<ManualClock>,
    opened: Mutex<Vec<Arc<FileBlobs>>>,
    issued: Issued,
}

impl Bench {
    fn new(fault: Option<Fault>) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let clock = ManualClock::at(LogTime(1_700_000_000_500_000));
        Self { fault, directory, clock, opened: Mutex::default(), issued: Issued::default() }
    }

    fn path(&self, life: usize) -> PathBuf {
        self.directory.path().join(life.to_string())
    }

    fn newest(&self) -> Arc<FileBlobs> {
        lock(&self.opened).last().cloned().expect("a store is open")
    }

    fn open_at(&self, life: usize) -> Arc<dyn Blobs> {
        let blobs = FileBlobs::open(&self.path(life), PUBLIC, &[[7; 32]], self.clock.clone(), SeededIds::new(1));
        let blobs = blobs.expect("the store opens");
        lock(&self.opened).push(Arc::clone(&blobs));
        Arc::new(Broken { blobs, fault: self.fault, issued: Arc::clone(&self.issued) })
    }

    /// A request as it is seen by those who do not look closely, and the one that was issued.
    fn overlooked(&self, request: &Signed) -> (Signed, Option<(Signed, String)>) {
        let parts = |url: &str| {
            url.split_once('?')
                .map_or_else(|| (url.to_owned(), None), |(path, query)| (path.to_owned(), Some(query.to_owned())))
        };
        let (path, query) = parts(&request.url);
        let issued = lock(&self.issued);
        let of_path = issued.iter().find(|(known, _)| parts(&known.url).0 == path && known.method == request.method);
        let of_query = issued.iter().find(|(known, _)| query.is_some() && parts(&known.url).1 == query);
        let mut seen = request.clone();
        match (self.fault, of_path, of_query) {
            (Some(Fault::AnyMethod), _, Some((known, _))) => seen = known.clone(),
            (Some(Fault::AnyParameter), Some((known, _)), _) if query.is_some() => seen.url.clone_from(&known.url),
            (Some(Fault::AnyHeader), _, Some((known, _))) => seen.headers.clone_from(&known.headers),
            (Some(Fault::OpenDoor), Some((known, _)), _) if query.is_none() => seen = known.clone(),
            _ => {}
        }
        (seen, of_query.cloned())
    }
}

/// What does not end with `FileBlobs`: whoever serves it may be broken, too.
fn spoil(fault: Option<Fault>, mut answer: Answer, file_name: &str) -> Answer {
    for (name, value) in &mut answer.headers {
        match fault {
            Some(Fault::Inline) if name == "content-disposition" => *value = value.replace("attachment", "inline"),
            Some(Fault::RawNames) if name == "content-disposition" => {
                *value = format!("attachment; filename=\"{file_name}\"");
            }
            _ => {}
        }
    }
    answer
}

#[async_trait]
impl Subject for Bench {
    async fn open(&self) -> Arc<dyn Blobs> {
        self.open_at(0)
    }

    async fn reopen(&self) -> Option<Arc<dyn Blobs>> {
        if self.fault != Some(Fault::Forgets) {
            let copied = std::process::Command::new("cp").arg("-a").arg(self.path(0)).arg(self.path(1)).status();
            assert!(copied.expect("cp runs").success());
        }
        Some(self.open_at(1))
    }

    async fn damage(&self, key: &Key) -> bool {
        let path = self.path(0).join("objects").join(key.as_str());
        let mut bytes = fs::read(&path).expect("the object's file");
        bytes[0] ^= 1;
        fs::write(&path, bytes).expect("the damage");
        true
    }

    async fn send(&self, request: &Signed, body: &[u8]) -> Option<Answer> {
        let blobs = self.newest();
        let (seen, issued) = self.overlooked(request);
        let file_name = issued.as_ref().map_or("", |(_, name)| name);
        let key: Option<Key> =
            seen.url.split('?').next().and_then(|url| url.strip_prefix("http://here/blobs/")?.parse().ok());
        let of_body = || stream::iter([Ok(Bytes::copy_from_slice(body))]).boxed();
        let ask = async |request: &Signed| {
            let header = |name: &str| {
                let ignored = self.fault == Some(Fault::IgnoresRanges) && name == "range";
                let found = request.headers.iter().find(|(known, _)| known == name && !ignored);
                found.map(|(_, value)| value.as_str())
            };
            let path = request.url.strip_prefix(PUBLIC).expect("a URL of ours");
            serving::answer(&blobs, request.method, path, &header, of_body()).await.expect("a whole answer")
        };
        let mut answer = ask(&seen).await;
        let plain = "text/plain".parse().expect("a type");
        match (self.fault, answer.status, key) {
            (Some(Fault::LosesUploads), 200, Some(key)) if seen.method == "PUT" => {
                blobs.delete(&key).await.expect("deleted");
            }
            (Some(Fault::AnyKey), 403, _) => {
                if let Some((known, _)) = &issued {
                    answer = ask(known).await;
                }
            }
            (Some(Fault::AnyBytes), 400, Some(key)) => {
                blobs.put(&key, &plain, of_body()).await.expect("stored");
                answer.status = 200;
            }
            (Some(Fault::UploadsOverwrite), 412, Some(key)) => {
                blobs.delete(&key).await.expect("deleted");
                answer = ask(&seen).await;
            }
            (Some(Fault::AllUploadsWin), 412, _) => answer.status = 200,
            _ => {}
        }
        Some(spoil(self.fault, answer, file_name))
    }

    async fn pass(&self, time: Duration) {
        if self.fault != Some(Fault::NeverExpires) {
            self.clock.advance(time);
        }
    }
}

/// Whether a store with this fault keeps a promise.
async fn keeps(fault: Option<Fault>, name: &str) -> bool {
    let (_, promise) = PROMISES.iter().find(|(known, _)| *known == name).expect("a promise of the suite");
    match promise(&Bench::new(fault)).await {
        Ok(()) => true,
        Err(Failure::Broken(_)) => false,
        Err(Failure::Skipped(why)) => panic!("{name} was not tried: {why}"),
    }
}

#[tokio::test]
async fn the_intact_store_is_accepted() {
    for (name, _) in PROMISES {
        assert!(keeps(None, name).await, "{name}");
    }
}

#[tokio::test]
async fn every_broken_store_is_rejected_by_name() {
    let mut useful: BTreeSet<&str> = BTreeSet::new();
    for (fault, expected) in FAULTS {
        for name in *expected {
            assert!(!keeps(Some(*fault), name).await, "{fault:?} is not noticed by {name}");
        }
        useful.extend(*expected);
    }
    let useless: Vec<_> = PROMISES.iter().map(|(name, _)| *name).filter(|name| !useful.contains(name)).collect();
    assert_eq!(useless, [""; 0], "promises that reject nothing");
}
