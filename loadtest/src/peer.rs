//! The servers of a comparison: which are asked for, and how the others are started. Each is set to what RingForge does
//! by default, as far as it can: NATS with every event on disk, Centrifugo with history, recovery and presence.

use std::{fs, net::TcpListener, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    agent::keep_all,
    dialect::Dialect,
    process::{Place, Server, pinned},
};

/// A peer that does not listen by then has failed.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Which servers take part.
#[derive(Clone, Debug, clap::Args)]
pub struct Systems {
    #[command(flatten)]
    place: Place,
    /// Measure the bare server as well, before each round.
    #[arg(long)]
    bare: bool,
    /// Measure this nats-server as well, nothing kept.
    #[arg(long, value_name = "PATH")]
    nats: Option<PathBuf>,
    /// Measure this nats-server as well, each event kept and acknowledged.
    #[arg(long, value_name = "PATH")]
    jetstream: Option<PathBuf>,
    /// Measure this centrifugo as well.
    #[arg(long, value_name = "PATH")]
    centrifugo: Option<PathBuf>,
}

impl Systems {
    /// Those that take part, in the order in which they take turns.
    ///
    /// # Errors
    /// None.
    pub fn list(&self) -> Result<Vec<Dialect>> {
        let takes_part = [
            (Dialect::Bare, self.bare),
            (Dialect::Ringforge, self.place.server.is_some() || self.place.ready.is_some()),
            (Dialect::Nats, self.nats.is_some()),
            (Dialect::Jetstream, self.jetstream.is_some()),
            (Dialect::Centrifugo, self.centrifugo.is_some()),
        ];
        let list: Vec<_> = takes_part.into_iter().filter_map(|(dialect, takes)| takes.then_some(dialect)).collect();
        ensure!(!list.is_empty(), "name a server: --server PATH, --bare, --nats PATH ..");
        Ok(list)
    }

    /// Whether the product's fsyncs are made slower.
    pub fn is_slowed(&self) -> bool {
        self.place.fsync_ms > 0
    }

    /// Starts one of them, with so many fleets.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start(&self, dialect: Dialect, fleets: usize) -> Result<Server> {
        let path = |path: &Option<PathBuf>| path.clone().context("no path for this server");
        match dialect {
            Dialect::Bare => Server::bare(),
            Dialect::Ringforge => Server::at(&self.place, &[fleets]),
            Dialect::Nats => nats(path(&self.nats)?, dialect).await,
            Dialect::Jetstream => nats(path(&self.jetstream)?, dialect).await,
            Dialect::Centrifugo => centrifugo(path(&self.centrifugo)?).await,
        }
    }
}

async fn nats(binary: PathBuf, dialect: Dialect) -> Result<Server> {
    let folder = tempfile::tempdir().context("make a data directory")?;
    let port = free_port()?;
    let kept =
        format!("jetstream {{ store_dir: \"{}\", sync_interval: always }}\n", folder.path().join("data").display());
    let config = format!(
        "listen: \"127.0.0.1:-1\"\nwebsocket {{ listen: \"127.0.0.1:{port}\", no_tls: true, compression: false }}\n{}",
        if dialect == Dialect::Jetstream { kept } else { String::new() }
    );
    let file = folder.path().join("nats.conf");
    fs::write(&file, config).context("write nats.conf")?;
    let mut command = pinned(&binary);
    command.arg("-c").arg(file);
    let server = Server::run(command, dialect, format!("ws://127.0.0.1:{port}"), folder)?;
    let server = listening(server, port).await?;
    if dialect == Dialect::Jetstream {
        keep_all(&server.doors(1)?[0]).await?;
    }
    Ok(server)
}

async fn centrifugo(binary: PathBuf) -> Result<Server> {
    let folder = tempfile::tempdir().context("make a folder for the configuration")?;
    let port = free_port()?;
    let config = json!({
        "http_server": { "address": "127.0.0.1", "port": port },
        "client": { "insecure": true, "allowed_origins": ["*"] },
        "channel": { "without_namespace": {
            "history_size": 1_000, "history_ttl": "300s", "force_recovery": true, "force_positioning": true,
            "presence": true, "join_leave": true, "force_push_join_leave": true
        } }
    });
    let file = folder.path().join("config.json");
    fs::write(&file, config.to_string()).context("write config.json")?;
    let mut command = pinned(&binary);
    command.arg("-c").arg(file);
    let server =
        Server::run(command, Dialect::Centrifugo, format!("ws://127.0.0.1:{port}/connection/websocket"), folder)?;
    listening(server, port).await
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

async fn listening(mut server: Server, port: u16) -> Result<Server> {
    let deadline = Instant::now() + READY_WITHIN;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(
            Instant::now() < deadline && server.lives(),
            "the server did not get ready; it said:\n{}",
            server.said()
        );
        sleep(Duration::from_millis(20)).await;
    }
    server.wall = server.begun.at.elapsed();
    Ok(server)
}
