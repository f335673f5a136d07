//! Coming in: greeting, `auth`, what was missed, and the seam between history and live.

use std::sync::Arc;

use ringforge_domain::{
    auth::VERSIONS,
    close::Close,
    code::{Code, Refusal},
    door::{self, Incoming},
    frame::{self, Encoder, Frame, Shape},
    limits::{self, Limits},
    position::Offset,
    presence::Update,
};
use serde_json::{Value, json};

use super::{Action, Caught, Me, Phase, Session, Step};
use crate::fanout::Viewpoint;

/// Somebody is in.
#[derive(Debug)]
pub struct Entered {
    /// Who.
    pub viewpoint: Viewpoint,
    /// How its fleet's frames are written.
    pub encoder: Arc<Encoder>,
    /// The fleet's name.
    pub slug: String,
    /// The agent's name.
    pub name: Option<String>,
    /// What proves later that it is the same agent.
    pub resume_token: String,
    /// The roster, from after the start.
    pub roster: Frame,
    /// Where the session began.
    pub started: Offset,
    /// What it missed.
    pub missed: Missed,
    /// Its state as the log has it.
    pub vitals: Update,
}

/// What became of `last_event_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// There was none.
    NotAsked,
    /// Goes on after this place.
    After(Offset),
    /// Cannot go on.
    Lost {
        /// Why: invalid, expired or generation.
        reason: &'static str,
        /// The oldest event that is kept: its id and position.
        oldest: Option<(String, u64)>,
    },
}

impl Session {
    pub(super) fn greet(&mut self) {
        let server = format!("ringforge/{}", self.config.version);
        let body = json!({ "version": VERSIONS[0], "versions": VERSIONS, "server": server });
        self.send(&Frame::new("auth_required", "", &body).bare());
    }

    pub(super) fn on_auth(&mut self, text: &str) {
        let received = match door::parse(text, &self.config.limits) {
            Ok(received) => received,
            // What cannot be read is refused as what it is; whatever else it may be, it is not `auth`.
            Err((_, refusal)) if refusal.code == Code::InvalidMessage && text.contains("\"auth\"") => {
                return self.turn_away(&refusal);
            }
            Err(_) => return self.turn_away(&Refusal::new(Code::Unauthorized)),
        };
        if received.wrapped {
            self.shape = Shape::Wrapped;
        }
        let Incoming::Auth(auth) = received.incoming else { return self.turn_away(&Refusal::new(Code::Unauthorized)) };
        if let Err(refusal) = auth.check(&self.config.limits) {
            return self.turn_away(&refusal);
        }
        self.batch = auth.batch;
        self.presence = auth.presence;
        self.phase = Phase::Entering;
        self.actions.push(Action::Enter(Box::new(auth)));
    }

    /// `auth_error`, then goodbye.
    pub(super) fn turn_away(&mut self, refusal: &Refusal) {
        let mut body = frame::refused(refusal);
        body["retry"] = json!(refusal.code.retryable());
        self.send(&Frame::new("auth_error", "", &body));
        self.close(Close::of(refusal.code));
    }

