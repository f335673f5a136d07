//! What is kept of fleets: where each lives, its name, and the end of its chain.

use serde::{Deserialize, Serialize};

use super::{Row, RowKey, State, Table};
use crate::{
    ids::{FleetId, Scope, TenantId},
    position::{LogTime, Offset, Partition, StreamRef},
};

/// A fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// Tenant and id.
    pub scope: Scope,
    /// Its name within the tenant.
    pub slug: String,
    /// Where its events are.
    pub stream: StreamRef,
    /// Since when.
    pub created_at: LogTime,
}

impl Fleet {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(self.scope)
    }

    /// The name of a fleet's row.
    pub fn key(scope: Scope) -> RowKey {
        RowKey::new(Table::Fleet, scope, "")
    }
}

/// Which fleet of a tenant has a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slug {
    /// Whose.
    pub tenant: TenantId,
    /// The name.
    pub slug: String,
    /// The fleet.
    pub fleet: FleetId,
}

impl Slug {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(self.tenant, &self.slug)
    }

    /// The name of a slug's row.
    pub fn key(tenant: TenantId, slug: &str) -> RowKey {
        RowKey::new(Table::Slug, Scope::directory(tenant), slug)
    }
}

/// Whose a partition is that one fleet has to itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Which.
    pub partition: Partition,
    /// Whose.
    pub scope: Scope,
    /// For how many seconds its log keeps events, if not as long as others do.
    pub retention_s: Option<u64>,
}

impl Home {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(self.partition)
    }

    /// The name of a partition's row. It is found without knowing whose it is.
    pub fn key(partition: Partition) -> RowKey {
        RowKey::new(Table::Home, Scope::OPERATOR, partition.0)
    }
}

impl State for Home {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Home(state) = row { Some(state) } else { None }
    }
}

/// The last event of a fleet: the end of its chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose.
    pub scope: Scope,
    /// Its place.
    pub last: Offset,
    /// 32 bits of its record's hash.
    pub hash: u32,
}
