//! Direct messages: one agent to another, waiting in the log until its socket took them or their time is over.

mod outcome;

use std::time::Duration;

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use outcome::{Ack, AckEffect, Delivered, DeliveredEffect, Expire, ExpireEffect, Told};

use outcome::EXPIRED;

pub use crate::row::direct::{Echo, MailCount, Message, Notice};
use crate::{
    act::{Act, Applied},
    code::{Code, Refusal},
    frame::{Frame, Lapse, Report, Shown},
    header::{At, Header},
    history::{Index, Stream},
    ids::{AgentId, MessageId, Scope},
    interest::Audience,
    json::{self, Json},
    limits::{
        IN_FLIGHT_MAX, IN_FLIGHT_PAIR_MAX, IN_FLIGHT_RETRY_MS, Limits, MAIL_SECONDS, MAIL_SECONDS_MAX,
        MAIL_URGENT_SECONDS, MAILBOX_MAX, MAILBOX_PAIR_MAX, TOKEN_BYTES_MAX, ttl_micros,
    },
    position::LogTime,
    presence::{self, Agent, own},
    row::{Needs, Row, RowKey, Rows},
};

/// `type` of its frames.
const KIND: &str = "direct";

/// `direct.send`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Send {
    /// The recipient's id or name.
    pub to: String,
    /// Joins a request and its response.
    #[serde(default)]
    pub correlation_id: Option<Json>,
    /// The message, any JSON; may not be left out.
    #[serde(default, alias = "message", deserialize_with = "json::present")]
    pub payload: Option<Json>,
    /// low, normal, high or critical: the last two wait longer.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// Seconds it waits, at most 7 days.
    #[serde(default)]
    pub ttl: Option<f64>,
    /// Whether to tell the sender when the recipient acknowledges.
    #[serde(default)]
    pub ack: bool,
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say it")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

/// What came of a send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SendEffect {
    /// The message.
    pub message: MessageId,
    /// The recipient.
    pub to: AgentId,
    /// The sender's name.
    pub from_name: Option<String>,
    /// Whether it waits for a connected agent, an absent one, or not at all.
    pub status: Sent,
    /// Until when it waits.
    pub expires_at: LogTime,
}

/// What became of a message at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// On its way to a connected agent.
    Sent,
    /// Waiting for an absent one.
    Queued,
    /// The mailbox of an absent one is full.
    MailboxFull,
}

impl Send {
    fn seconds(&self) -> f64 {
        let urgent = matches!(self.priority, Some(Priority::High | Priority::Critical));
        self.ttl.unwrap_or(if urgent { MAIL_URGENT_SECONDS } else { MAIL_SECONDS })
    }
}

/// The rows that count a message from one agent to another.
fn counted(scope: Scope, to: AgentId, from: AgentId) -> [RowKey; 2] {
    [RowKey::mail_count(scope, to, None), RowKey::mail_count(scope, to, Some(from))]
}

/// One message more or less from one agent to another. Where nothing waits there is no row.
fn count<E>(
    mut applied: Applied<E>,
    rows: &Rows,
    (scope, to, from): (Scope, AgentId, AgentId),
    change: impl Fn(u32) -> u32,
) -> Applied<E> {
    for from in [None, Some(from)] {
        let key = RowKey::mail_count(scope, to, from);
        match change(waiting(rows, &key)) {
            0 => applied.gone.push(key),
            count => applied.rows.push(Row::MailCount(MailCount { scope, to, from, count })),
        }
    }
    applied
}

fn waiting(rows: &Rows, key: &RowKey) -> u32 {
    rows.get::<MailCount>(key).map_or(0, |known| known.count)
}

/// What becomes of one more message. A mailbox is for who is away: what is on its way to a connected agent has bounds of its
/// own, and none of it is dropped when that agent leaves.
fn sent(rows: &Rows, scope: Scope, from: &Agent, to: &Agent) -> Result<Sent, Refusal> {
    let [all, pair] = counted(scope, to.id, from.id).map(|key| waiting(rows, &key));
    match to.session {
        Some(_) if pair >= IN_FLIGHT_PAIR_MAX => {
            Err(too_many("Too many of your messages are on their way to this agent.", IN_FLIGHT_PAIR_MAX))
        }
        Some(_) if all >= IN_FLIGHT_MAX => {
            Err(too_many("Too many messages are on their way to this agent.", IN_FLIGHT_MAX))
        }
        Some(_) => Ok(Sent::Sent),
        None if all >= MAILBOX_MAX || pair >= MAILBOX_PAIR_MAX => Ok(Sent::MailboxFull),
        None => Ok(Sent::Queued),
    }
}

fn too_many(message: &str, limit: u32) -> Refusal {
    Refusal::because(Code::Overloaded, message).with("limit", limit).after_ms(IN_FLIGHT_RETRY_MS)
}

