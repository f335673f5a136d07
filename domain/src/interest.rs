//! Who wants what, and since when: subscriptions with the span of the log in which they were in force.

use serde::{Deserialize, Serialize};

use crate::{code::Refusal, glob, ids::AgentId, limits, position::Offset};

/// One thing an agent can subscribe to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Tagged activity that is routed by this tag.
    Tag(String),
    /// Tagged activity of this kind.
    Kind(String),
    /// Memory entries whose key matches.
    Memory(Watch),
}

/// What of a memory entry is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Watch {
    /// The glob.
    pub pattern: String,
    /// Creations and updates.
    pub sets: bool,
    /// Deletions and expiries.
    pub deletes: bool,
    /// Whether notices carry the value.
    pub values: bool,
}

impl Topic {
    /// Whether `other` replaces this one: the same tag, kind or pattern.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory(mine), Self::Memory(theirs)) => mine.pattern == theirs.pattern,
            _ => self == other,
        }
    }
}

/// A subscription and when it was in force: after `since`, up to and including `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub topic: Topic,
    /// The position of the subscribing command.
    pub since: Offset,
    /// The position of the command that ended it.
    pub until: Option<Offset>,
}

impl Span {
    fn covers(&self, offset: Offset) -> bool {
        self.since < offset && self.until.is_none_or(|until| offset <= until)
    }
}

/// How a command changes its agent's interest. Applying one twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterestChange {
    /// From now on also these.
    Add(Vec<Topic>),
    /// No longer these.
    Remove(Vec<Topic>),
    /// Nothing any more.
    Clear,
}

/// An agent's subscriptions, past ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Interest {
    spans: Vec<Span>,
}

impl Interest {
    /// What it is after a change at `offset`.
    pub fn change(&mut self, change: &InterestChange, offset: Offset) {
        match change {
            InterestChange::Add(topics) => topics.iter().for_each(|topic| self.add(topic, offset)),
            InterestChange::Remove(topics) => {
                self.end(offset, |span| topics.iter().any(|topic| span.topic.same(topic)));
            }
            InterestChange::Clear => self.end(offset, |_| true),
        }
        while self.spans.len() > limits::SPANS_MAX {
            let oldest = self.spans.iter().position(|span| span.until.is_some()).unwrap_or(0);
            self.spans.remove(oldest);
        }
    }

    /// The subscriptions in force for an event at `offset`.
    pub fn at(&self, offset: Offset) -> impl Iterator<Item = &Topic> {
        self.spans.iter().filter(move |span| span.covers(offset)).map(|span| &span.topic)
    }

    /// The subscriptions that have not ended.
    pub fn current(&self) -> impl Iterator<Item = &Topic> {
        self.spans.iter().filter(|span| span.until.is_none()).map(|span| &span.topic)
    }

    /// All spans, for stores that filter by them.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether `topics` more are allowed.
    ///
    /// # Errors
    /// `invalid_message` with `details.limit`.
    pub fn room_for(&self, topics: &[Topic], max: usize) -> Result<(), Refusal> {
        let again = |at: usize| topics[..at].iter().chain(self.current()).any(|known| known.same(&topics[at]));
        let more = (0..topics.len()).filter(|at| !again(*at)).count();
        if self.current().count() + more > max { Err(Refusal::over("subscriptions", max)) } else { Ok(()) }
    }

    fn add(&mut self, topic: &Topic, offset: Offset) {
        if self.spans.iter().any(|span| span.topic == *topic && (span.since >= offset || span.until.is_none())) {
            return;
        }
        self.end(offset, |span| span.topic.same(topic));
        self.spans.push(Span { topic: topic.clone(), since: offset, until: None });
    }

    fn end(&mut self, offset: Offset, mut which: impl FnMut(&Span) -> bool) {
        for span in &mut self.spans {
            if span.until.is_none() && span.since < offset && which(span) {
                span.until = Some(offset);
            }
        }
    }
}

