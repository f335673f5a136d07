//! Every topic, key, channel and file name, made in one place. Functions take a `Scope`, never a bare fleet id.

use ringforge_domain::{
    ids::{AgentId, EdgeId, Scope},
    position::{Generation, Offset, Partition},
};

use crate::blobs::Key;

/// What every Kafka topic of a deployment begins with, unless it says otherwise.
pub const TOPIC_PREFIX: &str = "ringforge";
const DIRECTORY: &str = "directory";
const POOL: &str = "pool";
const DEDICATED: &str = "dedicated-";
const DLQ: &str = "dlq";

/// The topic of the directory partition in one life of the log.
pub fn directory_topic(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, DIRECTORY)
}

/// The topic of all pool partitions.
pub fn pool_topic(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, POOL)
}

/// The topic of copies of records that cannot be read.
pub fn dlq_topic(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, DLQ)
}

/// The topic of a partition that one fleet has to itself, by its number among those.
pub fn dedicated_topic(prefix: &str, generation: Generation, number: u16) -> String {
    topic(prefix, generation, &format!("{DEDICATED}{number}"))
}

/// The number of such a topic, if it is one.
pub fn dedicated_number(topic: &str) -> Option<u16> {
    let (_, name) = topic.rsplit_once('.')?;
    let number: u16 = name.strip_prefix(DEDICATED)?.parse().ok()?;
    (number < Partition::DEDICATED.0 && format!("{DEDICATED}{number}") == name).then_some(number)
}

/// The consumer group that deals out partitions among projectors.
pub fn projectors_group(prefix: &str, generation: Generation) -> String {
    topic(prefix, generation, "projectors")
}

fn topic(prefix: &str, generation: Generation, name: &str) -> String {
    format!("{prefix}.{:08x}.{name}", generation.0)
}

/// Which life of the log a topic belongs to, if it is one of these.
pub fn topic_generation(prefix: &str, topic: &str) -> Option<Generation> {
    let (generation, name) = topic.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
    let generation = Generation(u32::from_str_radix(generation, 16).ok()?);
    let is_one = [DIRECTORY, POOL, DLQ].contains(&name) || dedicated_number(topic).is_some();
    (is_one && self::topic(prefix, generation, name) == topic).then_some(generation)
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

/// What every checkpoint of a partition begins with, in one life of the log.
pub fn checkpoints(generation: Generation, partition: Partition) -> String {
    format!("checkpoints/{:08x}/{}/", generation.0, partition.0)
}

/// The rows of a checkpoint. Names come in the order of offsets.
pub fn checkpoint_rows(generation: Generation, partition: Partition, applied: Offset) -> Key {
    checkpoint(generation, partition, applied, ".rows")
}

/// What a checkpoint is told by, once it is verified.
pub fn checkpoint_told(generation: Generation, partition: Partition, applied: Offset) -> Key {
    checkpoint(generation, partition, applied, CHECKPOINT_TOLD)
}

fn checkpoint(generation: Generation, partition: Partition, applied: Offset, end: &str) -> Key {
    let key = format!("{}{:013}{end}", checkpoints(generation, partition), applied.0);
    key.parse().expect("made of what a key may have")
}

/// What the names of those end in.
pub const CHECKPOINT_TOLD: &str = ".json";

/// The objects of a data directory.
pub const BLOBS_DIRECTORY: &str = "blobs";

/// The read models that are made anew, beside those that are used.
pub fn rebuilding_file(generation: Generation) -> String {
    format!("rebuilding-{:08x}.db", generation.0)
}

/// The same once they are level: the next start uses them.
pub fn rebuilt_file(generation: Generation) -> String {
    format!("rebuilt-{:08x}.db", generation.0)
}

/// Asks the server of a data directory to make its read models anew.
pub const REBUILD_FILE: &str = "rebuild";

/// Why it could not.
pub const REBUILD_FAILED_FILE: &str = "rebuild-failed";

/// Where the URLs of objects lead that we serve ourselves.
pub const BLOBS_PATH: &str = "/blobs/";

#[cfg(test)]
mod tests {
    use ringforge_domain::ids::{FleetId, TenantId};

    use super::*;

    #[test]
    fn topics_are_known_again() {
        let generation = Generation(0xa0b);
        let dedicated = dedicated_topic("x.y", generation, 12);
        assert_eq!(dedicated_number(&dedicated), Some(12));
        let shared = [directory_topic, pool_topic, dlq_topic].map(|name| name("x.y", generation));
        for topic in shared.into_iter().chain([dedicated]) {
            assert_eq!(topic_generation("x.y", &topic), Some(generation), "{topic}");
            assert_eq!(topic_generation("x", &topic), None, "{topic}");
        }
        let others = [
            "x.y",
            "x.y.a0b.pool",
            "x.y.00000A0B.pool",
            "x.y.00000a0b.dedicated-012",
            "x.y.00000a0b.dedicated-32768",
            "x.y.00000a0b.dedicated-",
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
