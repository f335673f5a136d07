//! The promises of `Blobs`, one function each; those of its URLs are in `urls`.

mod urls;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, Either, join_all, select},
    stream,
};
use ringforge_domain::limits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Failure, Outcome, ensure, same, soon};
use crate::{
    Error,
    blobs::{Blobs, Body, ContentType, Head, Key, Sha256, Signed},
};

pub use urls::{
    a_download_url_downloads, a_download_url_is_for_one_object, an_upload_url_is_for_one_object, an_upload_url_uploads,
    file_names_are_harmless, nobody_gets_in_without_a_url, ranges_are_downloaded,
    the_bytes_are_those_that_were_declared, uploads_do_not_overwrite, urls_are_bounded, urls_expire,
};

/// An adapter under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A new, empty store.
    async fn open(&self) -> Arc<dyn Blobs>;

    /// The store opened last, as it would be found if its process died now (it is still open, and is not used again); `None` if
    /// it cannot outlive its process.
    async fn reopen(&self) -> Option<Arc<dyn Blobs>>;

    /// Changes a byte of the object `key` of the store opened last, behind its back; `false` if nobody can.
    async fn damage(&self, key: &Key) -> bool;

    /// What whoever serves the URLs of the store opened last answers to `request`, sent with its body as it is; `None` if nobody
    /// does.
    async fn send(&self, request: &Signed, body: &[u8]) -> Option<Answer>;

    /// Lets so much time pass for the URLs.
    async fn pass(&self, time: Duration);
}

/// What came of a request.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, their names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

/// A promise as a value, to run a whole suite in a loop.
pub type Promise = for<'a> fn(&'a dyn Subject) -> BoxFuture<'a, Outcome>;

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 25] = [
    ("what_is_got_is_what_was_put", |subject| what_is_got_is_what_was_put(subject).boxed()),
    ("large_objects_come_in_pieces", |subject| large_objects_come_in_pieces(subject).boxed()),
    ("what_was_not_put_is_not_there", |subject| what_was_not_put_is_not_there(subject).boxed()),
    ("puts_do_not_overwrite", |subject| puts_do_not_overwrite(subject).boxed()),
    ("of_several_puts_one_wins", |subject| of_several_puts_one_wins(subject).boxed()),
    ("nothing_is_seen_of_an_unfinished_put", |subject| nothing_is_seen_of_an_unfinished_put(subject).boxed()),
    ("a_body_that_fails_leaves_nothing", |subject| a_body_that_fails_leaves_nothing(subject).boxed()),
    ("damage_is_told", |subject| damage_is_told(subject).boxed()),
    ("copies_are_the_same", |subject| copies_are_the_same(subject).boxed()),
    ("copies_do_not_overwrite", |subject| copies_do_not_overwrite(subject).boxed()),
    ("deleted_is_gone", |subject| deleted_is_gone(subject).boxed()),
    ("lists_are_in_order", |subject| lists_are_in_order(subject).boxed()),
    ("lists_come_in_pages", |subject| lists_come_in_pages(subject).boxed()),
    ("what_was_put_survives", |subject| what_was_put_survives(subject).boxed()),
    ("an_upload_url_uploads", |subject| an_upload_url_uploads(subject).boxed()),
    ("an_upload_url_is_for_one_object", |subject| an_upload_url_is_for_one_object(subject).boxed()),
    ("the_bytes_are_those_that_were_declared", |subject| the_bytes_are_those_that_were_declared(subject).boxed()),
    ("uploads_do_not_overwrite", |subject| uploads_do_not_overwrite(subject).boxed()),
    ("a_download_url_downloads", |subject| a_download_url_downloads(subject).boxed()),
    ("a_download_url_is_for_one_object", |subject| a_download_url_is_for_one_object(subject).boxed()),
    ("ranges_are_downloaded", |subject| ranges_are_downloaded(subject).boxed()),
    ("file_names_are_harmless", |subject| file_names_are_harmless(subject).boxed()),
    ("nobody_gets_in_without_a_url", |subject| nobody_gets_in_without_a_url(subject).boxed()),
    ("urls_expire", |subject| urls_expire(subject).boxed()),
    ("urls_are_bounded", |subject| urls_are_bounded(subject).boxed()),
];

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn plain() -> ContentType {
    "text/plain".parse().expect("a content type")
}

