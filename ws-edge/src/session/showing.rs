//! What goes out: posts in the order of the log, and no more fetched than the socket takes.

use std::sync::Arc;

use ringforge_domain::{catalog::Command, close::Close, direct, interest::Audience};

use super::{Action, Session};
use crate::fanout::Post;

impl Session {
    /// Shows posts in order. While a snapshot is wanted, what comes after its subscription waits for it.
    pub(super) fn show_all(&mut self, posts: impl IntoIterator<Item = Post>) {
        self.held.extend(posts);
        while !self.snapshots.running()
            && let Some(post) = self.held.pop_front()
        {
            self.show(&post);
        }
    }

    /// Fetches more once the socket has taken what goes out now.
    pub(super) fn fetch(&mut self, action: Action) {
        let sends = self.actions.iter().any(|action| matches!(action, Action::Send(_)));
        let behind = self.snapshots.running() && matches!(action, Action::CatchUp(_));
        if sends || behind { self.later.push(action) } else { self.actions.push(action) }
    }

    /// Shows one post: the reply first, then the pushes, in the order of the log.
    fn show(&mut self, post: &Post) {
        let Some(encoder) = self.me.as_ref().map(|me| Arc::clone(&me.encoder)) else { return };
        let delivery = &post.delivery;
        if post.replaced {
            self.replaced = true;
            return self.close(Close::Replaced);
        }
        self.cursor = self.cursor.max(Some(delivery.offset));
        if post.reply
            && let Some(reply) = &delivery.reply
            && let Some(pending) = self.settle(delivery.command)
        {
            self.actions.push(Action::Send(reply.text(&encoder, self.shape)));
            if reply.frame.kind != "error" {
                self.snapshots.ask(pending.snapshot);
            }
            self.unpark();
        }
        for (audience, shared) in post.pushes() {
            if matches!(audience, Audience::Watchers { key, .. } if self.snapshots.covers(key, delivery.offset)) {
                continue;
            }
            self.actions.push(Action::Send(shared.text(&encoder, self.shape)));
            if let Some(me) = &mut self.me {
                me.delivered += 1;
            }
        }
        if let (Some((to, message)), Some(me)) = (delivery.message, &self.me)
            && to == me.viewpoint.agent
        {
            self.unflushed.push(Command::DirectDelivered(direct::Delivered { message }));
        }
        if let Some((pattern, after)) = self.snapshots.next() {
            self.actions.push(Action::Snapshot(pattern, after));
        }
    }
}
