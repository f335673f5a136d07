//! Timers: what is due becomes a command of its own. The clock decides when to ask; log time decides whether it holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringforge_domain::{
    answer,
    buggify::{Site, buggify},
    catalog::Command,
    direct,
    event::Header,
    ids::{AgentId, CommandId, EdgeId, MessageId, Scope},
    limits::{APPEND_RECORDS_MAX, ROWS_PAGE_MAX},
    memory,
    position::{Offset, Partition},
    presence,
    row::{Row, Table},
    schema,
};
use ringforge_ports::{
    Error, Services,
    log::{AppendError, Record},
    names,
    reads::Find,
};
use tracing::{info, warn};

/// How often due things are looked for.
pub const EVERY: Duration = Duration::from_millis(250);
/// How soon they are looked for again when there may be more.
const AGAIN: Duration = Duration::from_millis(10);
/// Due rows of one look.
const PAGE: usize = APPEND_RECORDS_MAX;
/// How long an edge's lease lasts.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often an edge renews its lease, and leases are looked at.
pub const LEASE_RENEWED: Duration = Duration::from_secs(5);
/// How soon an edge tries again that could not.
pub const LEASE_TRIED: Duration = Duration::from_secs(1);

/// The timers of one partition.
pub struct Timers {
    services: Services,
    partition: Partition,
    /// Where our last commands stand: until they are applied, what is due is still the same.
    asked: Offset,
    leases: BTreeSet<String>,
    started: Duration,
    looked: Duration,
    swept: bool,
}

impl Timers {
    /// Of this partition.
    pub fn new(services: Services, partition: Partition) -> Self {
        let started = services.clock.monotonic();
        Self {
            services,
            partition,
            asked: Offset::ZERO,
            leases: BTreeSet::new(),
            started,
            looked: started,
            swept: false,
        }
    }

    /// Submits what is due, at most one append's worth, and tells how much was: [`PAGE`] if that may not be all.
    ///
    /// # Errors
    /// Reads or log are away; nothing is lost, it is due the next time.
    pub async fn tick(&mut self) -> Result<usize, Error> {
        let limit = if buggify(Site::FewDue) { 1 } else { u32::try_from(PAGE).expect("a small constant") };
        let find = Find::Due { now: self.services.clock.wall(), limit };
        let found = self.services.reads.find(self.partition, &find).await?;
        if found.applied.upto < self.asked {
            return Ok(0);
        }
        self.submit(due(&found.rows)).await?;
        Ok(if found.is_last(limit) { found.rows.len() } else { PAGE })
    }

