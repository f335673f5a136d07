//! How Kafka's clients are set, and what becomes of what they say. Nothing else sets anything.

use std::{
    sync::{Mutex, OnceLock},
    time::Duration,
};

use rdkafka::{ClientConfig, ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError};
use ringforge_domain::{limits, position::Generation};
use ringforge_ports::{Error, names};
use tokio::sync::watch;

use super::OpenError;
use crate::{log::OnFatal, percent::from_percent};

/// How a Kafka cluster is reached, and which of its topics are meant.
#[derive(Clone)]
pub struct Cluster {
    /// `host:port` of one broker or more, separated by commas.
    pub servers: String,
    /// What the topics' names begin with.
    pub prefix: String,
    /// Settings of the client library for TLS and SASL: `security.protocol`, `ssl.*`, `sasl.*`.
    pub security: Vec<(String, String)>,
    /// How long an append may take before its outcome is unknown.
    pub append_timeout: Duration,
    /// How long anything else may take.
    pub request_timeout: Duration,
}

impl Cluster {
    /// The cluster at `kafka://[USER:PASSWORD@]HOST:PORT,HOST:PORT[/PREFIX][?tls=true&sasl=MECHANISM]`. What of a user or password
    /// means something in a URL is percent-encoded.
    ///
    /// # Errors
    /// It is no such address.
    pub fn at(url: &str) -> Result<Self, OpenError> {
        let wrong = |what: &str| OpenError::Address { what: what.to_owned() };
        let rest = url.strip_prefix("kafka://").ok_or_else(|| wrong("it does not begin with kafka://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let (servers, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let server = |server: &str| {
            let parts = server.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            parts.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        };
        if !servers.split(',').all(server) {
            return Err(wrong("a broker is named as HOST:PORT"));
        }
        let prefix = if prefix.is_empty() { names::TOPIC_PREFIX } else { prefix };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !prefix.chars().all(allowed) || prefix.len() > limits::KAFKA_PREFIX_CHARS_MAX {
            return Err(wrong("a topic's name has letters, digits, `.`, `_`, `-`, and is short"));
        }
        Ok(Self {
            servers: servers.to_owned(),
            prefix: prefix.to_owned(),
            security: security(login, query).map_err(wrong)?,
            append_timeout: Duration::from_millis(limits::KAFKA_APPEND_MS),
            request_timeout: Duration::from_millis(limits::KAFKA_REQUEST_MS),
        })
    }

    /// What all clients have in common.
    pub(super) fn client(&self) -> ClientConfig {
        let request_ms = self.request_timeout.as_millis().to_string();
        let mut config = ClientConfig::new();
        config.extend(self.security.iter().cloned());
        config
            .set("bootstrap.servers", &self.servers)
            .set("client.id", &self.prefix)
            .set("allow.auto.create.topics", "false")
            .set("message.max.bytes", limits::KAFKA_MESSAGE_BYTES_MAX.to_string())
            // A connection that is half open is noticed, and a broker that is back is found again at once.
            .set("socket.timeout.ms", &request_ms)
            .set("socket.connection.setup.timeout.ms", &request_ms)
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            // Else a topic that is not there is waited for half a minute.
            .set("topic.metadata.propagation.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Info);
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "5")
            // The price is per request and partition: half a millisecond joins what comes at once.
            .set("linger.ms", "0.5")
            // Never: a record that is given up makes the library number all that follow it anew, and what of these a broker has
            // already, it takes for others: they would be in the log twice. Whoever appends is answered in time all the same.
            .set("message.timeout.ms", "0")
            // Our own bounds are met first: see `Producer`.
            .set("queue.buffering.max.messages", (2 * limits::APPEND_QUEUE_MAX).to_string())
            .set("queue.buffering.max.kbytes", (2 * limits::APPEND_QUEUE_BYTES_MAX / 1024).to_string())
            // Says when the producer has its id, and otherwise next to nothing.
            .set("debug", "eos")
            .set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            // Without one nothing can be assigned. No offset is ever committed, and no group joined.
            .set("group.id", &self.prefix)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            .set("fetch.queue.backoff.ms", "10");
        config
    }

    /// A member of the group that deals out partitions. It reads nothing. Whoever dies is missed after six seconds, the least that
    /// brokers allow by default; where a broker decides on that (`group.protocol=consumer`), it is 45.
    pub(super) fn owner(&self, generation: Generation) -> ClientConfig {
        let mut config = self.consumer();
        config
            .set("group.id", names::projectors_group(&self.prefix, generation))
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "6000")
            // So soon those that stay hear that the group has changed: nobody has what is on its way to another until they did.
            .set("heartbeat.interval.ms", "500")
            .set("auto.offset.reset", "latest");
        config
    }