fn head_of(bytes: &[u8]) -> Head {
    Head { length: bytes.len() as u64, content_type: plain(), sha256: Sha256::of(bytes) }
}

/// Bytes that repeat only after a long while.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A body in pieces of this length.
fn body(bytes: &[u8], piece: usize) -> Body {
    let bytes = Bytes::copy_from_slice(bytes);
    let pieces: Vec<_> =
        (0..bytes.len()).step_by(piece).map(|at| bytes.slice(at..bytes.len().min(at + piece))).collect();
    stream::iter(pieces).map(Ok).boxed()
}

async fn put(blobs: &dyn Blobs, name: &str, bytes: &[u8]) -> Result<Head, Error> {
    blobs.put(&key(name), &plain(), body(bytes, 1_000)).await
}

/// The object as it is got.
async fn got(blobs: &dyn Blobs, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let Some(object) = blobs.get(&key(name)).await? else { return Ok(None) };
    let pieces: Vec<Bytes> = soon("the bytes", object.body.try_collect()).await??;
    let bytes = pieces.concat();
    same("the head of what is got", &object.head, &head_of(&bytes))?;
    Ok(Some(bytes))
}

/// Broken unless the object is these bytes; they are too many to be told.
async fn holds(blobs: &dyn Blobs, name: &str, bytes: &[u8]) -> Outcome {
    let got = got(blobs, name).await?.ok_or_else(|| Failure::broken(format!("no {name}")))?;
    ensure(got == bytes, &format!("{name} is not what was stored"))?;
    same("its head", &blobs.head(&key(name)).await?, &Some(head_of(bytes)))
}

/// Broken unless there is no such object.
async fn lacks(blobs: &dyn Blobs, name: &str) -> Outcome {
    same(name, &blobs.head(&key(name)).await?, &None)?;
    ensure(got(blobs, name).await?.is_none(), &format!("{name} is got"))?;
    let listed = blobs.list(name, None, 10).await?;
    ensure(!listed.contains(&key(name)), &format!("{name} is listed"))
}

fn conflict(what: &str, result: &Result<impl Sized, Error>) -> Outcome {
    ensure(matches!(result, Err(Error::Conflict(_))), &format!("{what}: no conflict"))
}

/// What is got is what was put, however it was cut, with its head.
pub async fn what_is_got_is_what_was_put(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for (name, length, piece) in [("a/empty", 0, 1), ("a/one", 1, 1), ("a/short", 1_000, 7), ("b", 100_000, 100_000)] {
        let bytes = bytes(length);
        let head = blobs.put(&key(name), &plain(), body(&bytes, piece)).await?;
        same("the head of what was put", &head, &head_of(&bytes))?;
        holds(&*blobs, name, &bytes).await?;
    }
    let typed: ContentType = "application/x; a=\"b\"".parse().map_err(|_| Failure::broken("a content type"))?;
    blobs.put(&key("typed"), &typed, body(b"x", 1)).await?;
    let head = blobs.head(&key("typed")).await?;
    same("the content type", &head.map(|head| head.content_type), &Some(typed))
}

