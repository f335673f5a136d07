//! Stop 5, the echo: one update becomes frames, encoded once a shape and shared; who gets which is decided per member.

use std::sync::{Arc, OnceLock};

use ringforge_domain::{
    catalog::{Command, Effect},
    frame::{Encoder, Frame, Push, Shape, Shown, frames_of},
    ids::{AgentId, CommandId, MessageId, SessionId},
    interest::{Audience, Interest, InterestChange, Wanted},
    limits::PUSHES_MAX,
    position::Offset,
    verdict::{First, Outcome, Verdict},
};
use ringforge_ports::reads::Update;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// A frame with its texts, made when first asked for and shared by everyone who gets it.
#[derive(Debug)]
pub struct Shared {
    /// The frame.
    pub frame: Frame,
    flat: OnceLock<Utf8Bytes>,
    wrapped: OnceLock<Utf8Bytes>,
}

impl Shared {
    /// Nothing is encoded yet.
    pub fn new(frame: Frame) -> Self {
        Self { frame, flat: OnceLock::new(), wrapped: OnceLock::new() }
    }

    /// Its text in a shape.
    pub fn text(&self, encoder: &Encoder, shape: Shape) -> Utf8Bytes {
        let slot = match shape {
            Shape::Flat => &self.flat,
            Shape::Wrapped => &self.wrapped,
        };
        slot.get_or_init(|| encoder.encode(&self.frame, shape).into()).clone()
    }
}

/// A frame for an audience.
#[derive(Debug)]
pub struct Sharing {
    /// Who.
    pub audience: Audience,
    /// What.
    pub frame: Shared,
    /// What those see who asked for values.
    pub with_value: Option<Shared>,
}

/// Everything that members may see of one update.
#[derive(Debug)]
pub struct Delivery {
    /// The event's place.
    pub offset: Offset,
    /// The fleet's event before it.
    pub previous: Option<Offset>,
    /// Which append it was.
    pub command: CommandId,
    /// The connection that asked.
    pub session: Option<SessionId>,
    /// What it is answered.
    pub reply: Option<Shared>,
    /// What others see.
    pub pushes: Vec<Sharing>,
    /// How an agent's subscriptions change with it.
    pub interest: Option<(AgentId, InterestChange)>,
    /// The session that it put an end to.
    pub replaced: Option<SessionId>,
    /// The direct message it carries, so that its delivery can be reported.
    pub message: Option<(AgentId, MessageId)>,
}

impl Delivery {
    /// What members may see of an update.
    pub fn of(update: &Update) -> Self {
        let Update { event, verdict } = update;
        let shown = event.as_ref().map_or_else(Shown::default, |event| frames_of(event, verdict));
        Self {
            offset: verdict.position.offset,
            previous: verdict.previous,
            command: verdict.command_id,
            session: event.as_ref().and_then(|event| event.at.header.session_id),
            reply: shown.reply.map(Shared::new),
            pushes: shown.pushes.into_iter().map(Sharing::from).collect(),
            interest: shown.interest,
            replaced: shown.replaced,
            message: event.as_ref().and_then(|event| message(&event.command, verdict)),
        }
    }

    /// A frame of our own making for everyone, at the place of the last event: a safe cursor.
    pub fn made(place: First, audience: Audience, frame: Frame) -> Self {
        let frame = frame.stamped(place.offset, place.hash);
        Self {
            offset: place.offset,
            previous: None,
            command: CommandId::from_bits(0),
            session: None,
            reply: None,
            pushes: vec![Sharing::from(Push { audience, frame, with_value: None })],
            interest: None,
            replaced: None,
            message: None,
        }
    }

    /// Bytes it is worth in a queue.
    pub fn weight(&self) -> usize {
        let pushes: usize =
            self.pushes.iter().map(|push| push.with_value.as_ref().unwrap_or(&push.frame).frame.len()).sum();
        WEIGHT_MIN + pushes
    }
}

/// What any delivery costs beside its text.
const WEIGHT_MIN: usize = 160;

impl From<Push> for Sharing {
    fn from(push: Push) -> Self {
        Self { audience: push.audience, frame: Shared::new(push.frame), with_value: push.with_value.map(Shared::new) }
    }
}

fn message(command: &Command, verdict: &Verdict) -> Option<(AgentId, MessageId)> {
    match (command, &verdict.outcome, verdict.first) {
        (Command::DirectSend(_), Outcome::Applied(Effect::DirectSend(effect)), None) => {
            Some((effect.to, effect.message))
        }
        _ => None,
    }
}

/// Who looks at a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Viewpoint {
    /// The agent.
    pub agent: AgentId,
    /// Its connection.
    pub session: SessionId,
}

/// What one member gets of a delivery.
#[derive(Clone, Debug)]
pub struct Post {
    /// Of which.
    pub delivery: Arc<Delivery>,
    /// Whether the reply is for it.
    pub reply: bool,
    /// Whether its session has been replaced.
    pub replaced: bool,
    /// Its pushes, a bit each: the frame, and 32 bits up the frame with the value.
    picks: u64,
}

impl Post {
    /// What `viewpoint`, with its interest, gets of a delivery; `None`: nothing.
    pub fn pick(delivery: &Arc<Delivery>, viewpoint: Viewpoint, interest: &Interest) -> Option<Self> {
        let mut picks = 0;
        for (at, push) in delivery.pushes.iter().enumerate().take(PUSHES_MAX) {
            match push.audience.wants(viewpoint.agent, interest, delivery.offset) {
                Some(Wanted::Plain) => picks |= 1 << at,
                Some(Wanted::WithValue) => picks |= 1 << (at + PUSHES_MAX),
                None => {}
            }
        }
        let reply = delivery.reply.is_some() && delivery.session == Some(viewpoint.session);
        let replaced = delivery.replaced == Some(viewpoint.session);
        (reply || replaced || picks != 0).then(|| Self { delivery: Arc::clone(delivery), reply, replaced, picks })
    }

    /// Everything for everyone: a frame of our own making.
    pub fn all(delivery: &Arc<Delivery>) -> Self {
        Self { delivery: Arc::clone(delivery), reply: false, replaced: false, picks: 1 }
    }

    /// Its pushes, in order, with their audience.
    pub fn pushes(&self) -> impl Iterator<Item = (&Audience, &Shared)> {
        self.delivery.pushes.iter().enumerate().filter_map(|(at, push)| {
            if at >= PUSHES_MAX {
                return None;
            }
            if self.picks & (1 << (at + PUSHES_MAX)) != 0 {
                return Some((&push.audience, push.with_value.as_ref().unwrap_or(&push.frame)));
            }
            (self.picks & (1 << at) != 0).then_some((&push.audience, &push.frame))
        })
    }

    /// The same without presence; `None` if nothing is left.
    pub fn without_presence(mut self) -> Option<Self> {
        for (at, push) in self.delivery.pushes.iter().enumerate().take(PUSHES_MAX) {
            if matches!(push.audience, Audience::Presence { .. }) {
                self.picks &= !(1 << at);
            }
        }
        (self.reply || self.replaced || self.picks != 0).then_some(self)
    }
}
