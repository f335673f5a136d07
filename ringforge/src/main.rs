//! The binary: one program, every role. Reads the command line, starts what was asked for, ends cleanly.

use std::{process::ExitCode, time::Instant};

use clap::Parser as _;
use ringforge::{
    r#gen, lifecycle, log,
    options::{All, Cli, Role},
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
        Role::Log(task) => log::run(&task),
        Role::Topics(task) => topics::run(&task),
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
