//! One edge process: what its connections share, and how an agent comes in.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use ringforge_command_api::{Asked, Caller, Entrance, Gate, key};
use ringforge_domain::{
    auth::Auth,
    catalog::{Command, Effect},
    code::{Code, Effected, Refusal},
    door::Meta,
    frame::Encoder,
    ids::{AgentId, CommandId, EdgeId, SessionId},
    limits::{LATE_MICROS, LEAVE_TRIES_MAX, ROSTER_PAGE_MAX},
    position::Offset,
    presence::{Agent, Ended, Roster, Started, StartedEffect, Update},
    row::{RowKey, State},
    schema,
    verdict::{First, Outcome, Verdict},
};
use ringforge_ports::{Error, Services, names, reads::Which};
use ringforge_query_api::{Asker, Freshness, Rosters, roster, unavailable};
use tokio::sync::{oneshot, watch};
use tracing::{debug, warn};

use crate::{
    fanout::Viewpoint,
    feed::{Feed, Hub},
    session::{Entered, Missed, SessionConfig},
};

/// What an operator may change about the edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// What sessions need to know.
    pub session: SessionConfig,
    /// How long a lost agent may take to come back before it has left.
    pub leave_grace: Duration,
}

/// How long between tries.
const LEAVE_AGAIN: Duration = Duration::from_secs(1);

/// One edge process.
pub struct Edge {
    /// The ports.
    pub services: Services,
    /// The gate.
    pub gate: Arc<Gate>,
    /// The fleets that are active here.
    pub hub: Arc<Hub>,
    /// What sessions need to know.
    pub session: Arc<SessionConfig>,
    /// Who is in each fleet.
    pub rosters: Rosters,
    /// Whether answers may be old.
    pub freshness: Freshness,
    /// This life of the process.
    pub id: EdgeId,
    leave_grace: Duration,
    draining: watch::Sender<bool>,
}

/// An agent that is in.
pub struct Inside {
    /// For the session.
    pub entered: Entered,
    /// For its commands.
    pub caller: Caller,
    /// For its posts.
    pub feed: Arc<Feed>,
}

/// An agent whose session is in the log and has no verdict yet.
pub struct Begun {
    caller: Caller,
    feed: Arc<Feed>,
    encoder: Arc<Encoder>,
    slug: String,
    session: SessionId,
    resume_token: String,
    missed: Missed,
    id: CommandId,
}

impl Begun {
    /// A session that has not begun by then never will: it is past its deadline.
    pub const LATE: Duration = Duration::from_micros(2 * LATE_MICROS.unsigned_abs());

    /// There was no verdict in time: waits for it no longer.
    pub fn give_up(&self) -> Refusal {
        self.feed.give_up(self.id);
        Refusal::new(Code::Timeout)
    }
}

impl Edge {
    /// Over these services and this gate.
    pub fn new(services: Services, gate: Arc<Gate>, hub: Arc<Hub>, id: EdgeId, config: EdgeConfig) -> Arc<Self> {
        let EdgeConfig { session, leave_grace } = config;
        Arc::new(Self {
            services,
            gate,
            hub,
            session: Arc::new(session),
            rosters: Rosters::default(),
            freshness: Freshness::default(),
            id,
            leave_grace,
            draining: watch::Sender::new(false),
        })
    }

    /// Tells every connection to go, and lets nobody in any more.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Where the drain is said, as by [`Self::drain`].
    pub fn drains(&self) -> watch::Sender<bool> {
        self.draining.clone()
    }

    /// Hears of the drain.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Resolves once there is a drain, also if it came before.
    pub async fn drained(&self) {
        // The sender lives as long as we do.
        let _ = self.draining().wait_for(|draining| *draining).await;
    }

    /// Lets an agent in: the key, its session in the log, the verdict, and what it needs to know first.
    ///
    /// # Errors
    /// What `auth_error` will say.
    pub async fn enter(self: &Arc<Self>, auth: &Auth, bearer: Option<&str>, from: IpAddr) -> Result<Inside, Refusal> {
        let entrance = self.admit(auth, bearer, from).await?;
        let feed = self.hub.feed(entrance.scope, entrance.stream).await.map_err(|error| unavailable(&error))?;
        let (begun, mut verdict) = self.begin(auth, entrance, feed).await?;
        match tokio::time::timeout(self.session.reply_timeout, &mut verdict).await {
            Ok(Ok(verdict)) => self.finish(begun, &verdict).await,
            // Its event cannot be read.
            Ok(Err(_)) => Err(Refusal::new(Code::ServerError).unknown()),
            Err(_) => {
                tokio::spawn(Arc::clone(self).turn_back(begun, verdict));
                Err(Refusal::new(Code::Timeout))
            }
        }
    }

    /// Ends a session whose agent was told that it was not let in, should it begin after all.
    async fn turn_back(self: Arc<Self>, begun: Begun, verdict: oneshot::Receiver<Verdict>) {
        match tokio::time::timeout(Begun::LATE, verdict).await {
            Ok(Ok(verdict)) => {
                if let Ok(inside) = self.finish(begun, &verdict).await {
                    self.leave(&inside.caller, "not_admitted").await;
                }
            }
            _ => drop(begun.give_up()),
        }
    }

