//! A connection without its socket and its ports: what may be read now, what goes out, what is to be done. The socket and the
//! simulation both drive it, so that every bound and every order is decided here once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ringforge_command_api::Asked;
use ringforge_domain::{
    auth::Auth,
    buggify::{Site, buggify},
    catalog::Command,
    close::Close,
    code::Refusal,
    ids::CommandId,
    limits::{APPEND_RECORDS_MAX, PENDING_BYTES_MAX, PENDING_MAX, REPLIES_BYTES_MAX, WORK_MAX},
    planted::{Bug, planted},
    position::Offset,
};
use ringforge_ports::clock::{Clock, Ids};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    line::Line,
    outbox::Outbox,
    session::{Action, Input, Session, SessionConfig},
};

/// How long a peer may take to read nothing at all; no longer than it may be silent.
const STALLED: Duration = Duration::from_mins(1);
/// How long a goodbye may take.
pub const GOODBYE: Duration = Duration::from_secs(2);
/// Text messages joined into one, for those who asked for batches.
const BATCH_BYTES: usize = 32 << 10;
/// Messages for which there is always room; more of it is given back once they are out.
const OUT_KEPT: usize = 8;

/// What goes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// A text message.
    Text(Line),
    /// Goodbye: code and reason.
    Close(u16, &'static str),
}

/// What is to be done; each ends with [`Connection::done`].
#[derive(Debug)]
pub enum Job {
    /// Check the key and begin a session.
    Enter(Box<Auth>),
    /// Submit these as one append, in order.
    Submit(Vec<Asked>),
    /// Log that the peer took something.
    Report(Box<Command>),
    /// Whatever else the session asks for.
    Act(Box<Action>),
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// We said goodbye.
    Closing,
    /// There is nobody any more.
    Gone,
}

/// The rest of a message of several lines.
#[derive(Debug)]
struct Lines {
    text: Utf8Bytes,
    at: usize,
    end: usize,
}

/// One connection.
pub struct Connection {
    session: Session,
    outbox: Arc<Outbox>,
    phase: Phase,
    lines: Option<Lines>,
    out: VecDeque<Out>,
    out_bytes: usize,
    unflushed: bool,
    written_at: Duration,
    patience: Duration,
    /// For the next append.
    queued: Vec<Asked>,
    /// Bytes of the messages that `queued` came in.
    queued_bytes: usize,
    /// Bytes of those that the gate has, while it has any.
    submitting: Option<usize>,
    reporting: usize,
    working: usize,
    jobs: Vec<Job>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    /// When something happened last.
    now: Duration,
    /// Somebody else has taken posts since its own task was here: whether that waits for something to read.
    shown: Option<bool>,
}

impl Connection {
    /// One that has just been opened.
    pub fn open(config: Arc<SessionConfig>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        // Everything that may wait for the gate fits one append.
        const { assert!(PENDING_MAX <= APPEND_RECORDS_MAX) };
        let (now, patience) = (clock.monotonic(), STALLED.min(config.silence_timeout));
        let mut connection = Self {
            session: Session::new(config, now),
            outbox: Arc::default(),
            phase: Phase::Open,
            lines: None,
            out: VecDeque::new(),
            out_bytes: 0,
            unflushed: false,
            written_at: now,
            patience,
            queued: Vec::new(),
            queued_bytes: 0,
            submitting: None,
            reporting: 0,
            working: 0,
            jobs: Vec::new(),
            clock,
            ids,
            now,
            shown: None,
        };
        connection.on(Input::Opened);
        connection
    }

    /// Its session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Where its posts go.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Whether a message may be read now.
    pub fn reads(&self) -> bool {
        self.phase == Phase::Open && self.lines.is_none() && self.admits()
    }

    /// Whether something waits to be written or flushed.
    pub fn writes(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }

    /// Whether [`Connection::next_out`] has something.
    pub fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether posts may be taken now: nothing is fetched before the peer has taken what there is, nor once it is gone.
    pub fn takes_posts(&self) -> bool {
        self.phase == Phase::Open && !self.writes() && self.session.wants_posts()
    }

    /// When [`Connection::tick`] is needed at the latest.
    pub fn next_tick(&self) -> Duration {
        let stalled = self.writes().then_some(self.written_at + self.patience);
        stalled.map_or(self.session.next_tick(), |stalled| stalled.min(self.session.next_tick()))
    }

    /// Whether it has said all it had to say: the socket can go.
    pub fn is_over(&self) -> bool {
        self.phase != Phase::Open && !self.writes()
    }

