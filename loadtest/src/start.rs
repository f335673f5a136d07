//! From exec to ready, memory at rest, and the disk below: what bounds every durable ack.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::value_parser;
use tokio::time::sleep;

use crate::{
    figures::{Latencies, Report, number, shown_spread},
    process::Server,
};

/// Memory at rest is read this long after the server got ready.
const REST: Duration = Duration::from_secs(2);

/// `ringforge-load start`.
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// Binary to start.
    #[arg(long, value_name = "PATH")]
    server: PathBuf,
    /// Starts, each with a fresh data directory.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    starts: u32,
}

/// `ringforge-load disk`.
#[derive(Clone, Debug, clap::Args)]
pub struct Disk {
    /// Folder to write in.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Writes of 4 KiB, each made durable.
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u32).range(1..=100_000))]
    writes: u32,
}

/// Starts the server again and again.
///
/// # Errors
/// It does not get ready.
pub async fn run(start: &Start) -> Result<Report> {
    let (mut walls, mut own, mut rss) = (Vec::new(), Vec::new(), Vec::new());
    let mut version = String::new();
    for _ in 0..start.starts {
        let server = Server::ringforge(&start.server, 2)?;
        walls.push(server.wall.as_secs_f64() * 1e3);
        own.push(server.ready.ready_ms);
        sleep(REST).await;
        rss.push(number(server.rss()?) / 1e6);
        version.clone_from(&server.ready.version);
    }
    let mut report = Report::new(format!("Start: {} times, fresh data directory", start.starts));
    report.row("server", version);
    report.row("**exec to ready line, ms**, median (range)", shown_spread(&walls, 0));
    report.row("`ready_ms` of that line, median (range)", shown_spread(&own, 0));
    report.row(format!("**RSS at rest after {} s, MB**, median (range)", REST.as_secs()), shown_spread(&rss, 1));
    Ok(report)
}

/// Writes and makes durable, again and again.
///
/// # Errors
/// The folder cannot be written.
pub fn disk(disk: &Disk) -> Result<Report> {
    let latencies = probe(disk.folder.as_deref(), disk.writes).context("probe the disk")?;
    let mut report = Report::new(format!("Disk: {} x 4 KiB, write + fdatasync", disk.writes));
    report.row("p50 / p99 / max", latencies);
    Ok(report)
}

fn probe(folder: Option<&Path>, writes: u32) -> Result<Latencies> {
    let folder = folder.map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let mut file = File::create(folder.path().join("probe"))?;
    let mut latencies = Latencies::default();
    for _ in 0..writes {
        let begun = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        latencies.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_timed() {
        assert_eq!(probe(None, 3).expect("a folder for temporary files").count(), 3);
    }
}
