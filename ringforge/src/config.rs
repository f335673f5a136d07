//! Settings: the defaults, then a file, then the command line.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use ringforge_command_api::GateConfig;
use ringforge_domain::limits::{CONNECTIONS_MAX, Limits, PENDING_MAX};
use ringforge_ws_edge::{edge::EdgeConfig, session::SessionConfig};
use serde::Deserialize;

use crate::{http::HttpConfig, options::All};

/// Every setting with its default.
const DEFAULTS: &str = include_str!("ringforge.default.toml");

/// All settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen and to keep things.
    pub server: Server,
    timing: Timing,
    gate: GateSettings,
    limits: Limits,
}

/// Where to listen and to keep things.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The data directory.
    pub data: PathBuf,
    /// The address.
    pub bind: IpAddr,
    /// The port; 0: any.
    pub port: u16,
    connections_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the unit stands last in every setting")]
struct Timing {
    auth_timeout_ms: u64,
    upgrade_timeout_ms: u64,
    ping_interval_ms: u64,
    silence_timeout_ms: u64,
    leave_grace_ms: u64,
    reply_timeout_ms: u64,
    reconnect_after_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateSettings {
    lag_max: u64,
}

impl Config {
    /// Defaults, the file, the options.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or makes no sense: the message names it.
    pub fn load(options: &All) -> anyhow::Result<Self> {
        let mut config = match &options.config {
            None => Self::read("").context("the defaults")?,
            Some(path) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("cannot read the settings in {}", path.display()))?;
                Self::read(&text).with_context(|| format!("the settings in {} are wrong", path.display()))?
            }
        };
        if let Some(data) = &options.data {
            config.server.data.clone_from(data);
        }
        config.server.bind = options.bind.unwrap_or(config.server.bind);
        config.server.port = options.port.unwrap_or(config.server.port);
        Ok(config)
    }

    /// The defaults, and over them the settings of a file.
    ///
    /// # Errors
    /// It is no TOML, or a setting is unknown or makes no sense: the message names it.
    pub fn read(file: &str) -> anyhow::Result<Self> {
        let mut settings: toml::Table = DEFAULTS.parse().context("the built-in defaults")?;
        let own: toml::Table = file.parse().context("this is not TOML")?;
        merge(&mut settings, own);
        let config: Self = settings.try_into()?;
        config.check()?;
        Ok(config)
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.server.bind, self.server.port)
    }

    /// For the port.
    pub fn http(&self) -> HttpConfig {
        HttpConfig {
            upgrade_timeout: Duration::from_millis(self.timing.upgrade_timeout_ms),
            connections_max: self.server.connections_max,
        }
    }

    /// For the gate.
    pub fn gate(&self) -> GateConfig {
        GateConfig {
            limits: self.limits.clone(),
            lag_max: self.gate.lag_max,
            reply_timeout: Duration::from_millis(self.timing.reply_timeout_ms),
        }
    }

    /// For the edge.
    pub fn edge(&self, node: String) -> EdgeConfig {
        let ms = Duration::from_millis;
        EdgeConfig {
            session: SessionConfig {
                limits: self.limits.clone(),
                auth_timeout: ms(self.timing.auth_timeout_ms),
                ping_interval: ms(self.timing.ping_interval_ms),
                silence_timeout: ms(self.timing.silence_timeout_ms),
                reply_timeout: ms(self.timing.reply_timeout_ms),
                pending_max: PENDING_MAX,
                reconnect_after: ms(self.timing.reconnect_after_ms),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node,
            },
            leave_grace: ms(self.timing.leave_grace_ms),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if !(1..=CONNECTIONS_MAX).contains(&self.server.connections_max) {
            bail!("server.connections_max must be from 1 to {CONNECTIONS_MAX}");
        }
        let timing = &self.timing;
        for (name, ms) in [
            ("auth_timeout_ms", timing.auth_timeout_ms),
            ("upgrade_timeout_ms", timing.upgrade_timeout_ms),
            ("ping_interval_ms", timing.ping_interval_ms),
            ("reply_timeout_ms", timing.reply_timeout_ms),
        ] {
            if ms == 0 {
                bail!("timing.{name} must be more than 0");
            }
        }
        if timing.silence_timeout_ms <= timing.ping_interval_ms {
            bail!("timing.silence_timeout_ms must be more than timing.ping_interval_ms, or every agent looks lost");
        }
        if self.limits.memory_value_bytes > 1 << 20 {
            bail!("limits.memory_value_bytes may be at most 1048576");
        }
        Ok(())
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(own)) => merge(known, own),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}