/// Objects larger than a part are kept as well, and come in pieces that are bounded.
pub async fn large_objects_come_in_pieces(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for (name, length) in [("whole", limits::BLOB_PART_BYTES), ("two", 2 * limits::BLOB_PART_BYTES + 1)] {
        let bytes = bytes(length);
        let head = blobs.put(&key(name), &plain(), body(&bytes, 3_000_001)).await?;
        ensure(head == head_of(&bytes), "the head of what was put")?;
        let object = blobs.get(&key(name)).await?.ok_or_else(|| Failure::broken("it is not there"))?;
        let pieces: Vec<Bytes> = soon("the bytes", object.body.try_collect()).await??;
        let longest = pieces.iter().map(Bytes::len).max().unwrap_or_default();
        ensure(longest <= limits::BLOB_PIECE_BYTES_MAX, &format!("a piece of {longest} bytes"))?;
        ensure(object.head == head && pieces.concat() == bytes, "it is not what was put")?;
    }
    same("all there is", &blobs.list("", None, 10).await?, &vec![key("two"), key("whole")])
}

/// What was never put is no object, to nobody.
pub async fn what_was_not_put_is_not_there(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "a/b/c", b"bytes").await?;
    for name in ["a", "a/b", "a/b/c/d", "a/b/cc", "b"] {
        lacks(&*blobs, name).await?;
        same(name, &blobs.copy(&key(name), &key("copy")).await?, &None)?;
    }
    lacks(&*blobs, "copy").await
}

/// What is there stays; to put the same again changes nothing.
pub async fn puts_do_not_overwrite(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let large = bytes(limits::BLOB_PART_BYTES + 1);
    for (name, first) in [("small", &b"first"[..]), ("large", &large)] {
        put(&*blobs, name, first).await?;
        conflict("other bytes", &put(&*blobs, name, b"other").await)?;
        conflict("other bytes, many", &put(&*blobs, name, &vec![1; limits::BLOB_PART_BYTES + 1]).await)?;
        let html: ContentType = "text/html".parse().map_err(|_| Failure::broken("a content type"))?;
        conflict("another type", &blobs.put(&key(name), &html, body(first, 1_000)).await)?;
        same("the same again", &put(&*blobs, name, first).await?, &head_of(first))?;
        holds(&*blobs, name, first).await?;
    }
    Ok(())
}

/// Of several that put other objects as the same key at once, one wins and the others know it.
pub async fn of_several_puts_one_wins(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let bodies: Vec<_> = (0..8u8).map(|at| [at; 9]).collect();
    for round in 0..5 {
        let name = format!("round/{round}");
        let all = join_all(bodies.iter().map(|bytes| put(&*blobs, &name, bytes).boxed())).await;
        let won: Vec<_> = all.iter().zip(0..).filter(|(result, _)| result.is_ok()).map(|(_, at)| at).collect();
        let [winner] = won[..] else { return Err(Failure::Broken(format!("{won:?} won"))) };
        holds(&*blobs, &name, &[winner; 9]).await?;
        for result in all.iter().filter(|result| result.is_err()) {
            conflict("a loser", result)?;
        }
    }
    Ok(())
}

/// A put that goes on until `pieces` is gone.
struct Unfinished<'a> {
    pieces: mpsc::Sender<Result<Bytes, Error>>,
    putting: BoxFuture<'a, Result<Head, Error>>,
}

/// Puts `piece` twice, and then does not go on.
async fn begin<'a>(
    blobs: &'a dyn Blobs,
    key: &'a Key,
    content_type: &'a ContentType,
    piece: &Bytes,
) -> Result<Unfinished<'a>, Failure> {
    let (pieces, body) = mpsc::channel(1);
    let putting = blobs.put(key, content_type, ReceiverStream::new(body).boxed());
    let sending = async {
        for _ in 0..2 {
            pieces.send(Ok(piece.clone())).await.map_err(|_| Failure::broken("it takes no more"))?;
        }
        // The second is taken when there is room again.
        pieces.reserve().await.map(drop).map_err(|_| Failure::broken("it takes no more"))
    };
    let taken = match soon("half of it", select(putting, sending.boxed())).await? {
        Either::Left(_) => return Err(Failure::broken("it ended before its body")),
        Either::Right((sent, putting)) => sent.map(|()| putting),
    };
    Ok(Unfinished { putting: taken?, pieces })
}

