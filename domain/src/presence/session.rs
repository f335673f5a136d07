//! Sessions are in the log: one begins before its commands, one ends when its socket is gone for good.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Agent, Current, Name, State, frame, index};
use crate::{
    act::{Act, Applied},
    close::Close,
    code::{Code, Refusal},
    frame::Shown,
    header::{At, Header},
    ids::{AgentId, EdgeId, KeyId, SessionId},
    interest::{Audience, InterestChange, Presence},
    json::Json,
    limits::{Limits, OFFLINE_SHOWN_MICROS},
    row::{Needs, Row, RowKey, Rows},
};

/// `session.started`: somebody came in with a good key. The fold says who it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Started {
    /// The new session.
    pub session: SessionId,
    /// The key it came in with.
    pub key: KeyId,
    /// The edge process that holds the socket.
    pub edge: EdgeId,
    /// The id to use if this agent is new.
    pub proposed: AgentId,
    /// The agent it claims to be, with `proof`.
    pub claimed: Option<AgentId>,
    /// SHA-256 of the resume token it showed, in hex.
    pub proof: Option<String>,
    /// SHA-256 of the resume token it will be given, in hex.
    pub resume_hash: String,
    /// Whether it goes on from an event, with its subscriptions.
    pub resumes: bool,
    /// Its name.
    pub name: Option<String>,
    /// What it is built with.
    pub framework: Option<String>,
    /// Its own version.
    pub version: Option<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Anything else.
    pub metadata: Option<Json>,
    /// Whether only a resume token may take it over from now on.
    pub exclusive: bool,
}

/// Who came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartedEffect {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: Option<String>,
    /// Its roster entry.
    pub entry: Value,
    /// What others see: nothing when it was here all along and looks the same.
    pub seen: Seen,
    /// The session it takes over from.
    pub replaced: Option<SessionId>,
    /// Whether its subscriptions begin anew.
    pub cleared: bool,
}

/// What others see of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// It joined.
    Joined,
    /// It was here, and something about it changed.
    Changed,
    /// Nothing.
    Nothing,
}

impl Started {
    fn known<'a>(&self, at: &At, rows: &'a Rows) -> Result<Option<&'a Agent>, Refusal> {
        let scope = at.scope();
        let named = self.name.as_ref().and_then(|name| rows.get::<Name>(&RowKey::name(scope, name)));
        let named = named.and_then(|name| rows.agent(scope, name.agent));
        let proven = |agent: &Agent| self.proof.is_some() && self.proof == agent.resume_hash;
        if let Some(id) = self.claimed {
            let claimed = rows.agent(scope, id).filter(|agent| proven(agent));
            let agent = claimed.ok_or_else(|| unproven("`resume_token` does not fit this `agent_id`."))?;
            if named.is_some_and(|named| named.id != agent.id) {
                return Err(unproven("This name belongs to another agent."));
            }
            return Ok(Some(agent));
        }
        match named {
            Some(agent) if agent.exclusive && !proven(agent) => {
                Err(unproven("This agent can only be taken over with its `resume_token`."))
            }
            named => Ok(named),
        }
    }

    fn agent(&self, at: &At, before: Option<&Agent>) -> Agent {
        let here = before.filter(|agent| agent.session.is_some());
        let mut interest = before.map(|agent| agent.interest.clone()).unwrap_or_default();
        if self.cleared(at, before) {
            interest.change(&InterestChange::Clear, at.position.offset);
        }
        Agent {
            scope: at.scope(),
            id: before.map_or(self.proposed, |agent| agent.id),
            name: self.name.clone().or_else(|| before.and_then(|agent| agent.name.clone())),
            framework: self.framework.clone(),
            version: self.version.clone(),
            capabilities: self.capabilities.clone(),
            metadata: self.metadata.clone(),
            exclusive: self.exclusive || before.is_some_and(|agent| agent.exclusive),
            state: here.map_or(State::Online, |agent| agent.state),
            task: here.and_then(|agent| agent.task.clone()),
            load: here.and_then(|agent| agent.load),
            detail: here.and_then(|agent| agent.detail.clone()),
            since: here.map_or(at.time, |agent| agent.since),
            connected_at: at.time,
            last_seen: at.time,
            session: Some(Current { id: self.session, key: self.key, edge: self.edge, started: at.position.offset }),
            resume_hash: Some(self.resume_hash.clone()),
            interest,
        }
    }

    /// Subscriptions are kept for a resume within 24 h.
    fn cleared(&self, at: &At, before: Option<&Agent>) -> bool {
        let forgotten = |agent: &Agent| agent.session.is_none() && agent.last_seen.plus(OFFLINE_SHOWN_MICROS) < at.time;
        !self.resumes || before.is_some_and(forgotten)
    }
}

