//! What goes out: posts in the order of the log, and no more fetched than the socket takes.

use std::{collections::VecDeque, sync::Arc};

use ringforge_domain::{
    direct,
    frame::{Encoder, Report},
    interest::Audience,
    planted::{Bug, planted},
};

use super::{Action, Phase, Session};
use crate::{fanout::Post, outbox::Lagged, presence};

impl Session {
    /// Shows posts in order. While a snapshot is wanted, what comes after its subscription waits for it.
    pub(super) fn show_all(&mut self, posts: VecDeque<Post>) {
        if matches!(self.phase, Phase::Closed) {
            // Nothing goes out any more: what is shown now would count as taken.
            return self.held.clear();
        }
        let Some(encoder) = self.me.as_ref().map(|me| Arc::clone(&me.encoder)) else { return };
        if self.held.is_empty() {
            self.held = posts;
        } else {
            self.held.extend(posts);
        }
        self.actions.reserve(self.held.len());
        while !self.snapshots.running()
            && let Some(post) = self.held.pop_front()
        {
            self.show(&post, &encoder);
        }
        if self.held.is_empty() {
            // A connection at rest needs no room for what it showed.
            self.held = VecDeque::new();
        }
    }

    /// Fetches more once the socket has taken what goes out now.
    pub(super) fn fetch(&mut self, action: Action) {
        let sends = self.actions.iter().any(|action| matches!(action, Action::Send(_)));
        let behind = self.snapshots.running() && matches!(action, Action::CatchUp(_));
        if sends || behind { self.later.push(action) } else { self.actions.push(action) }
    }

    /// Posts were dropped: shows the presence that the log will not bring again, then reads on from the log.
    pub(super) fn on_lagged(&mut self, lagged: Lagged) {
        if !matches!(self.phase, Phase::Live) {
            return;
        }
        let mut owed = lagged.owed;
        owed.retain(|_, change| Some(change.first) <= self.cursor);
        for frame in presence::frames(self.presence, &owed, None) {
            self.send(&frame);
        }
        self.catch_up_live();
    }

    /// Shows one post: the reply first, then the pushes, in the order of the log.
    fn show(&mut self, post: &Post, encoder: &Encoder) {
        let delivery = &post.delivery;
        if let Some(close) = post.ended {
            self.ended = Some(close);
            self.held.clear();
            return self.close(close);
        }
        self.cursor = self.cursor.max(Some(delivery.offset));
        if post.reply
            && let Some(reply) = &delivery.reply
            && let Some(pending) = self.pending.settle(delivery.command)
        {
            self.actions.push(Action::Send(reply.line(encoder, self.shape)));
            if let Some(pattern) = &delivery.snapshot {
                self.snapshots.ask(pattern.clone(), pending.reference);
            }
            self.unpark();
        }
        if let Some(refusal) = &delivery.unreadable {
            self.on_unreadable(delivery.offset, (**refusal).clone());
        }
        for (audience, shared) in post.pushes() {
            if matches!(audience, Audience::Watchers { key, .. } if self.snapshots.covers(key, delivery.offset)) {
                continue;
            }
            self.actions.push(Action::Send(shared.line(encoder, self.shape)));
            if let Some(me) = &mut self.me {
                me.delivered += 1;
            }
        }
        if let (Some((to, report)), Some(me)) = (delivery.report, &self.me)
            && to == me.viewpoint.agent
        {
            match report {
                Report::Delivered(message) if planted(Bug::DeliveredBeforeWritten) => {
                    self.actions.push(Action::Report(Box::new(direct::Delivered { message }.into())));
                }
                Report::Delivered(message) => self.unflushed.push(direct::Delivered { message }.into()),
                Report::Told(message) => self.told.show((message, delivery.command)),
            }
        }
        if let Some((pattern, after)) = self.snapshots.next() {
            self.actions.push(Action::Snapshot(pattern, after));
        }
    }
}
