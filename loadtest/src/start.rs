//! From exec to ready, memory at rest, and the disk below: what bounds every durable ack.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use tokio::time::sleep;

use crate::{
    agent::{Hello, connect},
    figures::{Latencies, Report, micros, number, shown_spread},
    process::{Place, Server},
    quiet::{Meter, Rounds, rounds},
    wire::{Seen, watch},
};

/// Memory at rest is read this long after the server got ready.
const REST: Duration = Duration::from_secs(2);

/// `ringforge-load start`.
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// Binary to start.
    #[arg(long, value_name = "PATH")]
    server: PathBuf,
    #[command(flatten)]
    rounds: Rounds,
    /// What is shipped, to be stripped and weighed; else the binary that is started.
    #[arg(long, value_name = "PATH")]
    shipped: Option<PathBuf>,
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

/// Starts the server again and again, each time with a fresh data directory.
///
/// # Errors
/// It does not get ready.
pub async fn run(start: &Start) -> Result<Report> {
    let mut report = Report::new("Start, fresh data directory");
    let one = async |_| {
        let server = Server::ringforge(&start.server, &[2], &Place::default())?;
        let mut socket = connect(&server.doors(1)?[0], "load-0", &Hello::default()).await?;
        socket.send(watch(0, "load/*").as_bytes()).await?;
        loop {
            let text = String::from_utf8(socket.next().await?)?;
            let seen = Seen::read(&text).with_context(|| format!("read {text}"))?;
            ensure!(seen.kind != "error", "refused: {text}");
            if seen.is_ack() {
                break;
            }
        }
        let subscribed = server.begun.at.elapsed().as_secs_f64() * 1e3;
        sleep(REST).await;
        let noise = Meter::from_exec(&server).stop(&server)?.noise;
        let rss = number(server.rss()?) / 1e6;
        Ok(([subscribed, server.wall.as_secs_f64() * 1e3, server.ready.ready_ms, rss], noise))
    };
    let found = rounds(start.rounds, &mut report, one).await?;
    let column = |column: usize| found.iter().map(|row| row[column]).collect::<Vec<_>>();
    report.metric("subscribed_ms", "exec to first agent subscribed, ms", &column(0), 0);
    report.row("exec to ready line, ms", shown_spread(&column(1), 0));
    report.row("`ready_ms` of that line", shown_spread(&column(2), 0));
    report.metric("rss_mb", format!("RSS after {} s with one idle agent, MB", REST.as_secs()), &column(3), 1);
    let shipped = start.shipped.as_deref().unwrap_or(&start.server);
    report.metric("binary_mb", "stripped binary, MB", &[number(stripped(shipped)?) / 1e6], 1);
    Ok(report)
}

fn stripped(binary: &Path) -> Result<u64> {
    let folder = tempfile::tempdir().context("make a folder for the stripped binary")?;
    let out = folder.path().join("stripped");
    let output = Command::new("strip").arg("-o").arg(&out).arg(binary).output().context("run strip")?;
    ensure!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(out.metadata().context("weigh the stripped binary")?.len())
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
        latencies.record(micros(begun.elapsed()));
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
