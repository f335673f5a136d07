//! What waits for a connection.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
};

use ringforge_domain::{
    buggify::{Site, buggify},
    limits::{OUTBOX_BYTES_MAX, OUTBOX_MADE_BYTES_MAX},
    planted::{Bug, planted},
    position::Offset,
};
use tokio::sync::Notify;

use crate::{
    fanout::Post,
    presence::{self, Changes},
};

/// Posts for which room is made at once.
const ROOM: usize = 16;

/// A connection as whoever puts something in for it sees it.
pub trait Show: Send + Sync {
    /// Has it take what waits, and make it ready to be sent. `false`: its own task has to.
    fn take(&self) -> bool;

    /// Sends what it has ready.
    fn send(&self);

    /// Whether that was all there is to do. `false`: its own task has to go on.
    fn finish(&self) -> bool;
}

/// Shows connections what waits for them, or has their own tasks do so. All of it is made ready before the first is sent
/// anything, and sent in one go: a peer that reads many of these does not fall asleep between, to be woken for each.
pub fn show(outboxes: &[Arc<Outbox>]) {
    let take = |outbox: &Arc<Outbox>| outbox.connection().filter(|connection| connection.take());
    let taken: Vec<_> = outboxes.iter().map(take).collect();
    taken.iter().flatten().for_each(|connection| connection.send());
    for (outbox, connection) in outboxes.iter().zip(taken) {
        if !connection.is_some_and(|connection| connection.finish()) {
            outbox.wake();
        }
    }
}

/// A connection's queue of pushes. What is in it lies in the recent updates of its fleet, for everyone at once. Of what they do
/// not hold it keeps little, and of what is made for all members at once not much: when it is too much everything in it is
/// dropped and the connection lags.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    connection: OnceLock<Weak<dyn Show>>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) posts: VecDeque<Post>,
    /// Bytes of all posts.
    pub(crate) bytes: usize,
    /// So many posts, from the first on, are older than the recent updates.
    old: usize,
    /// Bytes of those, but for what is of our own making.
    own_bytes: usize,
    /// Bytes of what is.
    made_bytes: usize,
    /// Its connection has been or is about to be told of what is in it.
    announced: bool,
    pub(crate) lagged: Option<Lagged>,
}

impl Outbox {
    /// Has what is put in shown by whoever put it in, where that is possible. Once.
    pub fn show_by(&self, connection: Weak<dyn Show>) {
        // Who comes second is left out.
        let _ = self.connection.set(connection);
    }

    fn connection(&self) -> Option<Arc<dyn Show>> {
        self.connection.get().and_then(Weak::upgrade)
    }

    /// Has its connection's own task look at what is in it.
    pub fn wake(&self) {
        self.filled.notify_one();
    }

    /// Takes what is there, or a part of it if that is much; `Err` if something was dropped: feed from the log, after the last
    /// post that was taken.
    pub fn take(&self) -> Result<VecDeque<Post>, Lagged> {
        let mut queue = self.queue();
        queue.announced = false;
        if let Some(lagged) = queue.lagged.take() {
            return Err(lagged);
        }
        if queue.bytes <= OUTBOX_BYTES_MAX {
            return Ok(std::mem::take(&mut *queue).posts);
        }
        let (mut posts, mut bytes) = (VecDeque::new(), 0);
        while let Some(post) = queue.pop(|post| bytes == 0 || bytes + post.weight() <= OUTBOX_BYTES_MAX) {
            bytes += post.weight();
            posts.push_back(post);
        }
        Ok(posts)
    }

    /// Takes everything.
    pub fn clear(&self) {
        *self.queue() = Queue::default();
    }

    /// Resolves when there may be something to take.
    pub async fn filled(&self) {
        loop {
            let filled = self.filled.notified();
            {
                let queue = self.queue();
                if queue.lagged.is_some() || !queue.posts.is_empty() {
                    return;
                }
            }
            filled.await;
        }
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.posts.is_empty() && queue.lagged.is_none()
    }

    /// Whether there is something to take that its connection has been or is about to be told of.
    pub fn is_announced(&self) -> bool {
        self.queue().announced
    }

