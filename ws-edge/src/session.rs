//! One connection, as a state machine without I/O: text and news go in, actions come out. No port, no clock.

mod asking;
mod entrance;
mod heartbeat;
mod pending;
mod playing;
mod showing;
mod snapshot;
mod told;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ringforge_command_api::Asked;
use ringforge_domain::{
    auth::{Auth, PresenceMode},
    catalog::{Command, Query, Signal},
    close::Close,
    code::{Code, Refusal},
    door::{self, Incoming, Received},
    frame::{Encoder, Frame, Shape, encode},
    ids::CommandId,
    json::Json,
    limits::{ASKED_MAX, Limits, TOLD_MAX},
    position::Offset,
    replay,
};
use ringforge_query_api::history::{Part, Plan};

use crate::{
    fanout::{Post, Viewpoint},
    line::Line,
    outbox::Lagged,
};

pub use entrance::{Entered, Missed};
use heartbeat::Vitals;
use pending::Waiting;
pub use playing::Played;
use playing::{Allowance, Playing};
use snapshot::Snapshots;
pub use snapshot::Snapshotted;
pub use told::Status;
use told::Told;

/// How long what was asked before a shutdown may take to be answered.
const DRAIN: Duration = Duration::from_secs(2);

/// What all sessions of an edge share.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Bounds on frames.
    pub limits: Limits,
    /// From upgrade to `auth`.
    pub auth_timeout: Duration,
    /// Between our pings.
    pub ping_interval: Duration,
    /// Without any frame: offline.
    pub silence_timeout: Duration,
    /// For a verdict; then the outcome is unknown.
    pub reply_timeout: Duration,
    /// Commands that may wait for their verdict, at most `PENDING_MAX`, which fit one append; nothing is read meanwhile.
    pub pending_max: usize,
    /// Told to clients that must come back.
    pub reconnect_after: Duration,
    /// This build.
    pub version: String,
    /// This process.
    pub node: String,
}

/// How often a session is looked at that waits for nothing but the gate or the peer.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The socket is open.
    Opened,
    /// A text message (or a line of one), with a fresh id in case it is a command; only while [`Session::reads`].
    Text(&'a str, CommandId),
    /// A sign of life that is no frame, or the silence is our own.
    Alive,
    /// A message that is not text.
    Binary,
    /// The answer to [`Action::Enter`].
    Entered(Box<Result<Entered, Refusal>>),
    /// The answer to [`Action::Submit`].
    Submitted(CommandId, Result<Offset, Refusal>),
    /// Live posts; only while [`Session::wants_posts`].
    Posts(VecDeque<Post>),
    /// Posts were dropped.
    Lagged(Lagged),
    /// A page of the answer to [`Action::CatchUp`].
    CaughtUp(Caught),
    /// The answer to [`Action::CatchUp`] live: from now on there are posts.
    Joined,
    /// The answer to [`Action::Ask`].
    Answered(Box<Result<Frame, Refusal>>, Option<Json>),
    /// The answer to [`Action::Plan`].
    Planned(Box<Result<Plan, Refusal>>),
    /// The answer to [`Action::Play`].
    Played(Result<Played, Refusal>),
    /// A page of the answer to [`Action::Snapshot`].
    Snapshotted(Result<Snapshotted, Refusal>),
    /// The socket took everything.
    Flushed,
    /// Time passes.
    Tick,
    /// The peer broke the protocol.
    Breach(Close),
    /// The server shuts down.
    Drain,
    /// The socket is gone: the last input.
    Gone,
}

