//! What must have been seen, worked out again from the log and its verdicts with a small model of its own: versions, answers,
//! subscriptions and who is meant by what. It uses none of the code that decides it in the product.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ringforge_domain::{
    activity::ActivityScope,
    catalog::{Command, Effect},
    code::Code,
    direct::Sent as Status,
    event::Event,
    ids::{AgentId, CommandId, MessageId, Scope, SessionId},
    json::Json,
    limits::ANSWER_MICROS,
    memory,
    position::Offset,
    verdict::{Outcome, Verdict},
};
use serde_json::{Value, json};

use crate::tally::Tally;

/// Something that someone must have been shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its place.
    pub offset: u64,
    /// Type, event and what tells it from others at that place.
    pub what: String,
    /// The memory key and version, if it is a change of one.
    pub change: Option<(String, u64)>,
    whom: Whom,
}

#[derive(Clone, Debug)]
enum Whom {
    All,
    Agents(Vec<AgentId>),
    Tagged { author: Option<AgentId>, tags: Vec<String>, kind: String },
    Watchers(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Topic {
    Tag(String),
    Kind(String),
    Pattern(String),
}

#[derive(Clone, Debug)]
struct Span {
    topic: Topic,
    since: u64,
    until: u64,
}

/// A memory key as it should be.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Counts every change.
    pub version: u64,
    /// Whether it holds something, expiry apart.
    pub live: bool,
    /// When that ends, in log time.
    pub ends: Option<i64>,
    deleted: bool,
    holds: Option<Value>,
}

/// What a command was to be told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The place that the answer names.
    pub offset: u64,
    /// Whether it took effect (or an equal one before it did).
    pub applied: bool,
    /// The agent in the header.
    pub agent: Option<AgentId>,
    /// The connection in the header.
    pub session: Option<SessionId>,
}

/// The truth about one fleet.
#[derive(Default)]
pub struct Truth {
    /// Everything that was to be shown, in order.
    pub shown: Vec<Shown>,
    /// What every `ref` was to be told. Each stands in the log once.
    pub told: BTreeMap<String, Told>,
    /// Where each session began.
    pub started: BTreeMap<SessionId, u64>,
    /// Every change of every key.
    pub changes: BTreeMap<String, Vec<(u64, Entry)>>,
    /// Messages: where sent, to whom.
    pub messages: BTreeMap<MessageId, (u64, AgentId)>,
    /// Messages whose sender was told that their time was over, and where.
    pub expired: BTreeMap<String, u64>,
    /// What became of messages later than at once, by the command that made it so: where, and what its sender is shown. What
    /// nobody fetched in time is left out.
    pub statuses: BTreeMap<CommandId, (u64, String)>,
    /// Messages whose recipient's socket is said to have taken them.
    pub delivered: Vec<(MessageId, AgentId)>,
    spans: BTreeMap<AgentId, Vec<Span>>,
    entries: BTreeMap<String, Entry>,
    answers: BTreeMap<(AgentId, String), (u64, i64)>,
}

impl Truth {
    /// Of a fleet, from all events of its partition.
    ///
    /// # Errors
    /// A guarantee is broken.
    pub fn of(scope: Scope, told: &[(Event, Verdict)], tally: &Tally) -> Result<Self> {
        let mut truth = Self::default();
        for (event, verdict) in told.iter().filter(|(event, _)| event.at.scope() == scope) {
            truth.take(event, verdict, tally)?;
        }
        Ok(truth)
    }

    fn take(&mut self, event: &Event, verdict: &Verdict, tally: &Tally) -> Result<()> {
        let offset = event.at.position.offset.0;
        self.answer(event, verdict)?;
        if let Some(reference) = event.at.header.reference.as_ref().and_then(ringforge_domain::json::Json::as_str) {
            let told = Told {
                offset: verdict.first.map_or(offset, |first| first.offset.0),
                applied: matches!(verdict.outcome, Outcome::Applied(_)),
                agent: event.at.header.agent_id,
                session: event.at.header.session_id,
            };
            let before = self.told.insert(reference.clone(), told);
            ensure!(before.is_none(), "G2: {reference} stands in the log twice");
        }
        if verdict.first.is_some() {
            // A repeated subscription holds again; nothing else has a second effect.
            if matches!(verdict.outcome, Outcome::Applied(_)) {
                self.interest(event, offset);
            }
            return Ok(());
        }
        match &verdict.outcome {
            Outcome::Applied(effect) => {
                self.remember(event, effect, offset, tally)?;
                self.show(event, effect, offset);
                Ok(())
            }
            Outcome::Refused(refusal) => self.refused(event, refusal.code, verdict, tally),
        }
    }