impl Act for Send {
    type Effect = SendEffect;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.to.is_empty() || self.to.len() > limits.name_bytes {
            return Err(Refusal::invalid("to", "`to` must be an agent's id or name.").with("limit", limits.name_bytes));
        }
        if self.payload.is_none() {
            return Err(Refusal::invalid("payload", "`payload` is missing."));
        }
        if self.correlation_id.as_ref().is_some_and(|id| id.text().len() > TOKEN_BYTES_MAX) {
            return Err(Refusal::over("correlation_id", TOKEN_BYTES_MAX));
        }
        limits.ttl(self.ttl, MAIL_SECONDS_MAX)
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        let scope = at.scope();
        needs.row(RowKey::message(scope, MessageId::of(at.command_id)));
        presence::needs_agent(scope, &self.to, needs);
        let by_id = self.to.parse().ok();
        let by_name = needs.peek::<presence::Name>(&RowKey::name(scope, &self.to)).map(|name| name.agent);
        for (to, from) in by_id.into_iter().chain(by_name).zip(at.agent_id.into_iter().cycle()) {
            needs.rows(counted(scope, to, from));
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<SendEffect>, Refusal> {
        let scope = at.scope();
        let from = own(at, rows)?;
        let to = presence::resolve(scope, &self.to, rows);
        let to = to.ok_or_else(|| Refusal::not_found("There is no such agent in this fleet."))?;
        let status = self::sent(rows, scope, from, to)?;
        let id = MessageId::of(at.header.command_id);
        let expires_at = at.time.plus(ttl_micros(self.seconds()));
        let effect = SendEffect { message: id, to: to.id, from_name: from.name.clone(), status, expires_at };
        let index = Index {
            stream: Some(Stream::Direct),
            label: Some("message".to_owned()),
            subject: Some(id.to_string()),
            parties: if status == Sent::MailboxFull { vec![from.id] } else { vec![from.id, to.id] },
            ..Index::default()
        };
        let mut applied = Applied::new(effect).indexed(index);
        if status != Sent::MailboxFull {
            applied = count(applied, rows, (scope, to.id, from.id), |count| count + 1);
            applied = applied.row(Row::Message(Message {
                scope,
                id,
                from: from.id,
                to: to.id,
                echo: Echo { correlation_id: self.correlation_id.clone(), reference: at.header.reference.clone() },
                sent: at.position.offset,
                ack: self.ack,
                delivered: false,
                expires_at,
            }));
        }
        Ok(applied)
    }

    fn show(&self, at: &At, effect: &SendEffect) -> Shown {
        let echo = Echo { correlation_id: self.correlation_id.clone(), reference: at.header.reference.clone() };
        let shown = Shown::ack(KIND, "send_ok", &status(effect.message, effect.to, &echo, None));
        let sender: Vec<AgentId> = at.header.agent_id.into_iter().collect();
        let told = |event, reason: &str| {
            let body = status(effect.message, effect.to, &echo, Some(reason));
            (Audience::Agents(sender.clone()), Frame::new(KIND, event, &body).reference(echo.reference.clone()))
        };
        let shown = match effect.status {
            Sent::Sent => shown,
            Sent::Queued => {
                let micros = u64::try_from(effect.expires_at.0 - at.time.0).unwrap_or_default();
                let seconds = Duration::from_micros(micros).as_secs_f64();
                let (to, frame) = told("queued", &format!("agent_offline (queued for {seconds} s)"));
                shown.push(to, frame)
            }
            Sent::MailboxFull => {
                let (to, frame) = told("failed", "mailbox_full");
                return shown.push(to, frame);
            }
        };
        let mut body = json!({
            "from": { "agent_id": at.header.agent_id, "name": effect.from_name },
            "to": effect.to,
            "message_id": effect.message,
            "correlation_id": self.correlation_id,
            "payload": self.payload,
            "timestamp": at.time.rfc3339(),
        });
        if self.ack {
            body["ack"] = json!(true);
        }
        if let Some(cause) = &at.header.caused_by {
            body["caused_by"] = json!(cause);
        }
        let mut shown = shown.push(Audience::Agents(vec![effect.to]), Frame::new(KIND, "message", &body));
        shown.report = Some((effect.to, Report::Delivered(effect.message)));
        // Whoever sends to itself has been told both.
        shown.lapse = (at.header.agent_id != Some(effect.to)).then(|| Lapse {
            to: effect.to,
            due: effect.expires_at,
            stream: Stream::Direct,
            label: EXPIRED,
            subject: effect.message.to_string(),
        });
        shown
    }
}

/// The fields of every status of a message.
fn status(message: MessageId, to: AgentId, echo: &Echo, reason: Option<&str>) -> Value {
    let mut body = json!({ "message_id": message, "to": to, "correlation_id": echo.correlation_id });
    if let Some(reason) = reason {
        body["reason"] = json!(reason);
    }
    body
}

#[cfg(test)]
mod tests;