/// What a session wants done.
#[derive(Debug)]
pub enum Action {
    /// This, after those before it.
    Send(Line),
    /// Check the key and begin a session.
    Enter(Box<Auth>),
    /// Submit, after those before it.
    Submit(Box<Asked>),
    /// Our own report, outside the session: the socket took it.
    Report(Box<Command>),
    /// Answer, at any time.
    Ask(Box<Query>, Option<Json>),
    /// Note a sign of life.
    Heartbeat(Option<f64>),
    /// Read on from the log, or join live.
    CatchUp(Step),
    /// Find out what a replay will show.
    Plan(Box<replay::Request>),
    /// Fetch these for the replay.
    Play(Part),
    /// Fetch matching entries after this key.
    Snapshot(String, Option<String>),
    /// Say goodbye, after everything before it.
    Close(u16, &'static str),
}

/// What to catch up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Mail that waits after one place and before another.
    Mail {
        /// The last one seen.
        after: Option<Offset>,
        /// Where everything begins that comes anyway.
        before: Offset,
        /// Whether the agent says that it has seen what came up to there while it was here.
        resumes: bool,
    },
    /// What was missed after one place and before another.
    Missed {
        /// The last one seen.
        after: Option<Offset>,
        /// The session's own start.
        before: Offset,
    },
    /// Everything after this place, until there is no more and posts come live.
    Live {
        /// The last one seen.
        after: Option<Offset>,
    },
}

/// A page of a catch-up.
#[derive(Debug)]
pub struct Caught {
    /// What there was for this agent.
    pub posts: Vec<Post>,
    /// Statuses that it has seen already.
    pub known: Vec<Status>,
    /// Everything up to here has been looked at.
    pub upto: Option<Offset>,
    /// Whether there was no more.
    pub done: bool,
}

#[derive(Debug)]
enum Phase {
    /// Nobody yet, since.
    Greeting(Duration),
    /// The gate looks at the key.
    Entering,
    /// In, and reading on.
    CatchingUp(Step),
    /// In, and live.
    Live,
    /// Said goodbye.
    Closed,
}

/// Who a session speaks for.
#[derive(Debug)]
struct Me {
    viewpoint: Viewpoint,
    encoder: Arc<Encoder>,
    missed: Missed,
    delivered: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    phase: Phase,
    shape: Shape,
    /// Whether several lines may share a message, both ways.
    pub batch: bool,
    /// How it wants to see presence.
    pub presence: PresenceMode,
    me: Option<Me>,
    pending: Waiting,
    /// Events that cannot be read, and may turn out to be ours.
    unreadable: VecDeque<(Offset, Refusal)>,
    parked: VecDeque<(u64, Query, Option<Json>)>,
    asked: usize,
    playing: Option<Playing>,
    snapshots: Snapshots,
    vitals: Vitals,
    cursor: Option<Offset>,
    unflushed: Vec<Command>,
    told: Told,
    /// Posts that wait for a snapshot.
    held: VecDeque<Post>,
    /// What to fetch once the socket has taken everything.
    later: Vec<Action>,
    draining: Option<Duration>,
    allowance: Allowance,
    ended: Option<Close>,
    heard_at: Duration,
    pinged_at: Duration,
    now: Duration,
    actions: Vec<Action>,
}

impl Session {
    /// A connection opened at `now`.
    pub fn new(config: Arc<SessionConfig>, now: Duration) -> Self {
        Self {
            config,
            phase: Phase::Greeting(now),
            shape: Shape::Flat,
            batch: false,
            presence: PresenceMode::Each,
            me: None,
            pending: Waiting::default(),
            unreadable: VecDeque::new(),
            parked: VecDeque::new(),
            asked: 0,
            playing: None,
            snapshots: Snapshots::default(),
            vitals: Vitals::default(),
            cursor: None,
            unflushed: Vec::new(),
            told: Told::default(),
            held: VecDeque::new(),
            later: Vec::new(),
            draining: None,
            allowance: Allowance::full(now),
            ended: None,
            heard_at: now,
            pinged_at: now,
            now,
            actions: Vec::new(),
        }
    }

