//! The guarantees, checked over everything that was written, read, sent and answered. Each failure names its guarantee.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use ringforge_domain::{
    event::Event,
    ids::{AgentId, MessageId},
    presence::Agent,
    row::{self, Row, RowKey, State},
    verdict::Verdict,
};
use ringforge_ports::reads::{Reads, Which, every_row};
use serde_json::Value;

use crate::{
    client::{Phase, Sent, what},
    faulty::now,
    offline::Offline,
    roster::Roster,
    truth::{Shown, Told, Truth, covers},
    world::{Home, Link, PARTITIONS, World},
};

/// Checks a world that has come to rest.
///
/// # Errors
/// A guarantee is broken: which, and where.
pub fn check(world: &World) -> Result<()> {
    let mut folds = BTreeMap::new();
    for partition in PARTITIONS {
        folds.insert(partition, Offline::fold(&*world.journal, partition));
    }
    for (partition, offline) in &folds {
        same_state(world, *partition, offline)?;
    }
    for (number, home) in world.homes.iter().enumerate() {
        let told = &folds[&home.partition].told;
        let truth = Truth::of(home.scope, told, &world.tally)?;
        session_order(world, home, told)?;
        let mut ids = BTreeMap::new();
        for (at, link) in world.links.iter().enumerate().filter(|(_, link)| world.clients[link.client].fleet == number)
        {
            let checked = Seen { world, truth: &truth, link, at }.check(&mut ids);
            let client = &world.clients[link.client];
            checked.with_context(|| {
                format!("connection {at} of {} (presence {}){}", client.name, client.presence, story(link))
            })?;
        }
        answers(world, number, &truth)?;
        mail(world, number, &truth, &folds[&home.partition])?;
        presence(world, number, &folds[&home.partition])?;
        onlookers(world, number, &folds[&home.partition])?;
    }
    Ok(())
}

/// G10: the read model is the fold of the log, row by row and verdict by verdict.
fn same_state(world: &World, partition: ringforge_domain::position::Partition, offline: &Offline) -> Result<()> {
    let reads: Arc<dyn Reads> = Arc::new(world.store.current());
    let (rows, applied) = now(every_row(&reads, partition))?;
    let digest = row::digest(&rows, applied.upto);
    let end = offline
        .told
        .last()
        .map_or(ringforge_domain::position::Offset::ZERO, |(event, _)| event.at.position.offset.next());
    if digest != row::digest(offline.store.rows.values(), end) {
        let stored: BTreeMap<_, &Row> = rows.iter().map(|row| (row.key(), row)).collect();
        let other = offline.store.rows.iter().find(|(key, row)| stored.get(key) != Some(row));
        let more = rows.iter().find(|row| !offline.store.rows.contains_key(&row.key()));
        let stored = other.map(|(key, _)| stored.get(key));
        bail!(
            "G10: partition {partition:?} applied {applied:?} of {end:?}: fold {other:?}, stored {stored:?}, more {more:?}"
        );
    }
    for home in world.homes.iter().filter(|home| home.partition == partition) {
        let mut stored: Vec<Verdict> = Vec::new();
        loop {
            let after = stored.last().map(|verdict| verdict.position.offset);
            let which = Which::After { after, limit: u32::MAX };
            let page = now(reads.verdicts(partition, home.scope, &which))?;
            stored.extend(page.verdicts);
            if page.rest.is_empty() {
                break;
            }
        }
        let folded = offline.told.iter().map(|(_, verdict)| verdict).filter(|verdict| verdict.scope == home.scope);
        ensure!(stored.iter().eq(folded), "G10: the verdicts of partition {partition:?} are not those of the fold");
    }
    Ok(())
}

/// G4: what a connection sent stands in the log in the order in which it was sent.
fn session_order(world: &World, home: &Home, told: &[(Event, Verdict)]) -> Result<()> {
    let mut last = BTreeMap::new();
    for (event, _) in told.iter().filter(|(event, _)| event.at.scope() == home.scope) {
        let header = &event.at.header;
        let (Some(session), Some(reference)) = (header.session_id, &header.reference) else { continue };
        let position = event.at.position;
        if world.journal.came_late(position.partition, position.offset) {
            continue;
        }
        let reference = reference.as_str().unwrap_or_default();
        let count: u64 = reference.split('.').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        let before = last.insert(session, count).unwrap_or(0);
        ensure!(before < count, "G4: {reference} stands in the log after number {before} of its session");
    }
    Ok(())
}

