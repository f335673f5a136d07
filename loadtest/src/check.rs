//! What a receiver must not see: gaps, duplicates, a wrong order. Pure, so that the checks themselves are tested.

use std::collections::BTreeSet;

/// Holes remembered for one publisher; beyond it a late event counts as a duplicate, which fails a run as well.
const HOLES_KEPT: usize = 10_000;

/// What went wrong, as counts. All zero in a good run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sequence numbers that never came.
    pub missing: u64,
    /// Sequence numbers that came again.
    pub duplicates: u64,
    /// Sequence numbers that came after a later one of the same publisher.
    pub late: u64,
    /// Positions of a fleet that did not rise, or were not there.
    pub positions: u64,
}

impl Faults {
    /// Whether nothing went wrong.
    pub fn none(&self) -> bool {
        *self == Self::default()
    }

    /// Counts these as well.
    pub fn add(&mut self, other: &Self) {
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.positions += other.positions;
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { missing, duplicates, late, positions } = self;
        write!(out, "{missing} missing, {duplicates} twice, {late} late, {positions} positions not rising")
    }
}

/// What one receiver saw of every publisher of its fleet. Each publisher counts from 0.
#[derive(Debug)]
pub struct Receiver {
    publishers: Vec<Publisher>,
    newest_position: Option<u64>,
    wants_positions: bool,
    faults: Faults,
}

#[derive(Clone, Debug, Default)]
struct Publisher {
    next: u64,
    holes: BTreeSet<u64>,
    skipped: u64,
}

impl Receiver {
    /// A receiver of this many publishers. `positions`: whether every event must carry one.
    pub fn new(publishers: usize, positions: bool) -> Self {
        Self {
            publishers: vec![Publisher::default(); publishers],
            newest_position: None,
            wants_positions: positions,
            faults: Faults::default(),
        }
    }

    /// One event came.
    pub fn saw(&mut self, publisher: usize, sequence: u64, position: Option<u64>) {
        if self.wants_positions {
            if position.is_none() || position <= self.newest_position {
                self.faults.positions += 1;
            }
            self.newest_position = self.newest_position.max(position);
        }
        let Some(publisher) = self.publishers.get_mut(publisher) else {
            self.faults.duplicates += 1;
            return;
        };
        if sequence >= publisher.next {
            let hole = publisher.next..sequence;
            publisher.skipped += sequence - publisher.next;
            let room = HOLES_KEPT.saturating_sub(publisher.holes.len());
            publisher.holes.extend(hole.take(room));
            publisher.next = sequence + 1;
        } else if publisher.holes.remove(&sequence) {
            publisher.skipped -= 1;
            self.faults.late += 1;
        } else {
            self.faults.duplicates += 1;
        }
    }

    /// Whether everything that was sent has come; `sent` counts by publisher.
    pub fn complete(&self, sent: &[u64]) -> bool {
        self.publishers.iter().zip(sent).all(|(seen, sent)| seen.next >= *sent && seen.skipped == 0)
    }

    /// What went wrong, given how many each publisher sent.
    pub fn faults(&self, sent: &[u64]) -> Faults {
        let mut faults = self.faults;
        for (seen, sent) in self.publishers.iter().zip(sent) {
            faults.missing += seen.skipped + sent.saturating_sub(seen.next);
        }
        faults
    }
}

/// What one publisher was told of each of its commands, numbered from 0.
#[derive(Debug, Default)]
pub struct Acks {
    answers: Vec<Answer>,
    answered: usize,
    faults: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Waiting,
    Applied(Option<u64>),
    Refused,
}

impl Acks {
    /// Another command goes out; its number.
    pub fn sent(&mut self) -> usize {
        self.answers.push(Answer::Waiting);
        self.answers.len() - 1
    }

    /// Commands sent.
    pub fn count(&self) -> usize {
        self.answers.len()
    }

    /// Commands that wait for their answer.
    pub fn waiting(&self) -> usize {
        self.answers.len() - self.answered
    }

