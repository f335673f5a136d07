//! History for one agent: log and index make the same posts that it would have been sent live.

use std::{collections::BTreeSet, sync::Arc};

use ringforge_domain::{
    auth::PresenceMode,
    catalog::Effect,
    direct,
    frame::Encoder,
    interest::{Audience, Interest},
    limits::CATCH_UP_PAGE_MAX,
    position::Offset,
    presence::Agent,
    row::{RowKey, State},
    verdict::{First, Outcome, Stream},
};
use ringforge_ports::{
    Error, Services,
    reads::{Matching, Update, Which},
};
use ringforge_query_api::history::updates;

use crate::{
    fanout::{Delivery, Post, Viewpoint},
    presence::Coalescer,
    session::Caught,
};

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
    /// The mail at these places.
    ///
    /// # Errors
    /// A port is away.
    pub async fn mail(&self, services: &Services, places: Vec<Offset>) -> Result<Caught, Error> {
        let partition = self.encoder.stream.partition;
        let found = services.reads.verdicts(partition, self.encoder.scope, &Which::At(places)).await?.verdicts;
        let updates = updates(services, partition, found).await?;
        let deliveries = updates.iter().map(|update| Arc::new(Delivery::of(update)));
        let posts =
            deliveries.filter_map(|delivery| Post::pick(&delivery, self.viewpoint, &Interest::default())).collect();
        Ok(Caught { posts, upto: None, done: true })
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
        let which = Which::After { after, limit: CATCH_UP_PAGE_MAX };
        let mut verdicts = services.reads.verdicts(partition, scope, &which).await?.verdicts;
        let full = verdicts.len() == CATCH_UP_PAGE_MAX as usize;
        let read = verdicts.len();
        verdicts.retain(|verdict| before.is_none_or(|before| verdict.position.offset < before));
        let done = !full || verdicts.len() < read;
        // The row is read after the page: its spans say what was in force at each place of it.
        let interest = self.interest(services).await?;
        let mut updates = updates(services, partition, verdicts).await?;
        let upto = updates.last().map_or(after, |update| Some(update.verdict.position.offset));
        let expired = self.expired(services, &updates).await?;
        updates.retain(|update| !expired.contains(&update.verdict.position.offset));
        Ok(Caught { posts: self.posts(&updates, &interest), upto, done })
    }

    /// Messages to this agent that its sender was told it never got: they must not turn up after all.
    async fn expired(&self, services: &Services, updates: &[Update]) -> Result<BTreeSet<Offset>, Error> {
        let (now, agent) = (services.clock.wall(), self.viewpoint.agent);
        let mut expired = BTreeSet::new();
        for Update { verdict, .. } in updates {
            let Outcome::Applied(Effect::DirectSend(effect)) = &verdict.outcome else { continue };
            if effect.to != agent || effect.expires_at > now || verdict.agent == Some(agent) {
                continue;
            }
            let matching = Matching {
                streams: vec![Stream::Direct],
                labels: vec![direct::EXPIRED.to_owned()],
                subject: Some(effect.message.to_string()),
                limit: 1,
                ..Matching::default()
            };
            let partition = self.encoder.stream.partition;
            let found = services.reads.verdicts(partition, verdict.scope, &Which::Matching(matching)).await?;
            if found.total > 0 {
                expired.insert(verdict.position.offset);
            }
        }
        Ok(expired)
    }

    fn posts(&self, updates: &[Update], interest: &Interest) -> Vec<Post> {
        let deliveries: Vec<Arc<Delivery>> = updates.iter().map(|update| Arc::new(Delivery::of(update))).collect();
        let picked = deliveries.iter().filter_map(|delivery| Post::pick(delivery, self.viewpoint, interest));
        let mut posts: Vec<Post> = match self.presence {
            PresenceMode::Each => picked.collect(),
            _ => picked.filter_map(Post::without_presence).collect(),
        };
        if self.presence == PresenceMode::Delta
            && let (Some(frame), Some(last)) = (Coalescer::gather(&deliveries), updates.last())
        {
            let hash = last.event.as_ref().map_or(0, |event| event.at.hash);
            let place = First { offset: last.verdict.position.offset, hash };
            let audience = Audience::Presence { about: self.viewpoint.agent };
            posts.push(Post::all(&Arc::new(Delivery::made(place, audience, frame))));
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
