//! The simulation itself: the same seed is the same history, and what is planted is found.

use ringforge_sim::{PLANTED, run};

/// Seeds within which a planted bug must be found.
const BUDGET: u64 = 500;

#[test]
fn the_same_seed_is_the_same_history() {
    let traces: Vec<u64> = (1..=6).map(|seed| run(seed, "").expect("it holds").trace).collect();
    for (seed, trace) in (1..).zip(&traces) {
        assert_eq!(run(seed, "").expect("it holds").trace, *trace, "seed {seed}");
    }
    assert!(traces.windows(2).all(|two| two[0] != two[1]), "another seed is another history: {traces:?}");
}

#[test]
fn planted_bugs_are_found() {
    for bug in PLANTED {
        let found = (1..=BUDGET).find(|seed| run(*seed, bug).is_err());
        assert!(found.is_some(), "{bug} was not found in {BUDGET} seeds");
    }
}
