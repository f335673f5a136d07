//! Those who follow a fleet within this process, and what waits for each of them: what every live bus ends in. No task, no
//! timer: whoever follows is ready whenever there is something to hear.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use futures_util::Stream;
use ringforge_domain::{ids::Scope, limits};

use crate::live::{Heard, News};

/// Who follows what. Its clones are the same.
#[derive(Clone, Default)]
pub struct Followers(Arc<Mutex<Fleets>>);

#[derive(Default)]
struct Fleets {
    followers: BTreeMap<Scope, BTreeMap<u64, Arc<Mutex<Queue>>>>,
    count: u64,
}

/// What waits for one follower.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Heard>,
    /// About their bytes.
    weight: usize,
    waker: Option<Waker>,
    closed: bool,
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().expect("no panic while the lock is held")
}

impl Queue {
    /// Adds a piece; whoever is too slow loses what waits, because it has to look into the log anyway.
    fn push(&mut self, news: &News) {
        let full = self.waiting.len() >= limits::FOLLOWER_QUEUE_MAX || self.weight >= limits::FOLLOWER_QUEUE_BYTES_MAX;
        if full {
            self.waiting.clear();
            self.weight = 0;
            self.waiting.push_back(Heard::Lost);
        }
        self.weight += news.weight();
        self.waiting.push_back(Heard::News(news.clone()));
    }

    /// Adds a loss, unless one is the last that waits.
    fn lose(&mut self) {
        if self.waiting.back() != Some(&Heard::Lost) {
            self.waiting.push_back(Heard::Lost);
        }
    }

    fn pop(&mut self) -> Option<Heard> {
        let heard = self.waiting.pop_front();
        if let Some(Heard::News(news)) = &heard {
            self.weight -= news.weight();
        }
        heard
    }
}

fn wake(queue: &Mutex<Queue>) {
    let waker = lock(queue).waker.take();
    waker.into_iter().for_each(Waker::wake);
}

impl Followers {
    /// Follows a fleet from now on.
    pub fn follow(&self, scope: Scope) -> Follow {
        let mut fleets = lock(&self.0);
        fleets.count += 1;
        let id = fleets.count;
        let queue = Arc::<Mutex<Queue>>::default();
        fleets.followers.entry(scope).or_default().insert(id, Arc::clone(&queue));
        Follow { followers: self.clone(), scope, id, queue }
    }

    /// Tells the followers of each piece's fleet, in order.
    pub fn tell(&self, news: &[News]) {
        // Held all the while: what two tell must not be heard in different orders by different followers.
        let fleets = lock(&self.0);
        let mut told: BTreeMap<u64, Arc<Mutex<Queue>>> = BTreeMap::new();
        for piece in news {
            for (id, queue) in fleets.followers.get(&piece.scope()).into_iter().flatten() {
                lock(queue).push(piece);
                told.entry(*id).or_insert_with(|| Arc::clone(queue));
            }
        }
        drop(fleets);
        for queue in told.into_values() {
            wake(&queue);
        }
    }

    /// Tells the followers of a fleet that news which would stand here were lost.
    pub fn lose(&self, scope: Scope) {
        let queues: Vec<_> =
            lock(&self.0).followers.get(&scope).into_iter().flatten().map(|(_, queue)| Arc::clone(queue)).collect();
        for queue in queues {
            lock(&queue).lose();
            wake(&queue);
        }
    }

    /// Nothing more will come: what waits is heard, then every follower ends.
    pub fn close(&self) {
        for queue in lock(&self.0).followers.values().flat_map(BTreeMap::values) {
            lock(queue).closed = true;
            wake(queue);
        }
    }
}

/// A follower.
pub struct Follow {
    followers: Followers,
    scope: Scope,
    id: u64,
    queue: Arc<Mutex<Queue>>,
}

impl Stream for Follow {
    type Item = Heard;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Heard>> {
        let mut queue = lock(&self.queue);
        if let Some(heard) = queue.pop() {
            return Poll::Ready(Some(heard));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let mut fleets = lock(&self.followers.0);
        if let Some(followers) = fleets.followers.get_mut(&self.scope) {
            followers.remove(&self.id);
            if followers.is_empty() {
                fleets.followers.remove(&self.scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use ringforge_domain::position::Offset;

    use super::*;

    fn head(last: u64) -> News {
        News::Head { scope: Scope::OPERATOR, last: Offset(last) }
    }

    #[test]
    fn a_follower_that_left_is_forgotten() {
        let followers = Followers::default();
        drop(followers.follow(Scope::OPERATOR));
        assert!(lock(&followers.0).followers.is_empty());
    }

    #[test]
    fn losses_stand_where_they_happened_and_those_that_touch_are_one() {
        let followers = Followers::default();
        let mut follow = followers.follow(Scope::OPERATOR);
        followers.tell(&[head(1)]);
        (0..3).for_each(|_| followers.lose(Scope::OPERATOR));
        followers.tell(&[head(2)]);
        followers.close();
        let heard: Vec<_> = std::iter::from_fn(|| follow.next().now_or_never().flatten()).collect();
        assert_eq!(heard, [Heard::News(head(1)), Heard::Lost, Heard::News(head(2))]);
    }
}
