//! Who of this process follows which channel, and what comes over it. Whoever wants to follow has a subscription sent of its own
//! and is let in when it is confirmed, in the place where that stands between the messages: nothing from before is heard, and
//! nothing after it missed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use redis::{PushInfo, PushKind, Value};
use ringforge_domain::ids::Scope;
use ringforge_ports::followers::{Follow, Followers};
use tokio::sync::oneshot;
use tracing::warn;

use super::codec;

/// The channels that somebody follows or is about to.
pub struct Channels {
    followers: Followers,
    open: Mutex<BTreeMap<String, Channel>>,
    /// Hears which channel has to be subscribed to or left.
    changed: Box<dyn Fn(&str) + Send + Sync>,
}

/// A fleet's channel.
struct Channel {
    scope: Scope,
    /// There while anybody follows or waits.
    interest: Weak<Interest>,
    /// Those who wait for the confirmation of their subscription, first those to whom one was sent.
    waiting: VecDeque<oneshot::Sender<Follow>>,
    /// How many of them none was sent.
    unsent: usize,
    /// The connection over which the subscriptions were sent.
    sent: Option<u64>,
    /// The connection over which they were confirmed: messages of no other one count.
    heard: Option<u64>,
    /// Whether it was said that something could not be read: there may be many, while another build publishes.
    warned: bool,
}

/// Held by everybody who follows a channel or waits: the last one closes it.
pub struct Interest {
    channels: Arc<Channels>,
    name: String,
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut open = self.channels.open();
        // Somebody may have come since.
        if open.get(&self.name).is_some_and(|channel| channel.interest.strong_count() == 0) {
            open.remove(&self.name);
            drop(open);
            (self.channels.changed)(&self.name);
        }
    }
}

impl Channels {
    /// None yet. `changed` hears which one has to be looked at.
    pub fn new(changed: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { followers: Followers::default(), open: Mutex::default(), changed: Box::new(changed) })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Channel>> {
        self.open.lock().expect("no panic while the lock is held")
    }

    /// Wants to follow: whoever gets the `Follow` must hold the interest beside it.
    pub fn enter(self: &Arc<Self>, name: &str, scope: Scope) -> (Arc<Interest>, oneshot::Receiver<Follow>) {
        let (sender, receiver) = oneshot::channel();
        let mut open = self.open();
        let channel = open.entry(name.to_owned()).or_insert_with(|| Channel {
            scope,
            interest: Weak::new(),
            waiting: VecDeque::new(),
            unsent: 0,
            sent: None,
            heard: None,
            warned: false,
        });
        if channel.waiting.iter().all(oneshot::Sender::is_closed) {
            // They gave up: while the server is away they must not become ever more.
            channel.waiting.clear();
            channel.unsent = 0;
        }
        channel.waiting.push_back(sender);
        channel.unsent += 1;
        let interest = channel.interest.upgrade().unwrap_or_else(|| {
            let interest = Arc::new(Interest { channels: Arc::clone(self), name: name.to_owned() });
            channel.interest = Arc::downgrade(&interest);
            interest
        });
        drop(open);
        (self.changed)(name);
        (interest, receiver)
    }

    /// How many subscriptions are to be sent over this connection now. `None`: the channel is to be left.
    pub fn to_send(&self, name: &str, connection: u64) -> Option<usize> {
        let mut open = self.open();
        let channel = open.get_mut(name)?;
        if channel.sent.replace(connection) == Some(connection) {
            return Some(std::mem::take(&mut channel.unsent));
        }
        channel.waiting.retain(|waiting| !waiting.is_closed());
        channel.unsent = 0;
        Some(channel.waiting.len().max(1))
    }

    /// Whether a channel that was subscribed to over this connection is heard; else it is to be subscribed to again.
    pub fn is_heard(&self, name: &str, connection: u64) -> bool {
        let mut open = self.open();
        let Some(channel) = open.get_mut(name) else { return true };
        if channel.heard != Some(connection) {
            channel.sent = None;
        }
        channel.sent.is_some()
    }

    /// Every channel, with the connection over which it is heard.
    pub fn all(&self) -> Vec<(String, Option<u64>)> {
        self.open().iter().map(|(name, channel)| (name.clone(), channel.heard)).collect()
    }

    /// Takes what came over a connection; `true` if one of its channels was taken from us.
    pub fn take(&self, connection: u64, push: PushInfo) -> bool {
        let mut data = push.data.into_iter();
        let Some(Value::BulkString(name)) = data.next() else { return false };
        let Ok(name) = String::from_utf8(name) else { return false };
        match (push.kind, data.next()) {
            (PushKind::SMessage, Some(Value::BulkString(bytes))) => self.message(connection, &name, &bytes),
            (PushKind::SSubscribe, _) => self.confirmed(connection, &name),
            (PushKind::SUnsubscribe, _) => {
                let mut open = self.open();
                let taken = open.get_mut(&name).filter(|channel| channel.heard == Some(connection));
                return taken.is_some_and(|channel| {
                    (channel.sent, channel.heard) = (None, None);
                    true
                });
            }
            _ => {}
        }
        false
    }

    fn message(&self, connection: u64, name: &str, bytes: &[u8]) {
        let scope =
            self.open().get(name).filter(|channel| channel.heard == Some(connection)).map(|channel| channel.scope);
        let Some(scope) = scope else { return };
        match codec::decode(scope, bytes) {
            Ok(news) => self.followers.tell(&[news]),
            Err(what) => {
                let warned = |channel: &mut Channel| std::mem::replace(&mut channel.warned, true);
                if !self.open().get_mut(name).is_none_or(warned) {
                    warn!(what, fleet.id = %scope.fleet, "news that cannot be read");
                }
                self.followers.lose(scope);
            }
        }
    }

    fn confirmed(&self, connection: u64, name: &str) {
        let mut open = self.open();
        let Some(channel) = open.get_mut(name) else { return };
        if channel.heard.replace(connection) != Some(connection) {
            // Whatever was published since the last connection broke was lost to those who followed then.
            self.followers.lose(channel.scope);
        }
        if let Some(waiting) = channel.waiting.pop_front() {
            // Whoever waited may have given up.
            let _ = waiting.send(self.followers.follow(channel.scope));
        }
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.followers.close();
    }
}
