//! G3, G11: what one connection was shown is what its agent was to be shown, in order, without gap or double.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use ringforge_domain::ids::AgentId;
use serde_json::Value;

use super::Case;
use crate::{
    history::{Agent, Link, Resume, what},
    truth::{Shown, covers},
    vocabulary::commands::KEYS,
};

/// Checks one connection.
pub fn view(case: &Case<'_>, agent: &Agent, at: usize, link: &Link) -> Result<()> {
    let Some(session) = &link.session else { return Ok(()) };
    let session = session.parse().context("a session id")?;
    let began = case.truth.began(session).context("G2: a session that is not in the log")?.0;
    let after = resumed(link)?.or_else(|| began.checked_sub(1));
    let seen = Seen { case, agent, link, complete: agent.is_complete(at), after, began };
    seen.order()?;
    seen.shown()?;
    seen.snapshots()
}

/// After what the connection goes on, if it goes on.
fn resumed(link: &Link) -> Result<Option<u64>> {
    let resumed = link.frames.iter().find(|frame| frame["type"] == "system" && frame["event"] == "resumed");
    let recovered = resumed.map(|resumed| resumed["recovered"] == true);
    match (link.resume, recovered) {
        (Resume::Fresh, Some(_)) => bail!("G11: nobody asked for a resume: {resumed:?}"),
        (Resume::Forged, Some(true)) => bail!("G11: a forged event id was taken: {resumed:?}"),
        // What it went on after was forgotten: then it begins, and is told where.
        (Resume::After(position), Some(false)) => {
            ensure!(position < link.oldest, "G11: {position} is kept, and the resume was refused: {resumed:?}");
            Ok(None)
        }
        // Or not told yet: the mail comes first.
        (Resume::After(position), _) => Ok(Some(position)),
        (Resume::Fresh, None) | (Resume::Forged, _) => Ok(None),
    }
}

/// One connection, as its client saw it.
struct Seen<'a> {
    case: &'a Case<'a>,
    agent: &'a Agent,
    link: &'a Link,
    /// Whether the client was there to the end.
    complete: bool,
    after: Option<u64>,
    began: u64,
}

impl Seen<'_> {
    /// G3: what has a place comes in the order of the log.
    fn order(&self) -> Result<()> {
        let (mut last, mut mail) = (self.after, BTreeSet::new());
        for frame in &self.link.frames {
            let Some(position) =
                frame["position"].as_u64().filter(|_| frame["type"] != "memory" || frame["event"] != "synced")
            else {
                continue;
            };
            if frame["duplicate"] == true {
                continue;
            }
            if Some(position) <= self.after {
                let once = what(frame).is_none_or(|what| mail.insert((position, what)));
                ensure!(once, "G11: {frame} came twice");
                continue;
            }
            ensure!(Some(position) >= last, "G3: {frame} came after position {last:?}");
            last = Some(position);
        }
        Ok(())
    }

    /// G11: every visible event after where it began, once, in order.
    fn shown(&self) -> Result<()> {
        let truth = self.case.truth;
        let agent: AgentId = self.agent.diary.id.as_deref().unwrap_or_default().parse().context("an agent id")?;
        let mut expected = truth.for_agent(agent, self.after).peekable();
        for (at, frame) in self.link.frames.iter().enumerate() {
            let (Some(position), Some(what)) = (frame["position"].as_u64(), what(frame)) else { continue };
            // Sent to itself: it was told so, and may see it all the same.
            let failed = truth.expired.get(&what).filter(|_| frame["to"] != frame["from"]["agent_id"]);
            ensure!(
                failed.is_none_or(|failed| *failed > self.began),
                "{frame} came after its sender was told that it failed"
            );
            if Some(position) <= self.after {
                ensure!(frame["type"] == "direct", "G11: {frame} is older than {:?} and no mail", self.after);
                if frame["event"] == "message" {
                    self.case.tally.note("situation: mail delivered after an absence");
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
        if !self.complete {
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
        self.case.truth.expired.contains_key(&shown.what)
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
            for key in KEYS.iter().filter(|key| covers(pattern, key)) {
                self.in_place(key, at, entries.get(key).copied())?;
            }
            let later = |shown: &Shown| shown.offset > at && shown.change.is_some();
            if self.case.truth.shown.iter().any(later) && !entries.is_empty() {
                self.case.tally.note("situation: snapshot during writes");
            }
            entries.clear();
        }
        Ok(())
    }

    /// A key in a snapshot at a place.
    fn in_place(&self, key: &str, at: u64, entry: Option<&Value>) -> Result<()> {
        let (pages, truth) = (self.agent.pages, self.case.truth);
        let place =
            entry.and_then(|entry| entry["position"].as_u64()).filter(|_| pages).map_or(at, |place| place.max(at));
        match (truth.entry_at(key, place).filter(|entry| entry.live), entry) {
            (Some(truth), Some(entry)) => {
                ensure!(entry["version"] == truth.version, "G5: a snapshot at {at} shows {entry}, not {truth:?}");
            }
            (Some(known), None) => {
                let gone = known.ends.is_some() || (pages && truth.ended_after(key, at));
                ensure!(gone, "G5: a snapshot at {at} lacks {key}: {known:?}");
            }
            (None, Some(entry)) => bail!("G5: a snapshot at {at} shows {entry}, which is not there"),
            (None, None) => {}
        }
        Ok(())
    }
}
