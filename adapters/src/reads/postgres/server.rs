//! One server: its roles, its tables, and the connections to it. A login is given by the address; what it does, it does as one
//! of three roles (see `migrations/postgres/roles.sql`), so it need not be more than a member of them, and should not be a
//! superuser.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    ops::{Deref, DerefMut},
    sync::Mutex,
    time::Duration,
};

use ringforge_domain::{
    ids::TenantId,
    limits,
    position::{Generation, Partition, Partitions},
};
use ringforge_ports::Error;
use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
    raw_sql,
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    failure::{failed, migrating, opening},
    searches::Searches,
};

const ROLES: &str = include_str!("../../../../migrations/postgres/roles.sql");
/// How often the server looks whether whoever asked is still there.
const LOOK_MS: u64 = 100;
/// A connection that nobody used for so long is tried before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// A server of a list.
pub struct Server {
    place: String,
    /// Writes, and reads what is of no single tenant.
    project: PgPool,
    /// Reads what is of one tenant.
    query: PgPool,
    /// What seals the name of a tenant.
    secret: String,
    searches: Searches,
    /// Before which place there is room for verdicts, of each partition that was written.
    pub(super) room: Mutex<BTreeMap<i64, i64>>,
}

impl Server {
    pub async fn open(address: &str) -> Result<Self, Error> {
        let wrong = |why: &dyn Display| {
            Error::Unavailable(format!("the address of the read models is not `postgres://user@host/database`: {why}"))
        };
        if !address.starts_with("postgres://") {
            return Err(wrong(&"it begins with something else"));
        }
        let options: PgConnectOptions = address.parse().map_err(|error: sqlx::Error| wrong(&error))?;
        if address.contains("sslrootcert=")
            && !matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
        {
            return Err(wrong(&"it names authorities that nobody would ask: say sslmode=verify-full as well"));
        }
        let options = options.application_name("ringforge").log_statements(tracing::log::LevelFilter::Off);
        let database = options.get_database().unwrap_or(options.get_username());
        let place = format!("postgres://{}:{}/{database}", options.get_host(), options.get_port());
        migrate(&place, &options).await?;
        let project = pool(&options, PROJECT, limits::PROJECT_CONNECTIONS_MAX, limits::STATEMENT_MS);
        let query = pool(&options, QUERY, limits::QUERY_CONNECTIONS_MAX, limits::SEARCH_MS);
        let known = "SELECT secret, (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) FROM seal";
        let known = sqlx::query_as(known).fetch_one(&project).await;
        let (secret, superuser): (String, bool) = known.map_err(|error| opening(&place, &error))?;
        if superuser {
            warn!(
                place,
                "the login of the read models is a superuser, whom no policy keeps from anything: take one that is a member of \
                 the roles in migrations/postgres/roles.sql and no more"
            );
        }
        Ok(Self { place, project, query, secret, searches: Searches::new(), room: Mutex::default() })
    }

    /// Sees to it that what is here is of the log of this generation, and of none of its partitions that is not there.
    pub async fn belong(&self, generation: Generation, partitions: Partitions) -> Result<(), Error> {
        let failed = |error: sqlx::Error| opening(&self.place, &error);
        let put = sqlx::query("INSERT INTO log VALUES ($1) ON CONFLICT DO NOTHING").bind(i64::from(generation.0));
        put.execute(&self.project).await.map_err(failed)?;
        let known = "SELECT generation, ARRAY(SELECT partition FROM partitions ORDER BY partition) FROM log";
        let known = sqlx::query_as(known).fetch_one(&self.project).await;
        let (known, have): (i64, Vec<i64>) = known.map_err(failed)?;
        if known != i64::from(generation.0) {
            return Err(Error::Corrupt(format!(
                "{} has the read models of a log of generation {known:08x}, and this one is of generation {:08x}: name the \
                 log that they were made of, or an empty database, which is filled anew",
                self.place, generation.0
            )));
        }
        let is_there =
            |number: &i64| u16::try_from(*number).is_ok_and(|one| partitions.index(Partition(one)).is_some());
        match have.iter().rfind(|number| !is_there(number)) {
            Some(missing) => Err(Error::Corrupt(format!(
                "{} has read models of partition {missing}, which the log does not have: its topics were made anew with \
                 fewer partitions. Restore them, or make a new log under another prefix",
                self.place
            ))),
            None => Ok(()),
        }
    }

    pub async fn close(&self) {
        self.project.close().await;
        self.query.close().await;
    }

    pub fn searches(&self) -> &Searches {
        &self.searches
    }

    /// A connection that may do everything.
    pub async fn project(&self) -> Result<Lent, Error> {
        Lent::of(&self.project).await
    }

