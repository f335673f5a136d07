//! G18: what waits for one connection is bounded.

use anyhow::{Result, ensure};
use ringforge_domain::limits::{Limits, OUTBOX_BYTES_MAX};

use super::Case;

/// Checks the queues of every connection.
pub fn check(case: &Case<'_>) -> Result<()> {
    for (agent, _, link) in case.links() {
        // One message may be larger than the bound, and then waits alone.
        let max =
            if agent.pages { OUTBOX_BYTES_MAX.max(2 * Limits::default().memory_value_bytes) } else { OUTBOX_BYTES_MAX };
        ensure!(link.waited <= max, "G18: {} bytes waited for {}, {max} are allowed", link.waited, agent.name);
    }
    Ok(())
}
