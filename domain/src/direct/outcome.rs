//! What becomes of a message: delivered, acknowledged, expired; and telling its sender, who may be away.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Echo, KIND, Message, Notice, count, counted, status};
use crate::{
    catalog::Act,
    code::Refusal,
    event::{At, Header},
    frame::{Frame, Shown},
    ids::{AgentId, MessageId, Scope},
    interest::Audience,
    limits::{Limits, MAIL_SECONDS_MAX, ttl_micros},
    row::{Needs, Row, RowKey, Rows},
    verdict::{Applied, Index, Stream},
};

/// How the index calls a message that was never delivered.
pub(super) const EXPIRED: &str = "expired";

/// Everything that the outcome of a message touches.
fn needs_message(scope: Scope, id: MessageId, rows: &Rows, needs: &mut Needs) {
    let key = RowKey::message(scope, id);
    if let Some(message) = rows.peek::<Message>(&key) {
        needs.row(RowKey::agent(scope, message.from));
        needs.rows.extend(counted(scope, message.to, message.from));
    }
    needs.row(key);
    needs.row(RowKey::notice(scope, id));
}

/// The message that an outcome is about.
fn message<'a>(at: &At, rows: &'a Rows, id: MessageId) -> Result<&'a Message, Refusal> {
    let found: Option<&Message> = rows.get(&RowKey::message(at.scope(), id));
    found.ok_or_else(|| {
        Refusal::not_found("There is no such message waiting.")
            .fix("It was delivered, has expired, or its sender asked for no receipt.")
    })
}

/// Keeps a status for a sender who is away.
fn kept(at: &At, rows: &Rows, message: &Message) -> Option<Row> {
    let scope = at.scope();
    let away = rows.agent(scope, message.from).is_none_or(|sender| sender.session.is_none());
    if !away {
        return None;
    }
    let known: Option<&Notice> = rows.get(&RowKey::notice(scope, message.id));
    let mut events = known.map(|known| known.events.clone()).unwrap_or_default();
    events.push(at.position.offset);
    let expires_at = at.time.plus(ttl_micros(MAIL_SECONDS_MAX));
    Some(Row::Notice(Notice { scope, message: message.id, owner: message.from, events, expires_at }))
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

    fn needs(&self, at: &Header, rows: &Rows, needs: &mut Needs) {
        needs_message(at.scope(), self.message, rows, needs);
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<DeliveredEffect>, Refusal> {
        let message = message(at, rows, self.message)?;
        if message.delivered || at.header.agent_id != Some(message.to) {
            return Err(Refusal::not_found("There is no such message waiting."));
        }
        let effect = DeliveredEffect { from: message.from, to: message.to, echo: message.echo.clone() };
        let mut applied = Applied::new(effect);
        applied.rows.extend(kept(at, rows, message));
        applied = one_less(applied, rows, message);
        if message.ack {
            let expires_at = at.time.plus(ttl_micros(super::MAIL_URGENT_SECONDS));
            return Ok(applied.row(Row::Message(Message { delivered: true, expires_at, ..message.clone() })));
        }
        Ok(applied.without(RowKey::message(message.scope, message.id)))
    }

    fn show(&self, _: &At, effect: &DeliveredEffect) -> Shown {
        let (to, frame) = tell("delivered", self.message, effect.from, effect.to, &effect.echo, None);
        Shown::default().push(to, frame)
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
    /// Whether this is also the first sign that it was delivered.
    pub delivers: bool,
}

impl Act for Ack {
    type Effect = AckEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, rows: &Rows, needs: &mut Needs) {
        needs_message(at.scope(), self.message_id, rows, needs);
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<AckEffect>, Refusal> {
        let message = message(at, rows, self.message_id)?;
        if !message.ack || at.header.agent_id != Some(message.to) {
            return Err(Refusal::not_found("There is no such message that wants a receipt."));
        }
        let (from, to, echo) = (message.from, message.to, message.echo.clone());
        let delivers = !message.delivered;
        let mut applied = Applied::new(AckEffect { from, to, echo, delivers });
        applied.rows.extend(kept(at, rows, message));
        if delivers {
            applied = one_less(applied, rows, message);
        }
        Ok(applied.without(RowKey::message(message.scope, message.id)))
    }

    fn show(&self, _: &At, effect: &AckEffect) -> Shown {
        let mut shown = Shown::ack(KIND, "ack_ok", &json!({ "message_id": self.message_id }));
        let tell = |event| tell(event, self.message_id, effect.from, effect.to, &effect.echo, None);
        if effect.delivers {
            let (to, frame) = tell("delivered");
            shown = shown.push(to, frame);
        }
        let (to, frame) = tell("acked");
        shown.push(to, frame)
    }
}

/// `direct.told`: the socket of the agent in the header took the statuses that waited for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Told {
    /// The message they are about.
    pub message: MessageId,
}

impl Act for Told {
    type Effect = ();

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, _: &Rows, needs: &mut Needs) {
        needs.row(RowKey::notice(at.scope(), self.message));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let key = RowKey::notice(at.scope(), self.message);
        let known: Option<&Notice> = rows.get(&key);
        match known.filter(|notice| Some(notice.owner) == at.header.agent_id) {
            Some(_) => Ok(Applied::new(()).without(key)),
            None => Err(Refusal::not_found("There is no such notice.")),
        }
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// `direct.expire`: the time of a message, of the wait for its receipt, or of its notices has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
pub struct Expire {
    /// The message.
    pub message: MessageId,
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

    fn needs(&self, at: &Header, rows: &Rows, needs: &mut Needs) {
        needs_message(at.scope(), self.message, rows, needs);
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<ExpireEffect>, Refusal> {
        let scope = at.scope();
        let notice_key = RowKey::notice(scope, self.message);
        let message: Option<&Message> = rows.get(&RowKey::message(scope, self.message));
        let notice: Option<&Notice> = rows.get(&notice_key);
        let message = message.filter(|message| message.expires_at <= at.time);
        let over = notice.is_some_and(|notice| notice.expires_at <= at.time);
        let mut applied = Applied::new(ExpireEffect { undelivered: None });
        if over {
            applied = applied.without(notice_key);
        }
        let Some(message) = message else {
            return if over { Ok(applied) } else { Err(Refusal::not_found("It has not expired.")) };
        };
        if !message.delivered {
            let (from, to) = (message.from, message.to);
            applied.rows.extend(kept(at, rows, message).filter(|_| !over));
            applied = one_less(applied, rows, message);
            applied.effect.undelivered = Some(DeliveredEffect { from, to, echo: message.echo.clone() });
            applied.index = Index {
                stream: Some(Stream::Direct),
                label: Some(EXPIRED.to_owned()),
                subject: Some(message.id.to_string()),
                parties: vec![from],
                ..Index::default()
            };
        }
        Ok(applied.without(RowKey::message(scope, message.id)))
    }

    fn show(&self, _: &At, effect: &ExpireEffect) -> Shown {
        let Some(lost) = &effect.undelivered else { return Shown::default() };
        let (to, frame) = tell("failed", self.message, lost.from, lost.to, &lost.echo, Some(EXPIRED));
        Shown::default().push(to, frame)
    }
}