/// Nothing is seen of a put that goes on, nor of one that was given up.
pub async fn nothing_is_seen_of_an_unfinished_put(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let (finished, given_up, typed) = (key("finished"), key("given-up"), plain());
    for length in [10, limits::BLOB_PART_BYTES] {
        let piece = Bytes::from(bytes(length));
        let Unfinished { pieces, putting } = begin(&*blobs, &finished, &typed, &piece).await?;
        let abandoned = begin(&*blobs, &given_up, &typed, &piece).await?;
        lacks(&*blobs, "finished").await?;
        drop(abandoned);
        lacks(&*blobs, "given-up").await?;
        drop(pieces);
        soon("the end", putting).await??;
        holds(&*blobs, "finished", &[&piece[..], &piece[..]].concat()).await?;
        same("all there is", &blobs.list("", None, 10).await?, &vec![key("finished")])?;
        blobs.delete(&finished).await?;
    }
    Ok(())
}

/// An error of the body is passed on, and nothing is stored.
pub async fn a_body_that_fails_leaves_nothing(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for length in [0, 10, limits::BLOB_PART_BYTES + 1] {
        let failing = body(&bytes(length), 3_000_000).chain(stream::iter([Err(Error::TooLarge("enough".into()))]));
        let result = blobs.put(&key("a"), &plain(), failing.boxed()).await;
        let told = matches!(&result, Err(Error::TooLarge(what)) if what == "enough");
        ensure(told, &format!("told {result:?}"))?;
        lacks(&*blobs, "a").await?;
    }
    same("all there is", &blobs.list("", None, 10).await?, &Vec::new())
}

/// Bytes that are not those that were stored are told at their end.
pub async fn damage_is_told(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "whole", &bytes(10_000)).await?;
    put(&*blobs, "damaged", &bytes(10_000)).await?;
    if !subject.damage(&key("damaged")).await {
        return Err(Failure::Skipped("nobody can damage it"));
    }
    let object = blobs.get(&key("damaged")).await?.ok_or_else(|| Failure::broken("it is not there"))?;
    let items: Vec<_> = soon("the bytes", object.body.collect()).await?;
    ensure(matches!(items.last(), Some(Err(Error::Corrupt(_)))), "nobody told")?;
    holds(&*blobs, "whole", &bytes(10_000)).await
}

/// A copy is the same, and stays when what it was made of goes.
pub async fn copies_are_the_same(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for (name, length) in [("empty", 0), ("small", 1_000), ("large", limits::BLOB_PART_BYTES + 1)] {
        let (bytes, copy) = (bytes(length), format!("copies/of/{name}"));
        put(&*blobs, name, &bytes).await?;
        same("the copy's head", &blobs.copy(&key(name), &key(&copy)).await?, &Some(head_of(&bytes)))?;
        holds(&*blobs, name, &bytes).await?;
        blobs.delete(&key(name)).await?;
        lacks(&*blobs, name).await?;
        put(&*blobs, name, b"new").await?;
        holds(&*blobs, &copy, &bytes).await?;
    }
    Ok(())
}

/// A copy does not replace another object, nor does one of several at once; to copy the same again changes nothing.
pub async fn copies_do_not_overwrite(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "one", b"one").await?;
    put(&*blobs, "two", b"two").await?;
    conflict("a copy", &blobs.copy(&key("one"), &key("two")).await)?;
    holds(&*blobs, "two", b"two").await?;
    for to in ["one", "three", "three"] {
        same(to, &blobs.copy(&key("one"), &key(to)).await?, &Some(head_of(b"one")))?;
        holds(&*blobs, to, b"one").await?;
    }
    for round in 0..5 {
        let (one, two, to) = (key("one"), key("two"), key(&format!("round/{round}")));
        let both = join_all([&one, &two].map(|from| blobs.copy(from, &to))).await;
        let won: Vec<_> = both.into_iter().filter_map(Result::ok).flatten().collect();
        same("those who won", &blobs.head(&to).await?.into_iter().collect::<Vec<_>>(), &won)?;
    }
    Ok(())
}

