//! How fast objects in a directory are. Run it in a release build:
//! `cargo test --profile perf -p ringforge-adapters --test figures_blobs -- --ignored --nocapture`

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_adapters::blobs::file::{FileBlobs, Grant};
use ringforge_ports::{
    blobs::{Blobs, Body, Head, Key, Sha256},
    clock::{Clock, SystemClock, SystemIds},
};

const MEGABYTE: usize = 1 << 20;
const COUNT: usize = 1_000;

/// As it comes from a socket.
fn body(bytes: &Bytes) -> Body {
    let bytes = bytes.clone();
    stream::iter((0..bytes.len()).step_by(64 << 10).map(move |at| Ok(bytes.slice(at..at + (64 << 10))))).boxed()
}

fn tell(what: &str, megabytes: usize, time: Duration) {
    let rate = f64::from(u32::try_from(megabytes).expect("few")) / time.as_secs_f64();
    eprintln!("{what}: {:.2} s, {rate:.0} MB/s", time.as_secs_f64());
}

/// One upload, as whoever serves it does it.
async fn upload(blobs: &FileBlobs, at: usize, head: &Head, bytes: &Bytes) {
    let key: Key = format!("files/{}/{at}", at % 16).parse().expect("a key");
    let signed = blobs.upload_url(&key, head, Duration::from_mins(1)).await.expect("a URL");
    let header = |name: &str| signed.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let path = signed.url.strip_prefix("http://here").expect("a URL of ours");
    let Ok(Grant::Upload { key, head }) = blobs.authorize("PUT", path, &header) else { panic!("it was signed") };
    blobs.write(&key, &head, body(bytes)).await.expect("it is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand"]
async fn figures() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let clock = SystemClock::start();
    let blobs = FileBlobs::open(directory.path(), "http://here", &[[1; 32]], clock.clone(), Arc::new(SystemIds));
    let blobs = blobs.expect("the store opens");
    let bytes: Bytes = vec![7; MEGABYTE].into();
    let head = Head { length: 1 << 20, content_type: "a/b".parse().expect("a type"), sha256: Sha256::of(&bytes) };
    let key: Key = "a/b".parse().expect("a key");
    let begun = clock.monotonic();
    for _ in 0..10_000 {
        blobs.upload_url(&key, &head, Duration::from_mins(1)).await.expect("a URL");
    }
    eprintln!("signing: {:?} each", clock.monotonic().saturating_sub(begun) / 10_000);
    for at_once in [1, 8, 32] {
        let begun = clock.monotonic();
        let (blobs, head, bytes) = (&blobs, &head, &bytes);
        let uploads = stream::iter(0..COUNT).map(|at| upload(blobs, at + at_once * COUNT, head, bytes));
        uploads.buffer_unordered(at_once).collect::<Vec<()>>().await;
        tell(&format!("{COUNT} uploads of 1 MiB, {at_once} at a time"), COUNT, clock.monotonic().saturating_sub(begun));
    }
    let begun = clock.monotonic();
    let large: Body = stream::repeat(Ok(bytes)).take(COUNT).boxed();
    blobs.put(&key, &head.content_type, large).await.expect("it is stored");
    tell("one object of 1,000 MiB, put", COUNT, clock.monotonic().saturating_sub(begun));
    let begun = clock.monotonic();
    let object = blobs.get(&key).await.expect("it answers").expect("the object");
    let length = object.body.try_fold(0, |sum, piece| async move { Ok(sum + piece.len()) }).await.expect("its bytes");
    assert_eq!(length, COUNT * MEGABYTE);
    tell("the same, got and verified", COUNT, clock.monotonic().saturating_sub(begun));
}