    /// Whether the peer has read nothing for too long.
    pub fn is_stalled(&self) -> bool {
        self.writes() && self.clock.monotonic().saturating_sub(self.written_at) >= self.patience
    }

    /// After [`Connection::hang_up`]: whether everything that was read has been submitted, and what was taken reported.
    pub fn is_submitted(&self) -> bool {
        self.submitting.is_none() && self.queued.is_empty() && self.lines.is_none() && self.reporting == 0
    }

    /// Whether there is something for whoever begins its jobs, or ends it.
    pub fn is_wanted(&self) -> bool {
        !self.jobs.is_empty() || self.is_over()
    }

    /// What is to be done now, in this order.
    pub fn jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// A text message; only while [`Connection::reads`].
    pub fn text(&mut self, text: Utf8Bytes) {
        if self.session.batch {
            let end = text.trim_end().len();
            self.lines = Some(Lines { text, at: 0, end });
            self.go_on();
        } else {
            self.on_line(&text);
            self.go_on();
        }
    }

    /// A binary message; only while [`Connection::reads`].
    pub fn binary(&mut self) {
        self.on(Input::Binary);
    }

    /// A sign of life that is no message.
    pub fn alive(&mut self) {
        self.on(Input::Alive);
    }

    /// The next message to write. Whoever asked for batches gets several lines in one.
    pub fn next_out(&mut self) -> Option<Out> {
        let out = self.out.pop_front()?;
        self.unflushed = true;
        let Out::Text(text) = out else { return Some(out) };
        self.out_bytes -= text.len();
        if !self.session.batch || !matches!(self.out.front(), Some(Out::Text(_))) {
            return Some(Out::Text(text));
        }
        let mut bytes = text.len();
        let mut lines = Vec::with_capacity(1 + self.out.len());
        lines.push(text);
        while let Some(Out::Text(next)) = self.out.pop_front_if(|next| joins(next, bytes)) {
            self.out_bytes -= next.len();
            bytes += next.len();
            lines.push(next);
        }
        Some(Out::Text(Line::joined(&lines)))
    }

    /// The peer has taken something.
    pub fn progressed(&mut self) {
        self.written_at = self.clock.monotonic();
    }

    /// Everything is written and flushed.
    pub fn flushed(&mut self) {
        self.unflushed = false;
        self.out.shrink_to(OUT_KEPT);
        self.on(Input::Flushed);
    }

    /// Takes the posts that wait; if some were dropped, they come from the log instead.
    pub fn take_posts(&mut self) {
        match self.outbox.take() {
            Ok(posts) => self.on(Input::Posts(posts)),
            Err(lagged) => self.on(Input::Lagged(lagged)),
        }
    }

    /// Its own task is here, and will wait for whatever there is to wait for then.
    pub fn resume(&mut self) {
        self.shown = None;
    }

    /// For somebody else than its own task: takes the posts that wait, to be written before [`Connection::end_show`], unless its
    /// task comes between. `false`: they may not be taken now.
    pub fn begin_show(&mut self) -> bool {
        if self.takes_posts() {
            self.shown = self.shown.or(Some(self.reads()));
            self.take_posts();
        }
        // It may be shown something twice in one go.
        self.is_shown()
    }

    /// Whether posts were taken since its own task was here, which waits for nothing to be written then.
    pub fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// What was taken is written, and everything is out if `all_out`. `false`: its own task, whose alarm rings at `alarm_at`, has
    /// to be woken, for there is more to do or something else to wait for.
    pub fn end_show(&mut self, alarm_at: Duration, all_out: bool) -> bool {
        let Some(reads) = self.shown.take() else { return true };
        if !all_out {
            return false;
        }
        if self.writes() {
            self.flushed();
        }
        // Answers may have made room for more commands, as an example.
        let same = self.takes_posts() && self.reads() == reads || planted(Bug::NotReadAgain);
        same && !self.is_wanted() && self.outbox.is_empty() && alarm_at <= self.next_tick()
    }

    /// A job has ended, and this came of it.
    pub fn done(&mut self, input: Option<Input<'static>>) {
        self.working -= 1;
        match input {
            Some(input) => self.on(input),
            None => self.go_on(),
        }
    }

    /// A [`Job::Submit`] has ended.
    pub fn submitted(&mut self, results: Vec<(CommandId, Result<Offset, Refusal>)>) {
        self.working -= 1;
        self.submitting = None;
        for (id, result) in results {
            self.input(Input::Submitted(id, result));
        }
        self.go_on();
    }

