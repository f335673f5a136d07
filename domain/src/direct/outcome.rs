//! What becomes of a message: delivered, acknowledged, expired; and telling its sender, who may be away.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Echo, KIND, Message, Notice, count, counted, status};
use crate::{
    act::{Act, Applied},
    code::Refusal,
    frame::{Frame, Shown},
    header::{At, Header},
    history::{Index, Stream},
    ids::{AgentId, CommandId, MessageId},
    interest::Audience,
    limits::{Limits, MAIL_SECONDS_MAX, TOLD_MAX, ttl_micros},
    row::{Needs, Row, RowKey, Rows},
};

/// How the index calls a message that was never delivered.
pub(super) const EXPIRED: &str = "expired";

/// Everything that the outcome of a message touches.
fn needs_message(at: &Header, id: MessageId, needs: &mut Needs<'_>) {
    let scope = at.scope();
    let key = RowKey::message(scope, id);
    if let Some(message) = needs.peek::<Message>(&key) {
        needs.row(RowKey::agent(scope, message.from));
        needs.rows(counted(scope, message.to, message.from));
    }
    needs.row(key);
    needs.row(RowKey::notice(scope, at.command_id));
}

/// The message to whoever asks, if it waits for this outcome. Nobody else learns that there is one.
fn message<'a>(at: &At, rows: &'a Rows, id: MessageId, waits: fn(&Message) -> bool) -> Result<&'a Message, Refusal> {
    let found: Option<&Message> = rows.get(&RowKey::message(at.scope(), id));
    found.filter(|message| at.header.agent_id == Some(message.to) && waits(message)).ok_or_else(|| {
        Refusal::not_found("There is no such message waiting.")
            .fix("It was delivered, has expired, or its sender asked for no receipt.")
    })
}

/// Keeps a status for its sender, until its socket is said to have taken it.
fn kept(at: &At, rows: &Rows, message: &Message) -> Row {
    let (scope, id, place) = (at.scope(), at.header.command_id, at.position.offset);
    let away = rows.agent(scope, message.from).is_none_or(|sender| sender.session.is_none());
    let expires_at = at.time.plus(ttl_micros(MAIL_SECONDS_MAX));
    Row::Notice(Notice { scope, id, message: message.id, owner: message.from, place, away, expires_at })
}

/// It no longer waits.
fn one_less<E>(applied: Applied<E>, rows: &Rows, message: &Message) -> Applied<E> {
    count(applied, rows, (message.scope, message.to, message.from), |count| count.saturating_sub(1))
}

/// A status of a message, to its sender.
fn tell(
    event: &'static str,
    message: MessageId,
    from: AgentId,
    to: AgentId,
    echo: &Echo,
    reason: Option<&str>,
) -> (Audience, Frame) {
    let frame = Frame::new(KIND, event, &status(message, to, echo, reason)).reference(echo.reference.clone());
    (Audience::Agents(vec![from]), frame)
}

/// `direct.delivered`: the socket of the agent in the header took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Delivered {
    /// The message.
    pub message: MessageId,
}

/// Whom to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveredEffect {
    /// The sender.
    pub from: AgentId,
    /// The recipient.
    pub to: AgentId,
    /// What the statuses repeat.
    pub echo: Echo,
}

impl Act for Delivered {
    type Effect = DeliveredEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs_message(at, self.message, needs);
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<DeliveredEffect>, Refusal> {
        let message = message(at, rows, self.message, |message| !message.delivered)?;
        let effect = DeliveredEffect { from: message.from, to: message.to, echo: message.echo.clone() };
        let mut applied = Applied::new(effect);
        applied = one_less(applied, rows, message).row(kept(at, rows, message));
        if message.ack {
            let expires_at = at.time.plus(ttl_micros(super::MAIL_URGENT_SECONDS));
            return Ok(applied.row(Row::Message(Message { delivered: true, expires_at, ..message.clone() })));
        }
        Ok(applied.without(RowKey::message(message.scope, message.id)))
    }

    fn show(&self, _: &At, effect: &DeliveredEffect) -> Shown {
        let (to, frame) = tell("delivered", self.message, effect.from, effect.to, &effect.echo, None);
        Shown::default().push(to, frame).tells(effect.from, self.message)
    }
}

/// `direct.ack`: the recipient has dealt with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Ack {
    /// The message.
    #[serde(alias = "message")]
    pub message_id: MessageId,
}

