//! Settings: the defaults, then a file, then the environment, then the command line.

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

/// `RINGFORGE__GATE__LAG_MAX` is `lag_max` in `[gate]`.
const VARIABLES: &str = "RINGFORGE__";

/// Every setting with its default.
const DEFAULTS: &str = include_str!("ringforge.default.toml");

/// All settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen and to keep things.
    pub server: Server,
    /// What to keep them in.
    pub stores: StoreUrls,
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

/// What to keep things in, each as a URL.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreUrls {
    /// `file:` or `kafka:`.
    pub log: String,
    /// `sqlite:` or `postgres:`.
    pub reads: String,
    /// `memory:` or `redis:`.
    pub live: String,
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
    /// Defaults, the file, the environment, the options.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or makes no sense: the message names it.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads settings from the environment")]
    pub fn load(options: &All) -> anyhow::Result<Self> {
        let mut settings: toml::Table = DEFAULTS.parse().context("the built-in defaults")?;
        if let Some(path) = &options.config {
            let text =
                fs::read_to_string(path).with_context(|| format!("cannot read the settings in {}", path.display()))?;
            let own = text.parse().context("this is not TOML");
            merge(&mut settings, own.with_context(|| format!("the settings in {} are wrong", path.display()))?);
            // Before others come over them: what is wrong is known to be in the file.
            Self::of(settings.clone()).with_context(|| format!("the settings in {} are wrong", path.display()))?;
        }
        for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with(VARIABLES)) {
            set(&mut settings, &name, &value).with_context(|| format!("the environment variable {name} is wrong"))?;
        }
        let mut config = Self::of(settings).context("the settings in the environment are wrong")?;
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
        merge(&mut settings, file.parse().context("this is not TOML")?);
        Self::of(settings)
    }

    fn of(settings: toml::Table) -> anyhow::Result<Self> {
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

/// Sets what a variable names. A setting that is no text has the type of its default.
fn set(settings: &mut toml::Table, name: &str, value: &str) -> anyhow::Result<()> {
    let path = name.strip_prefix(VARIABLES).unwrap_or(name).to_lowercase();
    let (section, setting) = path.split_once("__").context("it names no setting: RINGFORGE__SECTION__SETTING")?;
    let known = settings.get_mut(section).and_then(toml::Value::as_table_mut);
    let known = known.with_context(|| format!("there is no section `{section}`"))?;
    let default = known.get_mut(setting).with_context(|| format!("there is no setting `{setting}` in `{section}`"))?;
    *default = match &*default {
        toml::Value::String(_) => value.into(),
        other => {
            let read: toml::Value = value.parse().unwrap_or_else(|_| value.into());
            if read.type_str() != other.type_str() {
                bail!("it must be of type {}", other.type_str());
            }
            read
        }
    };
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_sets_what_it_names() {
        let mut settings: toml::Table = DEFAULTS.parse().expect("the defaults are TOML");
        let mut set = |name: &str, value: &str| set(&mut settings, name, value).map_err(|error| format!("{error:#}"));
        assert_eq!(set("RINGFORGE__STORES__LOG", "kafka://a:1,b:2/x"), Ok(()));
        assert_eq!(set("RINGFORGE__GATE__LAG_MAX", "7"), Ok(()));
        let refused = |answer: Result<(), String>| answer.expect_err("it is refused");
        assert!(refused(set("RINGFORGE__GATE__LAG_MAX", "many")).contains("integer"));
        assert!(refused(set("RINGFORGE__GATE__LAG", "7")).contains("no setting `lag` in `gate`"));
        assert!(refused(set("RINGFORGE__GAT__LAG_MAX", "7")).contains("no section `gat`"));
        assert!(refused(set("RINGFORGE__GATE", "7")).contains("RINGFORGE__SECTION__SETTING"));
        let config = Config::of(settings).expect("they make sense");
        assert_eq!((config.stores.log.as_str(), config.gate.lag_max), ("kafka://a:1,b:2/x", 7));
    }
}