/// What is deleted is gone, alone, and its key may be used again; what is not there may be deleted.
pub async fn deleted_is_gone(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for name in ["a/b", "a/bb", "c"] {
        put(&*blobs, name, b"old").await?;
    }
    for _ in 0..2 {
        blobs.delete(&key("a/b")).await?;
        lacks(&*blobs, "a/b").await?;
    }
    for name in ["a", "never", "c/d"] {
        blobs.delete(&key(name)).await?;
    }
    same("the rest", &blobs.list("", None, 10).await?, &vec![key("a/bb"), key("c")])?;
    put(&*blobs, "a/b", b"new").await?;
    holds(&*blobs, "a/b", b"new").await
}

/// Lists are in the order of bytes, where `/` is one like others, and take prefixes literally.
pub async fn lists_are_in_order(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let names = ["A", "a-b", "a.b", "a/b", "a/b0/x", "a/c", "a0", "a=1/x", "a=1/y", "a_b", "b/a/b/c"];
    join_all(names.iter().rev().map(|name| put(&*blobs, name, b"x").boxed()))
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    for prefix in ["", "a", "a/", "a/b", "a=", "a=1/", "a=1/x", "a*", "b/a", "c", "B", "a/b/", "/", "..", "../", "%"] {
        let want: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).map(|name| key(name)).collect();
        same(&format!("keys with {prefix:?}"), &blobs.list(prefix, None, 100).await?, &want)?;
    }
    Ok(())
}

/// A page begins behind a key, which need not be there, and only the last is not full.
pub async fn lists_come_in_pages(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let names: Vec<_> = (0..10).map(|at| format!("p/{}/{at}", at / 3)).collect();
    join_all(names.iter().map(|name| put(&*blobs, name, b"x").boxed()))
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    put(&*blobs, "q", b"x").await?;
    for limit in [1, 3, 10, 1_000_000] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = blobs.list("p/", after.as_ref(), limit).await?;
            ensure(page.len() <= limit, "a page is longer than asked")?;
            let is_last = page.len() < limit;
            after = page.last().cloned().or(after);
            all.extend(page.iter().map(Key::to_string));
            ensure(all.len() <= names.len(), "a key comes twice")?;
            if is_last {
                break;
            }
        }
        same(&format!("pages of {limit}"), &all, &names)?;
    }
    for (after, want) in [("a", 10), ("p/0", 10), ("p/0/15", 8), ("p/1/3", 6), ("p/3/9", 0), ("z", 0)] {
        same(after, &blobs.list("p/", Some(&key(after)), 100).await?.len(), &want)?;
    }
    same("none wanted", &blobs.list("", None, 0).await?, &Vec::new())
}

/// What was put survives the death of the process, and nothing of what was not finished.
pub async fn what_was_put_survives(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "a/b/c", &bytes(10_000)).await?;
    blobs.copy(&key("a/b/c"), &key("d/e")).await?;
    put(&*blobs, "deleted", b"x").await?;
    blobs.delete(&key("deleted")).await?;
    let (half, typed, piece) = (key("half"), plain(), Bytes::from(bytes(limits::BLOB_PART_BYTES)));
    let _unfinished = begin(&*blobs, &half, &typed, &piece).await?;
    let Some(blobs) = subject.reopen().await else {
        return Err(Failure::Skipped("it does not outlive its process"));
    };
    same("all there is", &blobs.list("", None, 10).await?, &vec![key("a/b/c"), key("d/e")])?;
    holds(&*blobs, "d/e", &bytes(10_000)).await?;
    lacks(&*blobs, "half").await?;
    put(&*blobs, "half", b"another").await?;
    holds(&*blobs, "a/b/c", &bytes(10_000)).await
}
