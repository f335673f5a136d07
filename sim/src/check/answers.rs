//! G1, G2, G12, G13: every answer is what the log says.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::{
    history::{Agent, Sent},
    truth::Told,
};

/// Checks every answer, and every position that anyone was told.
pub fn check(case: &Case<'_>) -> Result<()> {
    for agent in case.agents() {
        for sent in &agent.diary.sent {
            one(case, agent, sent)?;
        }
    }
    let end = case.logged.end().0;
    for (agent, _, link) in case.links() {
        for frame in &link.frames {
            let lost = frame["position"].as_u64().is_some_and(|position| position >= end);
            ensure!(!lost, "G1: {} was shown {frame}, and the log ends at {end}", agent.name);
        }
    }
    Ok(())
}

fn one(case: &Case<'_>, agent: &Agent, sent: &Sent) -> Result<()> {
    let reference = &sent.reference;
    let told = case.truth.told.get(reference);
    if let Some(told) = told {
        let author = told.agent.map(|id| id.to_string());
        ensure!(author == agent.diary.id, "G2: {reference} has another author");
        let session = told.session.map(|id| id.to_string());
        ensure!(session == agent.diary.links[sent.link].session, "G2: {reference} has another session");
    }
    if let Some(answer) = &sent.answer {
        return answered(sent, answer, told);
    }
    ensure!(!agent.is_complete(sent.link), "G13: {reference} was never answered: {}", sent.body);
    Ok(())
}

fn answered(sent: &Sent, answer: &Value, told: Option<&Told>) -> Result<()> {
    let reference = &sent.reference;
    let error = answer["type"] == "error";
    let position = answer["position"].as_u64().filter(|_| answer["event"] != "synced");
    if error && answer["outcome"] == "none" {
        ensure!(told.is_none_or(|told| !told.applied), "G2: {reference} took effect and was told {answer}");
        // A verdict knows its place. Without one, nothing may ever come of it.
        let decided = position.is_some() || told.is_none();
        ensure!(decided, "G13: {reference} is in the log and was told, as if for certain, {answer}");
    }
    if let Some(position) = position {
        let told = told.with_context(|| format!("G1: {reference} was told {answer}, and the log does not have it"))?;
        ensure!(told.offset == position, "G12: {reference} was decided at {} and told {answer}", told.offset);
        ensure!(told.applied != error, "G2: {reference} was told {answer}");
    }
    Ok(())
}