    /// The first part of [`Self::enter`]: what the key opens.
    ///
    /// # Errors
    /// What `auth_error` will say.
    pub async fn admit(&self, auth: &Auth, bearer: Option<&str>, from: IpAddr) -> Result<Entrance, Refusal> {
        let api_key = auth.api_key.as_deref().or(bearer);
        let api_key = api_key.ok_or_else(|| Refusal::because(Code::Unauthorized, "`auth` carries no API key."))?;
        self.gate.authenticator.enter(api_key, auth.fleet.as_deref(), from).await
    }

    /// The second part: the session goes into the log. Its verdict comes over the feed, or in the end not at all.
    ///
    /// # Errors
    /// What `auth_error` will say.
    pub async fn begin(
        &self,
        auth: &Auth,
        entrance: Entrance,
        feed: Arc<Feed>,
    ) -> Result<(Begun, oneshot::Receiver<Verdict>), Refusal> {
        let Entrance { key, scope, slug, stream } = entrance;
        let encoder = Arc::new(feed.fleet().encoder.clone());
        let missed =
            self.missed(&feed, &encoder, auth.last_event_id.as_deref()).await.map_err(|error| unavailable(&error))?;
        let resume_token = key::resume_token(&*self.services.ids);
        let started = self.started(auth, key.id, &resume_token)?;
        let session = started.session;
        let caller = Caller { scope, stream, agent: None, session: None, key: Some(key) };
        let id = CommandId::from_bits(self.services.ids.next());
        let begun = Begun { caller, feed, encoder, slug, session, resume_token, missed, id };
        let verdict = begun.feed.wait_for(id);
        let asked = Asked { id, command: Command::SessionStarted(started), meta: Meta::default() };
        let placed = self.gate.submit(&begun.caller, vec![asked]).await.into_iter().next();
        match placed.unwrap_or_else(|| Err(Refusal::new(Code::ServerError))) {
            Ok(offset) => {
                begun.feed.placed(id, offset);
                Ok((begun, verdict))
            }
            // It may be in the log: then its verdict comes all the same.
            Err(refusal) if refusal.outcome == Effected::Unknown => Ok((begun, verdict)),
            Err(refusal) => {
                begun.give_up();
                Err(refusal)
            }
        }
    }

    /// The last part: the fold has said who it is.
    ///
    /// # Errors
    /// What `auth_error` will say.
    pub async fn finish(&self, begun: Begun, verdict: &Verdict) -> Result<Inside, Refusal> {
        let Begun { mut caller, feed, encoder, slug, session, resume_token, missed, .. } = begun;
        let effect = match &verdict.outcome {
            Outcome::Applied(Effect::SessionStarted(effect)) => effect.clone(),
            Outcome::Applied(_) => return Err(Refusal::new(Code::ServerError)),
            Outcome::Refused(refusal) => return Err(refusal.clone()),
        };
        caller.agent = Some(effect.agent);
        caller.session = Some(session);
        let viewpoint = Viewpoint { agent: effect.agent, session };
        match self.entered(viewpoint, &encoder, effect, slug, resume_token, verdict, missed).await {
            Ok(entered) => {
                let (fleet, agent) = (caller.scope.fleet, viewpoint.agent);
                debug!(fleet.id = %fleet, agent.id = %agent, session.id = %session, "session began");
                Ok(Inside { entered, caller, feed })
            }
            Err(refusal) => {
                self.leave(&caller, "not_admitted").await;
                Err(refusal)
            }
        }
    }