    /// The command `number` was acknowledged, with the position of its event.
    pub fn applied(&mut self, number: usize, position: Option<u64>) {
        self.answer(number, Answer::Applied(position));
    }

    /// The question `number` was answered; answers have no place in the order.
    pub fn answered(&mut self, number: usize) {
        self.answer(number, Answer::Refused);
    }

    /// The command `number` was refused.
    pub fn refused(&mut self, number: usize) {
        self.answer(number, Answer::Refused);
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        match self.answers.get_mut(number) {
            Some(known @ Answer::Waiting) => {
                *known = answer;
                self.answered += 1;
            }
            _ => self.faults.duplicates += 1,
        }
    }

    /// What went wrong: answers missing or twice, positions absent or not rising with the numbers.
    pub fn faults(&self) -> Faults {
        let mut faults = self.faults;
        let mut newest = None;
        for answer in &self.answers {
            match *answer {
                Answer::Waiting => faults.missing += 1,
                Answer::Refused => {}
                Answer::Applied(position) => {
                    if position.is_none() || position <= newest {
                        faults.positions += 1;
                    }
                    newest = newest.max(position);
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sequences: &[u64], sent: u64) -> Faults {
        let mut receiver = Receiver::new(1, true);
        for (position, sequence) in (1..).zip(sequences) {
            receiver.saw(0, *sequence, Some(position));
        }
        receiver.faults(&[sent])
    }

    #[test]
    fn everything_once_in_order_is_well() {
        assert!(after(&[0, 1, 2, 3], 4).none());
        assert!(after(&[], 0).none());
    }

    #[test]
    fn a_gap_is_found_in_the_middle_and_at_the_end() {
        assert_eq!(after(&[0, 2, 3], 4), Faults { missing: 1, ..Faults::default() });
        assert_eq!(after(&[0, 1], 4), Faults { missing: 2, ..Faults::default() });
        assert_eq!(after(&[3], 4), Faults { missing: 3, ..Faults::default() });
    }

    #[test]
    fn a_duplicate_is_found() {
        assert_eq!(after(&[0, 1, 1, 2], 3), Faults { duplicates: 1, ..Faults::default() });
        assert_eq!(after(&[0, 2, 1, 1], 3), Faults { late: 1, duplicates: 1, ..Faults::default() });
    }

    #[test]
    fn a_wrong_order_is_found() {
        assert_eq!(after(&[0, 2, 1, 3], 4), Faults { late: 1, ..Faults::default() });
    }

    #[test]
    fn positions_must_be_there_and_rise() {
        let mut receiver = Receiver::new(2, true);
        receiver.saw(0, 0, Some(5));
        receiver.saw(1, 0, Some(5));
        receiver.saw(0, 1, Some(4));
        receiver.saw(1, 1, None);
        receiver.saw(1, 2, Some(6));
        assert_eq!(receiver.faults(&[2, 3]), Faults { positions: 3, ..Faults::default() });
        assert!(receiver.complete(&[2, 3]) && !receiver.complete(&[2, 4]));
    }

    #[test]
    fn an_unknown_publisher_is_a_fault() {
        let mut receiver = Receiver::new(1, false);
        receiver.saw(7, 0, None);
        assert!(!receiver.faults(&[0]).none());
    }

    #[test]
    fn acks_are_once_each_and_rise() {
        let mut acks = Acks::default();
        for number in 0..5 {
            assert_eq!(acks.sent(), number);
        }
        // Answers may overtake each other; positions follow the order in which the commands were sent.
        acks.applied(1, Some(11));
        acks.applied(0, Some(0));
        assert_eq!(acks.faults(), Faults { missing: 3, ..Faults::default() });
        acks.applied(1, Some(11));
        acks.applied(9, Some(1));
        acks.applied(2, Some(11));
        acks.refused(4);
        let expected = Faults { missing: 1, duplicates: 2, positions: 1, late: 0 };
        assert_eq!(acks.faults(), expected);
        assert_eq!((acks.waiting(), acks.count()), (1, 5));
        acks.applied(3, None);
        assert_eq!(acks.faults(), Faults { positions: 2, missing: 0, ..expected });
    }
}
