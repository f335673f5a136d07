//! History for one agent: log and index make the same posts that it would have been sent live.

use std::{collections::BTreeSet, sync::Arc};

use ringforge_domain::{
    auth::PresenceMode,
    buggify::{Site, buggify},
    direct::{Message, Notice},
    frame::{Encoder, Lapse},
    interest::Interest,
    limits::{CATCH_UP_PAGE_MAX, MAIL_PAGE_MAX},
    position::{LogTime, Offset},
    presence::Agent,
    row::{Row, RowKey, State},
    verdict::First,
};
use ringforge_ports::{
    Error, Services,
    reads::{About, Find, Verdicts, Which},
};
use ringforge_query_api::history::{complete, updates};

use crate::{
    fanout::{Delivery, Post, Viewpoint},
    presence,
    session::Caught,
};

/// Events of a page that is short on purpose.
const SHORT_PAGE: u32 = 2;

/// Whose history.
#[derive(Clone)]
pub struct Reader {
    /// Who.
    pub viewpoint: Viewpoint,
    /// How its fleet's frames are written.
    pub encoder: Arc<Encoder>,
    /// How it wants to see presence.
    pub presence: PresenceMode,
}

impl Reader {
    /// The next page of the mail that waits after a place and before another. What an agent that resumes has seen while it was
    /// here is not shown again.
    ///
    /// # Errors
    /// A port is away.
    pub async fn mail(
        &self,
        services: &Services,
        after: Option<Offset>,
        before: Offset,
        resumes: bool,
    ) -> Result<Caught, Error> {
        let (scope, partition) = (self.encoder.scope, self.encoder.stream.partition);
        let find = Find::Mail { scope, agent: self.viewpoint.agent, after, limit: MAIL_PAGE_MAX };
        let page = services.reads.find(partition, &find).await?;
        let (full, rows) = (!page.is_last(MAIL_PAGE_MAX), page.rows);
        let upto = rows.iter().filter_map(|row| row.index().mail).map(|(_, place)| place).max();
        let now = services.clock.wall();
        let (mut places, mut seen) = (Vec::new(), Vec::new());
        for row in &rows {
            let Some((_, place)) = row.index().mail.filter(|(_, place)| *place < before) else { continue };
            match row {
                Row::Notice(notice) if resumes && !notice.away => seen.push((place, (notice.message, notice.id))),
                Row::Notice(Notice { expires_at, .. }) | Row::Message(Message { expires_at, .. })
                    if *expires_at > now =>
                {
                    places.push(place);
                }
                _ => {}
            }
        }
        let found = match places[..] {
            [] => Verdicts::default(),
            _ => services.reads.verdicts(partition, scope, &Which::At(places)).await?,
        };
        let joined = updates(services, partition, found.verdicts).await?;
        // What has too many bytes for this page is read with the next.
        let cut = joined.rest.front().map(|verdict| verdict.position.offset).or(found.rest.first().copied());
        let upto = match cut {
            Some(_) => joined.updates.last().map(|update| update.verdict.position.offset),
            None => upto,
        };
        let known = seen.into_iter().filter(|(place, _)| Some(*place) <= upto).map(|(_, status)| status).collect();
        let deliveries = joined.updates.iter().map(|update| Arc::new(Delivery::of(update)));
        let posts =
            deliveries.filter_map(|delivery| Post::pick(&delivery, self.viewpoint, &Interest::default())).collect();
        Ok(Caught { posts, known, upto, done: cut.is_none() && (!full || upto >= Some(before)) })
    }

    /// The next page after a place, and before another if there is one.
    ///
    /// # Errors
    /// A port is away.
    pub async fn page(
        &self,
        services: &Services,
        after: Option<Offset>,
        before: Option<Offset>,
    ) -> Result<Caught, Error> {
        let (scope, partition) = (self.encoder.scope, self.encoder.stream.partition);
        let limit = if buggify(Site::ShortPage) { SHORT_PAGE } else { CATCH_UP_PAGE_MAX };
        let page = services.reads.verdicts(partition, scope, &Which::After { after, limit }).await?;
        let (full, mut verdicts) = (!page.is_last(limit), page.verdicts);
        let read = verdicts.len();
        verdicts.retain(|verdict| before.is_none_or(|before| verdict.position.offset < before));
        let done = !full || verdicts.len() < read;
        // The row is read after the page: its spans say what was in force at each place of it.
        let interest = self.interest(services).await?;
        let mut joined = updates(services, partition, verdicts).await?;
        complete(services, partition, self.viewpoint.session, &mut joined).await?;
        let done = done && joined.rest.is_empty();
        let mut deliveries: Vec<_> = joined.updates.iter().map(Delivery::of).collect();
        self.take_out_lapsed(services, &mut deliveries).await?;
        let deliveries: Vec<_> = deliveries.into_iter().map(Arc::new).collect();
        let upto = deliveries.last().map_or(after, |delivery| Some(delivery.offset));
        Ok(Caught { posts: self.posts(&deliveries, &interest), known: Vec::new(), upto, done })
    }

