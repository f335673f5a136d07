//! G15: presence tells the truth, and identities stay apart.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use ringforge_domain::{presence::Agent as Row, row::State as _};

use super::{Case, story};
use crate::{history::History, roster::Roster};

/// In the end an agent is in if, and only if, its connection is; and whoever looks on knows it.
pub fn check(case: &Case<'_>) -> Result<()> {
    for row in rows(case) {
        let known = case.agents().find(|agent| Some(&agent.name) == row.name.as_ref());
        let agent = known.with_context(|| format!("G2: nobody is {:?}", row.name))?;
        let session = row.session.as_ref().map(|session| session.id.to_string());
        let truth = agent.line().and_then(|link| link.session.clone());
        ensure!(
            session == truth,
            "G15: {} is {:?} with session {session:?}, its client has {truth:?}",
            agent.name,
            row.state
        );
    }
    for agent in case.agents() {
        let (Some(link), Some(told)) = (agent.line(), looked_on(agent.presence)) else { continue };
        let checked = Roster::of(&link.frames).check(rows(case));
        checked
            .with_context(|| format!("G15: presence ({}) as {} knows it{}", agent.presence, agent.name, story(link)))?;
        case.tally.note(told);
        if link.lagged {
            case.tally.note("situation: final presence after a lag");
        }
    }
    Ok(())
}

fn rows<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a Row> {
    let scope = case.scope();
    case.logged.store.rows.values().filter_map(Row::of).filter(move |row| row.scope == scope)
}

/// How a final presence is counted, if one is told.
fn looked_on(presence: &str) -> Option<&'static str> {
    match presence {
        "each" => Some("situation: final presence after each change"),
        "delta" => Some("situation: final presence after deltas"),
        _ => None,
    }
}

/// No id stands for two agents, and no session for two connections.
pub fn identities(history: &History) -> Result<()> {
    let (mut agents, mut sessions) = (BTreeMap::new(), BTreeSet::new());
    for (number, agent) in history.agents.iter().enumerate() {
        if let Some(id) = &agent.diary.id {
            let other = agents.insert(id, number);
            ensure!(other.is_none(), "G15: {id} is {} and another agent too", agent.name);
        }
        for session in agent.diary.links.iter().filter_map(|link| link.session.as_ref()) {
            ensure!(sessions.insert(session), "G15: {session} was given to two connections");
        }
    }
    Ok(())
}