    /// The one that follows partitions. What it waits for wakes it, but another partition is taken up only between two waits.
    pub(super) fn follower(&self) -> ClientConfig {
        let mut config = self.consumer();
        config
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", (limits::KAFKA_FOLLOW_BYTES_MAX / 1024).to_string());
        config
    }

    /// One that reads old ranges. What it reads is there, so it waits for nothing; and it is soon sent elsewhere, so it fetches
    /// little ahead.
    pub(super) fn history(&self) -> ClientConfig {
        let mut config = self.consumer();
        config
            .set("fetch.wait.max.ms", "1")
            .set("fetch.message.max.bytes", (limits::KAFKA_READ_AHEAD_BYTES_MAX / 8).to_string())
            .set("queued.max.messages.kbytes", (limits::KAFKA_READ_AHEAD_BYTES_MAX / 1024).to_string());
        config
    }
}

/// How one may log in; the first unless it is said.
const MECHANISMS: [&str; 3] = ["SCRAM-SHA-256", "SCRAM-SHA-512", PLAIN];
const PLAIN: &str = "PLAIN";

/// The settings behind a login and what stands after `?` in an address.
fn security(login: Option<&str>, query: &str) -> Result<Vec<(String, String)>, &'static str> {
    let (mut tls, mut mechanism) = (false, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("tls", "true")) => tls = true,
            Some(("tls", "false")) => tls = false,
            Some(("sasl", name)) if MECHANISMS.contains(&name) => mechanism = Some(name),
            _ => return Err("after ? it may say tls=true and sasl=SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN"),
        }
    }
    let set =
        |settings: &[(&str, &str)]| settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let Some(login) = login else {
        return match mechanism {
            Some(_) => Err("sasl= says how to log in, and nobody does: put USER:PASSWORD@ before the first broker"),
            None => Ok(set(&[("security.protocol", if tls { "ssl" } else { "plaintext" })])),
        };
    };
    let mechanism = mechanism.unwrap_or(MECHANISMS[0]);
    if mechanism == PLAIN && !tls {
        return Err("with sasl=PLAIN whoever listens reads the password: say tls=true");
    }
    let (user, password) = login.split_once(':').ok_or("a login is USER:PASSWORD@")?;
    let plain = |text| from_percent(text).filter(|text| !text.is_empty()).ok_or("a login is USER:PASSWORD@");
    Ok(set(&[
        ("security.protocol", if tls { "sasl_ssl" } else { "sasl_plaintext" }),
        ("sasl.mechanism", mechanism),
        ("sasl.username", &plain(user)?),
        ("sasl.password", &plain(password)?),
    ]))
}

/// Why a client does not reach its brokers, as its library last said.
#[derive(Default)]
pub(super) struct Complaint(Mutex<String>);

impl Complaint {
    /// Takes note of a line of its log.
    fn hear(&self, about: &str, line: &str) {
        if about == "FAIL" {
            // Which thread says so is of no use to anybody.
            let line = line.split_once("]: ").map_or(line, |(_, line)| line);
            line.clone_into(&mut self.0.lock().expect("no panic while the lock is held"));
        }
    }

