//! Statuses of direct messages that the socket took. The log keeps them for the agent until it is told so, and is told of many
//! at a time: an event for each would cost as much as the message.

use ringforge_domain::{
    catalog::Command,
    direct,
    ids::{CommandId, MessageId},
    limits::TOLD_MAX,
};

use super::{Action, Session};

/// The message that a status is about, and the command that it was born of.
pub type Status = (MessageId, CommandId);

/// What was told and not reported yet.
#[derive(Debug, Default)]
pub struct Told {
    shown: Vec<Status>,
    taken: Vec<Status>,
}

impl Told {
    /// Goes out now.
    pub fn show(&mut self, status: Status) {
        self.shown.push(status);
    }

    /// The agent has them.
    pub fn take(&mut self, statuses: Vec<Status>) {
        self.taken.extend(statuses);
    }

    /// The socket took everything that went out.
    pub fn flushed(&mut self) {
        self.taken.append(&mut self.shown);
    }
}

impl Session {
    /// Reports what was told, if it is so many at least.
    pub(super) fn report_told(&mut self, least: usize) {
        while let Some((message, _)) = self.told.taken.first().copied().filter(|_| self.told.taken.len() >= least) {
            let count = self.told.taken.len().min(TOLD_MAX);
            let statuses = self.told.taken.drain(..count).map(|(_, command)| command).collect();
            self.actions.push(Action::Report(Command::DirectTold(direct::Told { message, statuses })));
        }
    }
}

#[cfg(test)]
mod tests;
