//! Replays: one at a time, throttled, fetched in small parts as the socket takes them.

use std::{collections::VecDeque, io::Write as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use ringforge_domain::{
    code::{Code, Refusal},
    frame::Frame,
    json::Json,
    limits::{PAGE_BYTES_MAX, REPLAY_BURST},
    position::Offset,
    replay::Request,
    verdict::Verdict,
};
use ringforge_query_api::history::{Part, Plan};
use serde_json::json;

use super::{Action, Session};

/// Items fetched at a time.
const PART: usize = 64;

/// A replay that runs.
#[derive(Debug)]
pub struct Playing {
    reference: Option<Json>,
    gzip: bool,
    waiting: VecDeque<Verdict>,
    /// The places of what comes after these.
    later: VecDeque<Offset>,
    fetching: bool,
    planned: bool,
    delivered: u64,
    next_cursor: Option<String>,
}

/// A part of a replay.
#[derive(Debug)]
pub struct Played {
    /// What is shown.
    pub frames: Vec<Frame>,
    /// What had too many bytes for one part: asked for again.
    pub rest: VecDeque<Verdict>,
    /// And so had what stands at these places.
    pub later: Vec<Offset>,
}

/// A token bucket in whole items.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    items: u32,
    since: Duration,
}

impl Allowance {
    /// As much as is allowed at once.
    pub fn full(now: Duration) -> Self {
        Self { items: REPLAY_BURST, since: now }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_millis() * u128::from(REPLAY_BURST) / 1_000;
        if passed > 0 {
            self.items = u32::try_from(passed).unwrap_or(REPLAY_BURST).saturating_add(self.items).min(REPLAY_BURST);
            self.since = now;
        }
    }
}

impl Playing {
    /// When there will be an allowance again, if that is what it waits for.
    pub fn next_tick(&self, allowance: Allowance, now: Duration) -> Option<Duration> {
        (self.planned && !self.fetching && allowance.items == 0).then(|| now + Duration::from_millis(10))
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.later.is_empty()
    }

    /// What to fetch next, at most so much.
    fn next_part(&mut self, count: usize) -> Part {
        self.fetching = true;
        if self.waiting.is_empty() {
            return Part::Places(self.later.drain(..count.min(self.later.len())).collect());
        }
        Part::Known(self.waiting.drain(..count.min(self.waiting.len())).collect())
    }
}

impl Session {
    pub(super) fn play(&mut self, request: Request, reference: Option<Json>) {
        if self.playing.is_some() {
            let refusal = Refusal::because(Code::RateLimited, "A replay is running already.").after_ms(1_000);
            return self.refuse(&refusal, reference);
        }
        self.playing = Some(Playing {
            reference,
            gzip: request.encoding.is_some(),
            waiting: VecDeque::new(),
            later: VecDeque::new(),
            fetching: false,
            planned: false,
            delivered: 0,
            next_cursor: None,
        });
        self.actions.push(Action::Plan(Box::new(request)));
    }

    pub(super) fn on_planned(&mut self, plan: Result<Plan, Refusal>) {
        let Some(mut playing) = self.playing.take() else { return };
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(&refusal, playing.reference),
        };
        let body = json!({
            "total": plan.total,
            "from": plan.from,
            "to": plan.to,
            "limit": plan.limit,
        });
        self.send(&Frame::new("replay", "start", &body).reference(playing.reference.clone()));
        playing.planned = true;
        playing.next_cursor = plan.next_cursor;
        (playing.waiting, playing.later) = (plan.verdicts.into(), plan.later.into());
        self.playing = Some(playing);
        self.play_on();
    }

    /// Fetches the next part, if the last one is out and the allowance lets it.
    pub(super) fn play_on(&mut self) {
        let now = self.now;
        let Some(playing) = self.playing.as_mut().filter(|playing| playing.planned && !playing.fetching) else {
            return;
        };
        if playing.is_over() {
            return self.play_end();
        }
        self.allowance.refill(now);
        let allowed = PART.min(self.allowance.items as usize);
        if allowed > 0 {
            let part = playing.next_part(allowed);
            let count = match &part {
                Part::Known(verdicts) => verdicts.len(),
                Part::Places(places) => places.len(),
            };
            self.allowance.items -= u32::try_from(count).unwrap_or(0);
            self.actions.push(Action::Play(part));
        }
    }

    pub(super) fn on_played(&mut self, played: Result<Played, Refusal>) {
        let (Some(mut playing), Some(me)) = (self.playing.take(), &self.me) else { return };
        let encoder = std::sync::Arc::clone(&me.encoder);
        let Played { frames, rest, later } = match played {
            Ok(played) => played,
            Err(refusal) => return self.refuse(&refusal, playing.reference),
        };
        self.allowance.items += u32::try_from(rest.len() + later.len()).unwrap_or(0);
        later.into_iter().rev().for_each(|offset| playing.later.push_front(offset));
        rest.into_iter().rev().for_each(|verdict| playing.waiting.push_front(verdict));
        playing.fetching = false;
        let mut items = Vec::with_capacity(frames.len());
        for frame in &frames {
            let original = Json::parse(&encoder.encode(frame, self.shape)).expect("frames are JSON");
            items.push(
                Frame::new("replay", "item", &json!({ "index": playing.delivered })).also(&Original { original }),
            );
            playing.delivered += 1;
        }
        if playing.gzip {
            self.send_compressed(&playing, &items);
        } else {
            for item in items {
                self.send(&item.reference(playing.reference.clone()));
            }
        }
        let done = playing.is_over();
        self.playing = Some(playing);
        if done || frames.is_empty() {
            self.play_on();
        }
    }

    /// One frame for a part: gzip of its items as JSON lines, in base64, with its size before.
    fn send_compressed(&mut self, playing: &Playing, items: &[Frame]) {
        for part in items.chunk_by({
            let mut bytes = 0;
            move |item, _| {
                bytes += item.len();
                let fits = bytes <= PAGE_BYTES_MAX / 2;
                bytes = if fits { bytes } else { 0 };
                fits
            }
        }) {
            self.send_part(playing, part);
        }
    }

    fn send_part(&mut self, playing: &Playing, items: &[Frame]) {
        let mut lines = Vec::new();
        for item in items {
            let text = ringforge_domain::frame::encode(item, self.shape, None);
            lines.extend_from_slice(text.as_bytes());
            lines.push(b'\n');
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let data = gzip.write_all(&lines).and_then(|()| gzip.finish()).expect("writing to memory does not fail");
        let body = json!({
            "encoding": "gzip",
            "count": items.len(),
            "raw_size": lines.len(),
            "data": STANDARD.encode(data),
        });
        self.send(&Frame::new("replay", "batch", &body).reference(playing.reference.clone()));
    }

    fn play_end(&mut self) {
        let Some(playing) = self.playing.take() else { return };
        let mut body = json!({ "delivered": playing.delivered });
        if let Some(cursor) = playing.next_cursor {
            body["next_cursor"] = json!(cursor);
        }
        self.send(&Frame::new("replay", "end", &body).reference(playing.reference));
    }
}

/// The live frame inside a replay's item.
#[derive(serde::Serialize)]
struct Original {
    original: Json,
}