    /// The bytes of what there is to take and only this connection keeps.
    pub fn own_bytes(&self) -> usize {
        self.queue().own()
    }

    /// Puts a post in. `pending` says what is held back from it. What is not announced is taken with what is, or when
    /// [`Outbox::announce`] says so.
    pub(crate) fn put(&self, post: Post, announced: bool, pending: impl FnOnce() -> Changes) -> Put {
        let mut queue = self.queue();
        let lags = post.lacks() || !queue.posts.is_empty() && buggify(Site::EarlyLag);
        queue.push(post);
        let lags = lags || queue.is_over();
        if lags {
            queue.lag(&pending());
        }
        Put { lags, news: queue.announce(announced || lags) }
    }

    /// The recent updates begin at `recent` now; what they do not hold any more may be too much.
    pub(crate) fn age(&self, recent: Option<Offset>, pending: impl FnOnce() -> Changes) -> Put {
        let mut queue = self.queue();
        queue.age(recent);
        let lags = queue.is_over();
        if lags {
            queue.lag(&pending());
        }
        Put { lags, news: queue.announce(lags) }
    }

    /// Whether there is something to take that its connection has not been told of; it has to be now.
    pub(crate) fn announce(&self) -> bool {
        let mut queue = self.queue();
        let some = !queue.posts.is_empty() || queue.lagged.is_some();
        queue.announce(some)
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic while the lock is held")
    }
}

/// What came of putting something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Put {
    /// It was too much, or only the log has all of it, and the connection lags from now on.
    pub lags: bool,
    /// The connection has to be shown what is there.
    pub news: bool,
}

impl Queue {
    /// Whether its connection has to be told, and has not been.
    fn announce(&mut self, wanted: bool) -> bool {
        wanted && !std::mem::replace(&mut self.announced, true)
    }

    fn push(&mut self, post: Post) {
        if self.posts.capacity() == 0 {
            self.posts.reserve(ROOM);
        }
        self.bytes += post.weight();
        if post.delivery.is_made() {
            self.made_bytes += post.weight();
        }
        self.posts.push_back(post);
    }

    /// Takes the first one if it is wanted.
    fn pop(&mut self, wanted: impl FnOnce(&Post) -> bool) -> Option<Post> {
        let post = self.posts.pop_front_if(|post| wanted(post))?;
        self.bytes -= post.weight();
        if post.delivery.is_made() {
            self.made_bytes -= post.weight();
        } else if self.old > 0 {
            self.own_bytes -= post.weight();
        }
        self.old = self.old.saturating_sub(1);
        Some(post)
    }

    /// The recent updates begin here now, or there are none.
    fn age(&mut self, recent: Option<Offset>) {
        let old = |post: &&Post| recent.is_none_or(|recent| post.delivery.offset < recent);
        for post in self.posts.range(self.old..).take_while(old) {
            self.old += 1;
            if !post.delivery.is_made() {
                self.own_bytes += post.weight();
            }
        }
    }

    /// Bytes that nobody shares: of posts, and the posts themselves.
    fn own(&self) -> usize {
        self.own_bytes + self.posts.len() * size_of::<Post>()
    }

    /// Whether there is too much in it; one post has room, however large it is.
    fn is_over(&self) -> bool {
        let too_much = self.own() > OUTBOX_BYTES_MAX || self.made_bytes > OUTBOX_MADE_BYTES_MAX;
        too_much && self.posts.len() > 1 && !planted(Bug::QueueUnbounded)
    }

    /// Drops everything.
    fn lag(&mut self, pending: &Changes) {
        let mut owed = Changes::new();
        self.posts.iter().for_each(|post| presence::merge(&mut owed, &post.delivery.gathered));
        presence::merge(&mut owed, pending);
        *self = Self { lagged: Some(Lagged { owed }), ..Self::default() };
    }
}

/// Pushes were dropped. The log has them, but whoever reads it from its last post on does not meet again the presence that
/// was held back before that post.
#[derive(Clone, Debug, Default)]
pub struct Lagged {
    /// Presence that was held back or dropped.
    pub owed: Changes,
}
