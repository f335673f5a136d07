//! Copies in parts, and what the dead leave, on a real server.

use futures_util::{StreamExt, TryStreamExt, stream};
use ringforge_domain::position::LogTime;
use ringforge_ports::{
    blobs::check_same,
    clock::{Ids, ManualClock, SystemClock, SystemIds},
    contract,
};

use super::{super::*, *};

/// Parts as small as S3 takes them.
const PART: u64 = 5 << 20;

async fn bucket(name: &str) -> Option<Bucket> {
    let address = contract::server("TEST_S3", name)?;
    let address: Address = format!("{address}/parts/{:032x}", SystemIds.next()).parse().expect("an address");
    let client = open::client(&address).await.expect("a client");
    Some(Bucket { client, name: address.bucket, prefix: address.prefix })
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn bytes(length: u64) -> Bytes {
    (0..length).map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)]).collect()
}

fn body(bytes: &Bytes) -> Body {
    stream::iter([Ok(bytes.clone())]).boxed()
}

async fn stage(bucket: &Bucket, bytes: &Bytes) -> Staged {
    let typed = "a/b".parse().expect("a content type");
    let mut parts = Parts::new(body(bytes));
    let first = parts.next().await.expect("a part").expect("it is not empty");
    bucket.stage(SystemIds.next(), &typed, first, parts).await.expect("it is staged")
}

#[tokio::test]
async fn copies_in_parts_are_the_same_and_do_not_overwrite() {
    let Some(bucket) = bucket("copies_in_parts").await else { return };
    let bytes = bytes(2 * PART + 7);
    let staged = stage(&bucket, &bytes).await;
    let copy = |name| bucket.copy_parts(&staged.path, &staged.tag, staged.head.clone(), name, PART);
    let name = key("copy");
    assert_eq!(copy(&name).await.expect("a copy"), staged.head);
    assert_eq!(copy(&name).await.expect("the same again"), staged.head, "a repeat is fine");
    let found = bucket.find(&name).await.expect("it answers").expect("the copy");
    check_same(&name, &found.head, staged.head.clone()).expect("its head");
    let pieces: Vec<Bytes> = bucket.clone().body(key("copy"), found).try_collect().await.expect("its bytes");
    assert!(pieces.concat() == bytes);
    let taken = key("taken");
    bucket.put_whole(&taken, Sum::default().head("a/b".parse().expect("a type")), Bytes::new()).await.expect("stored");
    assert!(matches!(copy(&taken).await, Err(Error::Conflict(_))), "another object stays");
    let changed = bucket.copy_parts(&staged.path, "\"other\"", staged.head.clone(), &key("changed"), PART).await;
    assert!(changed.is_err(), "what changed meanwhile is not copied");
}

#[tokio::test]
async fn what_the_dead_left_is_swept_in_time() {
    let Some(bucket) = bucket("what_the_dead_left").await else { return };
    let staged = stage(&bucket, &bytes(10)).await;
    let typed = "a/b".parse().expect("a content type");
    let path = format!("{}{STAGED}cut-off", bucket.prefix);
    let mut upload = Upload::begin(&bucket, &path, &typed).await.expect("it begins");
    upload.part(bytes(10)).await.expect("a part");
    bucket.sweep(&*SystemClock::start()).await;
    let is_there = async || bucket.client.head_object().bucket(&bucket.name).key(&staged.path).send().await.is_ok();
    assert!(is_there().await, "somebody may be at it");
    let day = i64::try_from(limits::S3_STAGED_MAX.as_micros()).expect("a day");
    bucket.sweep(&*ManualClock::at(LogTime(SystemClock::start().wall().0 + day + 10_000_000))).await;
    assert!(!is_there().await, "now nobody is");
    assert!(upload.part(bytes(10)).await.is_err(), "nor at what was cut off");
}
