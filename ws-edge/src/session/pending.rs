//! Commands whose verdict has not come, in the order they were submitted.

use std::{collections::BTreeMap, time::Duration};

use ringforge_domain::{ids::CommandId, json::Json, position::Offset};

/// A command whose verdict has not come.
#[derive(Debug)]
pub struct Pending {
    /// Its id.
    pub id: CommandId,
    /// The asker's own name for it.
    pub reference: Option<Json>,
    /// When its outcome is unknown. Never before that of one submitted earlier.
    pub deadline: Duration,
    /// Its place in the log, once known.
    pub placed: Option<Offset>,
}

/// All of a connection.
#[derive(Debug, Default)]
pub struct Waiting {
    /// How many were submitted in all: the turn of the last one.
    submitted: u64,
    pending: BTreeMap<u64, Pending>,
    turns: BTreeMap<CommandId, u64>,
}

impl Waiting {
    /// One more.
    pub fn push(&mut self, pending: Pending) {
        self.submitted += 1;
        self.turns.insert(pending.id, self.submitted);
        self.pending.insert(self.submitted, pending);
    }

    /// Takes out one that is decided.
    pub fn settle(&mut self, id: CommandId) -> Option<Pending> {
        let turn = self.turns.remove(&id)?;
        let pending = self.pending.remove(&turn);
        if self.pending.is_empty() {
            // An empty tree keeps its last node: a connection at rest needs none.
            (self.pending, self.turns) = (BTreeMap::new(), BTreeMap::new());
        }
        pending
    }

    /// The log has said where one stands.
    pub fn place(&mut self, id: CommandId, offset: Offset) {
        if let Some(pending) = self.turns.get(&id).and_then(|turn| self.pending.get_mut(turn)) {
            pending.placed = Some(offset);
        }
    }

    /// The one that stands there.
    pub fn at(&self, offset: Offset) -> Option<CommandId> {
        self.pending.values().find(|pending| pending.placed == Some(offset)).map(|pending| pending.id)
    }

    /// Whether it is not known yet of some where they stand.
    pub fn some_unplaced(&self) -> bool {
        self.pending.values().any(|pending| pending.placed.is_none())
    }

    /// The turn of the last one that was submitted.
    pub fn last(&self) -> u64 {
        self.submitted
    }

    /// Whether everything up to this turn is decided.
    pub fn is_decided(&self, turn: u64) -> bool {
        self.pending.first_key_value().is_none_or(|(oldest, _)| *oldest > turn)
    }

    /// The first one that is waited for no longer.
    pub fn late(&self, now: Duration) -> Option<CommandId> {
        let (_, oldest) = self.pending.first_key_value()?;
        (now >= oldest.deadline).then_some(oldest.id)
    }

    /// When the first one is waited for no longer.
    pub fn deadline(&self) -> Option<Duration> {
        self.pending.first_key_value().map(|(_, oldest)| oldest.deadline)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_decided_in_any_order_and_late_in_theirs() {
        let id = CommandId::from_bits;
        let mut waiting = Waiting::default();
        // Ids say nothing of the order.
        for (at, bits) in [9, 3, 7].into_iter().enumerate() {
            let deadline = Duration::from_secs(10 + at as u64);
            waiting.push(Pending { id: id(bits), reference: None, deadline, placed: None });
        }
        assert_eq!((waiting.last(), waiting.len(), waiting.deadline()), (3, 3, Some(Duration::from_secs(10))));
        assert!(waiting.settle(id(3)).is_some() && waiting.settle(id(3)).is_none());
        assert!(waiting.is_decided(0) && !waiting.is_decided(1));
        assert_eq!((waiting.late(Duration::from_secs(9)), waiting.late(Duration::from_secs(12))), (None, Some(id(9))));
        assert!(waiting.settle(id(9)).is_some());
        assert!(waiting.is_decided(2) && !waiting.is_decided(3));
        assert!(waiting.settle(id(7)).is_some());
        assert!(waiting.is_empty() && waiting.is_decided(3) && waiting.deadline().is_none());
        assert_eq!(waiting.last(), 3, "turns are never given twice");
    }
}
