//! The jobs of a connection: each is a future, and what comes of it goes back to the connection.

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use ringforge_command_api::{Asked, Caller};
use ringforge_domain::{
    auth::Auth,
    catalog::Command,
    code::Refusal,
    glob,
    ids::CommandId,
    json::Json,
    limits::{PAGE_BYTES_MAX, PAGE_MAX},
    memory::Entry,
    position::Offset,
    row::State,
};
use ringforge_ports::Error;
use ringforge_query_api::{Asker, answer, history, memory, unavailable};
use tracing::warn;

use crate::{
    catchup::Reader,
    connection::{Connection, Job},
    edge::{self, Edge},
    feed::Feed,
    hub::Member,
    outbox::Outbox,
    session::{Action, Caught, Input, Played, Snapshotted, Step},
};

/// How long a failed port is given before a catch-up is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// The owned form of what a finished piece of work says to the session.
type Done = Box<dyn FnOnce() -> Input<'static> + Send>;

/// A finished piece of work.
pub enum Work {
    /// The gate answered.
    Submitted(Vec<(CommandId, Result<Offset, Refusal>)>),
    /// The gate let somebody in.
    Entered(Box<Result<edge::Inside, Refusal>>),
    /// A report is in the log, or was lost.
    Reported,
    /// Anything else: straight to the session.
    Done(Done),
    /// Nothing to say.
    Nothing,
}

/// Does the jobs of one connection, on behalf of the agent that is in.
pub struct Worker {
    edge: Arc<Edge>,
    inside: Option<(Caller, Arc<Feed>)>,
}

impl Worker {
    /// Nobody is in yet.
    pub fn new(edge: Arc<Edge>) -> Self {
        Self { edge, inside: None }
    }

    /// The future that does a job; `enter` lets an agent in.
    pub fn begin(
        &self,
        job: Job,
        connection: &Connection,
        enter: impl FnOnce(Auth) -> BoxFuture<'static, Result<edge::Inside, Refusal>>,
    ) -> BoxFuture<'static, Work> {
        if let Job::Enter(auth) = job {
            return enter(*auth).map(|entered| Work::Entered(Box::new(entered))).boxed();
        }
        let session = connection.session();
        let (Some((caller, feed)), Some((viewpoint, encoder))) = (&self.inside, session.me()) else {
            return future::ready(Work::Nothing).boxed();
        };
        let inside = Inside {
            edge: Arc::clone(&self.edge),
            caller: caller.clone(),
            feed: Arc::clone(feed),
            reader: Reader { viewpoint, encoder, presence: session.presence },
            outbox: Arc::clone(connection.outbox()),
        };
        match job {
            Job::Submit(asked) => inside.submit(asked).boxed(),
            Job::Report(command) => inside.report(*command).boxed(),
            Job::Act(action) => inside.act(*action),
            Job::Enter(_) => unreachable!("done above"),
        }
    }

    /// Tells the connection what came of a job.
    pub fn finish(&mut self, work: Work, connection: &mut Connection) {
        match work {
            Work::Nothing => connection.done(None),
            Work::Reported => connection.reported(),
            Work::Done(done) => connection.done(Some(done())),
            Work::Submitted(results) => {
                let placed = results.iter().filter_map(|(_, result)| result.as_ref().ok());
                if let (Some(last), Some((_, feed))) = (placed.max(), &self.inside) {
                    feed.expect(*last);
                }
                connection.submitted(results);
            }
            Work::Entered(inside) => {
                let entered = inside.map(|inside| {
                    self.inside = Some((inside.caller, inside.feed));
                    inside.entered
                });
                connection.done(Some(Input::Entered(Box::new(entered))));
            }
        }
    }

    /// Whether an agent is in.
    pub fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// Leaves the fleet; also says whose session the log should be told has ended.
    pub fn leave(&mut self, connection: &Connection) -> Option<Caller> {
        let (caller, feed) = self.inside.take()?;
        if let Some((viewpoint, _)) = connection.session().me() {
            feed.fleet().leave(viewpoint.session);
        }
        (!connection.session().has_ended()).then_some(caller)
    }
}

/// What the work of an agent that is in needs.
struct Inside {
    edge: Arc<Edge>,
    caller: Caller,
    feed: Arc<Feed>,
    reader: Reader,
    outbox: Arc<Outbox>,
}

impl Inside {
    /// Hands commands to the gate, as one append.
    async fn submit(self, asked: Vec<Asked>) -> Work {
        let ids: Vec<CommandId> = asked.iter().map(|asked| asked.id).collect();
        let results = self.edge.gate.submit(&self.caller, asked).await;
        Work::Submitted(ids.into_iter().zip(results).collect())
    }

    /// Logs that the peer took something. If that fails it is sent again to the agent's next connection.
    async fn report(self, command: Command) -> Work {
        let (scope, partition) = (self.caller.scope, self.caller.stream.partition);
        if let Ok(offset) = self.edge.gate.submit_internal(scope, partition, self.caller.agent, command).await {
            self.feed.expect(offset);
        }
        Work::Reported
    }

