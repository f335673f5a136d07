//! `ringforge log`: what is whole of the log in a data directory, and a log made of that. No server may use it meanwhile.

use std::{io::Write as _, path::Path};

use anyhow::{Context as _, bail};
use ringforge_adapters::log::embedded::{
    OpenError,
    repair::{Checked, check, repair},
};
use ringforge_ports::names;

use crate::{
    config::Config,
    options::{LogTask, Serve},
    stores::{PARTITIONS, remedy},
};

/// Does it, and tells on stdout what was found.
///
/// # Errors
/// There is no log, a server uses it, nothing of it is whole; `check`: it is damaged.
pub fn run(task: &LogTask) -> anyhow::Result<()> {
    let (LogTask::Check(place) | LogTask::Repair(place)) = task;
    let config = Config::load(&Serve { data: place.data.clone(), ..Serve::default() })?;
    let data = &config.server.data;
    let path = data.join(names::LOG_FILE);
    let explained = |error| explain(error, data);
    match task {
        LogTask::Check(_) => {
            let found = check(&path, PARTITIONS).map_err(explained)?;
            say(&found)?;
            if !found.is_whole() {
                bail!("the log in {} is damaged. {}", data.display(), remedy(data));
            }
        }
        LogTask::Repair(_) => {
            let (found, aside) = repair(&path, PARTITIONS).map_err(explained)?;
            say(&found)?;
            let mut out = std::io::stdout().lock();
            match aside {
                None => writeln!(out, "nothing is damaged, nothing was changed")?,
                Some(aside) => writeln!(out, "only that is kept; the damaged files are now {}*", aside.display())?,
            }
        }
    }
    Ok(())
}

fn explain(error: OpenError, data: &Path) -> anyhow::Error {
    match error {
        OpenError::Locked { .. } => anyhow::anyhow!("a server uses {}: end it first", data.display()),
        OpenError::Damaged { what } => anyhow::anyhow!(
            "nothing of the log in {} can be kept: {what}. Restore {} from a backup, or start with another --data",
            data.display(),
            data.join(names::LOG_FILE).display()
        ),
        other => anyhow::Error::new(other).context(format!("cannot read the log in {}", data.display())),
    }
}

fn say(found: &Checked) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for whole in &found.partitions {
        let count = whole.end.0 - whole.oldest.0;
        write!(out, "partition {}: {count} records are whole, up to offset {}", whole.partition.0, whole.end.0)?;
        match &whole.damage {
            None => writeln!(out)?,
            Some(damage) => writeln!(out, "; there {} are lost or come after what is: {damage}", whole.lost)?,
        }
    }
    for damage in &found.besides {
        writeln!(out, "besides: {damage}")?;
    }
    out.flush().context("say what was found")
}