/// What a client read, for people.
fn story(link: &Link) -> String {
    let mut text = format!(", resumes after {:?}:\n", link.resume);
    for frame in &link.frames {
        let field = |name: &str| frame[name].as_str().unwrap_or("").to_owned();
        let detail = [field("ref"), field("key"), field("change"), field("message_id"), field("code")].join(" ");
        let place = &frame["position"];
        writeln!(text, "  {place} {}/{} {detail}", field("type"), field("event"))
            .expect("writing to a String cannot fail");
    }
    text
}

/// One connection, as its client saw it.
struct Seen<'a> {
    world: &'a World,
    truth: &'a Truth,
    link: &'a Link,
    at: usize,
}

impl Seen<'_> {
    /// Whether the client was there to the end.
    fn complete(&self) -> bool {
        let client = &self.world.clients[self.link.client];
        client.link == Some(self.at) && client.phase == Phase::Inside && self.link.socket.is_some()
    }

    fn check(&self, ids: &mut BTreeMap<(u64, String), String>) -> Result<()> {
        let Some(session) = &self.link.session else { return Ok(()) };
        let session = session.parse().context("a session id")?;
        let began = self.truth.began(session).context("G2: a session that is not in the log")?.0;
        let resumed = self.link.frames.iter().find(|frame| frame["type"] == "system" && frame["event"] == "resumed");
        if let (Some(_), Some(resumed)) = (self.link.resume, resumed) {
            ensure!(resumed["recovered"] == true, "G11: nothing was trimmed, and the resume was refused: {resumed}");
        }
        let after = self.link.resume.map_or_else(|| began.checked_sub(1), Some);
        self.order(after)?;
        for frame in &self.link.frames {
            let (Some(position), Some(what)) = (frame["position"].as_u64(), what(frame)) else { continue };
            let event_id = frame["event_id"].as_str().unwrap_or_default();
            let known = ids.entry((position, what)).or_insert_with(|| event_id.to_owned());
            ensure!(known == event_id, "G3: two observers have different ids of the event at {position}");
        }
        self.view(after, began)?;
        self.snapshots()
    }

    /// G3: what has a place comes in the order of the log.
    fn order(&self, after: Option<u64>) -> Result<()> {
        let mut last = after;
        for frame in &self.link.frames {
            let Some(position) =
                frame["position"].as_u64().filter(|_| frame["type"] != "memory" || frame["event"] != "synced")
            else {
                continue;
            };
            if frame["duplicate"] == true || Some(position) <= after {
                continue;
            }
            ensure!(Some(position) >= last, "G3: {frame} came after position {last:?}");
            last = Some(position);
        }
        Ok(())
    }

    /// G11: every visible event after where it began, once, in order.
    fn view(&self, after: Option<u64>, began: u64) -> Result<()> {
        let client = &self.world.clients[self.link.client];
        let agent: AgentId = client.agent.as_deref().unwrap_or_default().parse().context("an agent id")?;
        let mut expected = self.truth.for_agent(agent, after).peekable();
        for (at, frame) in self.link.frames.iter().enumerate() {
            let (Some(position), Some(what)) = (frame["position"].as_u64(), what(frame)) else { continue };
            // Sent to itself: it was told so, and may see it all the same.
            let failed = self.truth.expired.get(&what).filter(|_| frame["to"] != frame["from"]["agent_id"]);
            ensure!(
                failed.is_none_or(|failed| *failed > began),
                "{frame} came after its sender was told that it failed"
            );
            if Some(position) <= after {
                ensure!(frame["type"] == "direct", "G11: {frame} is older than {after:?} and no mail");
                if frame["event"] == "message" {
                    self.world.tally.note("situation: mail delivered after an absence");
                }
                continue;
            }
            loop {
                let Some(next) = expected.next() else {
                    bail!("G11: {frame} is not for this agent, or came twice or too late");
                };
                if next.offset == position && next.what == what {
                    break;
                }
                ensure!(
                    self.in_snapshot(next, at) || self.expired(next),
                    "G11: {} at {} is missing before {what} at {position}",
                    next.what,
                    next.offset
                );
            }
        }
        if !self.complete() {
            return Ok(());
        }
        for rest in expected {
            let excused = self.in_snapshot(rest, self.link.frames.len()) || self.expired(rest);
            ensure!(excused, "G11: {} at {} is missing at the end", rest.what, rest.offset);
        }
        Ok(())
    }

    /// Whether it is a message whose sender was told that its time was over: history leaves it out.
    fn expired(&self, shown: &Shown) -> bool {
        self.truth.expired.contains_key(&shown.what)
    }

    /// Whether a snapshot, read before the frame `until`, stands for a change.
    fn in_snapshot(&self, shown: &Shown, until: usize) -> bool {
        let Some((key, version)) = &shown.change else { return false };
        self.link.frames[..until].iter().any(|frame| {
            let entry = &frame["entry"];
            let pattern = frame["pattern"].as_str().unwrap_or_default();
            let synced = frame["event"] == "synced" && covers(pattern, key);
            (frame["snapshot"] == true && entry["key"] == key.as_str() && entry["version"].as_u64() >= Some(*version))
                || (synced && frame["position"].as_u64() >= Some(shown.offset))
        })
    }

    /// A snapshot shows what was there at the place it names, or later if it took several pages.
    fn snapshots(&self) -> Result<()> {
        let mut entries: BTreeMap<&str, &Value> = BTreeMap::new();
        for frame in &self.link.frames {
            if frame["snapshot"] == true {
                entries.insert(frame["entry"]["key"].as_str().unwrap_or_default(), &frame["entry"]);
            }
            if frame["event"] != "synced" {
                continue;
            }
            let (pattern, at) =
                (frame["pattern"].as_str().unwrap_or_default(), frame["position"].as_u64().unwrap_or(0));
            for key in crate::client::KEYS.iter().filter(|key| covers(pattern, key)) {
                self.in_place(key, at, entries.get(key).copied())?;
            }
            if self.truth.shown.iter().any(|shown| shown.offset > at && shown.change.is_some()) && !entries.is_empty() {
                self.world.tally.note("situation: snapshot during writes");
            }
            entries.clear();
        }
        Ok(())
    }

    /// A key in a snapshot at a place.
    fn in_place(&self, key: &str, at: u64, entry: Option<&Value>) -> Result<()> {
        let pages = self.world.clients[self.link.client].heavy;
        let place =
            entry.and_then(|entry| entry["position"].as_u64()).filter(|_| pages).map_or(at, |place| place.max(at));
        match (self.truth.entry_at(key, place).filter(|entry| entry.live), entry) {
            (Some(truth), Some(entry)) => {
                ensure!(entry["version"] == truth.version, "a snapshot at {at} shows {entry}, not {truth:?}");
            }
            (Some(truth), None) => {
                let gone = truth.ends.is_some() || (pages && self.truth.ended_after(key, at));
                ensure!(gone, "a snapshot at {at} lacks {key}: {truth:?}");
            }
            (None, Some(entry)) => bail!("a snapshot at {at} shows {entry}, which is not there"),
            (None, None) => {}
        }
        Ok(())
    }
}

