//! Who is here: the members of a fleet, what they want, and its recent updates. A state machine without I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ringforge_domain::{
    auth::PresenceMode,
    buggify::{Site, buggify},
    frame::Encoder,
    ids::SessionId,
    interest::Interest,
    limits::{
        CATCH_UP_PAGE_MAX, JOIN_UPDATES_MAX, PAGE_BYTES_MAX, TAIL_BYTES_MAX, TAIL_STRETCH, TAIL_UPDATES_MAX,
        TAILS_BYTES_MAX,
    },
    planted::{Bug, planted},
    position::Offset,
    verdict::First,
};
use ringforge_ports::reads::Update;

use crate::{
    fanout::{Delivery, Post, Viewpoint},
    outbox::{Outbox, Put},
    presence::{self, Changes, Coalescer, Due, Throttle},
};

/// Who wants to be fed live.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub viewpoint: Viewpoint,
    /// What it subscribed to.
    pub interest: Interest,
    /// How it wants to see presence.
    pub presence: PresenceMode,
    /// Where its posts go.
    pub outbox: Arc<Outbox>,
}

struct Present {
    member: Member,
    /// It has seen everything up to here.
    cursor: Option<Offset>,
    /// It has seen all presence up to here as history.
    since: Option<Offset>,
    /// It is fed from the log until it joins again; what it subscribes to meanwhile is followed all the same.
    lags: bool,
}

/// What an update was to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next one.
    Next,
    /// One that had been seen.
    Before,
    /// One too far: fill from log and index after this offset.
    Gap {
        /// The last one seen.
        after: Option<Offset>,
    },
}

/// A member's cursor is not within the recent updates: catch up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind;

/// Bytes of recent updates that all fleets of an edge keep, about.
pub type Kept = Arc<AtomicUsize>;

/// One fleet at one edge.
pub struct Fleet {
    /// How its frames are written.
    pub encoder: Encoder,
    head: Option<Offset>,
    /// The last event that can be read: its id is a cursor.
    place: Option<First>,
    tail: VecDeque<Arc<Delivery>>,
    tail_bytes: usize,
    kept: Kept,
    members: BTreeMap<SessionId, Present>,
    /// Those for whom something has been put in since they were shown what there is.
    ready: Vec<Arc<Outbox>>,
    coalescer: Coalescer,
    throttle: Throttle,
}

/// How one update is shown.
#[derive(Clone, Copy)]
struct Showing<'a> {
    /// Its presence is shown later.
    held: bool,
    /// Its presence is not announced.
    quiet: bool,
    coalescer: &'a Coalescer,
}

impl Fleet {
    /// A fleet whose last event is `head`, nobody here yet.
    pub fn new(encoder: Encoder, head: Option<First>, kept: Kept) -> Self {
        Self {
            encoder,
            head: head.map(|head| head.offset),
            place: head,
            tail: VecDeque::new(),
            tail_bytes: 0,
            kept,
            members: BTreeMap::new(),
            ready: Vec::new(),
            coalescer: Coalescer::default(),
            throttle: Throttle::default(),
        }
    }

