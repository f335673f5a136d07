//! Who asks, and where in the log: all that an `apply` may know of the world beside the rows.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{AgentId, CommandId, FleetId, KeyId, Scope, SessionId, TenantId},
    json::Json,
    position::{LogTime, Position},
};

/// The first fields of every record: who asks, on whose behalf, how to recognise it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Header {
    /// New for every append.
    pub command_id: CommandId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The fleet; all zeros in the directory.
    pub fleet_id: FleetId,
    /// Who asks; none for `session.started` and the installation itself.
    pub agent_id: Option<AgentId>,
    /// The connection it came over; none for internal and REST commands.
    pub session_id: Option<SessionId>,
    /// The event that led to it, as the client named it.
    pub caused_by: Option<String>,
    /// The key it was allowed by.
    pub key_id: Option<KeyId>,
    /// The client's own name for this command, to repeat it safely.
    pub idempotency_key: Option<String>,
    /// Echoed on the reply: a JSON string or integer.
    pub reference: Option<Json>,
    /// W3C traceparent.
    pub trace: Option<String>,
    /// Log time in microseconds after which it should no longer take effect.
    pub deadline: Option<i64>,
}

impl Header {
    /// Whose.
    pub fn scope(&self) -> Scope {
        Scope { tenant: self.tenant_id, fleet: self.fleet_id }
    }
}

/// A header with its place in the log: all that an `apply` may know of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct At {
    /// The place.
    pub position: Position,
    /// Log time, never running backwards.
    pub time: LogTime,
    /// 32 bits of the record's hash.
    pub hash: u32,
    /// Bytes of the record.
    pub bytes: usize,
    /// BLAKE3 of kind and payload, in hex: the same body has the same hash.
    pub body_hash: String,
    /// Who and how.
    pub header: Header,
}

impl At {
    /// Whose.
    pub fn scope(&self) -> Scope {
        self.header.scope()
    }
}