fn unproven(message: &str) -> Refusal {
    Refusal::because(Code::Unauthorized, message)
        .fix("Send the `resume_token` of the agent's last `auth_ok`, or use another name.")
}

impl Act for Started {
    type Effect = StartedEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        let scope = at.scope();
        needs.row(RowKey::agent(scope, self.proposed));
        if let Some(id) = self.claimed {
            needs.row(RowKey::agent(scope, id));
        }
        if let Some(name) = &self.name {
            super::needs_agent(scope, name, needs);
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<StartedEffect>, Refusal> {
        let before = self.known(at, rows)?;
        let after = self.agent(at, before);
        let current = before.and_then(|agent| agent.session.as_ref());
        let seen = match before.filter(|_| current.is_some()) {
            None => Seen::Joined,
            Some(before) if before.capabilities != after.capabilities || before.name != after.name => Seen::Changed,
            Some(_) => Seen::Nothing,
        };
        let effect = StartedEffect {
            agent: after.id,
            name: after.name.clone(),
            entry: after.entry(),
            seen,
            replaced: current.map(|current| current.id),
            cleared: self.cleared(at, before),
        };
        let mut applied = Applied::new(effect);
        let known = before.and_then(|agent| agent.name.as_ref());
        if let Some(name) = after.name.clone().filter(|name| Some(name) != known) {
            applied = applied.row(Row::Name(Name { scope: after.scope, name, agent: after.id }));
        }
        if seen != Seen::Nothing {
            applied = applied.indexed(index(if seen == Seen::Joined { "joined" } else { "state_changed" }));
        }
        Ok(applied.row(Row::Agent(Box::new(after))))
    }

    fn show(&self, at: &At, effect: &StartedEffect) -> Shown {
        let about = effect.agent;
        let everyone = |change| Audience::Presence { about, change };
        let joined = frame("joined", at, &effect.entry);
        let mut shown = match effect.seen {
            Seen::Joined => Shown::default().push(everyone(Presence::Joined), joined),
            Seen::Nothing => Shown::default().push(Audience::Agents(vec![about]), joined),
            Seen::Changed => Shown::default()
                .push(Audience::Agents(vec![about]), joined)
                .push(everyone(Presence::Changed), frame("state_changed", at, &effect.entry)),
        };
        shown.ended = effect.replaced.map(|session| (session, Close::Replaced));
        shown.interest = effect.cleared.then_some((about, InterestChange::Clear));
        shown
    }
}

/// `session.ended`, of the agent in the header: its socket is gone, or its edge is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Ended {
    /// The session.
    pub session: SessionId,
    /// Why, in one word.
    pub reason: String,
}

/// Who left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedEffect {
    /// The agent.
    pub agent: AgentId,
    /// Its roster entry now.
    pub entry: Value,
}

impl Act for Ended {
    type Effect = EndedEffect;

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        Ok(())
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<EndedEffect>, Refusal> {
        let agent = super::own(at, rows)?;
        if agent.session.as_ref().map(|current| current.id) != Some(self.session) {
            return Err(Refusal::not_found("This session has ended already."));
        }
        let after = agent.offline(at);
        let effect = EndedEffect { agent: after.id, entry: after.entry() };
        Ok(Applied::new(effect).row(Row::Agent(Box::new(after))).indexed(index("left")))
    }

    fn show(&self, at: &At, effect: &EndedEffect) -> Shown {
        let others = Audience::Presence { about: effect.agent, change: Presence::Left };
        let mut shown = Shown::default().push(others, frame("left", at, &effect.entry));
        // Mostly its socket is gone already; if not, the agent must know that nothing it says counts any more.
        shown.ended = Some((self.session, Close::HeartbeatLost));
        shown
    }
}
