//! Stop 2, the gate: check, stamp, append. One of the three callers of `Log::append`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ringforge_domain::{
    buggify::{Site, buggify},
    catalog::Command,
    code::{Code, Effected, Refusal},
    door::Meta,
    event::Header,
    ids::{AgentId, CommandId, Scope, SessionId},
    limits::{APPEND_BYTES_MAX, Limits},
    planted::{Bug, planted},
    position::{LogTime, Offset, Partition, StreamRef},
    schema,
    tenant::Key,
};
use ringforge_ports::{
    Services,
    log::{AppendError, Placed, Record},
};
use tracing::warn;

use crate::auth::Authenticator;

/// What an operator may change about the gate.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Bounds on what may be asked.
    pub limits: Limits,
    /// Events that may wait for their verdict in one partition before more are refused.
    pub lag_max: u64,
    /// How long the asker will wait for a verdict.
    pub reply_timeout: Duration,
}

/// On whose behalf a command is submitted.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The fleet.
    pub scope: Scope,
    /// Where its events are.
    pub stream: StreamRef,
    /// The agent; none before a session has begun.
    pub agent: Option<AgentId>,
    /// The connection; none for internal commands.
    pub session: Option<SessionId>,
    /// The key it came in with; none for internal commands.
    pub key: Option<Key>,
}

/// One command to submit, with the id its asker waits for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// New for every append.
    pub id: CommandId,
    /// What.
    pub command: Command,
    /// What came with it.
    pub meta: Meta,
}

/// The gate of one process.
pub struct Gate {
    services: Services,
    config: GateConfig,
    /// Keys and fleets.
    pub authenticator: Authenticator,
    progress: Mutex<BTreeMap<Partition, Progress>>,
}

/// What the gate knows of a partition, to see lag and to set deadlines.
#[derive(Clone, Copy, Default)]
struct Progress {
    end: Offset,
    applied: Offset,
    time: LogTime,
    seen_at: Duration,
}

impl Gate {
    /// Over these services.
    pub fn new(services: Services, config: GateConfig) -> Arc<Self> {
        let authenticator = Authenticator::new(services.clone());
        Arc::new(Self { services, config, authenticator, progress: Mutex::default() })
    }

    /// Bounds on what may be asked.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Submits commands of one caller, in order, as one append. Each is answered: where it is in the log, or why it is not.
    /// `outcome: unknown` in a refusal means that it may be there.
    pub async fn submit(&self, caller: &Caller, asked: Vec<Asked>) -> Vec<Result<Offset, Refusal>> {
        let permitted = self.permit(caller).await;
        let (mut answers, mut records) = (Vec::with_capacity(asked.len()), Vec::new());
        for one in asked {
            let admitted = permitted.clone().and_then(|()| one.command.check(&self.config.limits));
            answers.push(admitted.map(|()| records.push(self.record(caller, one))));
        }
        if records.is_empty() {
            return answers.into_iter().map(|answer| answer.map(|()| Offset::ZERO)).collect();
        }
        let placed = self.append_all(caller.stream.partition, records).await;
        let (placed, refusal) = placed;
        let mut each = placed.iter();
        let mut place = || match (each.next(), &refusal) {
            (Some(placed), _) => Ok(placed.offset),
            (None, Some(refusal)) => Err(refusal.clone()),
            (None, None) => Err(Refusal::new(Code::ServerError).unknown()),
        };
        answers.into_iter().map(|answer| answer.and_then(|()| place())).collect()
    }

    /// Submits one command on our own account: no session, no key, no lag bound (it makes the lag smaller).
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn submit_internal(
        &self,
        scope: Scope,
        partition: Partition,
        agent: Option<AgentId>,
        command: Command,
    ) -> Result<Offset, Refusal> {
        let caller = Caller { scope, stream: StreamRef { partition, epoch: 0 }, agent, session: None, key: None };
        let id = CommandId::from_bits(self.services.ids.next());
        let record = self.record(&caller, Asked { id, command, meta: Meta::default() });
        let placed = self.append(partition, vec![record]).await?;
        placed.first().map(|placed| placed.offset).ok_or_else(|| Refusal::new(Code::ServerError))
    }

