//! A small world for tests: given these events, when this command, then this verdict, these rows, these frames. It folds
//! as the projector does, over rows in memory, and every event goes through its bytes. No product code uses it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    catalog::{Command, Effect},
    code::{Code, Refusal},
    event::{Event, Header},
    fold::{self, Damaged},
    frame::{self, Frame, Push, Shape, Shown},
    ids::{AgentId, CommandId, EdgeId, FleetId, KeyId, Scope, SessionId, TenantId},
    interest::Wanted,
    limits::{Limits, NEEDS_ROUNDS_MAX},
    position::{LogTime, Offset, Partition, Position},
    presence::{self, Agent},
    row::{self, Needs, Row, RowKey, Rows, State},
    schema,
    verdict::{Outcome, Verdict, frames_of},
};

/// When every world begins.
pub const BEGINNING: LogTime = LogTime(1_770_000_000_000_000);

/// What a read model holds of one partition.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The rows by name.
    pub rows: BTreeMap<RowKey, Row>,
    /// The newest log time.
    pub time: LogTime,
    /// The last folded offset.
    pub applied: Offset,
}

impl Store {
    /// Folds one batch as the projector does: loads what is needed, folds, keeps what changed.
    ///
    /// # Panics
    /// The needs of a batch do not settle within their bound, or an event declares too little: our own bug.
    pub fn project(&mut self, batch: &[Event]) -> Vec<Verdict> {
        let mut rows = Rows::at(self.time);
        let open = self.load(&mut rows, batch, (0..batch.len()).collect());
        let mut verdicts = Vec::with_capacity(batch.len());
        for (at, event) in batch.iter().enumerate() {
            if open.binary_search(&at).is_ok() {
                self.load(&mut rows, batch, vec![at]);
            }
            verdicts.push(fold::fold(&mut rows, event));
            self.applied = event.at.position.offset;
        }
        self.keep(&rows);
        verdicts
    }

    /// Folds a record that cannot be read.
    pub fn project_damaged(&mut self, record: &Damaged) -> Verdict {
        let mut rows = Rows::at(self.time);
        let mut needs = Needs::of(&rows);
        fold::needs_damaged(record, &mut needs);
        let keys = needs.unknown();
        let found: Vec<Row> = keys.iter().filter_map(|key| self.rows.get(key)).cloned().collect();
        rows.load(keys, found);
        let verdict = fold::damaged(&mut rows, record);
        self.applied = record.position.offset;
        self.keep(&rows);
        verdict
    }

    fn keep(&mut self, rows: &Rows) {
        self.time = rows.time;
        for (key, row) in rows.changed() {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
    }

    /// The digest of all rows.
    pub fn digest(&self) -> String {
        row::digest(self.rows.values(), self.applied)
    }

    /// Loads what the events at `open` touch, and tells which of them may need more later.
    fn load(&self, rows: &mut Rows, batch: &[Event], mut open: Vec<usize>) -> Vec<usize> {
        for _ in 0..=NEEDS_ROUNDS_MAX {
            let mut needs = Needs::of(rows);
            open.retain(|at| fold::needs(&batch[*at], &mut needs));
            let keys = needs.unknown();
            if keys.is_empty() {
                return open;
            }
            let found: Vec<Row> = keys.iter().filter_map(|key| self.rows.get(key)).cloned().collect();
            rows.load(keys, found);
        }
        panic!("the needs of {} events did not settle in {NEEDS_ROUNDS_MAX} rounds", batch.len());
    }
}

/// An agent in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its fleet.
    pub scope: Scope,
    /// Its id.
    pub agent: AgentId,
    /// The session that spoke for it when it joined.
    pub session: SessionId,
}

/// What came of one command.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The event it became.
    pub event: Event,
    /// What the fold said.
    pub verdict: Verdict,
    /// What everyone sees.
    pub shown: Shown,
}

