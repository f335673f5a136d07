//! What only objects in a directory have: a process that dies in the middle, keys that get in each other's way, disks that fail,
//! URLs whose keys rotate.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_adapters::blobs::file::{FileBlobs, Grant, OpenError, Refused};
use ringforge_domain::position::LogTime;
use ringforge_ports::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Sha256, Signed},
    clock::{ManualClock, SeededIds},
};
use tempfile::TempDir;

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];
const MINUTE: Duration = Duration::from_mins(1);

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

fn clock() -> Arc<ManualClock> {
    ManualClock::at(LogTime(1_700_000_000_000_000))
}

fn open_with(path: &Path, keys: &[[u8; 32]], clock: Arc<ManualClock>) -> Arc<FileBlobs> {
    FileBlobs::open(path, "http://here", keys, clock, SeededIds::new(1)).expect("the store opens")
}

fn open(path: &Path) -> Arc<FileBlobs> {
    open_with(path, &[OLD], clock())
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn plain() -> ContentType {
    "text/plain".parse().expect("a content type")
}

fn body(bytes: &[u8]) -> Body {
    stream::iter([Ok(Bytes::copy_from_slice(bytes))]).boxed()
}

fn head(bytes: &[u8]) -> Head {
    Head { length: bytes.len() as u64, content_type: plain(), sha256: Sha256::of(bytes) }
}

async fn got(blobs: &FileBlobs, name: &str) -> Option<Vec<u8>> {
    let object = blobs.get(&key(name)).await.expect("it answers")?;
    let pieces: Vec<Bytes> = object.body.try_collect().await.expect("its bytes");
    Some(pieces.concat())
}

fn authorize(blobs: &FileBlobs, signed: &Signed) -> Result<Grant, Refused> {
    let header = |name: &str| signed.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    blobs.authorize(signed.method, signed.url.strip_prefix("http://here").expect("a URL of ours"), &header)
}

/// The files of a directory and what they hold, as a killed process leaves them.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a plain name");
        if entry.path().is_dir() {
            all.extend(files(&entry.path()).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            all.push((name, fs::read(entry.path()).expect("a file")));
        }
    }
    all
}

/// What was being written when the process died is nowhere, whatever of it had come to the disk; what was acknowledged is whole.
#[tokio::test]
async fn a_write_that_was_cut_off_leaves_nothing() {
    let (before, after) = (directory(), directory());
    let blobs = open(before.path());
    blobs.put(&key("a/whole"), &plain(), body(b"whole")).await.expect("it is stored");
    let bytes = vec![7; 3 << 20];
    blobs.put(&key("a/other"), &plain(), body(&bytes)).await.expect("it is stored");
    let file = fs::read(before.path().join("objects/a/other")).expect("its file");
    for cut in [0, 1, 1 << 20, bytes.len(), bytes.len() + 10, file.len()] {
        let life = after.path().join(cut.to_string());
        fs::create_dir_all(life.join("writing")).expect("a directory");
        fs::create_dir_all(life.join("objects/a")).expect("a directory");
        fs::copy(before.path().join("objects/a/whole"), life.join("objects/a/whole")).expect("a copy");
        fs::write(life.join("writing/00"), &file[..cut]).expect("what was written of it");
        let blobs = open(&life);
        assert_eq!(files(&life.join("writing")), Vec::new(), "what was cut off at {cut} is removed");
        assert_eq!(blobs.list("", None, 10).await.expect("a list"), [key("a/whole")]);
        assert_eq!(got(&blobs, "a/whole").await.as_deref(), Some(&b"whole"[..]));
        blobs.put(&key("a/other"), &plain(), body(&bytes)).await.expect("it is stored again");
    }
}

/// Between the link and the end of a put the object is whole under two names: after a restart it is there, and only once.
#[tokio::test]
async fn a_put_that_died_after_its_link_is_there() {
    let directory = directory();
    let blobs = open(directory.path());
    blobs.put(&key("a"), &plain(), body(b"bytes")).await.expect("it is stored");
    fs::hard_link(directory.path().join("objects/a"), directory.path().join("writing/00")).expect("its other name");
    drop(blobs);
    let blobs = open(directory.path());
    assert_eq!(got(&blobs, "a").await.as_deref(), Some(&b"bytes"[..]));
    assert_eq!(blobs.put(&key("a"), &plain(), body(b"bytes")).await.expect("a repeat"), head(b"bytes"));
    assert_eq!(files(&directory.path().join("writing")), Vec::new());
}

