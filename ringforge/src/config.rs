//! Settings: the defaults, then a file, then the environment, then the command line.

use std::{
    fmt, fs,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use ringforge_command_api::GateConfig;
use ringforge_domain::limits::{CONNECTIONS_MAX, Limits, PENDING_MAX, PERIOD_MAX};
use ringforge_projectors::checkpoint::Plan;
use ringforge_ws_edge::{edge::EdgeConfig, session::SessionConfig, socket::GOODBYE};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    http::HttpConfig,
    options::{CheckConfig, Serve},
    role::Duty,
    secrets,
};

/// `RINGFORGE__GATE__LAG_MAX` is `lag_max` in `[gate]`.
const VARIABLES: &str = "RINGFORGE__";
/// `RINGFORGE__STORES__LOG__FILE` names a file that has the value.
const IN_FILE: &str = "__FILE";

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
    /// What only our processes know.
    pub secrets: Secrets,
    log: LogSettings,
    checkpoints: CheckpointSettings,
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreUrls {
    /// `file:` or `kafka:`.
    pub log: String,
    /// `sqlite:` or `postgres:`.
    pub reads: String,
    /// `memory:` or `redis:`.
    pub live: String,
    /// `file:` or `s3:`.
    pub blobs: String,
}

// They may have passwords.
impl fmt::Debug for StoreUrls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("StoreUrls")
    }
}