/// What a presence frame says of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is here now.
    Joined,
    /// It is here and something about it is different.
    Changed,
    /// It is gone.
    Left,
}

/// Who is meant by a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everyone in the fleet.
    Fleet,
    /// Everyone who wants to see presence; the last frame about `about` counts. Nobody is told that it left itself.
    Presence {
        /// Whose presence it is.
        about: AgentId,
        /// What became of it.
        change: Presence,
    },
    /// The author and whoever subscribed to one of the tags or to the kind.
    Tagged {
        /// Routing tags.
        tags: Vec<String>,
        /// The activity kind.
        kind: String,
        /// The author.
        author: Option<AgentId>,
    },
    /// Only these agents.
    Agents(Vec<AgentId>),
    /// Whoever watches the memory key.
    Watchers {
        /// The key.
        key: String,
        /// Whether it is a deletion or an expiry.
        deletes: bool,
    },
}

/// How much an agent wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// The frame.
    Plain,
    /// The frame with the value in it.
    WithValue,
}

impl Audience {
    /// Whether `agent`, with its `interest`, is meant by an event at `offset`.
    pub fn wants(&self, agent: AgentId, interest: &Interest, offset: Offset) -> Option<Wanted> {
        let meant = match self {
            Self::Fleet => true,
            Self::Presence { about, change } => *about != agent || *change != Presence::Left,
            Self::Agents(agents) => agents.contains(&agent),
            Self::Tagged { tags, kind, author } => {
                *author == Some(agent) || interest.at(offset).any(|topic| routed(topic, tags, kind))
            }
            Self::Watchers { key, deletes } => {
                return interest.at(offset).filter_map(|topic| watched(topic, key, *deletes)).max();
            }
        };
        meant.then_some(Wanted::Plain)
    }
}

fn routed(topic: &Topic, tags: &[String], kind: &str) -> bool {
    match topic {
        Topic::Tag(tag) => tags.contains(tag),
        Topic::Kind(wanted) => wanted == kind,
        Topic::Memory(_) => false,
    }
}

/// Whether a subscription covers a change of `key`, and how much it wants to see.
pub fn watched(topic: &Topic, key: &str, deletes: bool) -> Option<Wanted> {
    let Topic::Memory(watch) = topic else { return None };
    let asked = if deletes { watch.deletes } else { watch.sets };
    let wanted = if watch.values { Wanted::WithValue } else { Wanted::Plain };
    (asked && glob::matches(&watch.pattern, key)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Topic {
        Topic::Tag(text.to_owned())
    }

    #[test]
    fn a_resume_sees_each_event_by_the_interest_of_its_time() {
        let mut interest = Interest::default();
        interest.change(&InterestChange::Add(vec![tag("devops")]), Offset(10));
        interest.change(&InterestChange::Remove(vec![tag("devops")]), Offset(50));
        interest.change(&InterestChange::Add(vec![tag("devops")]), Offset(60));
        let author = AgentId::from_bits(1);
        let audience =
            Audience::Tagged { tags: vec!["devops".to_owned()], kind: "alert".to_owned(), author: Some(author) };
        let reader = AgentId::from_bits(2);
        let seen = |offset| audience.wants(reader, &interest, Offset(offset)).is_some();
        assert_eq!([9, 10, 11, 50, 51, 60, 61].map(seen), [false, false, true, true, false, false, true]);
        assert!(audience.wants(author, &Interest::default(), Offset(1)).is_some());
    }

    #[test]
    fn applying_a_change_twice_changes_nothing() {
        let changes = [
            (InterestChange::Add(vec![tag("a")]), Offset(1)),
            (InterestChange::Remove(vec![tag("a")]), Offset(2)),
            (InterestChange::Add(vec![tag("a"), tag("b")]), Offset(3)),
        ];
        let mut once = Interest::default();
        for (change, at) in &changes {
            once.change(change, *at);
        }
        let mut twice = once.clone();
        for (change, at) in &changes {
            twice.change(change, *at);
        }
        assert_eq!(once, twice);
    }
}
