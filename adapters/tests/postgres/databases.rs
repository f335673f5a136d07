//! Databases for tests: copies of one that is migrated, dropped when nobody needs them any more.
#![allow(dead_code, reason = "not every suite needs all of it")]

use std::{
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use ringforge_adapters::reads::postgres::PostgresReads;
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tokio::{runtime, sync::OnceCell};

/// The database that the others are copies of.
static TEMPLATE: OnceCell<Database> = OnceCell::const_new();
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A database of a server.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// A new one. `server` is the address of another database of its server.
    pub async fn new(server: &str) -> Self {
        let template = TEMPLATE.get_or_init(async || {
            let template = Self::make(server, "template0").await;
            PostgresReads::open(&template.address()).await.expect("a migrated database").close().await;
            // It was opened as the only one of a list: its copies may be opened as others.
            template.execute("TRUNCATE ringforge.server").await;
            template
        });
        Self::make(server, &template.await.name).await
    }

    /// A new one that nothing was done with.
    pub async fn empty(server: &str) -> Self {
        Self::make(server, "template0").await
    }

    async fn make(server: &str, template: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = Self { server: server.to_owned(), name: format!("test_{}_{number}", process::id()) };
        on(server, &format!("CREATE DATABASE {} TEMPLATE {template}", database.name)).await;
        database
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.address_as("")
    }

    /// Where it is, for somebody else, `name:password@` or `name@`.
    pub fn address_as(&self, login: &str) -> String {
        let (scheme, rest) = self.server.split_once("://").expect("an address");
        let (user, rest) = rest.split_once('@').expect("a user");
        let host = rest.split('/').next().expect("a host");
        let login = if login.is_empty() { format!("{user}@") } else { login.to_owned() };
        format!("{scheme}://{login}{host}/{}", self.name)
    }

    /// A connection of a superuser.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.address()).await.expect("a connection")
    }

    /// Does something as a superuser.
    pub async fn execute(&self, sql: &str) {
        on(&self.address(), sql).await;
    }
}

async fn on(address: &str, sql: &str) {
    let mut connection = PgConnection::connect(address).await.expect("a connection");
    raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect(sql);
    connection.close().await.expect("it ends");
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // What is dropped may be in a runtime, which must not be waited for there.
        let dropping = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(on(&server, &drop));
        });
        dropping.join().expect("it is dropped");
    }
}