    pub(super) fn on_entered(&mut self, entered: Result<Entered, Refusal>) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        let entered = match entered {
            Ok(entered) => entered,
            Err(refusal) => return self.turn_away(&refusal),
        };
        let welcome = self.welcome(&entered);
        let Entered { viewpoint, encoder, roster, started, missed, vitals, .. } = entered;
        self.me = Some(Me { viewpoint, encoder, missed: missed.clone(), delivered: 0 });
        self.vitals.know(&vitals);
        self.send(&welcome);
        self.send(&roster);
        self.cursor = before(started);
        // What it goes on after, and mail that came later, is among what it missed.
        let (before, resumes) = match missed {
            Missed::After(after) => (after.next(), true),
            Missed::NotAsked | Missed::Lost { .. } => (started, false),
        };
        if let Missed::Lost { .. } = missed {
            self.resumed();
        }
        self.catch_up(Step::Mail { after: None, before, resumes });
    }

    fn welcome(&self, entered: &Entered) -> Frame {
        let scope = entered.encoder.scope;
        let body = json!({
            "agent_id": entered.viewpoint.agent,
            "name": entered.name,
            "session_id": entered.viewpoint.session,
            "resume_token": entered.resume_token,
            "fleet": { "id": scope.fleet, "name": entered.slug, "tenant_id": scope.tenant },
            "config": config(&self.config.limits, self.config.ping_interval.as_millis(), self.config.silence_timeout.as_millis()),
            "server": { "version": self.config.version, "node": self.config.node },
        });
        Frame::new("auth_ok", "", &body)
    }

    fn catch_up(&mut self, step: Step) {
        self.phase = Phase::CatchingUp(step.clone());
        self.fetch(Action::CatchUp(step));
    }

    /// Reads on from the log after the last thing that was shown.
    pub(super) fn catch_up_live(&mut self) {
        if matches!(self.phase, Phase::Live) {
            self.catch_up(Step::Live { after: self.cursor });
        }
    }

    pub(super) fn on_caught_up(&mut self, caught: Caught) {
        let Phase::CatchingUp(step) = &self.phase else { return };
        let step = step.clone();
        self.told.take(caught.known, self.now);
        self.show_all(caught.posts.into());
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        let next = match (step, caught.done) {
            (Step::Mail { before, resumes, .. }, false) => Step::Mail { after: caught.upto, before, resumes },
            // Mail is older than everything else: the cursor is where it was.
            (Step::Mail { .. }, true) => match self.missed() {
                Missed::After(after) => Step::Missed { after: Some(after), before: next(self.cursor) },
                _ => Step::Live { after: self.cursor },
            },
            (Step::Missed { before, .. }, false) => Step::Missed { after: caught.upto, before },
            (Step::Missed { before: start, .. }, true) => {
                self.resumed();
                self.cursor = before(start);
                Step::Live { after: self.cursor }
            }
            (Step::Live { .. }, _) => {
                self.cursor = self.cursor.max(caught.upto);
                Step::Live { after: self.cursor }
            }
        };
        self.catch_up(next);
    }

    pub(super) fn on_joined(&mut self) {
        if matches!(self.phase, Phase::CatchingUp(_)) {
            self.phase = Phase::Live;
        }
    }

    fn missed(&self) -> Missed {
        self.me.as_ref().map_or(Missed::NotAsked, |me| me.missed.clone())
    }

    /// Says how the resume went.
    fn resumed(&mut self) {
        let Some(me) = &mut self.me else { return };
        let body: Value = match std::mem::replace(&mut me.missed, Missed::NotAsked) {
            Missed::NotAsked => return,
            Missed::After(_) => json!({ "recovered": true, "delivered": me.delivered }),
            Missed::Lost { reason, oldest } => {
                let (oldest, position) = oldest.unzip();
                json!({ "recovered": false, "reason": reason, "oldest": oldest, "oldest_position": position })
            }
        };
        self.send(&Frame::new("system", "resumed", &body));
    }
}

/// The place before one, as a cursor.
fn before(offset: Offset) -> Option<Offset> {
    offset.0.checked_sub(1).map(Offset)
}

/// The place after a cursor.
fn next(cursor: Option<Offset>) -> Offset {
    cursor.map_or(Offset::ZERO, Offset::next)
}

/// `auth_ok.config`: every limit that an agent can meet.
fn config(limits: &Limits, ping_ms: u128, silence_ms: u128) -> Value {
    let ms = |ms: u128| u64::try_from(ms).unwrap_or(u64::MAX);
    json!({
        "heartbeat_interval_ms": ms(ping_ms),
        "heartbeat_timeout_ms": ms(silence_ms),
        "max_message_size": limits.message_bytes,
        "max_memory_value_size": limits.memory_value_bytes,
        "max_frame_size": limits.frame_bytes(),
        "quota": { "messages_remaining_today": null, "memory_entries_remaining": null },
        "limits": {
            "memory_key_bytes": limits.memory_key_bytes,
            "tags": limits.tags,
            "tag_bytes": limits.tag_bytes,
            "description_bytes": limits.description_bytes,
            "name_bytes": limits.name_bytes,
            "metadata_bytes": limits.metadata_bytes,
            "json_depth": limits::JSON_DEPTH_MAX,
            "envelope_keys": limits::ENVELOPE_KEYS_MAX,
            "idempotency_key_bytes": limits::IDEMPOTENCY_KEY_BYTES_MAX,
            "subscriptions": limits::SUBSCRIPTIONS_MAX,
            "page": limits::PAGE_MAX,
            "replay": limits::REPLAY_MAX,
            "replays_at_once": 1,
            "mailbox": limits::MAILBOX_MAX,
            "mailbox_pair": limits::MAILBOX_PAIR_MAX,
            "mailbox_in_flight": limits::IN_FLIGHT_MAX,
            "mailbox_in_flight_pair": limits::IN_FLIGHT_PAIR_MAX,
            "send_queue_bytes": limits::OUTBOX_BYTES_MAX,
            "ttl_seconds": limits::TTL_SECONDS_MAX,
        },
    })
}
