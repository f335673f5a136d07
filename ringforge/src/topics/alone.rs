//! In the place of `ringforge topics`, in a build without a client for Kafka.

use anyhow::bail;

use crate::options::TopicsTask;

/// Says so.
///
/// # Errors
/// Always.
pub fn run(_: &TopicsTask) -> anyhow::Result<()> {
    bail!("this build has no client for Kafka; build it with `--features cluster`")
}