/// Neither a key nor a URL leads out of the directory, however it is written.
#[tokio::test]
async fn nothing_leads_out_of_the_directory() {
    let directory = directory();
    fs::write(directory.path().join("secret"), "secret").expect("a file beside the store");
    let blobs = open(&directory.path().join("store"));
    let signed = blobs.download_url(&key("a"), "a", MINUTE).await.expect("a URL");
    for path in
        ["../secret", "..%2fsecret", "%2e%2e/secret", "a/../../secret", "/etc/passwd", "a/..", "lock", "", "a\0", "./a"]
    {
        let altered = Signed { url: signed.url.replacen("/blobs/a", &format!("/blobs/{path}"), 1), ..signed.clone() };
        assert!(matches!(authorize(&blobs, &altered), Err(Refused::Forbidden(_))), "{path:?}");
        assert!(path.parse::<Key>().is_err() || path == "lock", "{path:?} is no key");
    }
    assert!(
        blobs.head(&key("lock")).await.expect("it answers").is_none(),
        "objects are below a directory of their own"
    );
    assert_eq!(blobs.list("../", None, 10).await.expect("a list"), []);
}

/// A name cannot be an object and the beginning of another: that is told, and harms neither.
#[tokio::test]
async fn keys_that_get_in_each_others_way_are_a_conflict() {
    let directory = directory();
    let blobs = open(directory.path());
    blobs.put(&key("a/b"), &plain(), body(b"1")).await.expect("it is stored");
    for name in ["a", "a/b/c", "a/b/c/d"] {
        let result = blobs.put(&key(name), &plain(), body(b"2")).await;
        assert!(matches!(result, Err(Error::Conflict(_))), "{name}: {result:?}");
        assert!(blobs.head(&key(name)).await.expect("it answers").is_none());
    }
    assert_eq!(files(&directory.path().join("writing")), Vec::new(), "nothing is left of them");
    blobs.delete(&key("a/b")).await.expect("it is deleted");
    blobs.put(&key("a/b/c"), &plain(), body(b"3")).await.expect("now it is free");
    assert_eq!(got(&blobs, "a/b/c").await.as_deref(), Some(&b"3"[..]));
}

/// One process has it at a time.
#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let directory = directory();
    let blobs = open(directory.path());
    let again = FileBlobs::open(directory.path(), "http://here", &[OLD], clock(), SeededIds::new(1));
    assert!(matches!(again, Err(OpenError::Locked { .. })));
    drop(blobs);
    open(directory.path());
    let file = directory.path().join("objects-are-no-file");
    fs::write(&file, "").expect("a file");
    let error = FileBlobs::open(&file, "http://here", &[OLD], clock(), SeededIds::new(1)).err().expect("no directory");
    assert!(error.to_string().contains("objects-are-no-file"), "{error}");
}

/// What is damaged is told by name, wherever the damage is, and never replaced or taken for another.
#[tokio::test]
async fn damage_is_told_by_name() {
    let directory = directory();
    let blobs = open(directory.path());
    blobs.put(&key("a/b"), &plain(), body(b"bytes")).await.expect("it is stored");
    let path = directory.path().join("objects/a/b");
    let whole = fs::read(&path).expect("its file");
    for cut in [0, 4, 5, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("the damage");
        let result = blobs.head(&key("a/b")).await;
        assert!(matches!(&result, Err(Error::Corrupt(what)) if what.contains("a/b")), "cut at {cut}: {result:?}");
        let result = blobs.put(&key("a/b"), &plain(), body(b"bytes")).await;
        assert!(matches!(result, Err(Error::Corrupt(_))), "cut at {cut}: {result:?}");
    }
    for at in [0, 4] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).expect("the damage");
        let Ok(download) = blobs.read(&key("a/b"), "attachment".into(), None).await else { panic!("it begins") };
        let result: Result<Vec<Bytes>, Error> = download.body.try_collect().await;
        assert!(matches!(&result, Err(Error::Corrupt(what)) if what.contains("a/b")), "byte {at}");
    }
    fs::write(&path, whole).expect("it is mended");
    assert_eq!(got(&blobs, "a/b").await.as_deref(), Some(&b"bytes"[..]));
}

