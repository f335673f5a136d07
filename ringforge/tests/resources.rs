//! A server that is short of something, or is beset by those who take without giving: files, readers, memory, sockets. It
//! bends within its bounds, and whoever behaves is served.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "resources/crowd.rs"]
mod crowd;
#[path = "resources/deploy.rs"]
mod deploy;
#[path = "resources/memory.rs"]
mod memory;
#[path = "resources/open_files.rs"]
mod open_files;
#[path = "resources/process.rs"]
mod process;
#[allow(dead_code, reason = "made for another test")]
#[path = "sockets/raw.rs"]
mod raw;
#[path = "resources/stalled.rs"]
mod stalled;
#[path = "resources/storm.rs"]
mod storm;
#[path = "resources/strangers.rs"]
mod strangers;
#[path = "support.rs"]
mod support;

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, MutexGuard};

/// Says on the terminal what is not tested here; what tests print is not shown.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// One at a time: they measure.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Asks again and again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