/// G2, G12: every answer is what the log says, and what was refused for good never took effect.
fn answers(world: &World, fleet: usize, truth: &Truth) -> Result<()> {
    for sent in world.sent.iter().filter(|sent| world.clients[sent.client].fleet == fleet) {
        let reference = &sent.reference;
        let told = truth.told.get(reference);
        let link = &world.links[sent.link];
        if let Some(told) = told {
            let agent = world.clients[sent.client].agent.as_deref();
            ensure!(told.agent.map(|id| id.to_string()).as_deref() == agent, "G2: {reference} has another author");
            let session = told.session.map(|id| id.to_string());
            ensure!(session == link.session, "G2: {reference} has another session");
        }
        if let Some(answer) = &sent.answer {
            answered(sent, answer, told)?;
        } else {
            let complete = Seen { world, truth, link, at: sent.link }.complete();
            ensure!(!complete, "{reference} was never answered: {}", sent.body);
        }
    }
    Ok(())
}

fn answered(sent: &Sent, answer: &Value, told: Option<&Told>) -> Result<()> {
    let reference = &sent.reference;
    let error = answer["type"] == "error";
    if error && answer["outcome"] == "none" {
        ensure!(told.is_none_or(|told| !told.applied), "G2: {reference} took effect and was told {answer}");
    }
    if let Some(position) = answer["position"].as_u64().filter(|_| answer["event"] != "synced") {
        let told = told.with_context(|| format!("G2: {reference} is not in the log and was told {answer}"))?;
        ensure!(told.offset == position, "G12: {reference} was decided at {} and told {answer}", told.offset);
        ensure!(told.applied != error, "G2: {reference} was told {answer}");
    }
    Ok(())
}