    /// What `error` means for whoever opens the log.
    pub(super) fn explain(&self, cluster: &Cluster, error: &KafkaError) -> OpenError {
        let said = self.0.lock().expect("no panic while the lock is held").clone();
        let (servers, within) = (cluster.servers.clone(), cluster.request_timeout);
        if said.contains("SASL authentication error") {
            return OpenError::Denied { servers, what: said };
        }
        if said.contains("certificate verify failed") {
            return OpenError::Untrusted { servers, what: said };
        }
        let what = if said.is_empty() { error.to_string() } else { said };
        OpenError::Unreachable { servers, within, what }
    }
}

/// What the clients of one log tell it.
pub(super) struct Voice {
    complaint: Complaint,
    /// Whether the producer has its id, without which nothing is sent.
    warm: watch::Sender<bool>,
    /// Why nothing is appended any more.
    stopped: OnceLock<Error>,
    on_fatal: Mutex<Option<OnFatal>>,
}

impl Voice {
    pub(super) fn new(on_fatal: OnFatal) -> Self {
        Self {
            complaint: Complaint::default(),
            warm: watch::Sender::new(false),
            stopped: OnceLock::new(),
            on_fatal: Mutex::new(Some(on_fatal)),
        }
    }

    pub(super) fn complaint(&self) -> &Complaint {
        &self.complaint
    }

    /// Waits until the producer has its id, or never will.
    pub(super) async fn warm(&self) {
        // The sender lives as long as `self`.
        let _ = self.warm.subscribe().wait_for(|warm| *warm).await;
    }

    /// Says that nothing is appended any more.
    pub(super) fn stop(&self, error: Error) {
        let _ = self.stopped.set(error);
    }

    pub(super) fn stopped(&self) -> Option<&Error> {
        self.stopped.get()
    }

    /// A producer that is dead for good must not look alive: the process is told, once, that it must not go on.
    pub(super) fn fatal(&self, reason: &str) {
        let error = Error::Unavailable(format!("the Kafka producer is dead: {reason}"));
        tracing::error!("{error}");
        self.stop(error.clone());
        self.warm.send_replace(true);
        let hook = self.on_fatal.lock().expect("no panic while the lock is held").take();
        if let Some(hook) = hook {
            hook(&error);
        }
    }
}

/// What is said is traced; nothing of it needs someone to act, so nothing is an error.
pub(super) fn trace(level: RDKafkaLogLevel, about: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::debug!("kafka: {about}: {line}"),
        RDKafkaLogLevel::Debug => tracing::trace!("kafka: {about}: {line}"),
        _ => tracing::warn!("kafka: {about}: {line}"),
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, about: &str, line: &str) {
        match about {
            "IDEMPSTATE" if line.ends_with("-> Assigned") => drop(self.warm.send_replace(true)),
            // Its error has the code of what was the cause, as any other that passes.
            "FATAL" => self.fatal(line),
            _ => {}
        }
        self.complaint.hear(about, line);
        trace(level, about, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!("kafka: {error}: {reason}");
    }
}

