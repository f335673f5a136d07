//! Every topic, key, channel and file name, made in one place. Functions take a `Scope`, never a bare fleet id.

use ringforge_domain::{
    ids::{AgentId, EdgeId, Scope},
    position::Generation,
};

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

/// The log's file in a data directory.
pub const LOG_FILE: &str = "log.db";

/// The read models' file in a data directory: those of another life of the log are never taken for this one's.
pub fn reads_file(generation: Generation) -> String {
    format!("reads-{:08x}.db", generation.0)
}

/// The keys of a bootstrap, in a data directory.
pub const CREDENTIALS_FILE: &str = "credentials.json";
