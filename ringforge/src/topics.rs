//! `ringforge topics`: the topics of a log in Kafka, made and checked.

use std::io::Write as _;

use anyhow::{Context as _, bail};
use ringforge_adapters::log::kafka::{Cluster, Shape, check, create};
use ringforge_domain::position::Generation;
use ringforge_ports::clock::{Ids as _, SystemIds};

use crate::{
    config::Config,
    options::{Serve, Topics, TopicsTask},
};

/// Does it, and tells on stdout what was found.
///
/// # Errors
/// The log is not in Kafka, the cluster is away; `check`: something is wrong.
pub fn run(task: &TopicsTask) -> anyhow::Result<()> {
    let (TopicsTask::Create(topics) | TopicsTask::Check(topics)) = task;
    let Topics { config, partitions, dedicated, replication, min_insync } = topics;
    let config = Config::load(&Serve { config: config.clone(), ..Serve::default() })?;
    let cluster = Cluster::at(&config.stores.log).context("stores.log")?;
    let shape = Shape {
        pool_partitions: *partitions,
        dedicated: *dedicated,
        replication: *replication,
        min_insync_replicas: *min_insync,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    match task {
        TopicsTask::Create(_) => {
            // A life is told from others by 32 bits drawn at random: the last of an id are.
            let drawn = Generation(u32::try_from(SystemIds.next() & u128::from(u32::MAX)).expect("32 bits"));
            let generation = runtime.block_on(create(&cluster, shape, drawn))?;
            say(&format!("The topics of {} are there, generation {:08x}.", cluster.prefix, generation.0))
        }
        TopicsTask::Check(_) => {
            let wrong = runtime.block_on(check(&cluster, shape))?;
            if !wrong.is_empty() {
                bail!("{}", wrong.join("\n"));
            }
            say(&format!("The topics of {} are as they should be.", cluster.prefix))
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("say so")
}