/// A message is said to be delivered only once it was written, and reaches whoever is there to take it.
fn mail(world: &World, fleet: usize, truth: &Truth, offline: &Offline) -> Result<()> {
    let mut written: BTreeMap<MessageId, Vec<usize>> = BTreeMap::new();
    for link in world.links.iter().filter(|link| world.clients[link.client].fleet == fleet) {
        for text in link.written.iter().filter(|text| text.contains("\"event\":\"message\"")) {
            let frame = crate::client::flat(text);
            if let Some(message) = frame["message_id"].as_str().and_then(|id| id.parse().ok()) {
                written.entry(message).or_default().push(link.client);
            }
        }
    }
    let id_of = |client: usize| world.clients[client].agent.as_deref().and_then(|id| id.parse::<AgentId>().ok());
    for (message, clients) in &written {
        let to = truth.messages.get(message).with_context(|| format!("{message} was never sent"))?.1;
        ensure!(clients.iter().all(|client| id_of(*client).is_none_or(|id| id == to)), "{message} reached a stranger");
    }
    for (message, to) in &truth.delivered {
        ensure!(written.contains_key(message), "{message} for {to} is said to be delivered and was never written");
    }
    for row in offline.store.rows.values() {
        let Row::Message(message) = row else { continue };
        let there = world.clients.iter().any(|client| {
            client.fleet == fleet && client.phase == Phase::Inside && id_of(client.number) == Some(message.to)
        });
        if there && world.homes[fleet].scope == message.scope && !message.delivered {
            ensure!(written.contains_key(&message.id), "{} waits for an agent that is there", message.id);
        }
    }
    statuses(world, fleet, truth, offline)
}

/// What became of a message was written to its sender, or is kept for it.
fn statuses(world: &World, fleet: usize, truth: &Truth, offline: &Offline) -> Result<()> {
    let links = world.links.iter().filter(|link| world.clients[link.client].fleet == fleet);
    let texts: Vec<&String> = links.flat_map(|link| &link.written).filter(|text| text.contains("\"direct\"")).collect();
    // Whoever acknowledges a message to itself is told by the ack: a resume after it does not show the event again.
    let acks: BTreeSet<u64> = texts
        .iter()
        .filter(|text| text.contains("\"ack_ok\""))
        .filter_map(|text| crate::client::flat(text)["position"].as_u64())
        .collect();
    let told = |text: &&String| {
        let frame = crate::client::flat(text);
        Some((frame["position"].as_u64()?, what(&frame)?))
    };
    let written: BTreeSet<(u64, String)> = texts.iter().filter_map(told).collect();
    for (command, status) in &truth.statuses {
        let kept = offline.store.rows.contains_key(&RowKey::notice(world.homes[fleet].scope, *command));
        let told = written.contains(status) || (status.1.starts_with("direct/acked") && acks.contains(&status.0));
        ensure!(kept || told, "{status:?} is lost: it was not written and is not kept");
    }
    Ok(())
}

/// In the end an agent is in if, and only if, its connection is.
fn presence(world: &World, fleet: usize, offline: &Offline) -> Result<()> {
    for agent in offline.store.rows.values().filter_map(Agent::of) {
        if agent.scope != world.homes[fleet].scope {
            continue;
        }
        let known =
            world.clients.iter().find(|client| client.fleet == fleet && Some(&client.name) == agent.name.as_ref());
        let client = known.with_context(|| format!("G2: nobody is {:?}", agent.name))?;
        let link = client.link.filter(|_| client.phase == Phase::Inside).map(|link| &world.links[link]);
        let session = agent.session.as_ref().map(|session| session.id.to_string());
        ensure!(
            session == link.and_then(|link| link.session.clone()),
            "G15: {} is {:?} with session {session:?} of connection {:?}, its client {:?}",
            client.name,
            agent.state,
            world.links.iter().position(|link| link.session.is_some() && link.session == session),
            client.phase
        );
    }
    Ok(())
}

/// In the end whoever looks on knows what is so, whatever was held back from it, dropped or lost on the way.
fn onlookers(world: &World, fleet: usize, offline: &Offline) -> Result<()> {
    for client in world.clients.iter().filter(|client| client.fleet == fleet && client.phase == Phase::Inside) {
        let Some(link) = client.link.map(|at| &world.links[at]) else { continue };
        let (Some(socket), Some(told)) = (&link.socket, looked_on(client.presence)) else { continue };
        let agents = offline.store.rows.values().filter_map(Agent::of);
        let agents = agents.filter(|agent| agent.scope == world.homes[fleet].scope);
        let checked = Roster::of(&link.frames).check(agents);
        checked
            .with_context(|| format!("presence ({}) as {} knows it{}", client.presence, client.name, story(link)))?;
        world.tally.note(told);
        if socket.has_lagged {
            world.tally.note("situation: final presence after a lag");
        }
    }
    Ok(())
}

/// How a final presence is counted, if one is told.
fn looked_on(presence: &str) -> Option<&'static str> {
    match presence {
        "each" => Some("situation: final presence after each change"),
        "delta" => Some("situation: final presence after deltas"),
        _ => None,
    }
}
