//! What a client with a URL may do, and what it may not. The answers are HTTP statuses, the same for every adapter.

use std::time::Duration;

use futures_util::future::join_all;
use ringforge_domain::limits;

use super::{Answer, Failure, Outcome, Subject, body, bytes, ensure, head_of, holds, key, lacks, plain, put, same};
use crate::{
    Error,
    blobs::{Blobs, ContentType, Head, Key, Sha256, Signed},
};

const MINUTE: Duration = Duration::from_mins(1);

async fn send(subject: &dyn Subject, request: &Signed, body: &[u8]) -> Result<Answer, Failure> {
    subject.send(request, body).await.ok_or(Failure::Skipped("nobody serves its URLs"))
}

/// Broken unless the answer to `request` has this status.
async fn answers(subject: &dyn Subject, what: &str, request: &Signed, body: &[u8], status: u16) -> Outcome {
    let answer = send(subject, request, body).await?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure(answer.status == status, &format!("{what}: {}, not {status}: {text}", answer.status))
}

/// Broken unless the answer to `request` is that it was not signed so, in one way or another.
async fn is_refused(subject: &dyn Subject, what: &str, request: &Signed, body: &[u8]) -> Outcome {
    let status = send(subject, request, body).await?.status;
    ensure((400..=405).contains(&status), &format!("{what}: {status} for {}", request.url))
}

/// Broken unless `request` is accepted.
async fn uploads(subject: &dyn Subject, request: &Signed, body: &[u8]) -> Outcome {
    answers(subject, "an upload", request, body, 200).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// The same request with a header of another value, or without it.
fn with(request: &Signed, name: &str, value: Option<&str>) -> Signed {
    let mut changed = request.clone();
    changed.headers.retain(|(known, _)| known != name);
    changed.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    changed
}

/// The same request to a URL in which a text is another.
fn elsewhere(request: &Signed, from: &str, to: &str) -> Result<Signed, Failure> {
    ensure(request.url.contains(from), "the URL does not tell its key")?;
    Ok(Signed { url: request.url.replacen(from, to, 1), ..request.clone() })
}

/// The same request to URLs that are altered: each parameter of another value, or left out.
fn tampered(request: &Signed) -> Result<Vec<Signed>, Failure> {
    let (path, query) = request.url.split_once('?').ok_or_else(|| Failure::broken("the URL is not signed"))?;
    let pairs: Vec<_> = query.split('&').collect();
    let alter = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let last = if value.ends_with('1') { '2' } else { '1' };
        let kept = value.char_indices().next_back().map_or("", |(at, _)| &value[..at]);
        format!("{name}={kept}{last}")
    };
    let mut all = Vec::new();
    for (at, pair) in pairs.iter().enumerate() {
        let (mut altered, mut without): (Vec<_>, Vec<_>) =
            pairs.iter().map(|pair| ((*pair).to_owned(), (*pair).to_owned())).unzip();
        altered[at] = alter(pair);
        without.remove(at);
        all.extend(
            [altered, without].map(|query| Signed { url: format!("{path}?{}", query.join("&")), ..request.clone() }),
        );
    }
    Ok(all)
}

/// What is uploaded is there, as declared.
pub async fn an_upload_url_uploads(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    for (name, length) in [("u/small", 10), ("u/empty", 0), ("u/some", 300_000)] {
        let bytes = bytes(length);
        let request = blobs.upload_url(&key(name), &head_of(&bytes), MINUTE).await?;
        lacks(&*blobs, name).await?;
        uploads(subject, &request, &bytes).await?;
        holds(&*blobs, name, &bytes).await?;
    }
    let content_type: ContentType =
        "text/html; charset=utf-8".parse().map_err(|_| Failure::broken("a content type"))?;
    let head = Head { content_type, ..head_of(b"<p>") };
    let request = blobs.upload_url(&key("typed"), &head, MINUTE).await?;
    uploads(subject, &request, b"<p>").await?;
    same("its head", &blobs.head(&key("typed")).await?, &Some(head.clone()))?;
    same("the head of its copy", &blobs.copy(&key("typed"), &key("copy")).await?, &Some(head.clone()))?;
    same("its copy's head", &blobs.head(&key("copy")).await?, &Some(head))
}

/// No other key, no other method, and nothing of the URL may be altered.
pub async fn an_upload_url_is_for_one_object(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "there", b"there").await?;
    let request = blobs.upload_url(&key("mine"), &head_of(b"bytes"), MINUTE).await?;
    for other in ["other", "there", "mine/too", "mine2", "../mine", "other%2Fmine", "%2e%2e/mine"] {
        answers(subject, other, &elsewhere(&request, "mine", other)?, b"bytes", 403).await?;
    }
    for method in ["POST", "DELETE", "GET"] {
        is_refused(subject, method, &Signed { method, ..request.clone() }, b"bytes").await?;
    }
    for altered in tampered(&request)? {
        is_refused(subject, "an altered URL", &altered, b"bytes").await?;
    }
    same("all there is", &blobs.list("", None, 10).await?, &vec![key("there")])?;
    holds(&*blobs, "there", b"there").await?;
    uploads(subject, &request, b"bytes").await
}