    /// Takes what happened at `now` and says what to do about it.
    pub fn on(&mut self, input: Input<'_>, now: Duration) -> Vec<Action> {
        self.now = self.now.max(now);
        match input {
            Input::Opened => self.greet(),
            Input::Text(text, id) => self.on_text(text, id),
            Input::Alive => self.heard_at = self.now,
            Input::Binary => self.on_binary(),
            Input::Entered(entered) => self.on_entered(*entered),
            Input::Submitted(id, result) => self.on_submitted(id, result),
            Input::Posts(posts) => self.show_all(posts),
            Input::Lagged(lagged) => self.on_lagged(lagged),
            Input::CaughtUp(caught) => self.on_caught_up(caught),
            Input::Joined => self.on_joined(),
            Input::Answered(answer, reference) => self.on_answered(*answer, reference),
            Input::Planned(plan) => self.on_planned(*plan),
            Input::Played(frames) => self.on_played(frames),
            Input::Snapshotted(page) => self.on_snapshotted(page),
            Input::Flushed => self.on_flushed(),
            Input::Tick => self.on_tick(),
            Input::Breach(close) => self.close(close),
            Input::Drain => self.on_drain(),
            Input::Gone => self.report_told(1),
        }
        self.go_on_draining();
        std::mem::take(&mut self.actions)
    }

    /// Whether live posts may be taken now.
    pub fn wants_posts(&self) -> bool {
        matches!(self.phase, Phase::Live) && !self.snapshots.running() && self.held.is_empty()
    }

    /// Whether a frame may be read now: everything that waits is bounded. What comes behind `auth` waits unread.
    pub fn reads(&self) -> bool {
        !matches!(self.phase, Phase::Entering | Phase::Closed)
            && self.draining.is_none()
            && self.asked + self.parked.len() < ASKED_MAX
            && self.pending.len() < self.config.pending_max
    }

    /// Whether it is being let in.
    pub fn is_entering(&self) -> bool {
        matches!(self.phase, Phase::Entering)
    }

    /// Whether it has joined: posts come live.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether nobody has authenticated yet.
    pub fn is_stranger(&self) -> bool {
        matches!(self.phase, Phase::Greeting(_))
    }

    /// Who it speaks for, and how its frames are written, once it is in.
    pub fn me(&self) -> Option<(Viewpoint, Arc<Encoder>)> {
        self.me.as_ref().map(|me| (me.viewpoint, Arc::clone(&me.encoder)))
    }

    /// Whether a newer session speaks for its agent.
    pub fn was_replaced(&self) -> bool {
        self.ended == Some(Close::Replaced)
    }

    /// Whether the log says that it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// When a tick is needed at the latest.
    pub fn next_tick(&self) -> Duration {
        let config = &self.config;
        match self.phase {
            Phase::Greeting(since) => return since + config.auth_timeout,
            // Nothing is due in these: a look now and then, whether the peer still reads.
            Phase::Entering | Phase::Closed => return self.now + IDLE_TICK,
            Phase::CatchingUp(_) | Phase::Live => {}
        }
        let life = (self.pinged_at + config.ping_interval).min(self.heard_at + config.silence_timeout);
        let playing = self.playing.as_ref().and_then(|playing| playing.next_tick(self.allowance, self.now));
        let drained = self.draining.map(|since| since + DRAIN);
        [self.pending.deadline(), playing, drained, self.told.due()].into_iter().flatten().fold(life, Duration::min)
    }

    fn on_text(&mut self, text: &str, id: CommandId) {
        self.heard_at = self.now;
        match self.phase {
            Phase::Greeting(_) => self.on_auth(text),
            Phase::CatchingUp(_) | Phase::Live => match door::parse(text, &self.config.limits) {
                Ok(received) => self.on_received(received, id),
                Err((reference, refusal)) => self.refuse(&refusal, reference),
            },
            // Nothing is read in these.
            Phase::Entering | Phase::Closed => {}
        }
    }

    fn on_binary(&mut self) {
        self.heard_at = self.now;
        let refusal = Refusal::invalid("", "Binary messages are not understood.").fix("Send JSON as text messages.");
        match self.phase {
            Phase::Greeting(_) => self.turn_away(&Refusal::new(Code::Unauthorized)),
            Phase::Closed => {}
            _ => self.refuse(&refusal, None),
        }
    }