/// What only our processes know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Seals event ids: keys in hex, the one in use first; empty: the one of the data directory.
    pub seal: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secrets")
    }
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
struct LogSettings {
    retention_hours: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointSettings {
    every_minutes: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateSettings {
    lag_max: u64,
}

impl StoreUrls {
    /// Refuses stores that only one process can have, where there are others beside it.
    ///
    /// # Errors
    /// Which they are, and what to set.
    pub fn check(&self, duty: Duty) -> anyhow::Result<()> {
        let stores = [
            ("log", &self.log, "file", "kafka://HOST:PORT"),
            ("reads", &self.reads, "sqlite", "postgres://USER@HOST/DATABASE"),
            ("live", &self.live, "memory", "redis://HOST:PORT"),
        ];
        // On Kafka there may be others, whoever we are.
        let is_alone = duty == Duty::All && self.log.starts_with("file:");
        let own = stores.iter().filter(|(_, url, own, _)| url.split(':').next() == Some(own));
        let wrong: Vec<String> = own
            .map(|(name, _, own, other)| {
                let variable = name.to_uppercase();
                format!("stores.{name} is {own}:, so set it (or RINGFORGE__STORES__{variable}) to {other}")
            })
            .collect();
        if is_alone || wrong.is_empty() {
            return Ok(());
        }
        bail!("`ringforge {duty}` shares its stores with other processes; {}", wrong.join("; "));
    }
}

impl Config {
    /// Defaults, the file, the environment, the options.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or makes no sense: the message names it.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads settings from the environment")]
    pub fn load(options: &Serve) -> anyhow::Result<Self> {
        let mut settings: toml::Table = DEFAULTS.parse().context("the built-in defaults")?;
        if let Some(path) = &options.config {
            let text =
                fs::read_to_string(path).with_context(|| format!("cannot read the settings in {}", path.display()))?;
            let own = parsed(&text);
            merge(&mut settings, own.with_context(|| format!("the settings in {} are wrong", path.display()))?);
            // Before others come over them: what is wrong is known to be in the file.
            Self::of(settings.clone()).with_context(|| format!("the settings in {} are wrong", path.display()))?;
        }
        for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with(VARIABLES)) {
            let wrong = || format!("the environment variable {name} is wrong");
            let (setting, value) = value_of(&name, value).with_context(wrong)?;
            set(&mut settings, setting, &value).with_context(wrong)?;
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
        merge(&mut settings, parsed(file)?);
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
            request_timeout: Duration::from_millis(self.timing.reply_timeout_ms) + GOODBYE,
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

    /// For checkpoints; `None`: there are none.
    pub fn checkpoints(&self) -> Option<Plan> {
        let some = |seconds: f64| (seconds > 0.0).then(|| Duration::from_secs_f64(seconds));
        let every = some(self.checkpoints.every_minutes * 60.0)?;
        let retention = some(self.log.retention_hours * 3_600.0);
        Some(Plan { every, retention, turn: Arc::new(Semaphore::new(1)) })
    }

    /// Refuses stores that only one process can have, where a role runs alone.
    ///
    /// # Errors
    /// Which they are, and what to set.
    pub fn check_for(&self, duty: Duty) -> anyhow::Result<()> {
        self.stores.check(duty)?;
        let own = self.stores.blobs.split(':').next() == Some("file");
        if duty != Duty::All && own && self.checkpoints.every_minutes > 0.0 {
            bail!(
                "`ringforge {duty}` shares checkpoints with other processes; stores.blobs is file:, so set it (or \
                 RINGFORGE__STORES__BLOBS) to s3://ACCESS:SECRET@HOST:PORT/BUCKET"
            );
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let StoreUrls { log, reads, live, blobs } = &self.stores;
        for (name, url, schemes) in [
            ("log", log, &["file", "kafka"][..]),
            ("reads", reads, &["sqlite", "postgres"]),
            ("live", live, &["memory", "redis", "rediss"]),
            ("blobs", blobs, &["file", "s3"]),
        ] {
            let scheme = url.split(':').next().unwrap_or_default();
            if !schemes.contains(&scheme) {
                // The rest may have a password.
                let variable = name.to_uppercase();
                bail!(
                    "stores.{name} (RINGFORGE__STORES__{variable}) must be {}: or {}://.., not {scheme}:",
                    schemes[0],
                    schemes[1]
                );
            }
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.server.connections_max) {
            bail!("server.connections_max must be from 1 to {CONNECTIONS_MAX}");
        }
        if !self.secrets.seal.is_empty() {
            secrets::parse(&self.secrets.seal).context("secrets.seal")?;
        }
        self.check_checkpoints()?;
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

/// Reads TOML. What is wrong is told by its line alone: the text may have secrets.
fn parsed(text: &str) -> anyhow::Result<toml::Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = 1 + error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count());
        anyhow::anyhow!("this is not TOML: line {line}: {}", error.message())
    })
}

impl Config {
    fn check_checkpoints(&self) -> anyhow::Result<()> {
        let (every, retention) = (self.checkpoints.every_minutes, self.log.retention_hours);
        for (name, value) in [("checkpoints.every_minutes", every), ("log.retention_hours", retention)] {
            if !(0.0..=PERIOD_MAX).contains(&value) {
                bail!("{name} must be from 0 to {PERIOD_MAX}");
            }
        }
        if retention > 0.0 && every == 0.0 {
            bail!(
                "log.retention_hours trims the log to a checkpoint, and checkpoints.every_minutes is 0: set it, to 60 \
                 for one an hour"
            );
        }
        Ok(())
    }
}

/// Says on stdout that the settings make sense.
///
/// # Errors
/// They do not, for this role: what is wrong, and what to set.
pub fn check(which: &CheckConfig) -> anyhow::Result<()> {
    let config = Config::load(&Serve { config: which.config.clone(), ..Serve::default() })?;
    config.check_for(which.role)?;
    if config.secrets.seal.is_empty() && ![Duty::All, Duty::Projectors].contains(&which.role) {
        bail!("secrets.seal is empty: {}", secrets::FIX);
    }
    writeln!(std::io::stdout(), "The settings make sense for `ringforge {}`.", which.role).context("say so")
}

/// The setting that a variable names, and its value, which may be in a file: so secrets need not be in the environment.
fn value_of(name: &str, value: String) -> anyhow::Result<(&str, String)> {
    let Some(setting) = name.strip_suffix(IN_FILE) else { return Ok((name, value)) };
    let read = fs::read_to_string(&value).with_context(|| format!("cannot read {value}"))?;
    Ok((setting, read.trim().to_owned()))
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
            let read = match value.parse().unwrap_or_else(|_| value.into()) {
                // A number that need not be whole may be.
                toml::Value::Integer(_) if other.is_float() => value.parse::<f64>().map_or(value.into(), Into::into),
                read => read,
            };
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
    fn a_value_may_be_in_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("url");
        fs::write(&path, "redis://:secret@a\n").expect("it is written");
        let path = path.to_str().expect("text").to_owned();
        let read = |name, value: &str| value_of(name, value.to_owned()).ok();
        let (name, url) = ("RINGFORGE__STORES__LIVE", "redis://:secret@a".to_owned());
        assert_eq!(read("RINGFORGE__STORES__LIVE__FILE", &path), Some((name, url.clone())));
        assert_eq!(read(name, &url), Some((name, url)));
        assert_eq!(read("RINGFORGE__STORES__LIVE__FILE", "/nowhere"), None);
        let config = Config::read("[stores]\nlive = \"redis://:secret@a\"\n").expect("settings");
        assert!(!format!("{config:?}").contains(":secret@"));
    }

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

    #[test]
    fn nothing_is_trimmed_without_checkpoints() {
        let plan = |text: &str| Config::read(text).map(|config| config.checkpoints());
        assert!(plan("").expect("the defaults").is_none());
        let every = plan("[checkpoints]\nevery_minutes = 60").expect("it makes sense").expect("a plan");
        assert_eq!((every.every, every.retention), (Duration::from_hours(1), None));
        let both = plan("[checkpoints]\nevery_minutes = 0.5\n[log]\nretention_hours = 24").expect("it makes sense");
        assert_eq!(both.map(|plan| plan.retention), Some(Some(Duration::from_hours(24))));
        for wrong in ["[log]\nretention_hours = 1", "[log]\nretention_hours = -1", "[checkpoints]\nevery_minutes = nan"]
        {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
        let mut settings: toml::Table = DEFAULTS.parse().expect("the defaults are TOML");
        set(&mut settings, "RINGFORGE__CHECKPOINTS__EVERY_MINUTES", "5").expect("a whole number will do");
        let config = Config::of(settings).expect("it makes sense");
        assert_eq!(config.checkpoints().map(|plan| plan.every), Some(Duration::from_mins(5)));
        assert!(config.stores.blobs == "file:" && config.check_for(Duty::All).is_ok());
        let shared = config.check_for(Duty::Projectors).expect_err("the log is a file").to_string();
        assert!(shared.contains("stores.log"), "{shared}");
    }

    #[test]
    fn a_role_alone_wants_stores_that_can_be_shared() {
        let urls = |log: &str, reads: &str, live: &str| StoreUrls {
            log: log.to_owned(),
            reads: reads.to_owned(),
            live: live.to_owned(),
            blobs: "file:".to_owned(),
        };
        let own = urls("file:", "sqlite:", "memory:");
        let shared = urls("kafka://a:1", "postgres://a/b", "redis://a:1");
        assert!(own.check(Duty::All).is_ok() && shared.check(Duty::Edge).is_ok());
        assert!(urls("kafka://a:1", "sqlite:", "redis://a:1").check(Duty::All).is_err(), "another may have this log");
        let refused = own.check(Duty::Edge).expect_err("it is refused").to_string();
        assert!(["LOG", "READS", "LIVE"].iter().all(|name| refused.contains(name)), "{refused}");
        let refused = urls("kafka://a:1", "postgres://a/b", "memory:").check(Duty::Projectors);
        let refused = refused.expect_err("it is refused").to_string();
        assert!(refused.contains("stores.live") && !refused.contains("stores.log"), "{refused}");
    }
}
