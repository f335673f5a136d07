//! Logs: JSON lines on stderr, what is shown decided by `RINGFORGE_LOG`. Never payloads, never keys.

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The environment variable with the filter, as `tracing` knows it: `info`, `warn,ringforge=debug`.
const VARIABLE: &str = "RINGFORGE_LOG";

/// Starts logging.
///
/// # Errors
/// The filter cannot be read.
pub fn start() -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).with_env_var(VARIABLE);
    let filter = filter.from_env().with_context(|| format!("{VARIABLE} is not a log filter; try `info`"))?;
    let json = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(json).try_init().context("logging was started twice")
}