/// Whom to tell, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AckEffect {
    /// The sender.
    pub from: AgentId,
    /// The recipient.
    pub to: AgentId,
    /// What the statuses repeat.
    pub echo: Echo,
}

impl Act for Ack {
    type Effect = AckEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs_message(at, self.message_id, needs);
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<AckEffect>, Refusal> {
        let message = message(at, rows, self.message_id, |message| message.ack)?;
        let (from, to, echo) = (message.from, message.to, message.echo.clone());
        let mut applied = Applied::new(AckEffect { from, to, echo });
        applied = applied.row(kept(at, rows, message));
        if !message.delivered {
            applied = one_less(applied, rows, message);
        }
        Ok(applied.without(RowKey::message(message.scope, message.id)))
    }

    fn show(&self, _: &At, effect: &AckEffect) -> Shown {
        let shown = Shown::ack(KIND, "ack_ok", &json!({ "message_id": self.message_id }));
        // It says that the message was delivered, too: of two frames with one position, a resume after the first loses the
        // second.
        let (to, frame) = tell("acked", self.message_id, effect.from, effect.to, &effect.echo, None);
        shown.push(to, frame).tells(effect.from, self.message_id)
    }
}

/// `direct.told`: the socket of the agent in the header took statuses of its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Told {
    /// The message that the first of them is about.
    pub message: MessageId,
    /// The commands they were born of.
    #[serde(default)]
    #[avro(default = "[]")]
    pub statuses: Vec<CommandId>,
}

impl Act for Told {
    type Effect = ();

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        if self.statuses.len() > TOLD_MAX { Err(Refusal::over("statuses", TOLD_MAX)) } else { Ok(()) }
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.rows(self.statuses.iter().map(|id| RowKey::notice(at.scope(), *id)));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let keys = self.statuses.iter().map(|id| RowKey::notice(at.scope(), *id));
        let mine = |key: &RowKey| rows.get(key).is_some_and(|kept: &Notice| Some(kept.owner) == at.header.agent_id);
        let mut applied = Applied::new(());
        applied.gone = keys.filter(mine).collect();
        if applied.gone.is_empty() {
            return Err(Refusal::not_found("There is no such notice."));
        }
        Ok(applied)
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// `direct.expire`: the time of a message, of the wait for its receipt, or of one of its statuses has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Expire {
    /// The message.
    pub message: MessageId,
    /// The command that the status was born of, if it is about one.
    #[serde(default)]
    pub status: Option<CommandId>,
}

/// Whom to tell, if it was never delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpireEffect {
    /// Sender, recipient and what the statuses repeat.
    pub undelivered: Option<DeliveredEffect>,
}

impl Act for Expire {
    type Effect = ExpireEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        match self.status {
            Some(status) => needs.row(RowKey::notice(at.scope(), status)),
            None => needs_message(at, self.message, needs),
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<ExpireEffect>, Refusal> {
        let scope = at.scope();
        let early = || Refusal::not_found("It has not expired.");
        let applied = Applied::new(ExpireEffect { undelivered: None });
        if let Some(status) = self.status {
            let key = RowKey::notice(scope, status);
            let over = rows.get(&key).is_some_and(|kept: &Notice| kept.expires_at <= at.time);
            return if over { Ok(applied.without(key)) } else { Err(early()) };
        }
        let message: Option<&Message> = rows.get(&RowKey::message(scope, self.message));
        let message = message.filter(|message| message.expires_at <= at.time).ok_or_else(early)?;
        let mut applied = applied.without(RowKey::message(scope, message.id));
        if !message.delivered {
            let (from, to) = (message.from, message.to);
            applied = one_less(applied, rows, message).row(kept(at, rows, message));
            applied.effect.undelivered = Some(DeliveredEffect { from, to, echo: message.echo.clone() });
            applied.index = Index {
                stream: Some(Stream::Direct),
                label: Some(EXPIRED.to_owned()),
                subject: Some(message.id.to_string()),
                parties: vec![from],
                ..Index::default()
            };
        }
        Ok(applied)
    }

    fn show(&self, _: &At, effect: &ExpireEffect) -> Shown {
        let Some(lost) = &effect.undelivered else { return Shown::default() };
        let (to, frame) = tell("failed", self.message, lost.from, lost.to, &lost.echo, Some(EXPIRED));
        Shown::default().push(to, frame).tells(lost.from, self.message)
    }
}
