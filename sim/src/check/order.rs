//! G3, G4: one order for everyone, in which the commands of a connection stand as it sent them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::Case;
use crate::history::what;

/// G4: what a connection sent stands in the log in the order in which it was sent.
pub fn sessions(case: &Case<'_>) -> Result<()> {
    let mut last = BTreeMap::new();
    for (event, _) in case.logged.told.iter().filter(|(event, _)| event.at.scope() == case.scope()) {
        let header = &event.at.header;
        let (Some(session), Some(reference)) = (header.session_id, &header.reference) else { continue };
        if case.logged.late.contains(&event.at.position.offset) {
            continue;
        }
        let reference = reference.as_str().unwrap_or_default();
        let count: u64 = reference.split('.').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        let before = last.insert(session, count).unwrap_or(0);
        ensure!(before < count, "G4: {reference} stands in the log after number {before} of its session");
    }
    Ok(())
}

/// G3: whoever sees an event sees the same one at the same place.
pub fn ids(case: &Case<'_>) -> Result<()> {
    let mut ids = BTreeMap::new();
    for (_, _, link) in case.links() {
        for frame in &link.frames {
            let (Some(position), Some(what)) = (frame["position"].as_u64(), what(frame)) else { continue };
            let event_id = frame["event_id"].as_str().unwrap_or_default();
            let known = ids.entry((position, what)).or_insert(event_id);
            ensure!(*known == event_id, "G3: two observers have different ids of the event at {position}");
        }
    }
    Ok(())
}
