//! Stop 5, the echo: one update becomes frames, encoded once a shape and shared; who gets which is decided per member.

use std::sync::{Arc, OnceLock};

use ringforge_domain::{
    close::Close,
    code::{Code, Refusal},
    frame::{Encoder, Frame, Lapse, Push, Report, Shape, Shown},
    ids::{AgentId, CommandId, SessionId},
    interest::{Audience, Interest, InterestChange, Wanted},
    limits::PUSHES_MAX,
    position::Offset,
    verdict::{First, Outcome, Verdict, frames_of},
};
use ringforge_ports::reads::Update;

use crate::{
    line::Line,
    presence::{Change, Changes},
};

/// A frame with its bytes, made when first asked for and shared by everyone who gets it.
#[derive(Debug)]
pub struct Shared {
    /// The frame.
    pub frame: Frame,
    flat: OnceLock<Line>,
    /// Rarely asked for: its place is small.
    wrapped: OnceLock<Box<Line>>,
}

impl Shared {
    /// Nothing is encoded yet.
    pub fn new(frame: Frame) -> Self {
        Self { frame, flat: OnceLock::new(), wrapped: OnceLock::new() }
    }

    /// Its bytes in a shape.
    pub fn line(&self, encoder: &Encoder, shape: Shape) -> Line {
        let make = || Line::from(encoder.encode(&self.frame, shape));
        match shape {
            Shape::Flat => self.flat.get_or_init(make).clone(),
            Shape::Wrapped => Line::clone(self.wrapped.get_or_init(|| Box::new(make()))),
        }
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
    pub with_value: Option<Box<Shared>>,
}

/// Everything that members may see of one update.
#[derive(Debug)]
pub struct Delivery {
    /// The event's place.
    pub offset: Offset,
    /// 32 bits of its hash.
    pub hash: u32,
    /// The fleet's event before it.
    pub previous: Option<Offset>,
    /// Which append it was.
    pub command: CommandId,
    /// The connection that asked.
    pub session: Option<SessionId>,
    /// What it is answered.
    pub reply: Option<Shared>,
    /// The answer tells something by reference: its connection reads it from the log.
    pub lacks: bool,
    /// What others see.
    pub pushes: Vec<Sharing>,
    /// How an agent's subscriptions change with it.
    pub interest: Option<(AgentId, InterestChange)>,
    /// The pattern of the entries that the asker is sent after the reply.
    pub snapshot: Option<String>,
    /// The session that it put an end to, and how that one's connection is closed.
    pub ended: Option<(SessionId, Close)>,
    /// What is to be logged once a connection of this agent took the pushes.
    pub report: Option<(AgentId, Report)>,
    /// When history shows no pushes of it any more.
    pub lapse: Option<Box<Lapse>>,
    /// What its asker is told, whoever that is: the event cannot be read.
    pub unreadable: Option<Box<Refusal>>,
    /// The changes of presence that it tells of, if it is of our own making.
    pub gathered: Changes,
    /// Bytes of what everyone is shown.
    shown: usize,
}

impl Delivery {
    /// What members may see of an update.
    pub fn of(update: &Update) -> Self {
        let Update { event, verdict } = update;
        let shown = event.as_ref().map_or_else(Shown::default, |event| frames_of(event, verdict));
        let pushes: Vec<_> = shown.pushes.into_iter().map(Sharing::from).collect();
        Self {
            shown: weight(&pushes),
            offset: verdict.position.offset,
            hash: event.as_ref().map_or(0, |event| event.at.hash),
            previous: verdict.previous,
            command: verdict.command_id,
            session: event.as_ref().and_then(|event| event.at.header.session_id),
            reply: shown.reply.map(Shared::new),
            lacks: verdict.lacks().is_some(),
            pushes,
            interest: shown.interest,
            snapshot: shown.snapshot,
            ended: shown.ended,
            report: shown.report,
            lapse: shown.lapse.map(Box::new),
            unreadable: event.is_none().then(|| Box::new(unreadable(verdict))),
            gathered: Changes::new(),
        }
    }

    /// A frame of our own making for everyone, which comes after the event at `place`.
    pub fn made(place: First, frame: Frame, gathered: Changes) -> Self {
        let pushes = vec![Sharing::from(Push { audience: Audience::Fleet, frame, with_value: None })];
        Self {
            shown: weight(&pushes),
            offset: place.offset,
            hash: place.hash,
            previous: None,
            command: CommandId::from_bits(0),
            session: None,
            reply: None,
            lacks: false,
            pushes,
            interest: None,
            snapshot: None,
            ended: None,
            report: None,
            lapse: None,
            unreadable: None,
            gathered,
        }
    }

