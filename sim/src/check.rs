//! The guarantees, checked over a recorded history. Each failure names its guarantee.

mod answers;
mod bounds;
mod floors;
mod mail;
mod models;
mod onlookers;
mod order;
mod views;

use std::fmt::Write as _;

use anyhow::{Context, Result};
use ringforge_domain::ids::Scope;

use crate::{
    history::{Agent, History, Link, Logged},
    tally::Tally,
    truth::Truth,
};

/// Checks a history that has come to rest.
///
/// # Errors
/// A guarantee is broken: which, and where.
pub fn check(history: &History, tally: &Tally) -> Result<()> {
    for (partition, logged) in &history.logs {
        let partition = || format!("partition {}", partition.0);
        models::determined(logged).with_context(partition)?;
        models::chained(logged).with_context(partition)?;
    }
    for (partition, model) in &history.models {
        models::same_state(history, *partition, model)?;
    }
    fleets(history, tally)?;
    onlookers::identities(history)
}

/// Checks each fleet, given that the verdicts are the fold's.
fn fleets(history: &History, tally: &Tally) -> Result<()> {
    for fleet in 0..history.fleets.len() {
        let logged = &history.logs[&history.fleets[fleet].partition];
        let truth = Truth::of(history.fleets[fleet].scope, &logged.told, tally)?;
        let case = Case { history, fleet, truth: &truth, logged, tally };
        order::sessions(&case)?;
        order::ids(&case)?;
        answers::check(&case)?;
        for (agent, link, seen) in case.links() {
            let checked = views::view(&case, agent, link, seen);
            let told = format!("connection {link} of {} (presence {}){}", agent.name, agent.presence, story(seen));
            checked.context(told)?;
        }
        floors::check(&case)?;
        mail::check(&case)?;
        onlookers::check(&case)?;
        bounds::check(&case)?;
    }
    Ok(())
}

/// One fleet of a history.
struct Case<'a> {
    history: &'a History,
    fleet: usize,
    truth: &'a Truth,
    logged: &'a Logged,
    tally: &'a Tally,
}

impl<'a> Case<'a> {
    fn scope(&self) -> Scope {
        self.history.fleets[self.fleet].scope
    }

    fn agents(&self) -> impl Iterator<Item = &'a Agent> {
        let fleet = self.fleet;
        self.history.agents.iter().filter(move |agent| agent.fleet == fleet)
    }

    /// Every connection, with its number among those of its agent.
    fn links(&self) -> impl Iterator<Item = (&'a Agent, usize, &'a Link)> {
        self.agents().flat_map(|agent| agent.diary.links.iter().enumerate().map(move |(at, link)| (agent, at, link)))
    }
}

/// What a client read, for people.
fn story(link: &Link) -> String {
    let mut text = format!(", resumes {:?}:\n", link.resume);
    for frame in &link.frames {
        let field = |name: &str| frame[name].as_str().unwrap_or("");
        let detail = [field("ref"), field("key"), field("change"), field("message_id"), field("code")].join(" ");
        let place = &frame["position"];
        writeln!(text, "  {place} {}/{} {detail}", field("type"), field("event"))
            .expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests;