    /// Ends the sessions of edges whose lease is gone. Absence counts only once we and the leases' directory have been up for a
    /// full lease.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub async fn sweep(&mut self) -> Result<usize, Error> {
        let found = self.services.live.scan(names::EDGE_LEASES).await?;
        let held: BTreeSet<String> = found.facts.into_iter().map(|(key, _)| key).collect();
        let now = self.services.clock.monotonic();
        let gap = now.saturating_sub(std::mem::replace(&mut self.looked, now));
        if gap + LEASE_RENEWED >= LEASE {
            // We slept for so long that a lease may be over that could not be renewed, our own among them, because whoever
            // holds it slept as well: as after a start. When we last looked it was at most due to be renewed.
            self.started = now;
            self.swept = false;
        }
        let up = now.saturating_sub(self.started);
        let lost = self.leases.iter().any(|lease| !held.contains(lease));
        self.leases.clone_from(&held);
        self.swept &= !lost;
        // Whoever lost the leases, we or the bus: all that are held are renewed within one.
        if up.min(found.intact) < LEASE || self.swept {
            return Ok(0);
        }
        let ended = self.end_sessions(|edge| !held.contains(&names::edge_lease(edge)), "edge_lost").await?;
        // What was submitted may not be in the log: only a look that finds nothing more to end is the last one.
        self.swept = ended == Some(0);
        Ok(ended.unwrap_or_default())
    }

    /// Ends the sessions of every edge but `edge`: a process that has the log alone was all of them before.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub async fn end_former(&mut self, edge: EdgeId) -> Result<usize, Error> {
        Ok(self.end_sessions(|other| other != edge, "restart").await?.unwrap_or_default())
    }

    /// Ends the sessions of one edge: of the former life of a process that shares the log.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub async fn end_edge(&mut self, edge: EdgeId) -> Result<usize, Error> {
        Ok(self.end_sessions(|other| other == edge, "restart").await?.unwrap_or_default())
    }

    /// How many sessions were to be ended; `None`: our last commands are not applied, so nobody knows yet.
    async fn end_sessions(&mut self, dead: impl Fn(EdgeId) -> bool, reason: &str) -> Result<Option<usize>, Error> {
        let (mut after, mut ended) = (None, 0);
        let asked = self.asked;
        loop {
            let find = Find::Table { table: Table::Agent, scope: None, after: after.take(), limit: ROWS_PAGE_MAX };
            let page = self.services.reads.find(self.partition, &find).await?;
            if page.applied.upto < asked {
                return Ok(None);
            }
            let last = page.is_last(ROWS_PAGE_MAX);
            after = page.rows.last().map(Row::key);
            let gone: Vec<_> = page.rows.iter().filter_map(|row| ending(row, &dead, reason)).collect();
            for part in gone.chunks(APPEND_RECORDS_MAX) {
                ended += self.submit(part.to_vec()).await?;
            }
            if last {
                break;
            }
        }
        if ended > 0 {
            info!(partition = self.partition.0, ended, reason, "sessions ended");
        }
        Ok(Some(ended))
    }

    async fn submit(&mut self, commands: Vec<(Scope, Option<AgentId>, Command)>) -> Result<usize, Error> {
        if commands.is_empty() {
            return Ok(0);
        }
        let records: Vec<Record> =
            commands.iter().map(|(scope, agent, command)| self.record(*scope, *agent, command)).collect();
        let count = records.len();
        match self.services.log.append(self.partition, records).await {
            Ok(placed) => self.asked = placed.last().map_or(self.asked, |placed| placed.offset.next()),
            Err(AppendError::Refused(error)) => return Err(error),
            Err(AppendError::Unknown(error)) => {
                warn!(%error, partition = self.partition.0, "a timer's command may be in the log");
            }
        }
        Ok(count)
    }

    fn record(&self, scope: Scope, agent: Option<AgentId>, command: &Command) -> Record {
        let header = Header {
            command_id: CommandId::from_bits(self.services.ids.next()),
            tenant_id: scope.tenant,
            fleet_id: scope.fleet,
            agent_id: agent,
            session_id: None,
            caused_by: None,
            key_id: None,
            idempotency_key: None,
            reference: None,
            trace: None,
            deadline: None,
        };
        Record { scope, bytes: schema::encode(&header, command).into() }
    }
}

/// The commands that due rows ask for: one each, but for answers one a fleet.
fn due(rows: &[Row]) -> Vec<(Scope, Option<AgentId>, Command)> {
    let expire = |message: MessageId, status: Option<CommandId>| direct::Expire { message, status }.into();
    let mut commands = Vec::new();
    let mut forgotten: BTreeMap<Scope, Vec<answer::Asked>> = BTreeMap::new();
    for row in rows {
        let (scope, command) = match row {
            Row::Memory(entry) => {
                let Ok(version) = i64::try_from(entry.version) else { continue };
                (entry.scope, memory::Expire { key: entry.key.clone(), version }.into())
            }
            Row::Message(message) => (message.scope, expire(message.id, None)),
            Row::Notice(notice) => (notice.scope, expire(notice.message, Some(notice.id))),
            Row::Answer(answer) => {
                let asked = answer::Asked { agent: answer.agent, key: answer.key.clone() };
                forgotten.entry(answer.scope).or_default().push(asked);
                continue;
            }
            _ => continue,
        };
        commands.push((scope, None, command));
    }
    let forget = |(scope, asked)| (scope, None, answer::Forget { asked }.into());
    commands.extend(forgotten.into_iter().map(forget));
    commands
}

/// The command that ends an agent's session, if its edge is gone.
fn ending(row: &Row, dead: &impl Fn(EdgeId) -> bool, reason: &str) -> Option<(Scope, Option<AgentId>, Command)> {
    let Row::Agent(agent) = row else { return None };
    let session = agent.session.as_ref().filter(|session| dead(session.edge))?;
    let ended = presence::Ended { session: session.id, reason: reason.to_owned() };
    Some((agent.scope, Some(agent.id), Command::SessionEnded(ended)))
}

/// Runs a partition's timers for ever.
pub async fn run(mut timers: Timers) {
    let mut tick = tokio::time::interval(EVERY);
    let mut sweep = tokio::time::interval(LEASE_RENEWED);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            biased;
            _ = sweep.tick() => timers.sweep().await,
            _ = tick.tick() => timers.tick().await.inspect(|due| if *due == PAGE { tick.reset_after(AGAIN) }),
        };
        if let Err(error) = done {
            warn!(%error, "timers will try again");
        }
    }
}

#[cfg(test)]
mod tests;
