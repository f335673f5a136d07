//! The binary: one program, every role. Reads the command line, starts what was asked for, ends cleanly.

use std::{process::ExitCode, time::Instant};

use clap::Parser as _;
use ringforge::{
    config, dlq, r#gen, lifecycle, log,
    options::{All, Cli, Role},
    rebuild,
    role::Duty,
    topics,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::disallowed_methods, reason = "how long the start takes is told in the ready line")]
fn main() -> ExitCode {
    let started = Instant::now();
    let role = Cli::parse().role.unwrap_or_else(|| Role::All(All::default()));
    let done = match role {
        Role::Gen { root } => r#gen::run(&root),
        Role::Dlq(which) => dlq::run(&which),
        Role::Log(task) => log::run(&task),
        Role::Rebuild(which) => rebuild::run(&which),
        Role::Topics(task) => topics::run(&task),
        Role::CheckConfig(which) => config::check(&which),
        Role::All(options) => lifecycle::run(Duty::All, &options, started),
        Role::CommandApi(options) => lifecycle::run(Duty::CommandApi, &options, started),
        Role::Edge(serve) => lifecycle::run(Duty::Edge, &All::of(serve), started),
        Role::Projectors(serve) => lifecycle::run(Duty::Projectors, &All::of(serve), started),
        Role::QueryApi(serve) => lifecycle::run(Duty::QueryApi, &All::of(serve), started),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringforge: {error:#}");
            ExitCode::FAILURE
        }
    }
}
