//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::role::Duty;

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
    /// Agents' sockets alone, with gate, answers and replay: any number of them on servers that all share
    Edge(Serve),
    /// Commands and admin writes over HTTP alone: any number of them
    CommandApi(All),
    /// Projectors and timers alone: they share the partitions among themselves
    Projectors(Serve),
    /// Answers over HTTP alone: any number of them
    QueryApi(Serve),
    /// Say whether the settings make sense; nothing is started
    CheckConfig(CheckConfig),
    /// Check or repair the log of a data directory while no server uses it
    #[command(subcommand)]
    Log(LogTask),
    /// Show the records that cannot be read; they have no effect, or their partition waits for a newer build
    Dlq(Dlq),
    /// Make the read models anew from checkpoints and log, beside those that are used
    Rebuild(Rebuild),
    /// Make or check the topics of a log in Kafka
    #[command(subcommand)]
    Topics(TopicsTask),
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

/// Which read models, and where.
#[derive(Args)]
pub struct Rebuild {
    /// Settings that differ from the defaults: `stores.log` and `stores.blobs` say what they are made of
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data directory, whether a server uses it or not [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// An empty database to make them in: `postgres://USER@HOST/DATABASE`, the whole list of them
    #[arg(long, value_name = "URL")]
    pub into: Option<String>,
}

/// Which records to look at.
#[derive(Args)]
pub struct Dlq {
    /// Settings that differ from the defaults: `stores.log` says where the log is
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data directory of a log in files [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Only this partition
    #[arg(long, value_name = "N")]
    pub partition: Option<u16>,
    /// Only from this offset on
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub from: u64,
    /// With their bytes, in hex
    #[arg(long)]
    pub bytes: bool,
}

/// What to do with topics.
#[derive(Subcommand)]
pub enum TopicsTask {
    /// Make what is missing: a log that is there keeps its life, and its pool may grow
    Create(Topics),
    /// Say what is wrong with the topics and the brokers' settings; nothing is changed
    Check(Topics),
}

/// Which topics, and how they should be.
#[derive(Args)]
pub struct Topics {
    /// Settings that differ from the defaults: `stores.log` says where the log is
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Partitions of the pool, which all fleets share
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..1 << 15))]
    pub partitions: u16,
    /// Topics that one fleet each has to itself
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1 << 15))]
    pub dedicated: u16,
    /// Brokers that keep each record
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub replication: u16,
    /// How many of them must have a record before it is acknowledged
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub min_insync: u16,
}

/// Options of whoever may create tenants.
#[derive(Args, Default)]
pub struct All {
    /// Like every other
    #[command(flatten)]
    pub serve: Serve,
    /// Tenants and fleets to create: `[[tenant]]`, on Kafka with `[[tenant.dedicated]]`
    #[arg(long, value_name = "FILE.toml")]
    pub bootstrap: Option<PathBuf>,
    /// Start without demo agents (there are none yet)
    #[arg(long)]
    pub no_demo: bool,
}

/// Which settings to check.
#[derive(Args)]
pub struct CheckConfig {
    /// Settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The role that they are for
    #[arg(long, value_name = "ROLE", default_value = "all")]
    pub role: Duty,
}

/// Options of every role.
#[derive(Args, Default)]
pub struct Serve {
    /// Where the log, the read models and the keys are kept [default: ./ringforge-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Port to listen on; 0 picks a free one [default: 4000]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one line of JSON instead of the readable block when ready
    #[arg(long)]
    pub json: bool,
}

impl All {
    /// Nothing is created.
    pub fn of(serve: Serve) -> Self {
        Self { serve, ..Self::default() }
    }
}