    /// A [`Job::Report`] has ended.
    pub fn reported(&mut self) {
        self.reporting -= 1;
        self.done(None);
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        self.on(Input::Tick);
    }

    /// The server shuts down.
    pub fn drain(&mut self) {
        self.on(Input::Drain);
    }

    /// Says goodbye, after everything before it.
    pub fn close(&mut self, close: Close) {
        self.on(Input::Breach(close));
    }

    /// The socket is gone: nothing is said any more, but what was read is submitted, and what the peer took is reported. Whoever
    /// leaves right after a command meant it.
    pub fn hang_up(&mut self) {
        self.phase = Phase::Gone;
        self.out = VecDeque::new();
        (self.out_bytes, self.unflushed) = (0, false);
        self.jobs.retain(|job| matches!(job, Job::Submit(_) | Job::Report(_)));
        self.input(Input::Gone);
        self.go_on();
    }

    /// Whether one more line may be admitted.
    fn admits(&self) -> bool {
        let bytes = self.queued_bytes + self.submitting.unwrap_or(0);
        let room = self.out_bytes < REPLIES_BYTES_MAX && bytes < PENDING_BYTES_MAX;
        match self.phase {
            // Nobody waits for the answers: only what waits for the gate is bounded.
            Phase::Gone => room && self.queued.len() < PENDING_MAX,
            _ => room && self.working < WORK_MAX && self.session.reads(),
        }
    }

    fn on(&mut self, input: Input<'_>) {
        self.input(input);
        self.go_on();
    }

    /// Admits what waits of the last message, and hands over what waits for the gate: one append at a time, their order is the
    /// log's.
    fn go_on(&mut self) {
        while self.lines.is_some() && self.admits() {
            self.next_line();
        }
        if self.submitting.is_none() && !self.queued.is_empty() {
            let later = if buggify(Site::SmallSubmit) { self.queued.split_off(1) } else { Vec::new() };
            let asked = std::mem::replace(&mut self.queued, later);
            let bytes = if self.queued.is_empty() { std::mem::take(&mut self.queued_bytes) } else { 0 };
            self.submitting = Some(bytes);
            self.start(Job::Submit(asked));
        }
    }

    fn next_line(&mut self) {
        let Some(mut lines) = self.lines.take() else { return };
        let text = lines.text.clone();
        let rest = &text[lines.at..lines.end];
        let line = rest.split_once('\n').map_or(rest, |(line, _)| line);
        lines.at = (lines.at + line.len() + 1).min(lines.end);
        if lines.at < lines.end {
            self.lines = Some(lines);
        }
        if !line.trim().is_empty() {
            self.on_line(line);
        }
    }

    fn on_line(&mut self, line: &str) {
        let id = CommandId::from_bits(self.ids.next());
        let queued = self.queued.len();
        self.input(Input::Text(line, id));
        if self.queued.len() > queued {
            self.queued_bytes += line.len();
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.now = self.clock.monotonic();
        if !self.reads() {
            // While we did not read, the peer's silence was our own.
            let actions = self.session.on(Input::Alive, self.now);
            self.act_all(actions);
        }
        let actions = self.session.on(input, self.now);
        self.act_all(actions);
    }

    fn act_all(&mut self, actions: Vec<Action>) {
        self.out.reserve(actions.len());
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit(asked) => self.queued.push(*asked),
            Action::Report(command) => {
                self.reporting += 1;
                self.start(Job::Report(command));
            }
            _ if self.phase == Phase::Gone => {}
            Action::Send(text) => self.send(text),
            Action::Close(code, reason) => self.say_goodbye(code, reason),
            Action::Enter(auth) => self.start(Job::Enter(auth)),
            action => self.start(Job::Act(Box::new(action))),
        }
    }

    fn start(&mut self, job: Job) {
        self.working += 1;
        self.jobs.push(job);
    }

    fn send(&mut self, text: Line) {
        if self.phase != Phase::Open {
            return;
        }
        if !self.writes() {
            self.written_at = self.now;
        }
        self.out_bytes += text.len();
        self.out.push_back(Out::Text(text));
    }

    fn say_goodbye(&mut self, code: u16, reason: &'static str) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.patience = GOODBYE;
            self.written_at = self.now;
            self.out.push_back(Out::Close(code, reason));
        }
    }
}

/// Whether a message may share another of so many bytes.
fn joins(next: &Out, bytes: usize) -> bool {
    matches!(next, Out::Text(next) if bytes + next.len() <= BATCH_BYTES)
}

#[cfg(test)]
mod tests;