    /// The last update seen.
    pub fn head(&self) -> Option<Offset> {
        self.head
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether `last` stands beyond what was seen.
    pub fn misses(&self, last: Offset) -> bool {
        self.head().is_none_or(|head| last > head)
    }

    /// Takes an update and hands it out, if it is the next one.
    pub fn on_update(&mut self, update: &Update, now: Duration) -> Seen {
        let offset = update.verdict.position.offset;
        if !self.misses(offset) {
            return Seen::Before;
        }
        if update.verdict.previous != self.head() {
            return Seen::Gap { after: self.head() };
        }
        let delivery = Arc::new(Delivery::of(update));
        self.head = Some(offset);
        if delivery.unreadable.is_none() {
            self.place = Some(First { offset, hash: delivery.hash });
        }
        let held = self.coalescer.see(delivery.changes(), now);
        let quiet = delivery.tells_presence() && self.throttle.see(now);
        let showing = Showing { held, quiet, coalescer: &self.coalescer };
        for present in self.members.values_mut() {
            if present.see(&delivery, showing) {
                self.ready.push(Arc::clone(&present.member.outbox));
            }
        }
        self.remember(delivery);
        Seen::Next
    }

    /// Whether there is anybody to be shown something.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whoever is to be shown what was put in for them.
    pub fn ready(&mut self) -> Vec<Arc<Outbox>> {
        std::mem::take(&mut self.ready)
    }

    /// Feeds a member live from its cursor on, if the recent updates reach back that far.
    pub fn join(&mut self, member: Member, cursor: Option<Offset>) -> Result<(), Behind> {
        let cursor = self.misplaced(cursor);
        let reached = self.tail.front().map_or(self.head(), |first| first.previous);
        if cursor < reached {
            return Err(Behind);
        }
        let none = Coalescer::default();
        let showing = Showing { held: false, quiet: false, coalescer: &none };
        let mut present = Present { member, cursor, since: cursor.max(self.head()), lags: false };
        let from = self.tail.partition_point(|delivery| Some(delivery.offset) <= cursor);
        if self.tail.len() - from > JOIN_UPDATES_MAX {
            // Picked page by page, without holding everyone up.
            return Err(Behind);
        }
        for delivery in self.tail.range(from..) {
            present.see(delivery, showing);
            if present.lags {
                return Err(Behind);
            }
        }
        if present.member.presence == PresenceMode::Delta {
            // What the next `delta` for all will tell is not told now.
            let pending = self.coalescer.pending(PresenceMode::Delta).values().map(|change| change.offset).min();
            let missed = self.tail.range(from..);
            let told = missed.filter(|delivery| pending.is_none_or(|from| delivery.offset < from));
            let changes =
                presence::gather(told.flat_map(|delivery| delivery.changes()), present.member.viewpoint.agent);
            let made = self.place.map(|place| made(place, PresenceMode::Delta, &changes)).unwrap_or_default();
            if made.iter().any(|made| present.put(Post::all(made), true, &none).lags) {
                return Err(Behind);
            }
            present.since = cursor;
        }
        self.members.insert(present.member.viewpoint.session, present);
        Ok(())
    }

    /// Whether the event at a place, of which this is 32 bits of the hash, is among the recent ones.
    pub fn remembers(&self, offset: Offset, hash: u32) -> bool {
        let found = self.tail.binary_search_by_key(&offset, |delivery| delivery.offset);
        found.is_ok_and(|at| self.tail[at].unreadable.is_none() && self.tail[at].hash == hash)
    }

    /// A page of what came after a place, and before another, if the recent updates hold all of that; and whether it is the
    /// last one.
    pub fn recent(&self, after: Option<Offset>, before: Option<Offset>) -> Option<(Vec<Arc<Delivery>>, bool)> {
        let reached = self.tail.front().map_or(self.head(), |first| first.previous);
        if after < reached || before > self.head() {
            return None;
        }
        let from = self.tail.partition_point(|delivery| Some(delivery.offset) <= after);
        let upto = self.tail.partition_point(|delivery| before.is_none_or(|before| delivery.offset < before));
        let (mut page, mut bytes) = (Vec::new(), 0);
        for delivery in self.tail.range(from..upto.max(from)) {
            bytes += delivery.weight();
            let full = page.len() >= CATCH_UP_PAGE_MAX as usize || bytes > PAGE_BYTES_MAX;
            if full && !page.is_empty() {
                return Some((page, false));
            }
            page.push(Arc::clone(delivery));
        }
        Some((page, true))
    }

    /// The seam of history and live, one event off if a bug says so.
    fn misplaced(&self, cursor: Option<Offset>) -> Option<Offset> {
        let next = || self.tail.iter().map(|delivery| delivery.offset).find(|offset| Some(*offset) > cursor);
        if planted(Bug::SeamTooLate) {
            return next().or(cursor);
        }
        if !planted(Bug::SeamTooEarly) {
            return cursor;
        }
        let early = self.tail.iter().find(|delivery| Some(delivery.offset) == cursor);
        early.map_or(cursor, |seen| seen.previous)
    }

    /// What a member subscribed to, past subscriptions included, as the last update left it.
    pub fn interest(&self, session: SessionId) -> Option<Interest> {
        self.members.get(&session).map(|present| present.member.interest.clone())
    }

    /// Feeds a connection no longer.
    pub fn leave(&mut self, session: SessionId) {
        self.members.remove(&session);
    }

    /// Shows the presence changes that were held back.
    pub fn tick(&mut self, now: Duration) {
        if self.throttle.due(now) {
            let outboxes = self.members.values().map(|present| &present.member.outbox);
            self.ready.extend(outboxes.filter(|outbox| outbox.announce()).cloned());
        }
        let Some(place) = self.place else { return };
        while let Some(Due { mode, changes }) = self.coalescer.due(now) {
            let last = changes.values().map(|change| change.offset).max();
            let made = made(place, mode, &changes);
            let coalescer = &self.coalescer;
            // Whoever came later has seen all of it as history.
            let wants =
                |present: &&mut Present| present.member.presence == mode && present.since < last && !present.lags;
            for present in self.members.values_mut().filter(wants) {
                for made in &made {
                    let put = present.put(Post::all(made), true, coalescer);
                    if put.news {
                        self.ready.push(Arc::clone(&present.member.outbox));
                    }
                    present.lags = put.lags;
                    if put.lags {
                        break;
                    }
                }
            }
        }
    }

    /// Whether `tick` has something to show later.
    pub fn holds_back(&self) -> bool {
        self.throttle.holds_back() || self.coalescer.holds_back()
    }

    fn remember(&mut self, delivery: Arc<Delivery>) {
        self.tail_bytes += delivery.weight();
        self.kept.fetch_add(delivery.weight(), Ordering::Relaxed);
        self.tail.push_back(delivery);
        self.forget();
    }

    /// Forgets the oldest updates beyond what there is room for now.
    pub fn forget(&mut self) {
        let room = self.kept.load(Ordering::Relaxed) <= TAILS_BYTES_MAX;
        let stretch = if room { TAIL_STRETCH } else { 1 };
        let max = if buggify(Site::TailForgotten) { 0 } else { stretch * TAIL_UPDATES_MAX };
        let mut waits = false;
        while self.tail.len() > max || self.tail_bytes > stretch * TAIL_BYTES_MAX {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.weight();
            self.kept.fetch_sub(oldest.weight(), Ordering::Relaxed);
            waits = waits || Arc::strong_count(&oldest) > 1;
        }
        if waits {
            let recent = self.tail.front().map(|oldest| oldest.offset);
            let coalescer = &self.coalescer;
            for present in self.members.values_mut().filter(|present| !present.lags) {
                let put = present.member.outbox.age(recent, || present.pending(coalescer));
                if put.news {
                    // Not only the feed has a fleet forget, and nobody else shows anything.
                    present.member.outbox.wake();
                }
                present.lags = put.lags;
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.tail_bytes, Ordering::Relaxed);
    }
}

/// Deliveries of our own making, after the last event that can be read.
fn made(place: First, mode: PresenceMode, changes: &Changes) -> Vec<Arc<Delivery>> {
    let frames = presence::frames(mode, changes, Some(place)).into_iter();
    frames.map(|frame| Arc::new(Delivery::made(place, frame, changes.clone()))).collect()
}

impl Present {
    /// Puts into its outbox what it gets, until it lags; whether it has to be told.
    fn see(&mut self, delivery: &Arc<Delivery>, showing: Showing<'_>) -> bool {
        let seen = self.cursor.is_some_and(|cursor| delivery.offset <= cursor);
        let mut put = None;
        if !seen {
            self.cursor = None;
            put = (!self.lags).then(|| self.feed(delivery, showing)).flatten();
            self.lags = self.lags || put.is_some_and(|put| put.lags);
        }
        // It may have seen in the log what is news here.
        if let Some((_, change)) = delivery.interest.as_ref().filter(|(agent, _)| *agent == self.member.viewpoint.agent)
        {
            self.member.interest.change(change, delivery.offset);
        }
        put.is_some_and(|put| put.news)
    }

    fn feed(&self, delivery: &Arc<Delivery>, showing: Showing<'_>) -> Option<Put> {
        let post = Post::pick(delivery, self.member.viewpoint, &self.member.interest)?;
        let post = match self.member.presence {
            PresenceMode::Each if !showing.held => post,
            _ => post.without_presence()?,
        };
        let announced = !(showing.quiet && post.is_presence());
        Some(self.put(post, announced, showing.coalescer))
    }

    fn put(&self, post: Post, announced: bool, coalescer: &Coalescer) -> Put {
        self.member.outbox.put(post, announced, || self.pending(coalescer))
    }

    /// What is held back from it.
    fn pending(&self, coalescer: &Coalescer) -> Changes {
        let pending = coalescer.pending(self.member.presence).iter();
        let unseen = pending.filter(|(_, change)| Some(change.offset) > self.since);
        unseen.map(|(about, change)| (*about, Arc::clone(change))).collect()
    }
}

#[cfg(test)]
mod tests;