/// The file is the object to whoever looks into the directory: its bytes come first.
#[tokio::test]
async fn a_file_begins_with_the_bytes_of_its_object() {
    let directory = directory();
    open(directory.path()).put(&key("a/b.txt"), &plain(), body(b"bytes")).await.expect("it is stored");
    let file = fs::read(directory.path().join("objects/a/b.txt")).expect("its file");
    assert!(file.starts_with(b"bytes"));
}

/// The newest key signs; what an older one signed is good until that is taken away.
#[tokio::test]
async fn keys_rotate() {
    let directory = directory();
    let by_old = open(directory.path()).upload_url(&key("a"), &head(b"bytes"), MINUTE).await.expect("a URL");
    let by_new = open_with(directory.path(), &[NEW, OLD], clock());
    assert!(authorize(&by_new, &by_old).is_ok());
    let signed = by_new.upload_url(&key("a"), &head(b"bytes"), MINUTE).await.expect("a URL");
    drop(by_new);
    let new = open_with(directory.path(), &[NEW], clock());
    assert!(authorize(&new, &signed).is_ok());
    assert!(matches!(authorize(&new, &by_old), Err(Refused::Forbidden(_))));
}

/// A grant is what was signed, and nothing but that can be written with it.
#[tokio::test]
async fn a_grant_is_written_as_declared_or_not_at_all() {
    let directory = directory();
    let blobs = open(directory.path());
    let signed = blobs.upload_url(&key("a"), &head(b"bytes"), MINUTE).await.expect("a URL");
    let grant = authorize(&blobs, &signed).expect("it was signed");
    assert_eq!(grant, Grant::Upload { key: key("a"), head: head(b"bytes") });
    for other in [&b"byte"[..], b"bytes!", b"other", b""] {
        let result = blobs.write(&key("a"), &head(b"bytes"), body(other)).await;
        assert!(matches!(result, Err(Refused::OtherBytes)), "{result:?}");
    }
    let cut = stream::iter([Ok(Bytes::from_static(b"by")), Err(Error::Unavailable("the client left".into()))]);
    let result = blobs.write(&key("a"), &head(b"bytes"), cut.boxed()).await;
    assert!(matches!(result, Err(Refused::Failed(Error::Unavailable(_)))), "{result:?}");
    assert_eq!(files(directory.path()), [("lock".to_owned(), Vec::new())], "nothing is stored, nothing is left");
    blobs.write(&key("a"), &head(b"bytes"), body(b"bytes")).await.expect("it is what was declared");
    assert!(matches!(blobs.write(&key("a"), &head(b"bytes"), body(b"bytes")).await, Err(Refused::Exists)));
}

/// A URL ends when its time is over, by the clock that was passed in.
#[tokio::test]
async fn urls_expire() {
    let (directory, clock) = (directory(), clock());
    let blobs = open_with(directory.path(), &[OLD], clock.clone());
    let signed = blobs.download_url(&key("a"), "a", MINUTE).await.expect("a URL");
    clock.advance(MINUTE);
    assert!(authorize(&blobs, &signed).is_ok(), "it lives as long as was asked");
    clock.advance(Duration::from_secs(1));
    assert!(matches!(authorize(&blobs, &signed), Err(Refused::Forbidden(why)) if why.contains("expired")));
}

/// Where nothing can be written, that is told; what is there can still be read.
#[tokio::test]
async fn a_directory_that_takes_nothing_is_told() {
    let directory = directory();
    let blobs = open(directory.path());
    blobs.put(&key("a"), &plain(), body(b"bytes")).await.expect("it is stored");
    // Root may write everywhere, but not where nothing is.
    fs::remove_dir(directory.path().join("writing")).expect("gone");
    let result = blobs.put(&key("b"), &plain(), body(b"bytes")).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    assert_eq!(got(&blobs, "a").await.as_deref(), Some(&b"bytes"[..]));
}
