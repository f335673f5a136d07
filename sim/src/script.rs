//! A world as a list of steps, each with a chance of its own: what is left out changes nothing else of the list. So a long
//! history that breaks a guarantee can be cut down to a short one that breaks it too.

use std::time::Duration;

use crate::{rng::Rng, vocabulary::faults::Fault};

/// Steps of one world, about.
const STEPS: u64 = 1_200;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How much time passes before it.
    pub after: Duration,
    /// Who does something.
    pub turn: Turn,
    /// What decides the rest.
    pub chance: u64,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// An agent does something.
    Act,
    /// An agent reads.
    Listen,
    /// A connection goes on, at the server.
    Serve,
    /// A projector goes on.
    Project,
    /// A fleet's follower goes on, at an edge.
    Follow,
    /// The bus brings something late.
    Bring,
    /// The log takes something late.
    BringLate,
    /// Whoever has a timer looks at it.
    Tick,
    /// Something goes wrong.
    Fault(Fault),
}

/// The steps of a seed.
pub fn steps(seed: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed ^ 0x5eed_0f57_e9d5_u64);
    let count = STEPS / 2 + rng.below(STEPS);
    (0..count).map(|_| Step::draw(&mut rng)).collect()
}

impl Step {
    fn draw(rng: &mut Rng) -> Self {
        let after = Duration::from_micros(rng.below(4_000));
        let turn = match rng.below(1_000) {
            0..170 => Turn::Act,
            170..360 => Turn::Listen,
            360..620 => Turn::Serve,
            620..760 => Turn::Project,
            760..900 => Turn::Follow,
            900..950 => Turn::Bring,
            950..960 => Turn::BringLate,
            960..990 => Turn::Tick,
            _ => Turn::Fault(Fault::draw(rng)),
        };
        Self { after, turn, chance: rng.word() }
    }
}

/// A list of steps for which `fails` still holds, and of which no part of any tried size can be left out; found in at most
/// `tries` tries. `steps` is one for which it holds.
pub fn shrink(steps: &[Step], tries: usize, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let (mut kept, mut left) = (steps.to_vec(), tries);
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < kept.len() && left > 0 {
            let upto = (from + size).min(kept.len());
            let without: Vec<Step> = kept[..from].iter().chain(&kept[upto..]).copied().collect();
            left -= 1;
            if fails(&without) {
                kept = without;
            } else {
                from = upto;
            }
        }
        size /= 2;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let all = steps(1);
        let (one, other) = (all[17], all[all.len() - 3]);
        let short = shrink(&all, 2_000, |steps| steps.contains(&one) && steps.contains(&other));
        assert_eq!(short, [one, other]);
    }

    #[test]
    fn tries_are_bounded() {
        let mut tries = 0;
        let short = shrink(&steps(1), 10, |steps| {
            tries += 1;
            !steps.is_empty()
        });
        assert!(!short.is_empty() && tries <= 10);
    }
}