    /// G12: within the window, an idempotency key has one effect and one answer.
    fn answer(&mut self, event: &Event, verdict: &Verdict) -> Result<()> {
        let header = &event.at.header;
        let (Some(agent), Some(key)) = (header.agent_id, &header.idempotency_key) else { return Ok(()) };
        if let Outcome::Refused(refusal) = &verdict.outcome
            && (refusal.fact("reason") == "replaced" || refusal.code.retryable())
        {
            return Ok(());
        }
        let offset = event.at.position.offset.0;
        let known = self.answers.get(&(agent, key.clone()));
        let first = known.filter(|(_, due)| verdict.time.0 <= *due).map(|(first, _)| *first);
        ensure!(
            verdict.first.map(|first| first.offset.0) == first,
            "G12: the command at {offset} with key {key} was decided by {:?}, not {first:?}",
            verdict.first
        );
        if first.is_none() {
            self.answers.insert((agent, key.clone()), (offset, verdict.time.0 + ANSWER_MICROS));
        }
        Ok(())
    }

    fn current(&self, key: &str, time: i64) -> (Entry, bool) {
        let mut entry = self.entries.get(key).cloned().unwrap_or_default();
        let over = entry.live && entry.ends.is_some_and(|ends| ends <= time);
        if over {
            entry.version += 1;
            entry.live = false;
        }
        (entry, over)
    }

    fn refused(&self, event: &Event, code: Code, verdict: &Verdict, tally: &Tally) -> Result<()> {
        let expected = match &event.command {
            Command::MemorySet(memory::Set { key, expected_version: Some(expected), .. }) => Some((key, *expected)),
            _ => None,
        };
        if let (Some((key, expected)), Code::Conflict) = (expected, code) {
            let (entry, _) = self.current(key, verdict.time.0);
            let live = if entry.live { entry.version } else { 0 };
            ensure!(
                u64::try_from(expected) != Ok(live),
                "G8: {key} was at {live} at {:?}, and {expected} was refused",
                event.at.position.offset
            );
            tally.note("situation: compare-and-set conflict");
        }
        Ok(())
    }

    /// G7, G8: versions count by one, a guard that held did hold.
    fn remember(&mut self, event: &Event, effect: &Effect, offset: u64, tally: &Tally) -> Result<()> {
        let time = event.at.time.0;
        match (&event.command, effect) {
            (Command::SessionStarted(started), Effect::SessionStarted(effect)) => {
                self.started.insert(started.session, offset);
                if effect.cleared {
                    self.end(effect.agent, offset, |_| true);
                }
            }
            (Command::MemorySet(set), Effect::MemorySet(effect)) => {
                let (mut entry, over) = self.current(&set.key, time);
                if let Some(expected) = set.expected_version {
                    let live = if entry.live { entry.version } else { 0 };
                    ensure!(u64::try_from(expected) == Ok(live), "G8: {} was at {live}, and {expected} held", set.key);
                    tally.note("situation: compare-and-set held");
                }
                if entry.deleted {
                    tally.note("situation: key set again after a deletion");
                }
                ensure!(effect.expired.is_some() == over, "G7: an expiry of {} was missed at {offset}", set.key);
                entry.version += 1;
                let is_op = set.op.is_some();
                ensure!(
                    effect.version == entry.version,
                    "G7: {} is at version {} at {offset}, not {}",
                    set.key,
                    effect.version,
                    entry.version
                );
                let asked = set.value.as_ref().map(Json::value);
                let held = entry.holds.take().filter(|_| entry.live);
                entry.holds = match (set.op, held, asked) {
                    (None, _, asked) => asked,
                    (Some(memory::Op::Append), held, Some(Value::String(more))) => {
                        let text = held.as_ref().and_then(Value::as_str).unwrap_or_default();
                        Some(Value::String(text.to_owned() + &more))
                    }
                    (Some(_), held, _) => Some(json!(held.and_then(|held| held.as_i64()).unwrap_or(0) + 1)),
                };
                if let (true, Some(made)) = (is_op, &effect.value) {
                    ensure!(Some(made.value()) == entry.holds, "G8: {} holds something else at {offset}", set.key);
                }
                let kept = entry.ends.filter(|_| is_op && entry.live);
                #[expect(clippy::cast_possible_truncation, reason = "the simulation asks for a few seconds")]
                let ttl = set.ttl.map(|ttl| time + (ttl * 1e6).ceil() as i64);
                entry.ends = ttl.or(kept);
                (entry.live, entry.deleted) = (true, false);
                self.change(&set.key, offset, entry);
            }
            (Command::MemoryDelete(memory::Delete { key, .. }), Effect::MemoryDelete(ended)) => {
                self.emptied(key, offset, ended, time)?;
            }
            (Command::MemoryExpire(memory::Expire { key, .. }), Effect::MemoryExpire(ended)) => {
                tally.note("situation: expiry recorded by a timer");
                self.emptied(key, offset, ended, time)?;
            }
            _ => self.interest(event, offset),
        }
        Ok(())
    }

