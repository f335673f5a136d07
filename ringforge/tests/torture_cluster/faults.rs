//! What is done to an installation: each kind of fault, dealt out by the seed, and when it ends.

use std::{fmt, time::Duration};

use ringforge_sim::rng::Rng;

use super::{proxy::Way, servers::Store, support::Server};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kill -9` of a process with this role.
    Kill(&'static str),
    /// `kill -9` of every process.
    KillAll,
    /// SIGSTOP of a process with this role, and later SIGCONT.
    Stop(&'static str),
    /// Redis forgets everything.
    Flush,
    /// `kill -9` of a server, which starts again where it was (Redis: empty).
    Down(Store),
    /// SIGSTOP of a server, and later SIGCONT.
    Freeze(Store),
    /// `kill -9` of a server without which everything goes on, and nothing else happens.
    Bereft(Store),
    /// One broker of several, and nothing else happens.
    Broker(Loss),
    /// `kill -9` of two brokers of three, which start again.
    TwoBrokers,
    /// A process has another way to a server.
    Way(Store, Harm),
    /// A process hears nothing of one of its commits.
    Cut,
}

/// How a way is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// See [`Way`].
    Closed,
    /// See [`Way`].
    Slow,
    /// See [`Way`].
    Deaf,
}

/// What becomes of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// `kill -9`.
    Killed,
    /// SIGSTOP, and later SIGCONT: it may still think that it leads.
    Frozen,
    /// `kill -9`, and what it wrote last never reached its disk.
    Torn,
}

/// Every kind, where each server is one.
pub const ONE_OF_EACH: [Kind; 33] = [
    Kind::Kill("projectors"),
    Kind::Kill("command-api"),
    Kind::Kill("edge"),
    Kind::Kill("query-api"),
    Kind::KillAll,
    Kind::Stop("projectors"),
    Kind::Stop("edge"),
    Kind::Stop("command-api"),
    Kind::Stop("query-api"),
    Kind::Flush,
    Kind::Down(Store::Kafka),
    Kind::Down(Store::Postgres),
    Kind::Down(Store::Redis),
    Kind::Bereft(Store::Redis),
    Kind::Bereft(Store::S3),
    Kind::Down(Store::S3),
    Kind::Freeze(Store::Kafka),
    Kind::Freeze(Store::Postgres),
    Kind::Freeze(Store::Redis),
    Kind::Freeze(Store::S3),
    Kind::Way(Store::Kafka, Harm::Closed),
    Kind::Way(Store::Kafka, Harm::Slow),
    Kind::Way(Store::Kafka, Harm::Deaf),
    Kind::Way(Store::Postgres, Harm::Closed),
    Kind::Way(Store::Postgres, Harm::Slow),
    Kind::Way(Store::Postgres, Harm::Deaf),
    Kind::Way(Store::Redis, Harm::Closed),
    Kind::Way(Store::Redis, Harm::Slow),
    Kind::Way(Store::Redis, Harm::Deaf),
    Kind::Way(Store::S3, Harm::Closed),
    Kind::Way(Store::S3, Harm::Slow),
    Kind::Way(Store::S3, Harm::Deaf),
    Kind::Cut,
];

/// Every kind, where there are three brokers: what the loss of some of them means to whom.
pub const THREE_BROKERS: [Kind; 14] = [
    Kind::Broker(Loss::Killed),
    Kind::Broker(Loss::Frozen),
    Kind::Broker(Loss::Torn),
    Kind::TwoBrokers,
    Kind::TwoBrokers,
    Kind::Down(Store::Kafka),
    Kind::Freeze(Store::Kafka),
    Kind::Kill("projectors"),
    Kind::Kill("command-api"),
    Kind::Kill("edge"),
    Kind::KillAll,
    Kind::Stop("projectors"),
    Kind::Flush,
    Kind::Cut,
];

/// Brokers, where there are several.
pub const BROKERS: usize = 3;

impl Kind {
    /// Whether commands are acknowledged all the while, as it is the only one then.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Bereft(_) | Self::Broker(_))
    }
}

/// A fault, from when to when in its cycle.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// The number of the process, or the broker, if it is one's.
    pub process: usize,
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub until: Duration,
    /// What is added by a slow way.
    pub slow: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (self.from.as_millis(), self.until.as_millis());
        write!(out, "{:?} ", self.kind)?;
        match self.kind {
            Kind::Broker(_) | Kind::TwoBrokers => write!(out, "of broker {} ", self.process)?,
            _ if self.process < Server::PROCESSES => write!(out, "of process {} ", self.process)?,
            _ => {}
        }
        write!(out, "from {from} to {until} ms")
    }
}

/// So many cycles: of eight, each kind is in one.
pub fn deal(deck: &[Kind], cycles: usize, rng: &mut Rng) -> Vec<Vec<Fault>> {
    let (alone, mut deck): (Vec<Kind>, Vec<Kind>) = deck.iter().partition(|kind| kind.goes_on());
    for at in (1..deck.len()).rev() {
        deck.swap(at, rng.index(at + 1));
    }
    let together = HANDS - alone.len();
    let mut hands = vec![Vec::new(); together];
    deck.into_iter().enumerate().for_each(|(at, kind)| hands[at % together].push(kind));
    for kind in alone {
        hands.insert(rng.index(hands.len() + 1), vec![kind]);
    }
    hands.truncate(cycles);
    hands.into_iter().map(|hand| cycle(&hand, rng)).collect()
}

/// Cycles until every kind was there.
pub const HANDS: usize = 8;

fn cycle(hand: &[Kind], rng: &mut Rng) -> Vec<Fault> {
    let mut taken = Vec::new();
    let faults = hand.iter().map(|kind| {
        let among = match kind {
            Kind::Kill(role) | Kind::Stop(role) => Server::numbers(role),
            // Whoever projects takes checkpoints.
            Kind::Cut | Kind::Way(Store::S3, _) => Server::numbers("projectors"),
            // Those that have most to do.
            Kind::Way(..) if rng.chance(750) => [Server::numbers("projectors"), Server::numbers("edge")].concat(),
            Kind::Way(..) => [Server::numbers("command-api"), Server::numbers("query-api")].concat(),
            Kind::Broker(_) | Kind::TwoBrokers => (0..BROKERS).collect(),
            _ => vec![usize::MAX],
        };
        // None is harmed twice at once.
        let free: Vec<usize> = among.iter().copied().filter(|number| !taken.contains(number)).collect();
        let process = *rng.pick(if free.is_empty() { &among } else { &free });
        taken.push(process);
        let (least, more) = match kind {
            // For longer than its session.
            Kind::Stop("projectors") => (7_000, 3_000),
            Kind::Stop(_) | Kind::Freeze(_) | Kind::Way(..) | Kind::Cut => (1_000, 7_000),
            Kind::Bereft(_) | Kind::TwoBrokers => (3_000, 4_000),
            // For longer than it takes to be missed, and to be led by another.
            Kind::Broker(Loss::Frozen) => (20_000, 10_000),
            Kind::Broker(_) => (10_000, 5_000),
            Kind::Flush => (0, 1),
            Kind::Kill(_) | Kind::KillAll | Kind::Down(_) => (0, 4_000),
        };
        let from = Duration::from_millis(rng.below(2_000));
        let until = from + Duration::from_millis(least + rng.below(more));
        Fault { kind: *kind, process, from, until, slow: Duration::from_millis(20 + rng.below(200)) }
    });
    faults.collect()
}

impl Harm {
    /// The way as it is then.
    pub fn way(self, slow: Duration) -> Way {
        match self {
            Self::Closed => Way::Closed,
            Self::Slow => Way::Slow(slow),
            Self::Deaf => Way::Deaf,
        }
    }
}
