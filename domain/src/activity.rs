//! Activity: what agents tell each other they are doing, to the whole fleet, by tag, or to one.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    act::{Act, Applied},
    code::Refusal,
    frame::{Frame, Shown},
    header::{At, Header},
    history::{Index, Stream},
    ids::AgentId,
    interest::{Audience, InterestChange, Topic},
    json::Json,
    limits::{Limits, SUBSCRIPTIONS_MAX},
    planted::unordered,
    presence::{self, own},
    row::{Needs, Row, Rows},
};

/// `type` of its frames.
const KIND: &str = "activity";

/// The kinds of activity that every fleet knows.
pub const KINDS: [&str; 8] =
    ["task_started", "task_progress", "task_completed", "task_failed", "discovery", "question", "alert", "custom"];

/// Whom an activity is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum ActivityScope {
    // Everyone in the fleet.
    #[default]
    Fleet,
    // Whoever subscribed to one of its routing tags.
    Tagged,
    // One agent.
    Direct,
}

/// `activity.broadcast`. The content stands in `event` or beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
#[serde(from = "Wire")]
pub struct Broadcast {
    /// Whom it is for.
    pub scope: ActivityScope,
    /// Routing tags.
    pub tags: Vec<String>,
    /// The agent, by id or name, for scope `direct`.
    pub to: Option<String>,
    /// `task_started`, `task_progress`, `task_completed`, `task_failed`, `discovery`, `question`, `alert` or `custom`.
    pub kind: String,
    /// For people.
    pub description: Option<String>,
    /// For programs.
    pub data: Option<Json>,
    /// About it.
    pub metadata: Option<Json>,
    /// Tags of the event itself.
    pub event_tags: Vec<String>,
}

/// Both forms in which a broadcast may come. Avro asks for the name of the record.
#[derive(Default, Deserialize)]
#[serde(default, rename = "Broadcast")]
struct Wire {
    scope: ActivityScope,
    tags: Vec<String>,
    to: Option<String>,
    event: Option<Content>,
    event_tags: Vec<String>,
    kind: String,
    description: Option<String>,
    data: Option<Json>,
    metadata: Option<Json>,
}

/// The nested form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    kind: String,
    description: Option<String>,
    data: Option<Json>,
    metadata: Option<Json>,
    tags: Vec<String>,
}

impl From<Wire> for Broadcast {
    fn from(wire: Wire) -> Self {
        let Wire { scope, tags, to, event, event_tags, kind, description, data, metadata } = wire;
        let flat = Content { kind, description, data, metadata, tags: event_tags };
        let Content { kind, description, data, metadata, tags: event_tags } = event.unwrap_or(flat);
        Self { scope, tags, to, kind, description, data, metadata, event_tags }
    }
}

impl Broadcast {
    /// The tags by which scope `tagged` finds its readers.
    fn routing(&self) -> &[String] {
        if self.tags.is_empty() { &self.event_tags } else { &self.tags }
    }

    /// The tags that readers see.
    fn shown_tags(&self) -> &[String] {
        if self.event_tags.is_empty() { &self.tags } else { &self.event_tags }
    }
}

/// What came of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastEffect {
    /// The author's name.
    pub name: Option<String>,
    /// The one it is for, in scope `direct`.
    pub to: Option<AgentId>,
}