/// A frame as a flat object, without event id and position.
pub fn flat(frame: &Frame) -> Value {
    serde_json::from_str(&frame::encode(frame, Shape::Flat, None)).expect("frames are JSON")
}

impl Folded {
    /// The effect.
    ///
    /// # Panics
    /// It was refused.
    #[track_caller]
    pub fn applied(&self) -> &Effect {
        match &self.verdict.outcome {
            Outcome::Applied(effect) => effect,
            Outcome::Refused(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    /// The refusal.
    ///
    /// # Panics
    /// It was applied.
    #[track_caller]
    pub fn refusal(&self) -> &Refusal {
        match &self.verdict.outcome {
            Outcome::Refused(refusal) => refusal,
            Outcome::Applied(effect) => panic!("applied: {effect:?}"),
        }
    }

    /// The code it was refused with; none if it was applied.
    pub fn code(&self) -> Option<Code> {
        match &self.verdict.outcome {
            Outcome::Refused(refusal) => Some(refusal.code),
            Outcome::Applied(_) => None,
        }
    }

    /// The asker's reply.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn reply(&self) -> Value {
        flat(self.shown.reply.as_ref().expect("there is a reply"))
    }

    /// The `type/event` of every push, in order.
    pub fn pushes(&self) -> Vec<String> {
        self.shown.pushes.iter().map(|push| format!("{}/{}", push.frame.kind, push.frame.event)).collect()
    }

    /// The push with this `event`.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn push(&self, event: &str) -> &Push {
        let mut pushes = self.shown.pushes.iter();
        pushes.find(|push| push.frame.event == event).unwrap_or_else(|| panic!("no `{event}`: {:?}", self.pushes()))
    }

    /// The fields of the push with this `event`.
    #[track_caller]
    pub fn pushed(&self, event: &str) -> Value {
        flat(&self.push(event).frame)
    }
}

/// One partition with its log and rows, and somebody who writes to it.
#[derive(Clone, Debug)]
pub struct World {
    /// Everything that happened.
    pub log: Vec<Event>,
    /// What was said of it.
    pub verdicts: Vec<Verdict>,
    /// The rows it led to.
    pub store: Store,
    /// The fleet that newcomers join.
    pub scope: Scope,
    /// The log time of the next event.
    pub now: LogTime,
    ids: u128,
}

impl Default for World {
    fn default() -> Self {
        let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
        Self { log: Vec::new(), verdicts: Vec::new(), store: Store::default(), scope, now: BEGINNING, ids: 1_000 }
    }
}

impl World {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that was not given out before.
    pub fn id(&mut self) -> u128 {
        self.ids += 1;
        self.ids
    }

    /// Time passes, in seconds.
    pub fn later(&mut self, seconds: i64) {
        self.now = self.now.plus(seconds * 1_000_000);
    }

    /// A header of the installation itself.
    pub fn header(&mut self) -> Header {
        Header {
            command_id: CommandId::from_bits(self.id()),
            tenant_id: self.scope.tenant,
            fleet_id: self.scope.fleet,
            agent_id: None,
            session_id: None,
            caused_by: None,
            key_id: None,
            idempotency_key: None,
            reference: None,
            trace: None,
            deadline: None,
        }
    }

    /// A header of an agent, over its connection.
    pub fn header_of(&mut self, by: &Member) -> Header {
        Header {
            tenant_id: by.scope.tenant,
            fleet_id: by.scope.fleet,
            agent_id: Some(by.agent),
            session_id: Some(by.session),
            key_id: Some(KeyId::from_bits(7)),
            ..self.header()
        }
    }

