//! What this process projects: whatever the log says is its own, each partition with its timers.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _};
use ringforge_command_api::Gate;
use ringforge_domain::{
    catalog::Command,
    ids::{Scope, TenantId},
    position::Partition,
    projector::{self, Projector},
    row::State as _,
    schema,
};
use ringforge_ports::Services;
use ringforge_projectors::{
    Timers,
    checkpoint::{self, Plan},
    run, timers,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use tracing::{error, info, warn};

use crate::{
    bootstrap::{self, CATCH_UP},
    fatal::Fatal,
};

/// How soon a partition that cannot go on is looked at again: another build may have been put in our place meanwhile, or have
/// made good what was wrong.
const HALTED: Duration = Duration::from_secs(30);

/// How soon it is looked again whether what this build reads is known.
const DECLARE_EVERY: Duration = Duration::from_mins(5);
/// How long it may take to become so.
const DECLARE_WAIT: Duration = Duration::from_mins(5);
/// How soon is tried again what could not begin.
const AGAIN: Duration = Duration::from_secs(1);

/// How partitions are projected.
#[derive(Clone)]
pub struct Projects {
    /// The ports.
    pub services: Services,
    /// Hears how far each partition is.
    pub gate: Arc<Gate>,
    /// Told what must end the process.
    pub fatal: Fatal,
    /// Whether a partition that cannot go on ends the process: nobody else could go on with the others either.
    pub is_alone: bool,
    /// How checkpoints are taken, if they are.
    pub checkpoints: Option<Plan>,
    /// How many projectors each partition has. More than one shows that they do no harm.
    pub each: usize,
}

/// The projectors and timers of this process.
pub struct Projecting {
    end: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Projects {
    /// Starts.
    pub fn start(self) -> Projecting {
        let (end, told) = oneshot::channel();
        Projecting { end, ended: tokio::spawn(self.own(told)) }
    }

    /// Runs what is ours until it is told to end.
    async fn own(self, mut end: oneshot::Receiver<()>) {
        let mut owned = self.services.log.owned();
        let mut running: BTreeMap<Partition, JoinSet<()>> = BTreeMap::new();
        loop {
            let partitions = tokio::select! {
                biased;
                _ = &mut end => break,
                partitions = owned.next() => partitions,
            };
            let Some(partitions) = partitions else {
                self.fatal.fail("what this process is to project is not told any more: start again".to_owned());
                break;
            };
            info!(count = partitions.len(), partitions = ?numbers(&partitions), "what is projected here");
            running.retain(|partition, _| partitions.contains(partition));
            for partition in partitions {
                running.entry(partition).or_insert_with(|| self.run(partition));
            }
        }
        for mut roles in running.into_values() {
            roles.shutdown().await;
        }
    }

    fn run(&self, partition: Partition) -> JoinSet<()> {
        let mut roles = JoinSet::new();
        for _ in 0..self.each {
            roles.spawn(self.clone().project(partition));
        }
        roles.spawn(time(self.services.clone(), partition));
        if !self.is_alone {
            roles.spawn(declare(Arc::clone(&self.gate), partition));
        }
        if let Some(plan) = &self.checkpoints {
            roles.spawn(checkpoint::run(self.services.clone(), partition, plan.clone()));
        }
        roles
    }

    async fn project(self, partition: Partition) {
        loop {
            let gate = Arc::clone(&self.gate);
            let running = run::run(self.services.clone(), partition, |applied| gate.applied(partition, applied));
            let error = match AssertUnwindSafe(running).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked, which is our own bug".to_owned(),
            };
            error!(error, partition = partition.0, "the projector cannot go on");
            if self.is_alone {
                self.fatal.fail(format!("partition {} cannot be projected: {error}", partition.0));
                return;
            }
            tokio::time::sleep(HALTED).await;
        }
    }
}

impl Projecting {
    /// Ends them. Whatever they had begun is repeated or refused by whoever comes next.
    pub async fn end(self) {
        // They may have ended by themselves.
        let _ = self.end.send(());
        let _ = self.ended.await;
    }
}

/// Sees to it that gates know what this build reads, as long as it has the partition, so that they write nothing that it could not.
async fn declare(gate: Arc<Gate>, partition: Partition) {
    let services = gate.services();
    let declared = async || {
        let found = services.reads.load(Partition::DIRECTORY, &BTreeSet::from([Projector::key(partition)])).await?;
        if found.rows.iter().filter_map(Projector::of).any(|known| known.schemas == schema::newest()) {
            return anyhow::Ok(true);
        }
        let (number, schemas) = (i32::from(partition.0), i32::try_from(schema::newest())?);
        let declared = Command::ProjectorDeclared(projector::Declared { partition: number, schemas });
        let scope = Scope::directory(TenantId::NONE);
        let placed = gate.submit_internal(scope, Partition::DIRECTORY, None, declared).await;
        let placed = placed.map_err(|refusal| anyhow::anyhow!("write the directory: {}", refusal.message))?;
        bootstrap::applied(services, Partition::DIRECTORY, placed.next(), DECLARE_WAIT).await?;
        Ok(false)
    };
    loop {
        // What an older one had declared before us may be applied after us.
        let wait = declared().await.map(|is_known| if is_known { DECLARE_EVERY } else { AGAIN });
        let wait = wait.unwrap_or_else(|error| {
            warn!(error = format!("{error:#}"), partition = partition.0, "what is read here is not told yet");
            AGAIN
        });
        tokio::time::sleep(wait).await;
    }
}

/// Runs a partition's timers, once what others had submitted before is applied: it would be submitted again.
async fn time(services: Services, partition: Partition) {
    let caught_up = async || {
        let end = services.log.bounds(partition).await?.end;
        bootstrap::applied(&services, partition, end, CATCH_UP).await
    };
    while let Err(error) = caught_up().await {
        warn!(%error, partition = partition.0, "timers do not begin yet");
        tokio::time::sleep(AGAIN).await;
    }
    while AssertUnwindSafe(timers::run(Timers::new(services.clone(), partition))).catch_unwind().await.is_err() {
        error!(partition = partition.0, "timers panicked, which is our own bug");
        tokio::time::sleep(AGAIN).await;
    }
}

fn numbers(partitions: &BTreeSet<Partition>) -> Vec<u16> {
    partitions.iter().map(|partition| partition.0).collect()
}