    fn started(&self, auth: &Auth, key: ringforge_domain::ids::KeyId, resume_token: &str) -> Result<Started, Refusal> {
        let claimed = match &auth.agent_id {
            Some(id) => {
                Some(id.parse().map_err(|_| Refusal::because(Code::Unauthorized, "`agent_id` is not one of ours."))?)
            }
            None => None,
        };
        let profile = &auth.agent;
        Ok(Started {
            session: SessionId::from_bits(self.services.ids.next()),
            key,
            edge: self.id,
            proposed: AgentId::from_bits(self.services.ids.next()),
            claimed,
            proof: auth.resume_token.as_deref().map(key::hash),
            resume_hash: key::hash(resume_token),
            resumes: auth.last_event_id.is_some(),
            name: profile.name.clone(),
            framework: profile.framework.clone(),
            version: profile.version.clone(),
            capabilities: profile.capabilities.clone(),
            metadata: profile.metadata.clone(),
            exclusive: profile.exclusive,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "everything that is known once the verdict is there")]
    async fn entered(
        &self,
        viewpoint: Viewpoint,
        encoder: &Arc<Encoder>,
        effect: StartedEffect,
        slug: String,
        resume_token: String,
        verdict: &Verdict,
        missed: Missed,
    ) -> Result<Entered, Refusal> {
        let started = verdict.position.offset;
        let asker = Asker { agent: viewpoint.agent, encoder: Arc::clone(encoder), known: Some(started) };
        let query = Roster { limit: Some(ROSTER_PAGE_MAX), ..Roster::default() };
        let roster = roster::roster(&self.services, &self.rosters, &asker, &query).await?;
        let key = RowKey::agent(encoder.scope, viewpoint.agent);
        let found = self.services.reads.load(encoder.stream.partition, &BTreeSet::from([key])).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let vitals = found.rows.iter().find_map(Agent::of).map(|agent| Update {
            state: Some(agent.state),
            task: agent.task.clone(),
            load: agent.load.map(|load| f64::from(load) / 1000.0),
            ..Update::default()
        });
        Ok(Entered {
            viewpoint,
            encoder: Arc::clone(encoder),
            slug,
            name: effect.name,
            resume_token,
            roster,
            started,
            missed,
            vitals: vitals.unwrap_or_default(),
        })
    }

    /// Whether the connection can go on after `last_event_id`.
    async fn missed(&self, feed: &Feed, encoder: &Encoder, last_event_id: Option<&str>) -> Result<Missed, Error> {
        let Some(event_id) = last_event_id else { return Ok(Missed::NotAsked) };
        let partition = encoder.stream.partition;
        let bounds = self.services.log.bounds(partition).await?;
        let reason = match encoder.seal.open(&encoder.scope, encoder.stream, event_id) {
            None => "invalid",
            Some(cursor) if cursor.generation != bounds.generation => "generation",
            Some(cursor) if cursor.offset >= bounds.end => "invalid",
            Some(cursor) if cursor.offset < bounds.oldest => "expired",
            Some(cursor) if feed.fleet().remembers(cursor.offset, cursor.hash) => {
                return Ok(Missed::After(cursor.offset));
            }
            Some(cursor) => match self.services.log.seek(partition, &[cursor.offset]).await?.first() {
                Some(record)
                    if record.record.scope == encoder.scope
                        && schema::record_hash(&record.record.bytes) == cursor.hash =>
                {
                    return Ok(Missed::After(cursor.offset));
                }
                Some(_) => "generation",
                None => "expired",
            },
        };
        let oldest = self.oldest(encoder, bounds.oldest).await?;
        Ok(Missed::Lost { reason, oldest })
    }

    /// The fleet's first event that is still there.
    async fn oldest(&self, encoder: &Encoder, bound: Offset) -> Result<Option<(String, u64)>, Error> {
        let partition = encoder.stream.partition;
        let which = Which::After { after: bound.0.checked_sub(1).map(Offset), limit: 1 };
        let found = self.services.reads.verdicts(partition, encoder.scope, &which).await?.verdicts;
        let Some(oldest) = found.first().map(|verdict| verdict.position.offset) else { return Ok(None) };
        let record = self.services.log.seek(partition, &[oldest]).await?.into_iter().next();
        Ok(record.map(|record| {
            let place = First { offset: oldest, hash: schema::record_hash(&record.record.bytes) };
            (encoder.event_id(place), encoder.stream.wire(oldest))
        }))
    }

    /// Ends a session in the log, if it is still the agent's current one. Tries until it can, for a while.
    pub async fn leave(&self, caller: &Caller, reason: &str) {
        for _ in 0..LEAVE_TRIES_MAX {
            match self.try_leave(caller, reason).await {
                Ok(()) => return,
                Err(refusal) => warn!(code = refusal.code.text(), "a session's end could not be logged yet"),
            }
            self.services.clock.sleep(LEAVE_AGAIN).await;
        }
    }

    /// One attempt of [`Self::leave`].
    ///
    /// # Errors
    /// `unavailable`: again.
    pub async fn try_leave(&self, caller: &Caller, reason: &str) -> Result<(), Refusal> {
        let (Some(agent), Some(session)) = (caller.agent, caller.session) else { return Ok(()) };
        debug!(fleet.id = %caller.scope.fleet, agent.id = %agent, session.id = %session, reason, "session ends");
        let ended = Command::SessionEnded(Ended { session, reason: reason.to_owned() });
        self.gate.submit_internal(caller.scope, caller.stream.partition, Some(agent), ended).await.map(|_| ())
    }

    /// Ends a session once its agent had time to come back.
    pub async fn leave_later(self: Arc<Self>, caller: Caller) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(self.leave_grace) => self.leave(&caller, "closed").await,
            // After the restart, sessions of this life are ended anyway.
            () = self.drained() => {}
        }
    }

    /// Notes a sign of life where the roster looks for it.
    pub async fn heartbeat(&self, caller: &Caller, load: Option<f64>) {
        let Some(agent) = caller.agent else { return };
        let heard = roster::Heard { at: self.services.clock.wall(), load };
        let value = serde_json::to_string(&heard).expect("plain numbers serialise");
        let key = names::heartbeat(caller.scope, agent);
        if let Err(error) = self.services.live.put(&key, &value, 2 * self.session.silence_timeout).await {
            warn!(%error, "a heartbeat was not noted");
        }
    }
}