    /// A connection in a transaction that sees what is of one tenant.
    pub async fn query(&self, tenant: TenantId) -> Result<Lent, Error> {
        let mut lent = Lent::of(&self.query).await?;
        let mut begin = "BEGIN READ ONLY; SET LOCAL ROLE ringforge_query; SET LOCAL ringforge.tenant = '".to_owned();
        let text = tenant.to_string();
        begin.push_str(&text);
        begin.push('.');
        for byte in Sha256::new().chain_update(&self.secret).chain_update(&text).finalize() {
            let _ = write!(begin, "{byte:02x}");
        }
        begin.push('\'');
        raw_sql(AssertSqlSafe(begin)).execute(&mut *lent).await.map_err(|error| failed("read", &error))?;
        Ok(lent)
    }

    pub async fn drop_slices(&self, place: i64) -> Result<u64, Error> {
        let mut lent = self.project().await?;
        let dropped = sqlx::query_scalar("SELECT drop_slices($1)").bind(place).fetch_one(&mut *lent).await;
        let dropped: i64 = dropped.map_err(|error| failed("drop history of", &error))?;
        lent.give_back();
        Ok(dropped.unsigned_abs())
    }
}

/// What a connection is told first. Plans are made to be good whatever is known of the tables: nothing is read as a whole that an
/// index finds.
const OWNER: &str = "SET ROLE ringforge_owner;";
const PROJECT: &str = "SET ROLE ringforge_project; SET synchronous_commit = off;";
/// Each question is planned for what it asks.
const QUERY: &str = "SET plan_cache_mode = force_custom_plan;";

fn pool(options: &PgConnectOptions, first: &str, connections: u32, statement_ms: u64) -> PgPool {
    let first = format!(
        "{first} SET search_path = ringforge; SET jit = off; SET enable_seqscan = off;
        SET statement_timeout = {statement_ms}; SET idle_in_transaction_session_timeout = {statement_ms};
        SET client_connection_check_interval = {LOOK_MS}"
    );
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_millis(statement_ms))
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for <= IDLE {
                    return Ok(true);
                }
                // One that is half open would be waited for as long as for an answer, and the next one again.
                let stands = timeout(Duration::from_millis(limits::PING_MS), connection.ping()).await;
                Ok(matches!(stands, Ok(Ok(()))))
            })
        })
        .after_connect(move |connection, _| {
            let first = first.clone();
            Box::pin(async move { raw_sql(AssertSqlSafe(first)).execute(connection).await.map(drop) })
        })
        .connect_lazy_with(options.clone())
}

/// Brings roles and tables to where this program wants them.
async fn migrate(place: &str, options: &PgConnectOptions) -> Result<(), Error> {
    let failed = |error: sqlx::Error| opening(place, &error);
    let first = timeout(Duration::from_millis(limits::STATEMENT_MS), async {
        let mut login = options.connect().await?;
        raw_sql(ROLES).execute(&mut login).await?;
        login.close().await
    });
    first.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(failed)?;
    let pool = pool(options, OWNER, 1, limits::MIGRATION_MS);
    let migrated = sqlx::migrate!("../migrations/postgres").run(&pool).await;
    pool.close().await;
    migrated.map_err(|error| migrating(place, error))
}

/// Sees to it that these are the servers of one list, in its order, or makes them that.
pub async fn agree(servers: &[Server]) -> Result<(), Error> {
    let count = servers.len() as u64;
    let mut list: Option<String> = None;
    for (number, server) in (0_u64..).zip(servers) {
        let failed = |error: sqlx::Error| opening(&server.place, &error);
        let put = "INSERT INTO server SELECT $1, $2, coalesce($3, gen_random_uuid()::text) ON CONFLICT DO NOTHING";
        let put = sqlx::query(put).bind(number.cast_signed()).bind(count.cast_signed()).bind(&list);
        put.execute(&server.project).await.map_err(failed)?;
        let recorded = sqlx::query_as("SELECT number, servers, list FROM server").fetch_one(&server.project).await;
        let (was_number, was_count, was_list): (i64, i64, String) = recorded.map_err(failed)?;
        let same_list = list.as_ref().is_none_or(|list| *list == was_list);
        if (was_number.cast_unsigned(), was_count.cast_unsigned()) != (number, count) || !same_list {
            let other = if same_list { "" } else { ", of other read models" };
            return Err(Error::Corrupt(format!(
                "{} is number {} of a list of {was_count} servers{other}, but here it is number {} of {count}: name the \
                servers that the read models were made with, in the same order, or empty databases",
                server.place,
                was_number + 1,
                number + 1,
            )));
        }
        list = Some(was_list);
    }
    Ok(())
}

/// A connection of a pool. It is given back when its work is done; dropped before, in the middle of a question or a transaction,
/// it is closed: the server ends what it was doing, and nobody else gets it.
pub struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    async fn of(pool: &PgPool) -> Result<Self, Error> {
        Ok(Self(Some(pool.acquire().await.map_err(|error| failed("connect to", &error))?)))
    }

    pub fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
