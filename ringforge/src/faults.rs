//! Faults on demand, for the tests that run the real binary. Nothing here runs unless the variable is set, and then the log
//! says so: `RINGFORGE_TEST_FAULTS=log.append.after=exit@3,second_projector`.
//!
//! `POINT=ACT@N` does it at the Nth passage of a point ([`Point`]), `@N+` at that and every later one, without `@` at every
//! one. They are counted from the moment that the server is ready, with `@start+N` from its start.
//!
//! | act | |
//! |---|---|
//! | `exit` | the process ends there, as by `kill -9` |
//! | `error` | the call fails, as its port may |
//! | `empty` | the call answers with nothing, as only a bug or the live bus may |
//! | `delay:MS` | the call takes so much longer |
//! | `stall` | it never goes on |

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use ringforge_ports::{
    Services,
    points::{Act, Decide, Point, around},
};
use tracing::warn;

/// The environment variable.
const VARIABLE: &str = "RINGFORGE_TEST_FAULTS";

/// What goes wrong on purpose.
#[derive(Default)]
pub struct Faults {
    rules: Vec<Rule>,
    second_projector: bool,
    /// Set once the server is ready.
    ready: Arc<AtomicBool>,
}

/// What happens at a point.
struct Rule {
    point: Point,
    what: What,
    /// At which passages, the first numbered 1.
    at: RangeInclusive<u64>,
    from_start: bool,
    passed: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Exit,
    Error,
    Empty,
    Delay(Duration),
    Stall,
}

impl Faults {
    /// What the environment asks for.
    ///
    /// # Errors
    /// A fault we do not know.
    #[expect(clippy::disallowed_methods, reason = "the one switch of the tests")]
    pub fn from_environment() -> anyhow::Result<Self> {
        let mut faults = Self::default();
        let variable = std::env::var(VARIABLE).unwrap_or_default();
        for fault in variable.split(',').filter(|fault| !fault.is_empty()) {
            if fault == "second_projector" {
                faults.second_projector = true;
            } else {
                let rule = Rule::parse(fault).with_context(|| format!("{VARIABLE} names the unknown fault {fault}"))?;
                faults.rules.push(rule);
            }
            warn!(fault, "a fault is switched on: this is a test");
        }
        Ok(faults)
    }

    /// Whether a second projector runs on every partition.
    pub fn second_projector(&self) -> bool {
        self.second_projector
    }

    /// The server is ready.
    pub fn begin(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The ports with what goes wrong in front of them.
    pub fn around(&mut self, services: Services) -> Services {
        if self.rules.is_empty() {
            return services;
        }
        let (rules, ready) = (std::mem::take(&mut self.rules), Arc::clone(&self.ready));
        let decide: Decide = Arc::new(move |point| {
            let ready = ready.load(Ordering::Acquire);
            rules.iter().filter(|rule| rule.point == point).find_map(|rule| rule.pass(ready))
        });
        around(services, &decide)
    }
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let (point, what) = text.split_once('=')?;
        let (what, at) = what.split_once('@').unwrap_or((what, "1+"));
        let what = match what.split_once(':') {
            Some(("delay", ms)) => What::Delay(Duration::from_millis(ms.parse().ok()?)),
            None if what == "exit" => What::Exit,
            None if what == "error" => What::Error,
            None if what == "empty" => What::Empty,
            None if what == "stall" => What::Stall,
            _ => return None,
        };
        let (at, from_start) = at.strip_prefix("start+").map_or((at, false), |at| (at, true));
        let (first, every) = at.strip_suffix('+').map_or((at, false), |first| (first, true));
        let first = first.parse().ok()?;
        let at = first..=if every { u64::MAX } else { first };
        Some(Self { point: point.parse().ok()?, what, at, from_start, passed: AtomicU64::new(0) })
    }

    fn pass(&self, ready: bool) -> Option<Act> {
        if !ready && !self.from_start {
            return None;
        }
        let passage = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.at.contains(&passage) {
            return None;
        }
        let (point, what) = (self.point.to_string(), self.what);
        warn!(point, ?what, passage, "a fault happens: this is a test");
        Some(match self.what {
            What::Exit => std::process::abort(),
            What::Error => Act::Error,
            What::Empty => Act::Empty,
            What::Delay(time) => Act::Wait(Box::pin(tokio::time::sleep(time))),
            What::Stall => Act::Wait(Box::pin(std::future::pending())),
        })
    }
}
