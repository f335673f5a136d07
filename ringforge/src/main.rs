//! The binary: one program, every role. Reads the command line, starts what was asked for, ends cleanly.

mod bootstrap;
mod config;
mod faults;
mod r#gen;
mod http;
mod lifecycle;
mod log;
mod ready;
mod telemetry;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// RingForge: shared consciousness for AI agent fleets.
///
/// Agents connect over WebSocket with an API key and have presence, activity, shared memory, direct messages, replay and
/// resume, all served from a durable log. `ringforge all` is everything in one process, with nothing else to install.
#[derive(Parser)]
#[command(name = "ringforge", version, about, long_about, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Everything in one process: durable log, read models, gate, edge (the default)
    All(All),
    /// Check or repair the log of a data directory while no server uses it
    #[command(subcommand)]
    Log(log::Task),
    /// Write schemas, goldens and the protocol reference from the catalogue
    #[command(hide = true)]
    Gen {
        /// The root of the source tree
        #[arg(default_value = ".")]
        root: PathBuf,
    },
}

/// Options of `all`.
#[derive(Args, Default)]
pub struct All {
    /// Where the log, the read models and the keys are kept [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Port to listen on; 0 picks a free one [default: 4000]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    bind: Option<IpAddr>,
    /// Tenants and fleets to create: `[[tenant]]` with `name` and `fleets`
    #[arg(long, value_name = "FILE.toml")]
    bootstrap: Option<PathBuf>,
    /// Settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one line of JSON instead of the readable block when ready
    #[arg(long)]
    json: bool,
    /// Start without demo agents (there are none yet)
    #[arg(long)]
    no_demo: bool,
}

#[expect(clippy::disallowed_methods, reason = "how long the start takes is told in the ready line")]
fn main() -> ExitCode {
    let started = Instant::now();
    let role = Cli::parse().role.unwrap_or_else(|| Role::All(All::default()));
    let done = match role {
        Role::Gen { root } => r#gen::run(&root),
        Role::Log(task) => log::run(&task),
        Role::All(options) => lifecycle::run_all(&options, started),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringforge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