    /// The changes of presence that its event tells of.
    pub fn changes(&self) -> impl Iterator<Item = (AgentId, Arc<Change>)> {
        self.pushes.iter().filter_map(|push| {
            let Audience::Presence { about, change } = push.audience else { return None };
            Some((about, Arc::new(Change::new(self.offset, change, push.frame.frame.clone()))))
        })
    }

    /// Whether its event tells of any.
    pub fn tells_presence(&self) -> bool {
        self.pushes.iter().any(|push| matches!(push.audience, Audience::Presence { .. }))
    }

    /// Bytes of it altogether.
    pub fn weight(&self) -> usize {
        self.shown + self.answer()
    }

    /// Whether it is of our own making: no update of the fleet brings it again.
    pub fn is_made(&self) -> bool {
        !self.gathered.is_empty()
    }

    fn answer(&self) -> usize {
        self.reply.as_ref().map_or(0, |reply| reply.frame.len())
    }
}

/// What any delivery costs beside its text.
const WEIGHT_MIN: usize = 160;

/// Bytes of pushes and of what keeps them.
fn weight(pushes: &[Sharing]) -> usize {
    let text = |push: &Sharing| push.with_value.as_deref().unwrap_or(&push.frame).frame.len();
    WEIGHT_MIN + pushes.iter().map(text).sum::<usize>()
}

impl From<Push> for Sharing {
    fn from(push: Push) -> Self {
        let with_value = push.with_value.map(|frame| Box::new(Shared::new(frame)));
        Self { audience: push.audience, frame: Shared::new(push.frame), with_value }
    }
}

/// The answer to an event that is damaged or gone: its verdict says whether it had an effect.
fn unreadable(verdict: &Verdict) -> Refusal {
    match &verdict.outcome {
        Outcome::Refused(refusal) => refusal.clone(),
        Outcome::Applied(_) => Refusal::new(Code::ServerError).unknown(),
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
    /// How its connection is closed, if this is the end of its session.
    pub ended: Option<Close>,
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
        let ended = delivery.ended.filter(|(session, _)| *session == viewpoint.session).map(|(_, close)| close);
        let post = Self { delivery: Arc::clone(delivery), reply, ended, picks };
        (!post.is_empty()).then_some(post)
    }

    /// Bytes it is worth in a queue.
    pub fn weight(&self) -> usize {
        self.delivery.shown + if self.reply { self.delivery.answer() } else { 0 }
    }

    /// Whether it answers with something that must be read from the log.
    pub fn lacks(&self) -> bool {
        self.reply && self.delivery.lacks
    }

    /// Everything for everyone: a frame of our own making.
    pub fn all(delivery: &Arc<Delivery>) -> Self {
        Self { delivery: Arc::clone(delivery), reply: false, ended: None, picks: 1 }
    }

    /// An event that cannot be read goes to everyone: nobody else knows who asked for it.
    fn is_empty(&self) -> bool {
        !self.reply && self.ended.is_none() && self.picks == 0 && self.delivery.unreadable.is_none()
    }

    /// Its pushes, in order, with their audience.
    pub fn pushes(&self) -> impl Iterator<Item = (&Audience, &Shared)> {
        self.delivery.pushes.iter().enumerate().filter_map(|(at, push)| {
            if at >= PUSHES_MAX {
                return None;
            }
            if self.picks & (1 << (at + PUSHES_MAX)) != 0 {
                return Some((&push.audience, push.with_value.as_deref().unwrap_or(&push.frame)));
            }
            (self.picks & (1 << at) != 0).then_some((&push.audience, &push.frame))
        })
    }

    /// Whether there is nothing but presence in it.
    pub fn is_presence(&self) -> bool {
        self.clone().without_presence().is_none()
    }

    /// The same without presence; `None` if nothing is left.
    pub fn without_presence(mut self) -> Option<Self> {
        for (at, push) in self.delivery.pushes.iter().enumerate().take(PUSHES_MAX) {
            if matches!(push.audience, Audience::Presence { .. }) {
                self.picks &= !(1 << at);
            }
        }
        (!self.is_empty()).then_some(self)
    }
}