    /// The future that does what an action asks for.
    fn act(self, action: Action) -> BoxFuture<'static, Work> {
        // What it was shown and told came by the feed.
        let known = self.feed.fleet().head();
        let asker = Asker { agent: self.reader.viewpoint.agent, encoder: Arc::clone(&self.reader.encoder), known };
        match action {
            Action::Heartbeat(load) => async move {
                self.edge.heartbeat(&self.caller, load).await;
                Work::Nothing
            }
            .boxed(),
            Action::Ask(query, reference) => async move {
                let answer = Box::new(
                    answer(&self.edge.services, &self.edge.rosters, &self.edge.freshness, &asker, &query).await,
                );
                done(move || Input::Answered(answer, reference))
            }
            .boxed(),
            Action::CatchUp(step) => async move {
                let caught = self.catch_up(step).await;
                done(move || caught.map_or(Input::Joined, Input::CaughtUp))
            }
            .boxed(),
            Action::Plan(request) => async move {
                let plan = Box::new(history::plan(&self.edge.services, &asker, &request).await);
                done(move || Input::Planned(plan))
            }
            .boxed(),
            Action::Play(part) => async move {
                let joined = history::part(&self.edge.services, &asker, part).await;
                let played = joined.map_err(|error| unavailable(&error)).map(|(joined, later)| Played {
                    frames: joined.updates.iter().filter_map(history::replayed).collect(),
                    rest: joined.rest,
                    later,
                });
                done(move || Input::Played(played))
            }
            .boxed(),
            Action::Snapshot(pattern, after) => async move {
                let page = self.snapshot(&asker, &pattern, after).await;
                done(move || Input::Snapshotted(page))
            }
            .boxed(),
            // The connection keeps these to itself.
            Action::Send(_) | Action::Close(..) | Action::Enter(_) | Action::Submit(_) | Action::Report(_) => {
                future::ready(Work::Nothing).boxed()
            }
        }
    }

    /// Joins live if the fleet's recent updates reach back far enough (`None`), else reads a page. Tries until it can.
    async fn catch_up(&self, step: Step) -> Option<Caught> {
        let (services, reader) = (&self.edge.services, &self.reader);
        loop {
            let caught = match &step {
                Step::Mail { after, before, resumes } => reader.mail(services, *after, *before, *resumes).await,
                Step::Missed { after, before } => self.page(*after, Some(*before)).await,
                Step::Live { after } => match self.join(*after).await {
                    Ok(true) => return None,
                    Ok(false) => self.page(*after, None).await,
                    Err(error) => Err(error),
                },
            };
            match caught {
                Ok(caught) => return Some(caught),
                Err(error) => {
                    warn!(%error, "a catch-up will go on");
                    services.clock.sleep(AGAIN).await;
                }
            }
        }
    }

    /// A page of what was missed: of what is still here, else of the log.
    async fn page(&self, after: Option<Offset>, before: Option<Offset>) -> Result<Caught, Error> {
        let (services, reader) = (&self.edge.services, &self.reader);
        let (recent, known) = {
            let fleet = self.feed.fleet();
            (fleet.recent(after, before), fleet.interest(reader.viewpoint.session))
        };
        if let Some(recent) = recent
            && let Some(caught) = reader.recent(services, after, recent, known).await?
        {
            return Ok(caught);
        }
        reader.page(services, after, before).await
    }

    async fn join(&self, after: Option<Offset>) -> Result<bool, Error> {
        let Reader { viewpoint, presence, .. } = self.reader;
        let stranger = self.feed.fleet().interest(viewpoint.session).is_none();
        let read = if stranger { Some(self.reader.interest(&self.edge.services).await?) } else { None };
        // What a lagging queue still held belongs to the past.
        self.outbox.clear();
        let mut fleet = self.feed.fleet();
        // Of this moment: an update that was heard of since may be one that the agent has seen in the log.
        let interest = fleet.interest(viewpoint.session).or(read).unwrap_or_default();
        let member = Member { viewpoint, interest, presence, outbox: Arc::clone(&self.outbox) };
        Ok(fleet.join(member, after).is_ok())
    }

    async fn snapshot(&self, asker: &Asker, pattern: &str, after: Option<String>) -> Result<Snapshotted, Refusal> {
        let (found, now) = memory::matching(&self.edge.services, asker, pattern, after).await?;
        let mut next = found.rows.last().filter(|_| !found.is_last(PAGE_MAX)).map(|row| row.key().key);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in found.rows.iter().filter_map(Entry::of).filter(|entry| glob::matches(pattern, &entry.key)) {
            let Some(shown) = entry.shown(now, &asker.encoder, true, 0) else { continue };
            entries.push((entry.key.clone(), entry.changed.event.offset, Json::of(&shown)));
            bytes += entry.content.as_ref().map_or(0, |content| content.value.text().len());
            if bytes > PAGE_BYTES_MAX {
                next = Some(entry.key.clone());
                break;
            }
        }
        Ok(Snapshotted { entries, upto: found.applied.upto, next })
    }
}

fn done(input: impl FnOnce() -> Input<'static> + Send + 'static) -> Work {
    Work::Done(Box::new(input))
}
