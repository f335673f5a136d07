//! `ringforge dlq`: the records that cannot be read. The log keeps them like any other, until it is trimmed; copies in Kafka's topic
//! `dlq` outlive that. Those of a schema that nobody here knows have no copy, as they are not damaged: their partition waits.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use ringforge_domain::{
    position::{Offset, Partition, Position},
    schema,
};
use ringforge_ports::log::{Bounds, Letter, Log};
use serde_json::{Value, json};

use crate::{
    bootstrap::hex,
    config::Config,
    options::{Dlq, Serve},
    stores::Stores,
};

/// Tells them on stdout, one line of JSON each, from the oldest on.
///
/// # Errors
/// The log is away, or in use by a server (where it is a file).
pub fn run(which: &Dlq) -> anyhow::Result<()> {
    let config = Config::load(&Serve { config: which.config.clone(), data: which.data.clone(), ..Serve::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let (log, closing) = Stores::open_log(&config).await?;
        let told = tell(&*log, which).await;
        for closed in closing {
            closed.await;
        }
        told
    })
}

async fn tell(log: &dyn Log, which: &Dlq) -> anyhow::Result<()> {
    let all = log.partitions().iter().filter(|partition| which.partition.is_none_or(|only| only == partition.0));
    let mut kept = BTreeMap::new();
    for partition in all {
        kept.insert(partition, log.bounds(partition).await?);
    }
    tell_trimmed(log, which, &kept).await?;
    for (partition, bounds) in kept {
        let mut next = bounds.oldest.max(Offset(which.from));
        let mut records = log.read(partition, next);
        while next < bounds.end {
            let batch = records.next().await.context("the log has ended")??;
            let mut out = std::io::stdout().lock();
            for stored in batch.iter().take_while(|stored| stored.offset < bounds.end) {
                let position = Position { partition, offset: stored.offset };
                if let Err(why) = schema::decode(&stored.record.bytes, position, stored.time) {
                    let letter = Letter { partition, stored: stored.clone(), reason: why.to_string() };
                    writeln!(out, "{}", shown(&letter, which.bytes)).context("say so")?;
                }
            }
            next = batch.last().map_or(bounds.end, |last| last.offset.next());
        }
    }
    Ok(())
}

/// Those of which only a copy is left.
async fn tell_trimmed(log: &dyn Log, which: &Dlq, kept: &BTreeMap<Partition, Bounds>) -> anyhow::Result<()> {
    // Whoever projected the partition next may have buried some again, in the same order.
    let mut told: BTreeMap<Partition, Offset> = kept.keys().map(|partition| (*partition, Offset(which.from))).collect();
    let mut buried = log.buried();
    while let Some(letter) = buried.next().await.transpose()? {
        let offset = letter.stored.offset;
        let Some(next) = told.get_mut(&letter.partition).filter(|next| offset >= **next) else { continue };
        *next = offset.next();
        if offset < kept[&letter.partition].oldest {
            writeln!(std::io::stdout(), "{}", shown(&letter, which.bytes)).context("say so")?;
        }
    }
    Ok(())
}

/// What there is to say of a record that cannot be read.
fn shown(letter: &Letter, with_bytes: bool) -> Value {
    let (stored, scope) = (&letter.stored, letter.stored.record.scope);
    let bytes = &stored.record.bytes;
    let mut shown = json!({
        "partition": letter.partition.0,
        "offset": stored.offset.0,
        "logged_at": stored.time.rfc3339(),
        "tenant_id": scope.tenant,
        "fleet_id": scope.fleet,
        "bytes": bytes.len(),
        "reason": letter.reason,
    });
    if with_bytes {
        shown["hex"] = hex(bytes).into();
    }
    shown
}
