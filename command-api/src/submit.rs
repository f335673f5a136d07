//! Stop 2, the gate: check, stamp, append. One of the three callers of `Log::append`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use ringforge_domain::{
    buggify::{Site, buggify},
    catalog::{Command, CommandKind},
    code::{Code, Effected, Refusal},
    door::Meta,
    event::Header,
    ids::{AgentId, CommandId, Scope, SessionId},
    limits::{APPEND_BYTES_MAX, FLEET_LAG_SHARE, Limits},
    planted::{Bug, planted},
    position::{Offset, Partition, StreamRef},
    projector::Projector,
    row::{RowKey, State as _},
    schema,
    tenant::Key,
};
use ringforge_ports::{
    Error, Services,
    log::{AppendError, Placed, Record},
};
use tracing::{debug, warn};

use crate::{auth::Authenticator, progress::Progress};

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
    /// The newest schema that all projectors read, as far as they have told.
    read: AtomicU32,
}

impl Gate {
    /// Over these services.
    pub fn new(services: Services, config: GateConfig) -> Arc<Self> {
        let authenticator = Authenticator::new(services.clone());
        Arc::new(Self { services, config, authenticator, progress: Mutex::default(), read: AtomicU32::new(u32::MAX) })
    }

    /// Bounds on what may be asked.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The ports.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// How long an asker waits for a verdict.
    pub fn reply_timeout(&self) -> Duration {
        self.config.reply_timeout
    }

