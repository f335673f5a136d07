//! The fold: what comes of an event, given all before it. Dispatch only; the arms are in the areas.

use crate::{
    answer::Answer,
    catalog::Command,
    code::{Code, Effected, Refusal},
    event::{At, Event},
    fleet::Head,
    ids::{CommandId, Scope},
    json::Json,
    limits::{ANSWER_MICROS, LATE_MICROS},
    planted::{Bug, planted},
    position::{LogTime, Offset, Position},
    row::{Needs, Row, RowKey, Rows},
    verdict::{First, Index, Outcome, Verdict},
};

/// Names every row that folding `event` touches, as far as the known rows tell, and says whether they had a part in it. If so
/// it is asked again until everything named is loaded, and once more right before its fold: an earlier event of its batch
/// may have given an agent its name.
pub fn needs(event: &Event, needs: &mut Needs<'_>) -> bool {
    let header = &event.at.header;
    let scope = header.scope();
    needs.row(RowKey::head(scope));
    if let Some(agent) = header.agent_id {
        needs.row(RowKey::agent(scope, agent));
        if let Some(key) = &header.idempotency_key {
            needs.row(RowKey::answer(scope, agent, key));
        }
    }
    event.command.needs(header, needs);
    needs.peeked()
}

/// Decides one event and writes what changed into `rows`.
pub fn fold(rows: &mut Rows, event: &Event) -> Verdict {
    rows.time = rows.time.max(event.at.time);
    let at = At { time: rows.time, ..event.at.clone() };
    let (outcome, first, index) = decide(rows, &at, &event.command);
    let scope = at.scope();
    Verdict {
        position: at.position,
        time: at.time,
        scope,
        command_id: at.header.command_id,
        agent: at.header.agent_id,
        previous: follow(rows, scope, at.position, at.hash),
        outcome,
        first,
        index,
    }
}

/// A record that cannot be read. It has no effect, but its place in the chain of its fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Whose.
    pub scope: Scope,
    /// Its place.
    pub position: Position,
    /// Its log time.
    pub time: LogTime,
    /// 32 bits of its hash.
    pub hash: u32,
}

/// Names the row that [`damaged`] touches.
pub fn needs_damaged(record: &Damaged, needs: &mut Needs<'_>) {
    needs.row(RowKey::head(record.scope));
}

/// What is said of a record that cannot be read.
pub fn damaged(rows: &mut Rows, record: &Damaged) -> Verdict {
    rows.time = rows.time.max(record.time);
    Verdict {
        position: record.position,
        time: rows.time,
        scope: record.scope,
        command_id: CommandId::from_bits(0),
        agent: None,
        previous: follow(rows, record.scope, record.position, record.hash),
        outcome: Outcome::Refused(Refusal::because(Code::ServerError, "The event is damaged and has no effect.")),
        first: None,
        index: Index::default(),
    }
}

/// The fleet's chain goes on here: the position before.
fn follow(rows: &mut Rows, scope: Scope, position: Position, hash: u32) -> Option<Offset> {
    let mut previous = rows.get::<Head>(&RowKey::head(scope)).map(|head| head.last);
    if planted(Bug::PreviousIsOffsetBefore) {
        previous = position.offset.0.checked_sub(1).map(Offset);
    }
    rows.put(Row::Head(Head { scope, last: position.offset, hash }));
    previous
}

fn decide(rows: &mut Rows, at: &At, command: &Command) -> (Outcome, Option<First>, Index) {
    if let Err(refusal) = admit(rows, at) {
        return (Outcome::Refused(refusal), None, Index::default());
    }
    if let Some((outcome, first)) = answered(rows, at) {
        if !command.renews() || !matches!((&outcome, first), (Outcome::Applied(_), Some(_))) {
            return (outcome, first, Index::default());
        }
        return match take_effect(rows, at, command) {
            (Outcome::Applied(_), index) => (outcome, first, index),
            // What cannot be done again must not be said to be done.
            (refused, index) => (refused, None, index),
        };
    }
    let (outcome, index) = take_effect(rows, at, command);
    remember(rows, at, &outcome);
    (outcome, None, index)
}

/// What a command does by itself, whatever was asked before it.
fn take_effect(rows: &mut Rows, at: &At, command: &Command) -> (Outcome, Index) {
    match command.apply(at, rows) {
        Ok(applied) => {
            applied.gone.into_iter().for_each(|key| rows.remove(key));
            applied.rows.into_iter().for_each(|row| rows.put(row));
            (Outcome::Applied(applied.effect), applied.index)
        }
        Err(refusal) => (Outcome::Refused(refusal), Index::default()),
    }
}

/// In time, and from the agent's current session.
fn admit(rows: &Rows, at: &At) -> Result<(), Refusal> {
    if at.header.deadline.is_some_and(|deadline| at.time > LogTime(deadline).plus(LATE_MICROS)) {
        let mut late = Refusal::because(Code::Timeout, "The command reached the log too late and took no effect.")
            .fix("Ask again: nothing came of it.");
        late.outcome = Effected::None;
        return Err(late);
    }
    let (Some(agent), Some(session)) = (at.header.agent_id, at.header.session_id) else { return Ok(()) };
    let current = rows.agent(at.scope(), agent).and_then(|agent| agent.session.as_ref()).map(|current| current.id);
    if current == Some(session) {
        return Ok(());
    }
    Err(Refusal::because(Code::Forbidden, "This session is no longer the agent's current one.")
        .with("reason", "replaced")
        .fix("Connect again; use another name if two processes share this one."))
}

/// The first verdict, if the same was asked before.
fn answered(rows: &Rows, at: &At) -> Option<(Outcome, Option<First>)> {
    let (agent, key) = (at.header.agent_id?, at.header.idempotency_key.as_ref()?);
    let answer: &Answer = rows.get(&RowKey::answer(at.scope(), agent, key))?;
    if !answer.counts(at.time) {
        return None;
    }
    if answer.body_hash != at.body_hash {
        return Some((Outcome::Refused(Refusal::new(Code::IdempotencyMismatch)), None));
    }
    let outcome = answer.outcome.read().expect("an answer holds the outcome that it was made of");
    Some((outcome, Some(answer.first)))
}

/// Keeps the answer for those who ask again, unless it says that asking again may help.
fn remember(rows: &mut Rows, at: &At, outcome: &Outcome) {
    if matches!(outcome, Outcome::Refused(refusal) if refusal.code.retryable()) {
        return;
    }
    let (Some(agent), Some(key)) = (at.header.agent_id, at.header.idempotency_key.clone()) else { return };
    rows.put(Row::Answer(Box::new(Answer {
        scope: at.scope(),
        agent,
        key,
        body_hash: at.body_hash.clone(),
        first: First { offset: at.position.offset, hash: at.hash },
        due: at.time.plus(ANSWER_MICROS),
        outcome: Json::of(outcome),
    })));
}

#[cfg(test)]
mod tests;
