//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// RingForge: shared consciousness for AI agent fleets.
///
/// Agents connect over WebSocket with an API key and have presence, activity, shared memory, direct messages, replay and
/// resume, all served from a durable log. `ringforge all` is everything in one process, with nothing else to install.
#[derive(Parser)]
#[command(name = "ringforge", version, about, long_about, verbatim_doc_comment)]
pub struct Cli {
    /// What to do; nothing said: `all`
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What one process can be.
#[derive(Subcommand)]
pub enum Role {
    /// Everything in one process: durable log, read models, gate, edge (the default)
    All(All),
    /// Check or repair the log of a data directory while no server uses it
    #[command(subcommand)]
    Log(LogTask),
    /// Write schemas, goldens and the protocol reference from the catalogue
    #[command(hide = true)]
    Gen {
        /// The root of the source tree
        #[arg(default_value = ".")]
        root: PathBuf,
    },
}

/// What to do with a log.
#[derive(Subcommand)]
pub enum LogTask {
    /// Read and verify every record; nothing is changed
    Check(Place),
    /// Cut a damaged log off where it stops being whole; the damaged files are kept beside it
    Repair(Place),
}

/// Where it is.
#[derive(Args)]
pub struct Place {
    /// The data directory [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Options of `all`.
#[derive(Args, Default)]
pub struct All {
    /// Where the log, the read models and the keys are kept [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Port to listen on; 0 picks a free one [default: 4000]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Tenants and fleets to create: `[[tenant]]` with `name` and `fleets`
    #[arg(long, value_name = "FILE.toml")]
    pub bootstrap: Option<PathBuf>,
    /// Settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one line of JSON instead of the readable block when ready
    #[arg(long)]
    pub json: bool,
    /// Start without demo agents (there are none yet)
    #[arg(long)]
    pub no_demo: bool,
}
