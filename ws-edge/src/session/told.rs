//! Statuses of direct messages that the socket took. The log keeps them for the agent until it is told so, and is told of many
//! at a time, or a moment later: an event for each would cost as much as the message.

use std::time::Duration;

use ringforge_domain::{
    direct,
    ids::{CommandId, MessageId},
    limits::{TOLD_MAX, TOLD_WAIT},
};

use super::{Action, Session};

/// The message that a status is about, and the command that it was born of.
pub type Status = (MessageId, CommandId);

/// What was told and not reported yet.
#[derive(Debug, Default)]
pub struct Told {
    shown: Vec<Status>,
    taken: Vec<Status>,
    /// Since when the first of those taken waits.
    since: Option<Duration>,
}

impl Told {
    /// Goes out now.
    pub fn show(&mut self, status: Status) {
        self.shown.push(status);
    }

    /// The agent has them, as is known at `now`.
    pub fn take(&mut self, statuses: Vec<Status>, now: Duration) {
        self.taken.extend(statuses);
        self.wait(now);
    }

    /// The socket took everything that went out, at `now`.
    pub fn flushed(&mut self, now: Duration) {
        self.taken.append(&mut self.shown);
        self.wait(now);
    }

    /// When the report is due at the latest.
    pub fn due(&self) -> Option<Duration> {
        self.since.map(|since| since + TOLD_WAIT)
    }

    fn wait(&mut self, now: Duration) {
        self.since = if self.taken.is_empty() { None } else { self.since.or(Some(now)) };
    }
}

impl Session {
    /// Reports what was told, if it is so many at least.
    pub(super) fn report_told(&mut self, least: usize) {
        while let Some((message, _)) = self.told.taken.first().copied().filter(|_| self.told.taken.len() >= least) {
            let count = self.told.taken.len().min(TOLD_MAX);
            let statuses = self.told.taken.drain(..count).map(|(_, command)| command).collect();
            self.actions.push(Action::Report(Box::new(direct::Told { message, statuses }.into())));
            self.told.since = None;
        }
        self.told.wait(self.now);
    }
}

#[cfg(test)]
mod tests;
