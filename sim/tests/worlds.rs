//! The simulation itself: the same seed is the same history, and what is planted is found.

use ringforge_domain::planted::Bug;
use ringforge_sim::run;

/// Seeds within which a planted bug must be found.
const BUDGET: u64 = 500;

/// Some of them; `make planted` looks for all.
const EASY: [Bug; 4] = [Bug::SeamTooEarly, Bug::GuardDropped, Bug::LastPublishLost, Bug::VersionRestarts];

#[test]
fn the_same_seed_is_the_same_history() {
    let traces: Vec<u64> = (1..=6).map(|seed| run(seed, None).expect("it holds").trace).collect();
    for (seed, trace) in (1..).zip(&traces) {
        assert_eq!(run(seed, None).expect("it holds").trace, *trace, "seed {seed}");
    }
    assert!(traces.windows(2).all(|two| two[0] != two[1]), "another seed is another history: {traces:?}");
}

#[test]
fn planted_bugs_are_found() {
    for bug in EASY {
        let found = (1..=BUDGET).find(|seed| run(*seed, Some(bug)).is_err());
        assert!(found.is_some(), "{bug:?} was not found in {BUDGET} seeds");
    }
}
