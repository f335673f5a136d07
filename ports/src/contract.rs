//! The suites that hold every adapter to its port's doc comments: one async fn a promise, a macro that makes tests of them,
//! and what a promise may answer. Only tests may use this.

pub mod blobs;
pub mod live;
pub mod log;
pub mod reads;
pub mod skips;

use std::{
    fmt::Debug,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_domain::position::LogTime;

use crate::{Error, clock::Clock};

/// How long a promise waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why a promise did not hold.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The adapter does not keep it.
    Broken(String),
    /// It could not be tried, and why.
    Skipped(&'static str),
}

/// What came of trying one promise.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// The adapter does not keep it, because of `what`.
    pub fn broken(what: impl Into<String>) -> Self {
        Self::Broken(what.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Broken with `what` unless `holds`.
pub fn ensure(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::broken(what)) }
}

/// Broken unless `got` is `want`.
pub fn same<T: PartialEq + Debug + ?Sized>(what: &str, got: &T, want: &T) -> Outcome {
    if got == want { Ok(()) } else { Err(Failure::Broken(format!("{what}: got {got:?}, not {want:?}"))) }
}

/// What `future` gives; broken if it gives nothing within `PATIENCE`.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| Failure::Broken(format!("{what}: nothing came")))
}

/// A wall clock that jumps. Its monotonic time stands still.
pub struct JumpingClock(AtomicI64);

impl JumpingClock {
    /// Starts at `time`.
    pub fn at(time: LogTime) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(time.0)))
    }

    /// Moves it, forward or back.
    pub fn jump(&self, to: LogTime) {
        self.0.store(to.0, Ordering::Relaxed);
    }
}

impl Clock for JumpingClock {
    fn wall(&self) -> LogTime {
        LogTime(self.0.load(Ordering::Relaxed))
    }

    /// It falls when it is told to: what is promised of time is promised by others.
    fn go_on_from(&self, _: LogTime) {}

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    /// It measures nothing: every sleep is over.
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// Panics unless the promise held, or was skipped and `skips::ALLOWED` says so. `name` is `port/adapter/promise`.
pub fn judge(name: &str, outcome: Outcome) {
    let allowed = skips::ALLOWED.iter().find(|(skip, _)| *skip == name);
    match (outcome, allowed) {
        (Ok(()), None) => {}
        (Ok(()), Some(_)) => panic!("{name} is listed in skips.rs but could be tried: take it off the list"),
        (Err(Failure::Skipped(why)), Some((_, reason))) => eprintln!("SKIPPED {name}: {why} ({reason})"),
        (Err(Failure::Skipped(why)), None) => panic!("SKIPPED {name}: {why}; not listed in skips.rs"),
        (Err(Failure::Broken(what)), _) => panic!("{name} is broken: {what}"),
    }
}

/// Panics unless `tried` are the promises of the suite, all of them.
pub fn judge_list(suite: &[&str], tried: &[&str]) {
    let missing: Vec<_> = suite.iter().filter(|name| !tried.contains(name)).collect();
    assert!(missing.is_empty(), "promises that are not tried: {missing:?}");
    assert_eq!(suite.len(), tried.len(), "the suite has fewer promises than are tried");
}

/// The address of a server that tests run against, from the environment. `None`: there is none and the test `name` is skipped,
/// which it says; where tests must not be skipped (`CI` is set) it panics.
#[expect(clippy::disallowed_methods, reason = "where test servers are is no configuration of the product")]
pub fn server(variable: &str, name: &str) -> Option<String> {
    let address = std::env::var(variable).ok();
    if address.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name}: {variable} is not set; run tests with scripts/services run");
        eprintln!("SKIPPED {name}: {variable} is not set");
    }
    address
}

/// Makes a `#[tokio::test]` of every listed promise of the suite `contract::<port>`, and one that says whether a promise is
/// missing. `subject` is an expression, evaluated for each; its value is passed by reference. What needs a server takes its
/// address as `|address|`, and is skipped where it is not known (see [`contract::server`](crate::contract::server)).
///
/// ```ignore
/// contract_tests!(log, memory, Memory, [places_are_counted_without_holes, readers_follow]);
/// contract_tests!(log, kafka, TEST_KAFKA |address| Kafka::new(address), [places_are_counted_without_holes, readers_follow]);
/// ```
#[macro_export]
macro_rules! contract_tests {
    // First: the rest of it would be taken for an expression.
    ($port:ident, $adapter:ident, $server:ident |$address:ident| $subject:expr, [$($promise:ident),+ $(,)?]) => {
        $crate::contract_tests!(
            @tests $port, $adapter,
            ($address) ($crate::contract::server(stringify!($server), concat!(stringify!($port), "/", stringify!($adapter))))
            $subject, [$($promise),+]
        );
    };
    ($port:ident, $adapter:ident, $subject:expr, [$($promise:ident),+ $(,)?]) => {
        $crate::contract_tests!(@tests $port, $adapter, (_) (Some(())) $subject, [$($promise),+]);
    };
    (@tests $port:ident, $adapter:ident, ($address:pat) ($there:expr) $subject:expr, [$($promise:ident),+]) => {
        mod $adapter {
            #[allow(unused_imports, reason = "the subject may be named in full")]
            use super::*;

            #[test]
            fn every_promise_is_tried() {
                $crate::contract::judge_list(
                    &$crate::contract::$port::PROMISES.map(|(name, _)| name),
                    &[$(stringify!($promise)),+],
                );
            }

            $(#[tokio::test]
            async fn $promise() {
                let Some($address) = $there else { return };
                let subject = $subject;
                let outcome = $crate::contract::$port::$promise(&subject).await;
                let name = concat!(stringify!($port), "/", stringify!($adapter), "/", stringify!($promise));
                $crate::contract::judge(name, outcome);
            })+
        }
    };
}
