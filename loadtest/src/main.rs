//! `ringforge-load`: measures a server from outside. Prints Markdown; ends with 1 if a check failed.

use std::{
    io::{Write, stdout},
    net::Ipv4Addr,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ringforge_loadtest::{
    bare, catch_up, fanout, figures::Report, idle, ingest, join, neighbour, peak, process::pin_client, query, reader,
    replay, start, storm, watch,
};
use serde_json::json;
use tokio::{net::TcpListener, runtime::Builder};

/// The product's allocator, so that the bare server is its ceiling in this as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a RingForge server over its public protocol: on 127.0.0.1, client on core 1, server on core 0.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The row of the results whose bars the run is judged by; may be given again.
    #[arg(long, global = true)]
    row: Vec<String>,
    /// Use any core: where roles run apart, nobody has one of his own.
    #[arg(long, global = true)]
    any_core: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum Measure {
    /// Start to ready, memory at rest.
    Start(start::Start),
    /// Write + fdatasync of this disk.
    Disk(start::Disk),
    /// Memory and CPU of agents that are connected and say nothing.
    Idle(idle::Idle),
    /// Open-loop fan-out, beside the bare server.
    Fanout(fanout::Fanout),
    /// Acknowledged commands a second.
    Ingest(ingest::Ingest),
    /// The most deliveries a second.
    Peak(peak::Peak),
    /// What agents feel of others.
    Neighbour(neighbour::Neighbour),
    /// Watchers of memory.
    Watch(watch::Watch),
    /// All agents come back at once.
    Storm(storm::Storm),
    /// Many agents join one fleet at once.
    Join(join::Join),
    /// What this client itself can take.
    Reader(reader::Reader),
    /// Few matching events of a long history.
    Replay(replay::Replay),
    /// Memory queries, and read models made anew.
    Query(query::Query),
    /// Projectors alone, on all that was written before.
    CatchUp(catch_up::CatchUp),
}

#[derive(Subcommand)]
enum What {
    #[command(flatten)]
    Measure(Box<Measure>),
    /// Be the bare fan-out server: no log, no JSON, ws://127.0.0.1:PORT/fleet/N.
    Bare {
        /// Port; 0 is any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Be a server that writes prepared messages as fast as they are taken.
    Flood {
        /// Bytes of each event's payload.
        #[arg(long, default_value_t = 256)]
        bytes: u32,
    },
}

fn main() -> ExitCode {
    let Arguments { row, any_core, what } = Arguments::parse();
    let result = match what {
        What::Bare { port } => serve(port, None).map(|()| true),
        What::Flood { bytes } => serve(0, Some(bytes)).map(|()| true),
        What::Measure(what) => measure(&what, any_core).and_then(|mut report| {
            for row in &row {
                report.judge(row);
            }
            write!(stdout(), "{report}").context("print the report")?;
            Ok(report.passed())
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ringforge-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(what: &Measure, any_core: bool) -> Result<Report> {
    if !any_core {
        pin_client()?;
    }
    // One thread: the client has one core.
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        match what {
            Measure::Start(start) => start::run(start).await,
            Measure::Disk(disk) => start::disk(disk),
            Measure::Idle(idle) => idle::run(idle).await,
            Measure::Fanout(fanout) => fanout::run(fanout).await,
            Measure::Ingest(ingest) => ingest::run(ingest).await,
            Measure::Peak(peak) => peak::run(peak).await,
            Measure::Neighbour(neighbour) => neighbour::run(neighbour).await,
            Measure::Watch(arguments) => watch::run(arguments).await,
            Measure::Storm(storm) => storm::run(storm).await,
            Measure::Join(join) => join::run(join).await,
            Measure::Reader(reader) => reader::run(reader).await,
            Measure::Replay(replay) => replay::run(replay).await,
            Measure::Query(query) => query::run(query).await,
            Measure::CatchUp(arguments) => catch_up::run(arguments).await,
        }
    })
}

/// Serves as the bare server, or as the one that only writes.
fn serve(port: u16, flood: Option<u32>) -> Result<()> {
    // The product's runtime.
    let runtime = Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("listen")?;
        let url = format!("ws://{}", listener.local_addr()?);
        let ready = json!({ "ready": true, "version": "bare", "ready_ms": 0, "ws_url": url });
        writeln!(stdout(), "{ready}").context("print the ready line")?;
        match flood {
            Some(bytes) => reader::serve(listener, bytes as usize).await,
            None => bare::serve(listener).await,
        }
    })
}