    /// Takes note of how far a partition has been applied.
    pub fn applied(&self, partition: Partition, applied: Offset) {
        let mut progress = self.progress();
        let known = progress.entry(partition).or_default();
        known.applied = known.applied.max(applied);
        known.end = known.end.max(applied);
    }

    /// How many events wait for their verdict, as far as this gate knows.
    pub fn lag(&self, partition: Partition) -> u64 {
        self.progress().get(&partition).map_or(0, |known| known.end.0.saturating_sub(known.applied.0))
    }

    async fn permit(&self, caller: &Caller) -> Result<(), Refusal> {
        if let Some(key) = &caller.key {
            self.authenticator.still(key).await?;
        }
        if self.lag(caller.stream.partition) > self.config.lag_max {
            return Err(Refusal::new(Code::Overloaded).after_ms(OVERLOADED_RETRY_MS));
        }
        Ok(())
    }

    fn record(&self, caller: &Caller, asked: Asked) -> Record {
        let Meta { reference, idempotency_key, caused_by, trace } = asked.meta;
        let header = Header {
            command_id: asked.id,
            tenant_id: caller.scope.tenant,
            fleet_id: caller.scope.fleet,
            agent_id: caller.agent,
            session_id: caller.session,
            caused_by,
            key_id: caller.key.as_ref().map(|key| key.id),
            idempotency_key,
            reference,
            trace,
            deadline: self.deadline(caller),
        };
        Record { scope: caller.scope, bytes: schema::encode(&header, &asked.command).into() }
    }

    /// Newest log time seen, time since, and the time its asker waits. The log's clock may have jumped ahead since, as ours
    /// did: what is asked now is not late.
    /// Our own commands have none: nobody waits for them, and a session's end must count whenever it comes.
    fn deadline(&self, caller: &Caller) -> Option<i64> {
        caller.key.as_ref()?;
        let known = *self.progress().get(&caller.stream.partition)?;
        let clock = &self.services.clock;
        let now = known.time.plus(micros(clock.monotonic().saturating_sub(known.seen_at))).max(clock.wall());
        (known.time > LogTime::default()).then(|| now.plus(micros(self.config.reply_timeout)).0)
    }

    /// As many appends as their bytes need, in order. Places of those that are in the log, then why the rest is not.
    async fn append_all(&self, partition: Partition, records: Vec<Record>) -> (Vec<Placed>, Option<Refusal>) {
        let (mut placed, mut part, mut bytes) = (Vec::with_capacity(records.len()), Vec::new(), 0);
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            bytes += record.bytes.len();
            part.push(record);
            let joins = |next: &Record| bytes + next.bytes.len() <= APPEND_BYTES_MAX && !buggify(Site::SmallAppend);
            if records.peek().is_some_and(joins) {
                continue;
            }
            bytes = 0;
            match self.append(partition, std::mem::take(&mut part)).await {
                Ok(more) => placed.extend(more),
                Err(refusal) => return (placed, Some(refusal)),
            }
        }
        (placed, None)
    }

    async fn append(&self, partition: Partition, records: Vec<Record>) -> Result<Vec<Placed>, Refusal> {
        let asked_at = self.services.clock.monotonic();
        match self.services.log.append(partition, records).await {
            Ok(placed) => {
                if let Some(last) = placed.last() {
                    let mut progress = self.progress();
                    let known = progress.entry(partition).or_default();
                    known.end = known.end.max(last.offset.next());
                    // The answer may have taken long; the log took its time after we asked.
                    if last.time >= known.time {
                        (known.time, known.seen_at) = (last.time, asked_at);
                    }
                }
                Ok(placed)
            }
            Err(AppendError::Refused(error)) => {
                warn!(%error, partition = partition.0, "append refused");
                Err(Refusal::new(Code::Unavailable).after_ms(OVERLOADED_RETRY_MS))
            }
            Err(AppendError::Unknown(error)) => {
                warn!(%error, partition = partition.0, "append outcome unknown");
                let mut refusal = Refusal::new(Code::Unavailable);
                if !planted(Bug::UnknownIsDefinite) {
                    refusal.outcome = Effected::Unknown;
                }
                Err(refusal)
            }
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, BTreeMap<Partition, Progress>> {
        self.progress.lock().expect("no panic while the lock is held")
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// What a refused asker is told to wait.
const OVERLOADED_RETRY_MS: u64 = 500;
