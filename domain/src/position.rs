//! Where an event stands: partition, offset, log time. No clock: time is assigned by the log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One ordered piece of the log. A fleet lives on exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl Partition {
    /// Tenants, fleets and keys.
    pub const DIRECTORY: Self = Self(0);
    /// The first pool partition: the only one of the embedded log.
    pub const POOL: Self = Self(1);
    /// The first of those that one fleet each has to itself.
    pub const DEDICATED: Self = Self(1 << 15);

    /// Whether it is one fleet's.
    pub fn is_dedicated(self) -> bool {
        self >= Self::DEDICATED
    }
}

/// The partitions of a log: the directory and the pool, then those that one fleet each has to itself. Each part is counted without
/// holes, and may have grown when the log is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions {
    /// Directory and pool: at least one, at most 2^15.
    pub shared: u16,
    /// One fleet's each, at most 2^15.
    pub dedicated: u16,
}

impl Partitions {
    /// A directory and a pool.
    pub fn shared(shared: u16) -> Self {
        Self { shared, dedicated: 0 }
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> {
        let dedicated = (0..self.dedicated).map(|number| Partition(Partition::DEDICATED.0 + number));
        (0..self.shared).map(Partition).chain(dedicated)
    }

    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.shared) + usize::from(self.dedicated)
    }

    /// The place of one among all; `None`: it is not there.
    pub fn index(self, partition: Partition) -> Option<usize> {
        let (first, count, before) = if partition.is_dedicated() {
            (Partition::DEDICATED.0, self.dedicated, usize::from(self.shared))
        } else {
            (0, self.shared, 0)
        };
        let at = partition.0 - first;
        (at < count).then(|| before + usize::from(at))
    }
}

/// A place within a partition, counted from 0, below 2^43. As a bound it means "the next one".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// Where a partition begins.
    pub const ZERO: Self = Self(0);
    /// The first offset that no longer fits beside the epoch in a wire position.
    pub const LIMIT: Self = Self(1 << 43);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The whole place of an event: partition and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition.
    pub partition: Partition,
    /// The place in it.
    pub offset: Offset,
}

/// The place of an event within its partition, by which it is known again: the first of several equal commands, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Its place.
    pub offset: Offset,
    /// 32 bits of its record's hash.
    pub hash: u32,
}

/// Which life of a stream an offset belongs to; drawn at random when a log is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// Where a fleet's events stand, and in which of its homes: `epoch` rises when a fleet moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRef {
    /// The partition that holds the fleet.
    pub partition: Partition,
    /// How often the fleet has moved.
    pub epoch: u16,
}

impl StreamRef {
    /// The integer `position` of the wire: `epoch * 2^43 + offset`, rising within a fleet.
    pub fn wire(self, offset: Offset) -> u64 {
        (u64::from(self.epoch) << 43) | offset.0
    }

    /// The offset behind a wire position, if it is one of this stream.
    pub fn offset(self, wire: u64) -> Option<Offset> {
        (wire >> 43 == u64::from(self.epoch)).then_some(Offset(wire & (Offset::LIMIT.0 - 1)))
    }
}

/// Log time in microseconds since 1970, UTC. Within a partition it never runs backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogTime(pub i64);

impl LogTime {
    /// This time and `micros` more; stops at the end of time.
    #[must_use]
    pub fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// RFC 3339 with microseconds, as on the wire.
    pub fn rfc3339(self) -> String {
        let shown = Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::MAX);
        format!("{shown:.6}")
    }

    /// Reads an RFC 3339 time or a plain date (midnight UTC).
    pub fn parse(text: &str) -> Option<Self> {
        let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
        whole.parse::<Timestamp>().ok().map(|at| Self(at.as_microsecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_fleet_keeps_rising() {
        let before = StreamRef { partition: Partition(1), epoch: 0 };
        let after = StreamRef { partition: Partition(7), epoch: 1 };
        assert!(after.wire(Offset::ZERO) > before.wire(Offset(Offset::LIMIT.0 - 1)));
        assert_eq!(after.offset(after.wire(Offset(42))), Some(Offset(42)));
        assert_eq!(before.offset(after.wire(Offset(42))), None);
    }

    #[test]
    fn a_place_fits_beside_its_epoch() {
        assert_eq!((Offset::ZERO.next(), Offset(41).next()), (Offset(1), Offset(42)));
        let stream = StreamRef { partition: Partition(1), epoch: 3 };
        let last = Offset(Offset::LIMIT.0 - 1);
        assert_eq!(stream.wire(Offset::ZERO), 3 << 43);
        assert_eq!(stream.wire(last), (4 << 43) - 1);
        assert_eq!(stream.offset(stream.wire(last)), Some(last));
        assert_eq!((stream.offset(stream.wire(last) + 1), stream.offset((3 << 43) - 1)), (None, None));
    }

    #[test]
    fn partitions_are_counted_in_two_parts() {
        let some = Partitions { shared: 3, dedicated: 2 };
        let all: Vec<Partition> = some.iter().collect();
        assert_eq!(all, [0, 1, 2, 1 << 15, (1 << 15) + 1].map(Partition));
        assert_eq!(all.iter().map(|one| some.index(*one)).collect::<Vec<_>>(), (0..5).map(Some).collect::<Vec<_>>());
        for none in [3, (1 << 15) - 1, (1 << 15) + 2, u16::MAX].map(Partition) {
            assert_eq!(some.index(none), None, "{none:?}");
        }
        assert_eq!((some.count(), Partitions::shared(3).count()), (5, 3));
        let most = Partitions { shared: 1 << 15, dedicated: 1 << 15 };
        assert_eq!(
            (most.iter().last(), most.index(Partition(u16::MAX))),
            (Some(Partition(u16::MAX)), Some(most.count() - 1))
        );
    }

    #[test]
    fn time_stops_at_its_end() {
        assert_eq!(LogTime(5).plus(-7), LogTime(-2));
        assert_eq!(LogTime(i64::MAX).plus(1), LogTime(i64::MAX));
        assert_eq!(LogTime(i64::MAX).rfc3339(), "9999-12-30T22:00:00.999999Z");
    }

    #[test]
    fn times_read_back_as_written() {
        let time = LogTime(1_770_000_000_123_456);
        assert_eq!(LogTime::parse(&time.rfc3339()), Some(time));
        assert_eq!(LogTime::parse("2026-02-06").map(LogTime::rfc3339).as_deref(), Some("2026-02-06T00:00:00.000000Z"));
        assert_eq!(LogTime::parse("yesterday"), None);
    }
}
