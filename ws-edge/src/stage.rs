//! For tests: one fleet at one edge, with real sessions and outboxes, and neither sockets nor ports. The log and the fold
//! are those of the domain's small world.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use ringforge_command_api::Asked;
use ringforge_domain::{
    catalog::Command,
    cursor::Seal,
    event::Event,
    frame::{Encoder, Frame},
    ids::CommandId,
    interest::Interest,
    limits::{Limits, PENDING_MAX, TAILS_BYTES_MAX},
    position::{Generation, Offset, Partition, StreamRef},
    presence::{Started, Update as Vitals},
    verdict::Verdict,
    world::{Folded, Member as Agent, World},
};
use ringforge_ports::reads::Update;
use serde_json::{Value, json};

use crate::{
    catchup::Reader,
    fanout::{Delivery, Post, Viewpoint},
    hub::{Fleet, Kept, Member, Seen},
    outbox::{self, Outbox},
    session::{Action, Caught, Entered, Input, Missed, Session, SessionConfig, Step},
};

/// A fleet and its log.
pub struct Stage {
    /// What happened.
    pub world: World,
    /// The edge's side of it.
    pub fleet: Fleet,
    /// The monotonic time.
    pub now: Duration,
}

/// An agent's connection.
pub struct Seat {
    /// Its machine.
    pub session: Session,
    /// Whom it speaks for.
    pub agent: Agent,
    /// Its pushes.
    pub outbox: Arc<Outbox>,
    /// What went out, flat.
    pub frames: Vec<Value>,
    /// What it wants done that the stage does not do by itself.
    pub actions: VecDeque<Action>,
    reader: Reader,
    interest: Interest,
    unflushed: bool,
}

/// What sessions are told.
pub fn config() -> Arc<SessionConfig> {
    Arc::new(SessionConfig {
        limits: Limits::default(),
        auth_timeout: Duration::from_secs(5),
        ping_interval: Duration::from_hours(1),
        silence_timeout: Duration::from_hours(3),
        reply_timeout: Duration::from_secs(10),
        pending_max: PENDING_MAX,
        reconnect_after: Duration::from_millis(100),
        version: "0".to_owned(),
        node: "0".to_owned(),
    })
}

impl Stage {
    /// Nobody is here.
    pub fn new() -> Self {
        let world = World::new();
        let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
        let encoder = Encoder { seal: Seal::new([7; 32]), scope: world.scope, stream, generation: Generation(1) };
        // Others keep all there is room for.
        let kept = Kept::new(AtomicUsize::new(2 * TAILS_BYTES_MAX));
        Self { world, fleet: Fleet::new(encoder, None, kept), now: Duration::ZERO }
    }

    /// Somebody comes in.
    pub fn enters(&mut self, name: &str, presence: &str) -> Seat {
        let start = self.world.start(Some(name));
        self.enters_as(start, presence)
    }

    /// Somebody comes in like this.
    pub fn enters_as(&mut self, start: Started, presence: &str) -> Seat {
        let (agent, told) = self.world.enters(start);
        let started = told.event.at.position.offset;
        self.hear(told);
        let viewpoint = Viewpoint { agent: agent.agent, session: agent.session };
        let encoder = Arc::new(self.fleet.encoder.clone());
        let mut session = Session::new(config(), self.now);
        let id = CommandId::from_bits(self.world.id());
        session.on(Input::Opened, self.now);
        let auth = json!({ "type": "auth", "api_key": "k", "agent": {}, "presence": presence }).to_string();
        session.on(Input::Text(&auth, id), self.now);
        let reader = Reader { viewpoint, encoder: Arc::clone(&encoder), presence: session.presence };
        let outbox = Arc::default();
        let (frames, actions, interest) = (Vec::new(), VecDeque::new(), Interest::default());
        let mut seat = Seat { session, agent, outbox, frames, actions, reader, interest, unflushed: false };
        let entered = Entered {
            viewpoint,
            encoder,
            slug: "default".to_owned(),
            name: None,
            resume_token: String::new(),
            roster: Frame::new("presence", "roster", &()),
            started,
            missed: Missed::NotAsked,
            vitals: Vitals::default(),
        };
        self.input(&mut seat, Input::Entered(Box::new(Ok(entered))));
        self.go_on(&mut seat);
        seat
    }

    /// An event reaches this edge.
    pub fn hear(&mut self, told: Folded) -> Offset {
        let offset = told.event.at.position.offset;
        let update = Update { event: Some(told.event), verdict: told.verdict };
        assert_eq!(self.fleet.on_update(&update, self.now), Seen::Next);
        self.show();
        offset
    }

    /// Members are told of what was put in for them.
    fn show(&mut self) {
        outbox::show(&self.fleet.ready());
    }

