//! The one source of chance: a row of numbers that a seed decides (splitmix64), and the hash that shows it.

/// Chance, decided by a seed, or by whoever gives the first numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// The numbers that come first, the last of them in front.
    given: Vec<u16>,
}

impl Rng {
    /// The row of a seed.
    pub fn new(seed: u64) -> Self {
        let state = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d);
        Self { state, given: Vec::new() }
    }

    /// These numbers, then the row of the seed 0: a fuzzer decides.
    pub fn of(numbers: &[u16]) -> Self {
        Self { given: numbers.iter().rev().copied().collect(), ..Self::new(0) }
    }

    /// The next number.
    pub fn word(&mut self) -> u64 {
        if let Some(number) = self.given.pop() {
            return number.into();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// An index into something of this length, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }

    /// Whether something happens that does so `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of these, of which there is at least one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// Another row, decided by this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.word())
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A hash over everything that happened, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace(u64);

impl Trace {
    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        for part in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.number(u64::from_le_bytes(word));
        }
        self.number(text.len() as u64);
    }

    /// The hash so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_numbers_come_first_and_then_those_of_a_seed() {
        let (mut given, mut seeded) = (Rng::of(&[7, 1_003]), Rng::new(0));
        assert_eq!((given.word(), given.below(1_000)), (7, 3));
        assert_eq!((given.word(), given.word()), (seeded.word(), seeded.word()));
    }
}