    /// Submits commands of one caller, in order, as one append. Each is answered: where it is in the log, or why it is not.
    /// `outcome: unknown` in a refusal means that it may be there.
    pub async fn submit(&self, caller: &Caller, asked: Vec<Asked>) -> Vec<Result<Offset, Refusal>> {
        let permitted = self.permit(caller).await;
        let (mut answers, mut records) = (Vec::with_capacity(asked.len()), Vec::new());
        for one in asked {
            let admitted = permitted.clone().and_then(|()| one.command.check(&self.config.limits));
            let admitted = admitted.and_then(|()| self.is_read(&one.command));
            answers.push(admitted.map(|()| records.push(self.record(caller, one))));
        }
        if records.is_empty() {
            return answers.into_iter().map(|answer| answer.map(|()| Offset::ZERO)).collect();
        }
        let placed = self.append_all(caller, records).await;
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
    /// `unavailable`: the log is away, or some projector could not read it.
    pub async fn submit_internal(
        &self,
        scope: Scope,
        partition: Partition,
        agent: Option<AgentId>,
        command: Command,
    ) -> Result<Offset, Refusal> {
        self.is_read(&command)?;
        let caller = Caller { scope, stream: StreamRef { partition, epoch: 0 }, agent, session: None, key: None };
        let id = CommandId::from_bits(self.services.ids.next());
        let record = self.record(&caller, Asked { id, command, meta: Meta::default() });
        let placed = self.append(&caller, vec![record]).await?;
        placed.first().map(|placed| placed.offset).ok_or_else(|| Refusal::new(Code::ServerError))
    }

    /// Takes note of how far a partition has been applied.
    pub fn applied(&self, partition: Partition, applied: Offset) {
        self.progress().entry(partition).or_default().applied(applied);
    }

    /// Asks how far those partitions are applied that hold commands of ours back and that others may project. Runs for ever.
    pub async fn watch(self: Arc<Self>) {
        let mut away = false;
        loop {
            self.services.clock.sleep(PROGRESS_EVERY).await;
            let behind = |(partition, known): (&Partition, &Progress)| known.is_behind().then_some(*partition);
            let behind: Vec<Partition> = self.progress().iter().filter_map(behind).collect();
            // Side by side: a server that hangs holds up its own partitions alone.
            let asked = join_all(behind.into_iter().map(|partition| self.ask_progress(partition))).await;
            let error = asked.into_iter().find_map(Result::err);
            if let Some(error) = error.as_ref().filter(|_| !away) {
                warn!(%error, "how far partitions are applied is not known");
            }
            away = error.is_some();
        }
    }

    /// Asks again and again what projectors read, for ever.
    pub async fn watch_schemas(self: Arc<Self>) {
        loop {
            self.services.clock.sleep(SCHEMAS_EVERY).await;
            if let Err(error) = self.ask_schemas().await {
                debug!(%error, "what projectors read is not known");
            }
        }
    }

    /// Takes note of what projectors read. Of a partition that nobody has declared anything for, nothing is
    /// asked: it has had no projector yet.
    ///
    /// # Errors
    /// The read models are away.
    pub async fn ask_schemas(&self) -> Result<(), Error> {
        let mut asked: BTreeSet<RowKey> = self.services.log.partitions().iter().map(Projector::key).collect();
        let mut read = u32::MAX;
        while !asked.is_empty() {
            let found = self.services.reads.load(Partition::DIRECTORY, &asked).await?;
            read = found.rows.iter().filter_map(Projector::of).map(|known| known.schemas).fold(read, u32::min);
            asked = found.rest.into_iter().collect();
        }
        self.read.store(read, Ordering::Relaxed);
        Ok(())
    }

    /// Whether every projector reads this. What it can read it declares by a command that each of them reads.
    fn is_read(&self, command: &Command) -> Result<(), Refusal> {
        let is_read = schema::id_of(command.kind()) <= self.read.load(Ordering::Relaxed);
        if is_read || command.kind() == CommandKind::ProjectorDeclared {
            return Ok(());
        }
        let what = "This is new, and a projector of an older version runs, which could not read it.";
        let refusal = Refusal::because(Code::Unavailable, what).after_ms(UPGRADE_RETRY_MS);
        Err(refusal.fix("Put projectors of this version in the place of all older ones."))
    }

    async fn ask_progress(&self, partition: Partition) -> Result<(), Error> {
        let found = self.services.reads.load(partition, &BTreeSet::new()).await?;
        self.applied(partition, found.applied.upto);
        Ok(())
    }

    /// How many events wait for their verdict, as far as this gate knows.
    pub fn lag(&self, partition: Partition) -> u64 {
        self.progress().get(&partition).map_or(0, Progress::lag)
    }

    async fn permit(&self, caller: &Caller) -> Result<(), Refusal> {
        if let Some(key) = &caller.key {
            self.authenticator.still(key).await?;
        }
        let progress = self.progress();
        let lags = progress.get(&caller.stream.partition).map(|known| (known.lag(), known.lag_of(caller.scope)));
        let lag_max = self.config.lag_max;
        let own_max = if caller.stream.partition.is_dedicated() { lag_max } else { lag_max / FLEET_LAG_SHARE };
        if lags.is_some_and(|(all, own)| all > lag_max || own > own_max) {
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
        let (time, seen_at) = self.progress().get(&caller.stream.partition)?.time()?;
        let clock = &self.services.clock;
        let now = time.plus(micros(clock.monotonic().saturating_sub(seen_at))).max(clock.wall());
        Some(now.plus(micros(self.config.reply_timeout)).0)
    }

    /// As many appends as their bytes need, in order. Places of those that are in the log, then why the rest is not.
    async fn append_all(&self, caller: &Caller, records: Vec<Record>) -> (Vec<Placed>, Option<Refusal>) {
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
            match self.append(caller, std::mem::take(&mut part)).await {
                Ok(more) => placed.extend(more),
                Err(refusal) => return (placed, Some(refusal)),
            }
        }
        (placed, None)
    }

    async fn append(&self, caller: &Caller, records: Vec<Record>) -> Result<Vec<Placed>, Refusal> {
        let partition = caller.stream.partition;
        let asked_at = self.services.clock.monotonic();
        match self.services.log.append(partition, records).await {
            Ok(placed) => {
                self.progress().entry(partition).or_default().appended(caller.scope, &placed, asked_at);
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

/// How often it is asked how far others have applied what we submitted.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How often it is asked what projectors read.
const SCHEMAS_EVERY: Duration = Duration::from_secs(1);
/// What whoever wants something too new is told to wait.
const UPGRADE_RETRY_MS: u64 = 5_000;
/// What a refused asker is told to wait.
const OVERLOADED_RETRY_MS: u64 = 500;