/// The length, type and digest are those that were declared, and so are the bytes.
pub async fn the_bytes_are_those_that_were_declared(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let request = blobs.upload_url(&key("mine"), &head_of(b"bytes"), MINUTE).await?;
    let other = blobs.upload_url(&key("mine"), &head_of(b"other"), MINUTE).await?;
    for (name, value) in &request.headers {
        if name != "content-length" {
            answers(subject, &format!("without {name}"), &with(&request, name, None), b"bytes", 403).await?;
        }
        let others = other.headers.iter().find(|(known, others)| known == name && others != value);
        if let Some((_, others)) = others {
            answers(subject, &format!("another {name}"), &with(&request, name, Some(others)), b"other", 403).await?;
        }
    }
    answers(subject, "another type", &with(&request, "content-type", Some("text/html")), b"bytes", 403).await?;
    for body in [&b"byte"[..], b"bytes and more", b""] {
        let length = body.len().to_string();
        answers(subject, "another length", &with(&request, "content-length", Some(&length)), body, 403).await?;
    }
    answers(subject, "other bytes", &request, b"other", 400).await?;
    lacks(&*blobs, "mine").await?;
    uploads(subject, &request, b"bytes").await?;
    holds(&*blobs, "mine", b"bytes").await
}

/// What is there is not replaced, not even by the same; of several uploads at once, one is accepted.
pub async fn uploads_do_not_overwrite(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let request = blobs.upload_url(&key("mine"), &head_of(b"bytes"), MINUTE).await?;
    let other = blobs.upload_url(&key("mine"), &head_of(b"other"), MINUTE).await?;
    uploads(subject, &request, b"bytes").await?;
    for (request, body) in [(&request, b"bytes"), (&other, b"other")] {
        answers(subject, "an upload onto it", request, body, 412).await?;
        let Some(unguarded) = request.headers.iter().find(|(name, _)| name == "if-none-match") else { continue };
        answers(subject, "an unguarded one", &with(request, &unguarded.0, None), body, 403).await?;
    }
    holds(&*blobs, "mine", b"bytes").await?;
    let mut racing = Vec::new();
    for at in 0..8u8 {
        racing.push((blobs.upload_url(&key("race"), &head_of(&[at; 9]), MINUTE).await?, [at; 9]));
    }
    let answers = join_all(racing.iter().map(|(request, body)| send(subject, request, body))).await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let won: Vec<_> = answers.iter().zip(&racing).filter(|(answer, _)| answer.status == 200).collect();
    let [(_, (_, winner))] = won[..] else { return Err(Failure::Broken(format!("{} won", won.len()))) };
    holds(&*blobs, "race", winner).await
}

async fn downloadable(blobs: &dyn Blobs) -> Result<Signed, Error> {
    put(blobs, "mine", &bytes(1_000)).await?;
    blobs.download_url(&key("mine"), "report.txt", MINUTE).await
}

/// What is downloaded is what was put, as an attachment, again and again.
pub async fn a_download_url_downloads(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let request = downloadable(&*blobs).await?;
    for _ in 0..2 {
        let answer = send(subject, &request, b"").await?;
        same("the status", &answer.status, &200)?;
        ensure(answer.body == bytes(1_000), "it is not what was put")?;
        same("the type", header(&answer, "content-type"), "text/plain")?;
        same("the length", header(&answer, "content-length"), "1000")?;
        same("the name", header(&answer, "content-disposition"), "attachment; filename=\"report.txt\"")?;
    }
    blobs.put(&key("empty"), &plain(), body(b"", 1)).await?;
    let request = blobs.download_url(&key("empty"), "e", MINUTE).await?;
    answers(subject, "an empty one", &request, b"", 200).await?;
    let request = blobs.download_url(&key("never"), "n", MINUTE).await?;
    answers(subject, "one that is not there", &request, b"", 404).await
}

/// No other key, no other method, and nothing of the URL may be altered.
pub async fn a_download_url_is_for_one_object(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let request = downloadable(&*blobs).await?;
    put(&*blobs, "other", b"secret").await?;
    answers(subject, "another key", &elsewhere(&request, "mine", "other")?, b"", 403).await?;
    for method in ["PUT", "POST", "DELETE"] {
        is_refused(subject, method, &Signed { method, ..request.clone() }, b"").await?;
    }
    for altered in tampered(&request)? {
        is_refused(subject, "an altered URL", &altered, b"").await?;
    }
    holds(&*blobs, "mine", &bytes(1_000)).await
}

