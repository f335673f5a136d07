//! The work that a session's actions start: each is a future, its result goes back to the session.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use ringforge_command_api::Caller;
use ringforge_domain::{
    code::Refusal,
    glob,
    ids::CommandId,
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
    edge::{self, Edge},
    feed::Feed,
    hub::{Member, Outbox},
    session::{Action, Caught, Input, Snapshotted, Step},
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
    /// Anything else: straight to the session.
    Done(Done),
    /// Nothing to say.
    Nothing,
}

/// What the work of an agent that is in needs.
pub struct Inside {
    /// The process.
    pub edge: Arc<Edge>,
    /// On whose behalf.
    pub caller: Caller,
    /// Its fleet.
    pub feed: Arc<Feed>,
    /// Its view of history.
    pub reader: Reader,
    /// Where its posts go.
    pub outbox: Arc<Outbox>,
}

impl Inside {
    /// The future that does what an action asks for, if it is work at all.
    pub fn work(self, action: Action) -> Option<BoxFuture<'static, Work>> {
        let asker = Asker { agent: self.reader.viewpoint.agent, encoder: Arc::clone(&self.reader.encoder) };
        let work = match action {
            Action::Report(command) => async move {
                let (scope, partition) = (self.caller.scope, self.caller.stream.partition);
                if let Ok(offset) = self.edge.gate.submit_internal(scope, partition, self.caller.agent, command).await {
                    self.feed.expect(offset);
                }
                Work::Nothing
            }
            .boxed(),
            Action::Heartbeat(load) => async move {
                self.edge.heartbeat(&self.caller, load).await;
                Work::Nothing
            }
            .boxed(),
            Action::Ask(query, reference) => async move {
                let answer = Box::new(answer(&self.edge.services, &asker, &query).await);
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
            Action::Play(verdicts) => async move {
                let updates = history::updates(&self.edge.services, asker.partition(), verdicts).await;
                let frames = updates.map(|updates| updates.iter().filter_map(history::replayed).collect());
                let frames = frames.map_err(|error| unavailable(&error));
                done(move || Input::Played(frames))
            }
            .boxed(),
            Action::Snapshot(pattern, after) => async move {
                let page = self.snapshot(&asker, &pattern, after).await;
                done(move || Input::Snapshotted(page))
            }
            .boxed(),
            Action::Send(_) | Action::Close(..) | Action::Enter(_) | Action::Submit(..) => return None,
        };
        Some(work)
    }

    /// Joins live if the fleet's recent updates reach back far enough (`None`), else reads a page. Tries until it can.
    async fn catch_up(&self, step: Step) -> Option<Caught> {
        let (services, reader) = (&self.edge.services, &self.reader);
        loop {
            let caught = match &step {
                Step::Mail(places) => reader.mail(services, places.clone()).await,
                Step::Missed { after, before } => reader.page(services, *after, Some(*before)).await,
                Step::Live { after } => match self.join(*after).await {
                    Ok(true) => return None,
                    Ok(false) => reader.page(services, *after, None).await,
                    Err(error) => Err(error),
                },
            };
            match caught {
                Ok(caught) => return Some(caught),
                Err(error) => {
                    warn!(%error, "a catch-up will go on");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn join(&self, after: Option<Offset>) -> Result<bool, Error> {
        let interest = self.reader.interest(&self.edge.services).await?;
        // What a lagging queue still held belongs to the past.
        let _ = self.outbox.take();
        let Reader { viewpoint, presence, .. } = self.reader;
        let member = Member { viewpoint, interest, presence, outbox: Arc::clone(&self.outbox) };
        Ok(self.feed.fleet().join(member, after).is_ok())
    }

    async fn snapshot(&self, asker: &Asker, pattern: &str, after: Option<String>) -> Result<Snapshotted, Refusal> {
        let (found, now) = memory::matching(&self.edge.services, asker, pattern, after).await?;
        let mut next = found.rows.last().filter(|_| found.rows.len() == PAGE_MAX as usize).map(|row| row.key().key);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in found.rows.iter().filter_map(Entry::of).filter(|entry| glob::matches(pattern, &entry.key)) {
            let Some(shown) = entry.shown(now, &asker.encoder, true, 0) else { continue };
            entries.push((entry.key.clone(), entry.changed.event.offset, shown));
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