    fn emptied(&mut self, key: &str, offset: u64, ended: &memory::Ended, time: i64) -> Result<()> {
        let mut entry = self.entries.get(key).cloned().unwrap_or_default();
        ensure!(entry.live, "G7: {key} held nothing at {offset} (time {time}) and was emptied");
        entry.version += 1;
        ensure!(ended.version == entry.version, "G7: {key} ended at version {}, not {}", ended.version, entry.version);
        (entry.live, entry.ends, entry.deleted, entry.holds) = (false, None, true, None);
        self.change(key, offset, entry);
        Ok(())
    }

    fn change(&mut self, key: &str, offset: u64, entry: Entry) {
        self.changes.entry(key.to_owned()).or_default().push((offset, entry.clone()));
        self.entries.insert(key.to_owned(), entry);
    }

    fn interest(&mut self, event: &Event, offset: u64) {
        let Some(agent) = event.at.header.agent_id else { return };
        let topics = |tags: &[String], kinds: &[String]| -> Vec<Topic> {
            tags.iter().cloned().map(Topic::Tag).chain(kinds.iter().cloned().map(Topic::Kind)).collect()
        };
        let (add, topics) = match &event.command {
            Command::ActivitySubscribe(wanted) => (true, topics(&wanted.tags, &wanted.kinds)),
            Command::ActivityUnsubscribe(wanted) => (false, topics(&wanted.tags, &wanted.kinds)),
            Command::MemorySubscribe(wanted) => (true, vec![Topic::Pattern(wanted.pattern.clone())]),
            Command::MemoryUnsubscribe(wanted) => (false, vec![Topic::Pattern(wanted.pattern.clone())]),
            _ => return,
        };
        for topic in topics {
            if !add {
                self.end(agent, offset, |known| *known == topic);
                continue;
            }
            let spans = self.spans.entry(agent).or_default();
            if spans.iter().all(|span| span.topic != topic || span.until != u64::MAX) {
                spans.push(Span { topic, since: offset, until: u64::MAX });
            }
        }
    }

    fn end(&mut self, agent: AgentId, offset: u64, which: impl Fn(&Topic) -> bool) {
        for span in self.spans.entry(agent).or_default() {
            if span.until == u64::MAX && which(&span.topic) {
                span.until = offset;
            }
        }
    }

