//! Commands on their way to a verdict, and questions that wait for the commands before them.

use ringforge_command_api::Asked;
use ringforge_domain::{
    catalog::{Command, Query},
    code::Refusal,
    door::Meta,
    frame::Frame,
    ids::CommandId,
    json::Json,
    limits::PENDING_MAX,
    planted::{Bug, planted},
    position::Offset,
};

use serde_json::json;

use super::{Action, Session, heartbeat::Vitals, pending::Pending};

impl Session {
    pub(super) fn submit(&mut self, id: CommandId, command: Command, meta: Meta) {
        if let Command::PresenceUpdate(update) = &command {
            self.vitals.know(update);
        }
        let reference = meta.reference.clone();
        let deadline = self.now + self.config.reply_timeout;
        self.pending.push(Pending { id, reference, deadline, placed: None });
        self.actions.push(Action::Submit(Box::new(Asked { id, command, meta })));
    }

    /// Asks once every command before it has its verdict: a connection reads its own writes.
    pub(super) fn ask(&mut self, query: Query, reference: Option<Json>) {
        if let Err(refusal) = query.check(&self.config.limits) {
            return self.refuse(&refusal, reference);
        }
        self.parked.push_back((self.pending.last(), query, reference));
        self.unpark();
    }

    pub(super) fn unpark(&mut self) {
        while let Some((after, query, reference)) = self.parked.pop_front() {
            if !self.pending.is_decided(after) {
                self.parked.push_front((after, query, reference));
                return;
            }
            match query {
                Query::ReplayRequest(request) => self.play(request, reference),
                query => {
                    self.asked += 1;
                    self.actions.push(Action::Ask(Box::new(query), reference));
                }
            }
        }
    }

    pub(super) fn on_answered(&mut self, answer: Result<Frame, Refusal>, reference: Option<Json>) {
        self.asked = self.asked.saturating_sub(1);
        match answer {
            Ok(frame) => self.send(&frame.reference(reference)),
            Err(refusal) => self.refuse(&refusal, reference),
        }
    }

    pub(super) fn on_submitted(&mut self, id: CommandId, result: Result<Offset, Refusal>) {
        match result {
            Ok(offset) => {
                self.pending.place(id, offset);
                if planted(Bug::AckBeforeVerdict)
                    && let (Some(pending), Some(me)) = (self.pending.settle(id), &self.me)
                {
                    let body = json!({ "position": me.encoder.stream.wire(offset) });
                    self.send(&Frame::new("activity", "broadcast_ok", &body).reference(pending.reference));
                    self.unpark();
                }
                self.refuse_unreadable();
            }
            Err(refusal) => self.refuse_pending(id, &refusal),
        }
    }

    fn refuse_pending(&mut self, id: CommandId, refusal: &Refusal) {
        if let Some(pending) = self.pending.settle(id) {
            // It may have been an update: what it said is not what is known.
            self.vitals = Vitals::default();
            self.refuse(refusal, pending.reference);
            self.unpark();
        }
    }

    /// An event that cannot be read does not say who asked for it: whoever waits for its place is told.
    pub(super) fn on_unreadable(&mut self, offset: Offset, refusal: Refusal) {
        if self.unreadable.len() == PENDING_MAX {
            self.unreadable.pop_front();
        }
        self.unreadable.push_back((offset, refusal));
        self.refuse_unreadable();
    }

    fn refuse_unreadable(&mut self) {
        for (offset, refusal) in std::mem::take(&mut self.unreadable) {
            match self.pending.at(offset) {
                Some(id) => self.refuse_pending(id, &refusal),
                // The log has not said yet where some of ours stand.
                None if self.pending.some_unplaced() => self.unreadable.push_back((offset, refusal)),
                None => {}
            }
        }
    }
}