impl Act for Broadcast {
    type Effect = BroadcastEffect;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        if !KINDS.contains(&self.kind.as_str()) {
            return Err(Refusal::invalid("kind", "`kind` is missing or not known.")
                .with("kinds", KINDS.to_vec())
                .fix("Use one of `details.kinds`; `custom` is for everything else."));
        }
        limits.tags("tags", &self.tags)?;
        limits.tags("event.tags", &self.event_tags)?;
        limits.text("description", self.description.as_ref(), limits.description_bytes)?;
        limits.metadata(self.metadata.as_ref())?;
        match self.scope {
            ActivityScope::Tagged if self.routing().is_empty() => {
                Err(Refusal::invalid("tags", "Scope `tagged` needs at least one tag."))
            }
            ActivityScope::Direct if self.to.is_none() => Err(Refusal::invalid("to", "Scope `direct` needs `to`.")),
            _ => limits.text("to", self.to.as_ref(), limits.name_bytes),
        }
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        if let (ActivityScope::Direct, Some(to)) = (self.scope, &self.to) {
            presence::needs_agent(at.scope(), to, needs);
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<BroadcastEffect>, Refusal> {
        let author = own(at, rows)?;
        let to = match (self.scope, &self.to) {
            (ActivityScope::Direct, Some(to)) => {
                let found = presence::resolve(at.scope(), to, rows);
                Some(found.ok_or_else(|| Refusal::not_found("There is no such agent in this fleet."))?.id)
            }
            _ => None,
        };
        let mut tags: Vec<String> = self.tags.iter().chain(&self.event_tags).cloned().collect();
        tags.sort();
        tags.dedup();
        unordered(&mut tags);
        let routing = if self.scope == ActivityScope::Tagged { self.routing().to_vec() } else { Vec::new() };
        let parties = to.map_or_else(Vec::new, |to| vec![author.id, to]);
        let index = Index {
            stream: Some(Stream::Activity),
            label: Some(self.kind.clone()),
            subject: None,
            tags,
            routing,
            parties,
        };
        Ok(Applied::new(BroadcastEffect { name: author.name.clone(), to }).indexed(index))
    }

    fn show(&self, at: &At, effect: &BroadcastEffect) -> Shown {
        let author = at.header.agent_id;
        let body = Told {
            from: Author { agent_id: author, name: effect.name.as_deref() },
            timestamp: at.time.rfc3339(),
            scope: self.scope,
            activity: Said {
                kind: &self.kind,
                description: self.description.as_deref(),
                tags: self.shown_tags(),
                data: self.data.as_ref(),
                metadata: self.metadata.as_ref(),
            },
            to: effect.to,
            tags: (self.scope == ActivityScope::Tagged).then(|| self.routing()),
            caused_by: at.header.caused_by.as_deref(),
        };
        let audience = match (self.scope, effect.to) {
            (ActivityScope::Tagged, _) => {
                Audience::Tagged { tags: self.routing().to_vec(), kind: self.kind.clone(), author }
            }
            (ActivityScope::Direct, Some(to)) => Audience::Agents(author.into_iter().chain([to]).collect()),
            _ => Audience::Fleet,
        };
        Shown::ack(KIND, "broadcast_ok", &()).push(audience, Frame::new(KIND, "broadcast", &body))
    }
}

/// The fields of a `broadcast` frame.
#[derive(Serialize)]
struct Told<'a> {
    from: Author<'a>,
    timestamp: String,
    scope: ActivityScope,
    activity: Said<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caused_by: Option<&'a str>,
}

/// Its author.
#[derive(Serialize)]
struct Author<'a> {
    agent_id: Option<AgentId>,
    name: Option<&'a str>,
}

/// Its content.
#[derive(Serialize)]
struct Said<'a> {
    kind: &'a str,
    description: Option<&'a str>,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Json>,
}

/// `activity.subscribe`: tagged activity with one of these tags, or of one of these kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Subscribe {
    /// Tags.
    pub tags: Vec<String>,
    /// Kinds.
    pub kinds: Vec<String>,
}

/// `activity.unsubscribe`: no longer these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Unsubscribe {
    /// Tags.
    pub tags: Vec<String>,
    /// Kinds.
    pub kinds: Vec<String>,
}

fn topics(tags: &[String], kinds: &[String]) -> Vec<Topic> {
    let tags = tags.iter().cloned().map(Topic::Tag);
    tags.chain(kinds.iter().cloned().map(Topic::Kind)).collect()
}

fn check_topics(limits: &Limits, tags: &[String], kinds: &[String]) -> Result<(), Refusal> {
    if tags.is_empty() && kinds.is_empty() {
        return Err(Refusal::invalid("tags", "Name at least one of `tags` or `kinds`."));
    }
    limits.tags("tags", tags)?;
    limits.tags("kinds", kinds)
}

impl Act for Subscribe {
    type Effect = ();
    const RENEWS: bool = true;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_topics(limits, &self.tags, &self.kinds)
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        interested(at, rows, &InterestChange::Add(topics(&self.tags, &self.kinds)))
    }

    fn show(&self, at: &At, (): &()) -> Shown {
        let change = InterestChange::Add(topics(&self.tags, &self.kinds));
        subscribed("subscribe_ok", at, &self.tags, &self.kinds, change)
    }
}

impl Act for Unsubscribe {
    type Effect = ();
    const RENEWS: bool = true;

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        check_topics(limits, &self.tags, &self.kinds)
    }

    fn needs(&self, _: &Header, _: &mut Needs<'_>) {}

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        interested(at, rows, &InterestChange::Remove(topics(&self.tags, &self.kinds)))
    }

    fn show(&self, at: &At, (): &()) -> Shown {
        let change = InterestChange::Remove(topics(&self.tags, &self.kinds));
        subscribed("unsubscribe_ok", at, &self.tags, &self.kinds, change)
    }
}

fn subscribed(event: &'static str, at: &At, tags: &[String], kinds: &[String], change: InterestChange) -> Shown {
    let mut shown = Shown::ack(KIND, event, &json!({ "tags": tags, "kinds": kinds }));
    shown.interest = at.header.agent_id.map(|agent| (agent, change));
    shown
}

/// The asker's row after a change of its interest.
pub(crate) fn interested(at: &At, rows: &Rows, change: &InterestChange) -> Result<Applied<()>, Refusal> {
    let mut agent = own(at, rows)?.clone();
    if let InterestChange::Add(topics) = change {
        agent.interest.room_for(topics, SUBSCRIPTIONS_MAX)?;
    }
    agent.interest.change(change, at.position.offset);
    Ok(Applied::new(()).row(Row::Agent(Box::new(agent))))
}

#[cfg(test)]
mod tests;