/// A range is a part of the bytes; one that begins behind them is refused.
pub async fn ranges_are_downloaded(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let request = downloadable(&*blobs).await?;
    let bytes = bytes(1_000);
    for (range, want) in [
        ("bytes=0-0", 0..1),
        ("bytes=10-19", 10..20),
        ("bytes=990-", 990..1_000),
        ("bytes=990-5000", 990..1_000),
        ("bytes=-5", 995..1_000),
        ("bytes=-5000", 0..1_000),
    ] {
        let answer = send(subject, &with(&request, "range", Some(range)), b"").await?;
        same(&format!("the status of {range}"), &answer.status, &206)?;
        let told = format!("bytes {}-{}/1000", want.start, want.end - 1);
        same(&format!("the range of {range}"), header(&answer, "content-range"), told.as_str())?;
        ensure(answer.body == bytes[want], &format!("other bytes for {range}"))?;
    }
    answers(subject, "behind the end", &with(&request, "range", Some("bytes=1000-")), b"", 416).await
}

/// Whatever a file is called, it is downloaded as an attachment with one header.
pub async fn file_names_are_harmless(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "mine", b"bytes").await?;
    let long = "\u{e9}".repeat(1_000);
    for (name, want) in [
        ("a b;c,d.txt", "attachment; filename=\"a b;c,d.txt\""),
        ("a\"; x=\"\r\nset-cookie: y", "attachment; filename=\"a_; x=___set-cookie: y\""),
        ("../../etc/passwd", "attachment; filename=\".._.._etc_passwd\""),
        ("\u{e9}t\u{e9}.txt", "attachment; filename=\"_t_.txt\"; filename*=UTF-8''%C3%A9t%C3%A9.txt"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("", "attachment; filename=\"file\""),
    ] {
        let answer = send(subject, &blobs.download_url(&key("mine"), name, MINUTE).await?, b"").await?;
        same("the status", &answer.status, &200)?;
        same(&format!("the name of {name:?}"), header(&answer, "content-disposition"), want)?;
        same("what it tries to set", header(&answer, "set-cookie"), "")?;
    }
    answers(subject, "a long name", &blobs.download_url(&key("mine"), &long, MINUTE).await?, b"", 200).await
}

/// Without what was signed nobody gets in.
pub async fn nobody_gets_in_without_a_url(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let download = downloadable(&*blobs).await?;
    let upload = blobs.upload_url(&key("new"), &head_of(b"bytes"), MINUTE).await?;
    for (request, body) in [(download, &b""[..]), (upload, b"bytes")] {
        let url = request.url.split('?').next().unwrap_or_default().to_owned();
        for method in ["GET", "PUT", "DELETE"] {
            answers(subject, method, &Signed { method, url: url.clone(), ..request.clone() }, body, 403).await?;
        }
    }
    lacks(&*blobs, "new").await?;
    holds(&*blobs, "mine", &bytes(1_000)).await
}

/// A URL is good until its time is over.
pub async fn urls_expire(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    put(&*blobs, "mine", b"bytes").await?;
    let short = Duration::from_secs(2);
    let download = blobs.download_url(&key("mine"), "a", short).await?;
    let upload = blobs.upload_url(&key("new"), &head_of(b"bytes"), short).await?;
    let longer = blobs.upload_url(&key("new"), &head_of(b"bytes"), MINUTE).await?;
    answers(subject, "at once", &download, b"", 200).await?;
    subject.pass(short + Duration::from_secs(1)).await;
    answers(subject, "a download that is too late", &download, b"", 403).await?;
    answers(subject, "an upload that is too late", &upload, b"bytes", 403).await?;
    lacks(&*blobs, "new").await?;
    uploads(subject, &longer, b"bytes").await
}

/// No URL is good for longer, and no upload larger, than the bounds.
pub async fn urls_are_bounded(subject: &dyn Subject) -> Outcome {
    let blobs = subject.open().await;
    let (name, longest): (Key, _) = (key("a"), limits::BLOB_URL_TTL_MAX);
    let largest = Head { length: limits::UPLOAD_BYTES_MAX, content_type: plain(), sha256: Sha256::of(b"") };
    blobs.upload_url(&name, &largest, longest).await?;
    blobs.download_url(&name, "a", longest).await?;
    let too_large = Head { length: limits::UPLOAD_BYTES_MAX + 1, ..largest.clone() };
    let too_long = longest + Duration::from_secs(1);
    let refused = [
        ("a large upload", blobs.upload_url(&name, &too_large, longest).await),
        ("a long upload", blobs.upload_url(&name, &largest, too_long).await),
        ("a long download", blobs.download_url(&name, "a", too_long).await),
    ];
    for (what, result) in refused {
        ensure(matches!(result, Err(Error::TooLarge(_))), &format!("{what} is allowed"))?;
    }
    Ok(())
}