    /// The same from what an edge still has in memory, made once for all who come back, and from what it knows this agent to
    /// have subscribed to; `None`: only the log has what this agent shall see of it.
    ///
    /// # Errors
    /// A port is away.
    pub async fn recent(
        &self,
        services: &Services,
        after: Option<Offset>,
        (deliveries, done): (Vec<Arc<Delivery>>, bool),
        known: Option<Interest>,
    ) -> Result<Option<Caught>, Error> {
        let now = services.clock.wall();
        let lacks = |delivery: &Arc<Delivery>| delivery.lacks && delivery.session == Some(self.viewpoint.session);
        if deliveries.iter().any(|delivery| lacks(delivery) || self.lapsed(delivery, now).is_some()) {
            return Ok(None);
        }
        // Read after the page, as there.
        let interest = match known {
            Some(known) => known,
            None => self.interest(services).await?,
        };
        let upto = deliveries.last().map_or(after, |delivery| Some(delivery.offset));
        Ok(Some(Caught { posts: self.posts(&deliveries, &interest), known: Vec::new(), upto, done }))
    }

    /// What this agent was to be shown by now or never.
    fn lapsed<'a>(&self, delivery: &'a Delivery, now: LogTime) -> Option<&'a Lapse> {
        delivery.lapse.as_deref().filter(|lapse| lapse.to == self.viewpoint.agent && lapse.due <= now)
    }

    /// Takes out what was taken back before this agent was shown it: it must not turn up after all.
    async fn take_out_lapsed(&self, services: &Services, deliveries: &mut [Delivery]) -> Result<(), Error> {
        let now = services.clock.wall();
        let due = |delivery: &Delivery| {
            let Lapse { stream, label, subject, .. } = self.lapsed(delivery, now)?;
            Some(About { stream: *stream, label: (*label).to_owned(), subject: subject.clone() })
        };
        let asked: Vec<_> = deliveries.iter().filter_map(due).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let (scope, partition) = (self.encoder.scope, self.encoder.stream.partition);
        let found = services.reads.verdicts(partition, scope, &Which::About(asked)).await?;
        debug_assert!(found.rest.is_empty(), "a page of such verdicts fits an answer: they hold nothing long");
        let lapsed: BTreeSet<_> = found.verdicts.iter().filter_map(About::of).collect();
        for delivery in deliveries {
            if due(delivery).is_some_and(|about| lapsed.contains(&about)) {
                delivery.pushes.clear();
                delivery.report = None;
            }
        }
        Ok(())
    }

    /// What this agent gets of a page.
    pub(crate) fn posts(&self, deliveries: &[Arc<Delivery>], interest: &Interest) -> Vec<Post> {
        let picked = deliveries.iter().filter_map(|delivery| Post::pick(delivery, self.viewpoint, interest));
        let mut posts: Vec<Post> = match self.presence {
            PresenceMode::Each => picked.collect(),
            _ => picked.filter_map(Post::without_presence).collect(),
        };
        let last = deliveries.iter().rfind(|delivery| delivery.unreadable.is_none());
        if let (PresenceMode::Delta, Some(last)) = (self.presence, last) {
            let place = First { offset: last.offset, hash: last.hash };
            let changes =
                presence::gather(deliveries.iter().flat_map(|delivery| delivery.changes()), self.viewpoint.agent);
            let made = |frame| Post::all(&Arc::new(Delivery::made(place, frame, presence::Changes::new())));
            posts.extend(presence::frames(PresenceMode::Delta, &changes, Some(place)).into_iter().map(made));
        }
        posts
    }

    /// What the agent subscribed to, past subscriptions included.
    ///
    /// # Errors
    /// A port is away.
    pub async fn interest(&self, services: &Services) -> Result<Interest, Error> {
        let key = RowKey::agent(self.encoder.scope, self.viewpoint.agent);
        let found = services.reads.load(self.encoder.stream.partition, &[key].into()).await?;
        Ok(found.rows.iter().find_map(Agent::of).map(|agent| agent.interest.clone()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
