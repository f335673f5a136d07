//! What a run was like. One that missed its conditions shows nothing.

#![allow(dead_code, reason = "not every torture has all of them")]

use std::collections::{BTreeMap, BTreeSet};

use ringforge_domain::{event::Event, json::Json, limits::TAIL_UPDATES_MAX, verdict::Verdict};
use ringforge_sim::{history::History, tally::Tally};

use crate::run::Woken;

/// Commands in flight at each kill, at least.
pub const IN_FLIGHT_MIN: usize = 64;
/// Events that whoever slept missed, at least: ten times what an edge keeps in memory.
pub const GAP_MIN: u64 = 10 * TAIL_UPDATES_MAX as u64;

/// What everybody together must have met.
pub const MET: [&str; 18] = [
    "fault: everything restarted",
    "fault: socket killed",
    "fault: socket half open",
    "fault: peer reads nothing",
    "situation: resume recovered",
    "situation: resume from an early event",
    "situation: resume after a forged event refused",
    "situation: resume crossed a restart",
    "situation: compare-and-set held",
    "situation: compare-and-set conflict",
    "situation: key set again after a deletion",
    "situation: expiry recorded by a timer",
    "situation: duplicate answered",
    "situation: memory read after a write was seen",
    "situation: snapshot during writes",
    "situation: mail delivered after an absence",
    "situation: final presence after each change",
    "situation: final presence after deltas",
];

/// What may become of a command whose answer nobody read, and of one that is sent again then.
const FATES: [&str; 4] = [
    "fate: not answered, in the log",
    "fate: not answered, lost",
    "fate: repeated, had landed",
    "fate: repeated, had not",
];

/// What a run was like.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Kills under load.
    pub kills: u32,
    /// Other kills: before the server was ready, or while everyone came back.
    pub untimely: u32,
    /// The fewest commands in flight at a kill under load.
    pub in_flight_min: usize,
    /// Everyone who slept and came back.
    pub woken: Vec<Woken>,
}

impl Conditions {
    /// All conditions were met.
    #[track_caller]
    pub fn met(&self, kills: u32) {
        assert_eq!(self.kills, kills);
        assert!(self.in_flight_min >= IN_FLIGHT_MIN, "{self:?}");
        let far = |woken: &Woken| woken.missed >= GAP_MIN && woken.lives > 0 && woken.arrived > 0;
        assert!(self.woken.iter().all(far), "{self:?}");
    }
}

/// Everyone met everything of `wanted`, and no kill left a record that cannot be read.
#[track_caller]
pub fn reached(history: &History, tally: &Tally, wanted: &[&str]) {
    let damaged = history.logs.values().any(|logged| logged.told.len() < logged.records.len());
    assert!(!damaged, "a record is damaged");
    let fates = fates(history);
    let fates = FATES
        .iter()
        .filter(|_| !wanted.is_empty())
        .map(|fate| ((*fate).to_owned(), fates.get(fate).copied().unwrap_or(0)));
    let met: Vec<(String, u64)> =
        tally.all().into_iter().filter(|(what, _)| wanted.contains(&what.as_str())).chain(fates).collect();
    for (what, count) in &met {
        eprintln!("{count:>8}  {what}");
    }
    let never: Vec<&String> = met.iter().filter(|(_, count)| *count == 0).map(|(what, _)| what).collect();
    assert!(never.is_empty(), "never met: {never:?}");
}

/// What became of commands whose answer nobody read, and of their repetitions.
fn fates(history: &History) -> BTreeMap<&'static str, u64> {
    let told = history.logs.values().flat_map(|logged| &logged.told);
    let reference = |event: &Event| event.at.header.reference.as_ref().and_then(Json::as_str);
    let logged: BTreeMap<String, &Verdict> =
        told.filter_map(|(event, verdict)| Some((reference(event)?, verdict))).collect();
    let mut fates = BTreeMap::new();
    for agent in &history.agents {
        let mut unanswered = BTreeSet::new();
        for sent in &agent.diary.sent {
            let verdict = logged.get(&sent.reference);
            let again = sent.key.as_ref().is_some_and(|key| unanswered.contains(key));
            let [landed, lost, had_landed, had_not] = FATES;
            let fate = match (&sent.answer, verdict) {
                (None, Some(_)) => landed,
                (None, None) => lost,
                (Some(_), Some(verdict)) if again && verdict.first.is_some() => had_landed,
                (Some(_), Some(_)) if again => had_not,
                _ => continue,
            };
            *fates.entry(fate).or_default() += 1;
            unanswered.extend(sent.key.as_ref().filter(|_| sent.answer.is_none()));
        }
    }
    fates
}
