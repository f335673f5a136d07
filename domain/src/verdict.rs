//! What the fold says of one event, and what everyone sees of it: `frames_of` is the only producer of frames from events.

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use crate::{
    history::{Index, Stream},
    position::First,
};

use crate::{
    catalog::Effect,
    code::{CURRENT_VALUE, Met, Refusal},
    event::{At, Event},
    frame::{Frame, Shown},
    ids::{AgentId, CommandId, Scope},
    json::Json,
    position::{LogTime, Offset, Position},
};

/// What came of an event. A pure function of the log up to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The event's place.
    pub position: Position,
    /// Its log time.
    pub time: LogTime,
    /// Whose.
    pub scope: Scope,
    /// Which append.
    pub command_id: CommandId,
    /// Who asked.
    pub agent: Option<AgentId>,
    /// The fleet's previous event, refused and internal ones included.
    pub previous: Option<Offset>,
    /// Applied or refused.
    pub outcome: Outcome,
    /// Set when an earlier event with the same idempotency key decided it.
    pub first: Option<First>,
    /// How searches find it.
    pub index: Index,
}

/// Applied, with what the event itself does not say, or refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Applied(Effect),
    /// It did not and never will.
    Refused(Refusal),
}

impl Verdict {
    /// What its asker is told and it does not hold: to be fetched before it is shown.
    pub fn lacks(&self) -> Option<&Met> {
        match &self.outcome {
            Outcome::Refused(refusal) => refusal.met.as_deref(),
            Outcome::Applied(_) => None,
        }
    }

    /// Puts in what it lacked; `None`: nobody has it any more.
    pub fn complete(&mut self, value: Option<&Json>) {
        if let Outcome::Refused(refusal) = &mut self.outcome
            && refusal.met.take().is_some()
        {
            refusal.details.insert(CURRENT_VALUE.to_owned(), Json::of(&value));
        }
    }

    /// About its bytes.
    pub fn weight(&self) -> usize {
        VERDICT_BYTES
            + match &self.outcome {
                Outcome::Applied(Effect::MemorySet(effect)) => {
                    effect.value.as_ref().map_or(0, |value| value.text().len())
                }
                Outcome::Applied(_) => 0,
                Outcome::Refused(refusal) => refusal.weight(),
            }
    }
}

/// About the bytes of a verdict without long values.
const VERDICT_BYTES: usize = 512;

/// Everything that anyone sees of an event, by its verdict: live, in a gap, on resume, in a replay. Pure.
pub fn frames_of(event: &Event, verdict: &Verdict) -> Shown {
    // The fold's time, which never runs backwards, stands in the rows too.
    let at = &At { time: verdict.time, ..event.at.clone() };
    let own = First { offset: at.position.offset, hash: at.hash };
    let reference = at.header.reference.clone();
    let mut shown = match &verdict.outcome {
        Outcome::Refused(refusal) => Shown { reply: Some(Frame::error(refusal, None)), ..Shown::default() },
        Outcome::Applied(effect) => event.command.show(at, effect),
    };
    if let Some(reply) = &mut shown.reply {
        reply.reference = reference;
        reply.stamp = Some(verdict.first.unwrap_or(own));
    }
    if verdict.first.is_some() {
        let reply = shown.reply.map(|reply| reply.also(&json!({ "duplicate": true })));
        return Shown { reply, snapshot: shown.snapshot, interest: shown.interest, ..Shown::default() };
    }
    for push in &mut shown.pushes {
        push.frame.stamp = Some(own);
        if let Some(frame) = &mut push.with_value {
            frame.stamp = Some(own);
        }
    }
    shown
}

#[cfg(test)]
mod tests;
