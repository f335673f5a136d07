//! Every topic, key, channel and file name, made in one place. Functions take a `Scope`, never a bare fleet id.

use ringforge_domain::{
    ids::{AgentId, EdgeId, Scope},
    position::Generation,
};

/// What every Kafka topic of a deployment begins with, unless it says otherwise.
pub const TOPIC_PREFIX: &str = "ringforge";
const DIRECTORY: &str = "directory";
const POOL: &str = "pool";

/// The topic of the directory partition in one life of the log.
pub fn directory_topic(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, DIRECTORY)
}

/// The topic of all pool partitions.
pub fn pool_topic(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, POOL)
}

fn topic(prefix: &str, generation: Generation, name: &str) -> String {
    format!("{prefix}.{:08x}.{name}", generation.0)
}

/// Which life of the log a topic belongs to, if it is one of these.
pub fn topic_generation(prefix: &str, topic: &str) -> Option<Generation> {
    let (generation, name) = topic.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
    let generation = Generation(u32::from_str_radix(generation, 16).ok()?);
    ((name == DIRECTORY || name == POOL) && self::topic(prefix, generation, name) == topic).then_some(generation)
}

/// The key of a record: readers find those of their fleet without looking inside.
pub fn record_key(scope: Scope) -> String {
    format!("{}/{}", scope.tenant, scope.fleet)
}

/// The scope that `record_key` made a key of.
pub fn key_scope(key: &[u8]) -> Option<Scope> {
    let (tenant, fleet) = str::from_utf8(key).ok()?.split_once('/')?;
    Some(Scope { tenant: tenant.parse().ok()?, fleet: fleet.parse().ok()? })
}

/// The lease of an edge's life.
pub fn edge_lease(edge: EdgeId) -> String {
    format!("edge/{edge}")
}

/// What every edge lease begins with.
pub const EDGE_LEASES: &str = "edge/";

/// When an agent was last heard of, and its load.
pub fn heartbeat(scope: Scope, agent: AgentId) -> String {
    format!("{}{agent}", heartbeats(scope))
}

/// What every heartbeat of a fleet begins with.
pub fn heartbeats(scope: Scope) -> String {
    format!("t/{}/f/{}/heartbeat/", scope.tenant, scope.fleet)
}

/// How often a memory key was read.
pub fn access_count(scope: Scope, key: &str) -> String {
    format!("t/{}/f/{}/access/{key}", scope.tenant, scope.fleet)
}

/// Whose part of a Redis it is, unless its address says so.
pub const DEPLOYMENT: &str = "ringforge";

/// The channel of a fleet in a deployment's part of a Redis.
pub fn fleet_channel(deployment: &str, scope: Scope) -> String {
    format!("{deployment}:news:t/{}/f/{}", scope.tenant, scope.fleet)
}

/// What keeps a directory of facts there.
pub fn directory_key(deployment: &str, directory: &str) -> String {
    format!("{deployment}:facts:{directory}")
}

/// What keeps a counter there.
pub fn counter_key(deployment: &str, key: &str) -> String {
    format!("{deployment}:count:{key}")
}

/// The log's file in a data directory.
pub const LOG_FILE: &str = "log.db";

/// The read models' file in a data directory: those of another life of the log are never taken for this one's.
pub fn reads_file(generation: Generation) -> String {
    format!("reads-{:08x}.db", generation.0)
}

/// The edge that the last process in a data directory was.
pub const EDGE_FILE: &str = "edge";

/// The keys of a bootstrap, in a data directory.
pub const CREDENTIALS_FILE: &str = "credentials.json";

/// Where the URLs of objects lead that we serve ourselves.
pub const BLOBS_PATH: &str = "/blobs/";

#[cfg(test)]
mod tests {
    use ringforge_domain::ids::{FleetId, TenantId};

    use super::*;

    #[test]
    fn topics_are_known_again() {
        let generation = Generation(0xa0b);
        for topic in [directory_topic("x.y", generation), pool_topic("x.y", generation)] {
            assert_eq!(topic_generation("x.y", &topic), Some(generation), "{topic}");
            assert_eq!(topic_generation("x", &topic), None, "{topic}");
        }
        let others = [
            "x.y",
            "x.y.a0b.pool",
            "x.y.00000A0B.pool",
            "x.y.00000a0b.dlq",
            "x.y.00000a0b.pool.2",
            "x.yy.00000a0b.pool",
        ];
        for topic in others {
            assert_eq!(topic_generation("x.y", topic), None, "{topic}");
        }
    }

    #[test]
    fn keys_are_known_again() {
        for scope in [Scope::OPERATOR, Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(u128::MAX) }] {
            assert_eq!(key_scope(record_key(scope).as_bytes()), Some(scope));
        }
        for key in [&b""[..], b"/", b"\xff/x", record_key(Scope::OPERATOR).trim_start_matches('t').as_bytes()] {
            assert_eq!(key_scope(key), None);
        }
    }
}