    fn show(&mut self, event: &Event, effect: &Effect, offset: u64) {
        let author = event.at.header.agent_id;
        let change = |change: &str, key: &str, version: u64| {
            let what = format!("memory/changed {key} {change} {version}");
            Shown { offset, what, change: Some((key.to_owned(), version)), whom: Whom::Watchers(key.to_owned()) }
        };
        let direct = |event: &str, message: MessageId, to: AgentId| {
            let what = format!("direct/{event} {message}");
            Shown { offset, what, change: None, whom: Whom::Agents(vec![to]) }
        };
        let shown = match (&event.command, effect) {
            (Command::ActivityBroadcast(sent), Effect::ActivityBroadcast(effect)) => {
                let whom = match (sent.scope, effect.to) {
                    (ActivityScope::Tagged, _) => {
                        Whom::Tagged { author, tags: sent.tags.clone(), kind: sent.kind.clone() }
                    }
                    (ActivityScope::Direct, Some(to)) => Whom::Agents(author.into_iter().chain([to]).collect()),
                    _ => Whom::All,
                };
                vec![Shown { offset, what: "activity/broadcast".to_owned(), change: None, whom }]
            }
            (Command::MemorySet(set), Effect::MemorySet(effect)) => {
                let made = if effect.created { "create" } else { "update" };
                let expired = effect.expired.map(|version| change("expire", &set.key, version));
                expired.into_iter().chain([change(made, &set.key, effect.version)]).collect()
            }
            (Command::MemoryDelete(gone), Effect::MemoryDelete(ended)) => {
                vec![change("delete", &gone.key, ended.version)]
            }
            (Command::MemoryExpire(gone), Effect::MemoryExpire(ended)) => {
                vec![change("expire", &gone.key, ended.version)]
            }
            (Command::DirectSend(_), Effect::DirectSend(effect)) => {
                let to_sender = |event: &str| author.map(|author| direct(event, effect.message, author));
                let mut shown: Vec<Shown> = match effect.status {
                    Status::Sent => Vec::new(),
                    Status::Queued => to_sender("queued").into_iter().collect(),
                    Status::MailboxFull => to_sender("failed").into_iter().collect(),
                };
                if effect.status != Status::MailboxFull {
                    self.messages.insert(effect.message, (offset, effect.to));
                    shown.push(direct("message", effect.message, effect.to));
                }
                shown
            }
            (Command::DirectDelivered(taken), Effect::DirectDelivered(effect)) => {
                self.delivered.push((taken.message, effect.to));
                vec![direct("delivered", taken.message, effect.from)]
            }
            (Command::DirectAck(taken), Effect::DirectAck(effect)) => {
                vec![direct("acked", taken.message_id, effect.from)]
            }
            (Command::DirectExpire(over), Effect::DirectExpire(effect)) => {
                over.status.and_then(|status| self.statuses.remove(&status));
                if effect.undelivered.is_some() {
                    self.expired.insert(format!("direct/message {}", over.message), offset);
                }
                effect.undelivered.iter().map(|lost| direct("failed", over.message, lost.from)).collect()
            }
            _ => Vec::new(),
        };
        if let (Effect::DirectDelivered(_) | Effect::DirectAck(_) | Effect::DirectExpire(_), Some(last)) =
            (effect, shown.last())
        {
            self.statuses.insert(event.at.header.command_id, (offset, last.what.clone()));
        }
        self.shown.extend(shown);
    }

    /// What an agent had to be shown after a place.
    pub fn for_agent(&self, agent: AgentId, after: Option<u64>) -> impl Iterator<Item = &Shown> {
        let spans = self.spans.get(&agent).map_or(&[][..], Vec::as_slice);
        let later = self.shown.partition_point(|shown| Some(shown.offset) <= after);
        self.shown[later..].iter().filter(move |shown| {
            let mut topics = spans
                .iter()
                .filter(|span| span.since < shown.offset && shown.offset <= span.until)
                .map(|span| &span.topic);
            match &shown.whom {
                Whom::All => true,
                Whom::Agents(agents) => agents.contains(&agent),
                Whom::Tagged { author, tags, kind } => {
                    *author == Some(agent)
                        || topics.any(|topic| match topic {
                            Topic::Tag(tag) => tags.contains(tag),
                            Topic::Kind(wanted) => wanted == kind,
                            Topic::Pattern(_) => false,
                        })
                }
                Whom::Watchers(key) => {
                    topics.any(|topic| matches!(topic, Topic::Pattern(pattern) if covers(pattern, key)))
                }
            }
        })
    }

    /// A key as it was after a place.
    pub fn entry_at(&self, key: &str, offset: u64) -> Option<&Entry> {
        let changes = self.changes.get(key)?;
        changes.iter().rev().find(|(at, _)| *at <= offset).map(|(_, entry)| entry)
    }

    /// Whether a key held nothing at some time after a place.
    pub fn ended_after(&self, key: &str, offset: u64) -> bool {
        self.changes.get(key).is_some_and(|changes| changes.iter().any(|(at, entry)| *at > offset && !entry.live))
    }

    /// The place before which nothing is known to have happened yet.
    pub fn began(&self, session: SessionId) -> Option<Offset> {
        self.started.get(&session).map(|offset| Offset(*offset))
    }
}

/// Whether one of the few patterns that are used means a key.
pub fn covers(pattern: &str, key: &str) -> bool {
    pattern == "**" || pattern == key || pattern.strip_suffix('*').is_some_and(|prefix| key.starts_with(prefix))
}