    /// Appends a command and folds it.
    pub fn submit(&mut self, header: &Header, command: impl Into<Command>) -> Folded {
        let bytes = schema::encode(header, &command.into());
        let offset = Offset(self.log.len() as u64);
        let position = Position { partition: Partition::POOL, offset };
        let event = schema::decode(&bytes, position, self.now).expect("what was encoded can be decoded");
        let mut verdicts = self.store.project(std::slice::from_ref(&event));
        let verdict = verdicts.pop().expect("an event has a verdict");
        self.log.push(event.clone());
        self.verdicts.push(verdict.clone());
        let shown = frames_of(&event, &verdict);
        Folded { event, verdict, shown }
    }

    /// An agent asks over its connection. What the gate would refuse does not reach the log.
    ///
    /// # Panics
    /// The command is out of bounds.
    #[track_caller]
    pub fn when(&mut self, by: &Member, command: impl Into<Command>) -> Folded {
        let command = command.into();
        command.check(&Limits::default()).expect("the gate lets it pass");
        let header = self.header_of(by);
        self.submit(&header, command)
    }

    /// An agent asks again or for the first time under an idempotency key.
    pub fn when_keyed(&mut self, by: &Member, key: &str, command: impl Into<Command>) -> Folded {
        let header = Header { idempotency_key: Some(key.to_owned()), ..self.header_of(by) };
        self.submit(&header, command)
    }

    /// One of our own processes reports something about an agent.
    pub fn internal(&mut self, about: &Member, command: impl Into<Command>) -> Folded {
        let header = Header { session_id: None, key_id: None, ..self.header_of(about) };
        self.submit(&header, command)
    }

    /// One of our own processes reports something of the fleet.
    pub fn timer(&mut self, command: impl Into<Command>) -> Folded {
        let header = self.header();
        self.submit(&header, command)
    }

    /// What an edge would say of somebody who comes in.
    pub fn start(&mut self, name: Option<&str>) -> presence::Started {
        presence::Started {
            session: SessionId::from_bits(self.id()),
            key: KeyId::from_bits(7),
            edge: EdgeId::from_bits(8),
            proposed: AgentId::from_bits(self.id()),
            claimed: None,
            proof: None,
            resume_hash: format!("resume-{}", self.ids),
            resumes: false,
            name: name.map(str::to_owned),
            framework: None,
            version: None,
            capabilities: Vec::new(),
            metadata: None,
            exclusive: false,
        }
    }

    /// Somebody comes in and is let in.
    ///
    /// # Panics
    /// It was refused.
    #[track_caller]
    pub fn enters(&mut self, start: presence::Started) -> (Member, Folded) {
        let session = start.session;
        let told = self.timer(start);
        let Effect::SessionStarted(effect) = told.applied() else { panic!("a start has the effect of a start") };
        (Member { scope: self.scope, agent: effect.agent, session }, told)
    }

    /// An agent of this name comes in.
    #[track_caller]
    pub fn joins(&mut self, name: &str) -> Member {
        let start = self.start(Some(name));
        self.enters(start).0
    }

    /// An agent's socket is gone.
    pub fn leaves(&mut self, member: &Member) -> Folded {
        let ended = presence::Ended { session: member.session, reason: "closed".to_owned() };
        self.internal(member, ended)
    }

    /// A row.
    pub fn row<T: State>(&self, key: &RowKey) -> Option<&T> {
        self.store.rows.get(key).and_then(T::of)
    }

    /// An agent's row.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn agent(&self, member: &Member) -> &Agent {
        self.row(&RowKey::agent(member.scope, member.agent)).expect("the agent has a row")
    }

    /// The pushes of an event that an agent gets, with the value where it asked for it.
    pub fn inbox(&self, told: &Folded, member: &Member) -> Vec<Value> {
        let interest = &self.agent(member).interest;
        let offset = told.event.at.position.offset;
        let wanted = |push: &Push| {
            let frame = match push.audience.wants(member.agent, interest, offset)? {
                Wanted::Plain => &push.frame,
                Wanted::WithValue => push.with_value.as_ref().unwrap_or(&push.frame),
            };
            Some(flat(frame))
        };
        told.shown.pushes.iter().filter_map(wanted).collect()
    }
}