    /// An agent's command is folded and reaches this edge.
    pub fn when(&mut self, agent: &Agent, command: impl Into<Command>) -> Offset {
        let told = self.world.when(agent, command);
        self.hear(told)
    }

    /// A frame is read.
    pub fn says(&mut self, seat: &mut Seat, frame: &Value) {
        let id = CommandId::from_bits(self.world.id());
        self.input(seat, Input::Text(&frame.to_string(), id));
    }

    /// Time passes.
    pub fn later(&mut self, by: Duration) {
        self.now += by;
        self.world.later(i64::try_from(by.as_secs()).expect("not that long"));
        self.fleet.tick(self.now);
        self.show();
    }

    /// Something happens to a session; catch-ups are left for [`Self::go_on`].
    pub fn input(&mut self, seat: &mut Seat, input: Input<'_>) {
        for action in seat.session.on(input, self.now) {
            match action {
                Action::Send(line) => {
                    seat.unflushed = true;
                    seat.frames.push(serde_json::from_str(line.text()).expect("frames are JSON"));
                }
                action => seat.actions.push_back(action),
            }
        }
    }

    /// The socket takes everything.
    pub fn flush(&mut self, seat: &mut Seat) {
        if std::mem::take(&mut seat.unflushed) {
            self.input(seat, Input::Flushed);
        }
    }

    /// Flushes, appends, catches up and takes posts until there is nothing to do.
    pub fn go_on(&mut self, seat: &mut Seat) {
        loop {
            self.flush(seat);
            if self.act(seat) {
                continue;
            }
            if !seat.session.wants_posts() || seat.outbox.is_empty() {
                if seat.unflushed {
                    continue;
                }
                return;
            }
            match seat.outbox.take() {
                Ok(posts) => self.input(seat, Input::Posts(posts)),
                Err(lagged) => self.input(seat, Input::Lagged(lagged)),
            }
        }
    }

    /// Does one action, if it is a catch-up or an append.
    fn act(&mut self, seat: &mut Seat) -> bool {
        let ours = |action: &Action| matches!(action, Action::CatchUp(_) | Action::Submit(_));
        let Some(at) = seat.actions.iter().position(ours) else { return false };
        match seat.actions.remove(at) {
            Some(Action::Submit(asked)) => self.submit(seat, *asked),
            Some(Action::CatchUp(Step::Live { after })) => self.catch_up(seat, after),
            Some(Action::CatchUp(Step::Mail { after: None, .. })) => self.input(seat, Input::CaughtUp(no_mail())),
            other => panic!("not on this stage: {other:?}"),
        }
        true
    }

    fn submit(&mut self, seat: &mut Seat, asked: Asked) {
        let Asked { id, command, meta } = asked;
        let mut header = self.world.header_of(&seat.agent);
        (header.command_id, header.reference) = (id, meta.reference);
        let told = self.world.submit(&header, command);
        let offset = self.hear(told);
        self.input(seat, Input::Submitted(id, Ok(offset)));
    }

    fn catch_up(&mut self, seat: &mut Seat, after: Option<Offset>) {
        let Reader { viewpoint, presence, .. } = seat.reader;
        seat.outbox.clear();
        let interest = self.world.agent(&seat.agent).interest.clone();
        seat.interest = interest.clone();
        let member = Member { viewpoint, interest, presence, outbox: Arc::clone(&seat.outbox) };
        if self.fleet.join(member, after).is_ok() {
            return self.input(seat, Input::Joined);
        }
        let posts = self.history(seat, after);
        let upto = self.fleet.head();
        self.input(seat, Input::CaughtUp(Caught { posts, known: Vec::new(), upto, done: true }));
    }

    /// What the log has for an agent after a place.
    fn history(&self, seat: &Seat, after: Option<Offset>) -> Vec<Post> {
        let later = self.world.log.iter().zip(&self.world.verdicts);
        let later = later.filter(|(event, _)| Some(event.at.position.offset) > after);
        let update =
            |(event, verdict): (&Event, &Verdict)| Update { event: Some(event.clone()), verdict: verdict.clone() };
        seat.history(&later.map(update).collect::<Vec<_>>())
    }
}

impl Seat {
    /// What it gets of a page of updates.
    pub fn history<'a>(&self, updates: impl IntoIterator<Item = &'a Update>) -> Vec<Post> {
        let deliveries: Vec<_> = updates.into_iter().map(|update| Arc::new(Delivery::of(update))).collect();
        self.reader.posts(&deliveries, &self.interest)
    }

    /// How its connection was closed.
    pub fn closed(&self) -> Option<u16> {
        self.actions.iter().find_map(|action| if let Action::Close(code, _) = action { Some(*code) } else { None })
    }
}

/// On this stage nothing waits for anybody.
fn no_mail() -> Caught {
    Caught { posts: Vec::new(), known: Vec::new(), upto: None, done: true }
}