    fn on_received(&mut self, received: Received, id: CommandId) {
        let Received { incoming, meta, .. } = received;
        match incoming {
            Incoming::Auth(_) => {
                let refusal = Refusal::because(Code::InvalidMessage, "This connection is authenticated already.");
                self.refuse(&refusal.fix("Open another connection to be another agent."), meta.reference);
            }
            Incoming::Command(command) => self.submit(id, command, meta),
            Incoming::Query(query) => self.ask(query, meta.reference),
            Incoming::Signal(Signal::Ping(_)) => {
                self.send(&Frame::new("pong", "", &()).bare().reference(meta.reference));
            }
            Incoming::Signal(Signal::Pong(_)) => {}
            Incoming::Signal(Signal::Heartbeat(heartbeat)) => self.on_heartbeat(heartbeat.0, meta.reference, id),
        }
    }

    fn on_flushed(&mut self) {
        self.actions.extend(self.unflushed.drain(..).map(Box::new).map(Action::Report));
        self.told.flushed(self.now);
        self.report_told(TOLD_MAX);
        let running = self.snapshots.running();
        let waits = |action: &Action| running && matches!(action, Action::CatchUp(_));
        let (wait, go): (Vec<_>, Vec<_>) = self.later.drain(..).partition(waits);
        self.later = wait;
        self.actions.extend(go);
        self.play_on();
    }

    fn on_tick(&mut self) {
        let config = Arc::clone(&self.config);
        match self.phase {
            Phase::Greeting(since) if self.now >= since + config.auth_timeout => {
                return self.turn_away(&Refusal::because(Code::Unauthorized, "There was no `auth` in time."));
            }
            Phase::Greeting(_) | Phase::Entering | Phase::Closed => return,
            Phase::CatchingUp(_) | Phase::Live => {}
        }
        if self.now >= self.heard_at + config.silence_timeout {
            return self.close(Close::HeartbeatLost);
        }
        if self.now >= self.pinged_at + config.ping_interval {
            self.pinged_at = self.now;
            self.send(&Frame::new("ping", "", &()).bare());
        }
        if self.told.due().is_some_and(|due| self.now >= due) {
            self.report_told(1);
        }
        self.give_up_those_due(self.now);
        self.unpark();
        self.play_on();
    }

    /// Waits no longer for verdicts that were due at a time.
    fn give_up_those_due(&mut self, at: Duration) {
        while let Some(id) = self.pending.late(at) {
            if let Some(pending) = self.pending.settle(id) {
                // What came of it is not known: the next heartbeat says it again.
                self.vitals = Vitals::default();
                self.refuse(&Refusal::new(Code::Timeout), pending.reference);
            }
        }
    }

    fn on_drain(&mut self) {
        let ms = u64::try_from(self.config.reconnect_after.as_millis()).unwrap_or(u64::MAX);
        let body = serde_json::json!({ "message": "The server restarts.", "reconnect_after_ms": ms, "data": { "reconnect_after_ms": ms } });
        if self.me.is_some() {
            self.send(&Frame::new("system", "maintenance", &body));
        }
        self.draining.get_or_insert(self.now);
    }

    /// While the server shuts down, what was asked is still answered, for a moment. Every command has an answer before the
    /// goodbye, if only that its outcome is unknown: what has none was never taken.
    fn go_on_draining(&mut self) {
        let Some(since) = self.draining else { return };
        if self.now >= since + DRAIN {
            self.give_up_those_due(Duration::MAX);
        }
        if self.pending.is_empty() {
            self.close(Close::Restart);
        }
    }

    fn refuse(&mut self, refusal: &Refusal, reference: Option<Json>) {
        self.send(&Frame::error(refusal, reference));
    }

    fn send(&mut self, frame: &Frame) {
        let text = match &self.me {
            Some(me) => me.encoder.encode(frame, self.shape),
            None => encode(frame, self.shape, None),
        };
        self.actions.push(Action::Send(text.into()));
    }

    fn close(&mut self, close: Close) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.actions.push(Action::Close(close.code(), close.reason()));
        }
    }
}

#[cfg(test)]
mod tests;
