//! What is kept of direct messages that still have something to come.

use serde::{Deserialize, Serialize};

use super::RowIndex;
use crate::{
    ids::{AgentId, CommandId, MessageId, Scope},
    json::Json,
    position::{LogTime, Offset},
};

/// A message that still has something to come: delivery, expiry, or a receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Whose.
    pub scope: Scope,
    /// Its id.
    pub id: MessageId,
    /// The sender.
    pub from: AgentId,
    /// The recipient.
    pub to: AgentId,
    /// What the sender's statuses repeat.
    pub echo: Echo,
    /// Where it was sent.
    pub sent: Offset,
    /// Whether the sender wants a receipt.
    pub ack: bool,
    /// Whether the recipient's socket took it.
    pub delivered: bool,
    /// When it, or the wait for its receipt, ends.
    pub expires_at: LogTime,
}

impl Message {
    /// What stores index: mail of the recipient until it is delivered.
    pub fn index(&self) -> RowIndex {
        let mail = (!self.delivered).then_some((self.to, self.sent));
        RowIndex { due_at: Some(self.expires_at), mail, ..RowIndex::default() }
    }
}

/// What every status of a message repeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// As the sender gave it.
    pub correlation_id: Option<Json>,
    /// The `ref` of the send.
    pub reference: Option<Json>,
}

/// A status that its sender's socket is not known to have taken. Whether it is connected does not matter: its socket may be
/// gone before the log knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whose.
    pub scope: Scope,
    /// The command that the status was born of: its id.
    pub id: CommandId,
    /// The message it is about.
    pub message: MessageId,
    /// The sender of the message.
    pub owner: AgentId,
    /// Where the status stands.
    pub place: Offset,
    /// Whether the sender was known to be away when it came.
    pub away: bool,
    /// Until when it is kept.
    pub expires_at: LogTime,
}

impl Notice {
    /// What stores index: mail of the sender.
    pub fn index(&self) -> RowIndex {
        let mail = Some((self.owner, self.place));
        RowIndex { due_at: Some(self.expires_at), mail, ..RowIndex::default() }
    }
}

/// How many messages wait, if any do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailCount {
    /// Whose.
    pub scope: Scope,
    /// For whom.
    pub to: AgentId,
    /// From whom; none: from all.
    pub from: Option<AgentId>,
    /// How many.
    pub count: u32,
}
