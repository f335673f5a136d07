//! Who projects what.

use std::collections::BTreeSet;

use futures_util::StreamExt;

use super::{Subject, fresh};
use crate::contract::{Failure, Outcome, soon};

/// Whoever listens alone is told to project everything; so is who listens after it.
pub async fn everything_is_owned(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let all: BTreeSet<_> = log.partitions().iter().collect();
    // Twice: who stops listening gives it up.
    for _ in 0..2 {
        let mut owned = log.owned();
        while soon("what is owned", owned.next()).await?.ok_or(Failure::broken("it ended"))? != all {}
    }
    Ok(())
}
