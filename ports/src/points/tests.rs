//! Given a wish at a point, then what the call comes to.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{FutureExt, future::poll_fn};
use ringforge_domain::position::{Generation, LogTime};

use super::*;
use crate::{
    clock::{ManualClock, SeededIds},
    memory::{blobs::MemoryBlobs, live::MemoryLive, log::MemoryLog, reads::MemoryReads},
};

const ONE: Partition = Partition(1);
const ALL: Scope = Scope::OPERATOR;

/// Services in memory, with one record in the log; `act` says what happens at a point.
fn services(act: impl Fn(Point) -> Option<Act> + Send + Sync + 'static) -> Services {
    let clock = ManualClock::at(LogTime(5));
    let log = MemoryLog::new(clock.clone(), 2, Generation(7));
    log.append(ONE, record()).now_or_never().expect("at once").expect("it is taken");
    let live = MemoryLive::new(clock.clone());
    let (reads, blobs) = (Arc::new(MemoryReads::new()), MemoryBlobs::new());
    let services = Services { log, reads, live, blobs, clock, ids: SeededIds::new(1) };
    let decide: Decide = Arc::new(act);
    around(services, &decide)
}

fn record() -> Vec<Record> {
    vec![Record { scope: ALL, bytes: [1].into() }]
}

fn head() -> News {
    News::Head { scope: ALL, last: Offset(3) }
}

/// Makes every call once, one after the other.
async fn call_all(services: &Services) -> Vec<(Call, Result<(), String>)> {
    fn told<T>(answer: Result<T, impl ToString>) -> Result<(), String> {
        answer.map(drop).map_err(|error| error.to_string())
    }
    let Services { log, reads, live, .. } = services;
    let commit = Commit {
        partition: ONE,
        previous: Offset::ZERO,
        upto: Offset(1),
        time: LogTime(5),
        rows: Vec::new(),
        verdicts: Vec::new(),
    };
    let mut answers = vec![(Call::LogAppend, told(log.append(ONE, record()).await))];
    answers.push((Call::LogRead, told(log.read(ONE, Offset::ZERO).next().await.expect("it follows"))));
    answers.push((Call::LogSeek, told(log.seek(ONE, &[Offset(0)]).await)));
    answers.push((Call::LogBounds, told(log.bounds(ONE).await)));
    answers.push((Call::LogTrim, told(log.trim(ONE, Offset(0)).await)));
    answers.push((Call::ReadsCommit, told(reads.commit(&[commit]).await)));
    answers.push((Call::ReadsLoad, told(reads.load(ONE, &BTreeSet::new()).await)));
    answers.push((Call::ReadsFind, told(reads.find(ONE, &Find::Due { now: LogTime(0), limit: 1 }).await)));
    let which = Which::After { after: None, limit: 1 };
    answers.push((Call::ReadsVerdicts, told(reads.verdicts(ONE, ALL, &which).await)));
    answers.push((Call::ReadsHeads, told(reads.heads(ONE, &[ALL]).await)));
    let heard = live.subscribe(ALL).await;
    answers.push((Call::LivePublish, told(live.publish(&[head()]).await)));
    answers.push((Call::LiveSubscribe, told(heard.as_ref().map_err(ToString::to_string))));
    let item = heard.ok().and_then(|mut heard| heard.next().now_or_never().flatten());
    answers.push((Call::LiveHear, if item == Some(Heard::Lost) { Err("lost".to_owned()) } else { Ok(()) }));
    answers.push((Call::LivePut, told(live.put("a", "b", Duration::from_secs(1)).await)));
    answers.push((Call::LiveScan, told(live.scan("a").await)));
    answers.push((Call::LiveCount, told(live.count("a", 1, Duration::from_secs(1)).await)));
    answers
}

#[test]
fn points_are_found_by_their_text() {
    let texts: BTreeSet<String> = Point::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 32);
    assert!(Point::ALL.iter().all(|point| point.to_string().parse() == Ok(*point)));
    assert!("log.append".parse::<Point>().is_err());
}

#[test]
fn every_point_is_passed_in_order() {
    let passed: Arc<Mutex<Vec<Point>>> = Arc::default();
    let noted = Arc::clone(&passed);
    let services = services(move |point| {
        noted.lock().expect("no panic while the lock is held").push(point);
        None
    });
    let answers = call_all(&services).now_or_never().expect("ports in memory answer at once");
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
    let passed = passed.lock().expect("no panic while the lock is held").clone();
    let mut once = passed.clone();
    once.sort_unstable();
    assert_eq!(once, Point::ALL, "each once");
    for call in Call::ALL {
        let at = |side| passed.iter().position(|point| *point == Point { call, side });
        assert!(at(Side::Before) < at(Side::After), "{}", call.text());
    }
}

#[test]
fn a_call_fails_at_either_side_as_its_port_may() {
    for wanted in Point::ALL {
        let services = services(move |point| (point == wanted).then_some(Act::Error));
        let answers = call_all(&services).now_or_never().expect("ports in memory answer at once");
        for (call, answer) in answers {
            assert_eq!(answer.is_err(), call == wanted.call, "{}: {answer:?} at {wanted}", call.text());
        }
    }
}

#[test]
fn an_append_that_fails_says_whether_it_may_be_there() {
    let append = |side| {
        let wanted = Point { call: Call::LogAppend, side };
        let services = services(move |point| (point == wanted).then_some(Act::Error));
        let answer = services.log.append(ONE, record()).now_or_never().expect("at once");
        let end = services.log.bounds(ONE).now_or_never().expect("at once").expect("bounds").end;
        (answer, end)
    };
    assert!(matches!(append(Side::Before), (Err(AppendError::Refused(_)), Offset(1))));
    assert!(matches!(append(Side::After), (Err(AppendError::Unknown(_)), Offset(2))));
}

#[test]
fn an_answer_with_nothing_is_no_error() {
    for side in [Side::Before, Side::After] {
        let services = services(move |point| (point.side == side).then_some(Act::Empty));
        assert_eq!(services.log.append(ONE, record()).now_or_never().expect("at once").expect("no error"), []);
        let heard = services.live.subscribe(ALL).now_or_never().expect("at once").expect("no error");
        services.live.publish(&[head()]).now_or_never().expect("at once").expect("no error");
        let mut items = [services.log.read(ONE, Offset::ZERO).map(drop).boxed(), heard.map(drop).boxed()];
        assert!(items.iter_mut().all(|items| items.next().now_or_never().is_none()), "what comes is dropped");
    }
}

#[test]
fn a_stream_of_the_log_ends_with_its_error() {
    let services = services(|point| (point.call == Call::LogRead).then_some(Act::Error));
    let mut records = services.log.read(ONE, Offset::ZERO);
    assert!(records.next().now_or_never().flatten().is_some_and(|item| item.is_err()));
    assert!(records.next().now_or_never().expect("at once").is_none());
}

#[test]
fn a_call_waits_as_long_as_it_should() {
    let released = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&released);
    let services =
        services(move |point| {
            let until = Arc::clone(&until);
            let wait = poll_fn(move |_| {
                if until.load(Ordering::Relaxed) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            });
            (point == Point { call: Call::LogAppend, side: Side::Before }).then(|| Act::Wait(wait.boxed()))
        });
    let mut append = services.log.append(ONE, record());
    assert!((&mut append).now_or_never().is_none());
    released.store(true, Ordering::Relaxed);
    assert!(append.now_or_never().expect("released").is_ok());
}