/// The same for a client on which no append depends.
#[derive(Default)]
pub(super) struct Quiet {
    pub(super) complaint: Complaint,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, about: &str, line: &str) {
        self.complaint.hear(about, line);
        trace(level, about, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library takes for its settings, defaults included.
    #[track_caller]
    fn has(config: &ClientConfig, settings: &[(&str, &str)]) {
        let native = config.create_native_config().expect("the library takes it");
        for (name, value) in settings {
            let set = native.get(name).expect("it is a setting");
            assert_eq!(set.trim_end_matches('\0'), *value, "{name}");
        }
    }

    fn cluster() -> Cluster {
        Cluster::at("kafka://one:9092,two:9092").expect("an address")
    }

    #[test]
    fn producers_lose_nothing_and_keep_the_order() {
        let settings = [
            ("enable.idempotence", "true"),
            ("acks", "-1"),
            ("max.in.flight.requests.per.connection", "5"),
            ("enable.gapless.guarantee", "false"),
            ("message.timeout.ms", "0"),
            ("linger.ms", "0.5"),
            ("allow.auto.create.topics", "false"),
            ("message.max.bytes", "8454144"),
            ("queue.buffering.max.messages", "16384"),
            ("queue.buffering.max.kbytes", "131072"),
            ("topic.metadata.propagation.max.ms", "2000"),
            ("socket.keepalive.enable", "true"),
        ];
        has(&cluster().producer(), &settings);
    }

    #[test]
    fn consumers_skip_nothing_and_commit_nothing() {
        let settings = [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "true"),
            ("enable.partition.eof", "false"),
            ("fetch.min.bytes", "1"),
        ];
        for config in [cluster().follower(), cluster().history()] {
            has(&config, &settings);
        }
        has(&cluster().history(), &[("queued.max.messages.kbytes", "1024"), ("fetch.message.max.bytes", "131072")]);
        has(&cluster().follower(), &[("queued.max.messages.kbytes", "16384"), ("fetch.wait.max.ms", "100")]);
    }

    #[test]
    fn members_read_nothing_and_are_missed_soon() {
        let config = cluster().owner(Generation(0xa0b));
        has(
            &config,
            &[
                ("group.id", "ringforge.00000a0b.projectors"),
                ("enable.auto.commit", "false"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "6000"),
            ],
        );
    }

    #[test]
    fn logins_and_tls_are_read() {
        let read = |url: &str| {
            let cluster = Cluster::at(url)?;
            let config = cluster.client();
            let native = config.create_native_config().expect("the library takes it");
            // What is not set is an error.
            let of = |name| native.get(name).unwrap_or_default().trim_end_matches('\0').to_owned();
            let names = ["security.protocol", "sasl.mechanisms", "sasl.username"];
            let [protocol, mechanism, user] = names.map(of);
            Ok::<_, OpenError>((cluster.servers, protocol, mechanism, user))
        };
        let texts = |(a, b, c, d): (&str, &str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
        for (url, wanted) in [
            ("kafka://a:1", ("a:1", "plaintext", "GSSAPI", "")),
            ("kafka://a:1?tls=true", ("a:1", "ssl", "GSSAPI", "")),
            ("kafka://me:p%40s,s@a:1,b:2/x", ("a:1,b:2", "sasl_plaintext", "SCRAM-SHA-256", "me")),
            ("kafka://m%3Ae:p@a:1/x?sasl=PLAIN&tls=true", ("a:1", "sasl_ssl", "PLAIN", "m:e")),
        ] {
            assert_eq!(read(url).expect(url), texts(wanted), "{url}");
        }
        let security = Cluster::at("kafka://me:p%40s,s@a:1").expect("an address").security;
        assert!(security.contains(&("sasl.password".to_owned(), "p@s,s".to_owned())));
        for wrong in [
            "kafka://me@a:1",
            "kafka://me:@a:1",
            "kafka://:hidden@a:1",
            "kafka://me:hidden@a",
            "kafka://me:hidden@a:1?sasl=PLAIN",
            "kafka://me:hidden@a:1?sasl=GSSAPI",
            "kafka://me:hidden@a:1?tls=1",
            "kafka://a:1?sasl=SCRAM-SHA-512",
        ] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let read = |url: &str| Cluster::at(url).map(|cluster| (cluster.servers, cluster.prefix)).ok();
        assert_eq!(read("kafka://a:1"), Some(("a:1".into(), names::TOPIC_PREFIX.into())));
        assert_eq!(read("kafka://a:1,[::1]:2/mesh-2"), Some(("a:1,[::1]:2".into(), "mesh-2".into())));
        for wrong in
            ["redis://a:1", "kafka://", "kafka://a", "kafka://:1", "kafka://a:1,", "kafka://a:1/x/y", "kafka://a:1/ä"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
