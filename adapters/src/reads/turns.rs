//! Whose turn it is: everyone has a line of their own, and the lines are served in turns.

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    sync::{Arc, Weak},
};

/// What is asked by many and done by a few, who must not all work for the same one.
pub(super) struct Turns<Key, Work> {
    /// What waits, and whether its asker is still there. No line is empty.
    lines: BTreeMap<Key, VecDeque<(Weak<()>, Work)>>,
    /// Whose lines they are, in the order of their turns.
    order: VecDeque<Key>,
    /// For whom something is being done, once for each piece.
    at_work: Vec<Key>,
    all_max: usize,
    waiting_max: usize,
    at_work_max: usize,
}

impl<Key: Copy + Ord, Work> Turns<Key, Work> {
    /// So many pieces may wait in all; of each, so many may wait, and so many be done at once.
    pub fn new(all_max: usize, waiting_max: usize, at_work_max: usize) -> Self {
        let (lines, order, at_work) = (BTreeMap::new(), VecDeque::new(), Vec::new());
        Self { lines, order, at_work, all_max, waiting_max, at_work_max }
    }

    /// Puts `work` at the end of a line, where it is as long as its asker is. Says whether there was a place.
    pub fn wait(&mut self, key: Key, asker: &Arc<()>, work: Work) -> bool {
        if !self.has_place(key) {
            self.lines.values_mut().for_each(|line| line.retain(|(asker, _)| asker.strong_count() > 0));
            self.lines.retain(|_, line| !line.is_empty());
            self.order.retain(|key| self.lines.contains_key(key));
        }
        let free = self.has_place(key);
        if free {
            let line = self.lines.entry(key).or_default();
            if line.is_empty() {
                self.order.push_back(key);
            }
            line.push_back((Arc::downgrade(asker), work));
        }
        free
    }

    fn has_place(&self, key: Key) -> bool {
        let all: usize = self.lines.values().map(VecDeque::len).sum();
        all < self.all_max && self.lines.get(&key).is_none_or(|line| line.len() < self.waiting_max)
    }

    /// What is to be done next, and for whom. Until [`end`](Self::end) it counts as being done.
    pub fn begin(&mut self) -> Option<(Key, Work)> {
        loop {
            let at = self.order.iter().position(|key| self.count(*key) < self.at_work_max)?;
            let key = self.order.remove(at)?;
            let line = self.lines.get_mut(&key).expect("whoever has a turn has a line");
            let next = iter::from_fn(|| line.pop_front()).find(|(asker, _)| asker.strong_count() > 0);
            if line.is_empty() {
                self.lines.remove(&key);
            } else {
                self.order.push_back(key);
            }
            if let Some((_, work)) = next {
                self.at_work.push(key);
                return Some((key, work));
            }
        }
    }

    /// A piece is done.
    pub fn end(&mut self, key: Key) {
        if let Some(at) = self.at_work.iter().position(|busy| *busy == key) {
            self.at_work.swap_remove(at);
        }
    }

    fn count(&self, key: Key) -> usize {
        self.at_work.iter().filter(|busy| **busy == key).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts pieces that are numbered from 0 in a line; they wait as long as the answer is kept.
    fn wait(turns: &mut Turns<char, usize>, key: char, count: usize) -> Vec<Arc<()>> {
        let askers: Vec<_> = (0..count).map(|_| Arc::new(())).collect();
        for (number, asker) in askers.iter().enumerate() {
            assert!(turns.wait(key, asker, number), "{key} {number} has no place");
        }
        askers
    }

    /// What is done when one piece is done after the other.
    fn done(turns: &mut Turns<char, usize>) -> Vec<(char, usize)> {
        let next = || {
            let begun = turns.begin()?;
            turns.end(begun.0);
            Some(begun)
        };
        iter::from_fn(next).collect()
    }

    #[test]
    fn everyone_has_a_turn_before_anyone_has_the_next() {
        let mut turns = Turns::new(99, 10, 1);
        let _a = wait(&mut turns, 'a', 3);
        let _b = wait(&mut turns, 'b', 1);
        let _c = wait(&mut turns, 'c', 2);
        assert_eq!(done(&mut turns), [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('c', 1), ('a', 2)]);
        // Whoever comes again comes last.
        let _a = wait(&mut turns, 'a', 2);
        assert_eq!(turns.begin(), Some(('a', 0)));
        turns.end('a');
        let _b = wait(&mut turns, 'b', 1);
        let _c = wait(&mut turns, 'a', 0);
        assert_eq!(done(&mut turns), [('a', 1), ('b', 0)]);
        assert!(turns.lines.is_empty() && turns.order.is_empty() && turns.at_work.is_empty());
    }

    #[test]
    fn nobody_is_served_more_than_so_often_at_once() {
        let mut turns = Turns::new(99, 10, 2);
        let _a = wait(&mut turns, 'a', 5);
        assert_eq!([turns.begin(), turns.begin(), turns.begin()], [Some(('a', 0)), Some(('a', 1)), None]);
        let _b = wait(&mut turns, 'b', 1);
        assert_eq!([turns.begin(), turns.begin()], [Some(('b', 0)), None]);
        turns.end('b');
        assert_eq!(turns.begin(), None, "the end of another's is not theirs");
        turns.end('a');
        assert_eq!([turns.begin(), turns.begin()], [Some(('a', 2)), None]);
    }

    #[test]
    fn a_full_line_takes_nobody_and_others_do_not_mind() {
        let mut turns = Turns::new(99, 2, 1);
        let _a = wait(&mut turns, 'a', 2);
        assert!(!turns.wait('a', &Arc::new(()), 2));
        let _b = wait(&mut turns, 'b', 2);
        assert_eq!(done(&mut turns), [('a', 0), ('b', 0), ('a', 1), ('b', 1)]);
    }

    #[test]
    fn all_lines_together_are_bounded() {
        let mut turns = Turns::new(3, 2, 1);
        let mut a = wait(&mut turns, 'a', 2);
        let _b = wait(&mut turns, 'b', 1);
        let c = Arc::new(());
        assert!(!turns.wait('c', &c, 0));
        a.clear();
        assert!(turns.wait('c', &c, 0), "who left gives its place to anybody");
        assert_eq!(done(&mut turns), [('b', 0), ('c', 0)]);
    }

    #[test]
    fn who_left_has_neither_place_nor_turn() {
        let mut turns = Turns::new(99, 2, 1);
        drop(wait(&mut turns, 'a', 2));
        let _a = wait(&mut turns, 'a', 2);
        let mut b = wait(&mut turns, 'b', 2);
        b.remove(0);
        drop(wait(&mut turns, 'c', 1));
        assert_eq!(done(&mut turns), [('a', 0), ('b', 1), ('a', 1)]);
        assert!(turns.lines.is_empty() && turns.order.is_empty());
    }
}
