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
    fn everyone_is_meant_by_what_concerns_it() {
        let [author, reader] = [1, 2].map(AgentId::from_bits);
        let watch = |pattern: &str, sets, deletes, values| {
            Topic::Memory(Watch { pattern: pattern.to_owned(), sets, deletes, values })
        };
        let mut interest = Interest::default();
        let topics = vec![
            tag("ops"),
            Topic::Kind("alert".to_owned()),
            watch("set/*", true, false, false),
            watch("set/value", true, false, true),
            watch("gone", false, true, false),
        ];
        interest.change(&InterestChange::Add(topics), Offset(1));
        let wants = |audience: &Audience, agent| audience.wants(agent, &interest, Offset(2));
        assert_eq!(wants(&Audience::Fleet, reader), Some(Wanted::Plain));
        for (change, itself) in [(Presence::Joined, true), (Presence::Changed, true), (Presence::Left, false)] {
            let audience = Audience::Presence { about: author, change };
            assert_eq!(wants(&audience, author).is_some(), itself, "{change:?}");
            assert_eq!(wants(&audience, reader), Some(Wanted::Plain), "{change:?}");
        }
        let two = Audience::Agents(vec![author]);
        assert_eq!((wants(&two, author), wants(&two, reader)), (Some(Wanted::Plain), None));
        let tagged = |tags: &[&str], kind: &str| {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            wants(&Audience::Tagged { tags, kind: kind.to_owned(), author: Some(author) }, reader).is_some()
        };
        assert!(tagged(&["web", "ops"], "custom") && tagged(&["web"], "alert") && !tagged(&["web", "alert"], "ops"));
        let watched = |key: &str, deletes| wants(&Audience::Watchers { key: key.to_owned(), deletes }, reader);
        assert_eq!((watched("set/a", false), watched("set/a", true)), (Some(Wanted::Plain), None));
        assert_eq!(
            (watched("set/value", false), watched("gone", true)),
            (Some(Wanted::WithValue), Some(Wanted::Plain))
        );
        assert_eq!((watched("gone", false), watched("ops", false)), (None, None));
    }

    #[test]
    fn a_subscription_that_is_made_anew_replaces_the_old_one() {
        let watch = |values| Topic::Memory(Watch { pattern: "a".to_owned(), sets: true, deletes: true, values });
        let mut interest = Interest::default();
        interest.change(&InterestChange::Add(vec![watch(false), tag("a")]), Offset(1));
        interest.change(&InterestChange::Add(vec![watch(false)]), Offset(3));
        assert_eq!(interest.spans().len(), 2, "the very same goes on");
        interest.change(&InterestChange::Add(vec![watch(true)]), Offset(5));
        let spans: Vec<_> =
            interest.spans().iter().map(|span| (span.since.0, span.until.map(|until| until.0))).collect();
        assert_eq!(spans, [(1, Some(5)), (1, None), (5, None)]);
        assert_eq!(interest.at(Offset(5)).count(), 2, "the old one up to its end");
        interest.change(&InterestChange::Clear, Offset(5));
        assert_eq!(interest.current().count(), 1, "what began there does not end there");
        interest.change(&InterestChange::Clear, Offset(6));
        assert_eq!((interest.current().count(), interest.at(Offset(6)).count()), (0, 1));
    }

    #[test]
    fn what_has_ended_is_forgotten_first_and_only_beyond_the_bound() {
        let mut interest = Interest::default();
        interest.change(&InterestChange::Add(vec![tag("kept")]), Offset(0));
        let mut at = 0;
        let mut again = |interest: &mut Interest, times: usize| {
            for _ in 0..times {
                at += 2;
                interest.change(&InterestChange::Add(vec![tag("short")]), Offset(at));
                interest.change(&InterestChange::Remove(vec![tag("short")]), Offset(at + 1));
            }
        };
        again(&mut interest, limits::SPANS_MAX - 1);
        assert_eq!((interest.spans().len(), interest.spans()[1].since), (limits::SPANS_MAX, Offset(2)));
        again(&mut interest, 2);
        assert_eq!((interest.spans().len(), interest.spans()[1].since), (limits::SPANS_MAX, Offset(6)));
        assert!(interest.current().eq([&tag("kept")]));
    }

    #[test]
    fn there_is_room_for_so_many_and_the_same_counts_once() {
        let mut interest = Interest::default();
        interest.change(&InterestChange::Add(vec![tag("a"), tag("b")]), Offset(1));
        let room = |topics: &[Topic], max| interest.room_for(topics, max).map_err(|refusal| refusal.fact("limit"));
        assert_eq!((room(&[tag("c")], 3), room(&[tag("c"), tag("d")], 3)), (Ok(()), Err(3.into())));
        assert_eq!((room(&[tag("a"), tag("b")], 2), room(&[tag("c"), tag("c")], 3)), (Ok(()), Ok(())));
        assert_eq!((room(&[], 2), room(&[], 1)), (Ok(()), Err(1.into())));
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
