//! What is kept of tenants and API keys.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use super::{Row, RowKey, State, Table};
use crate::{
    ids::{FleetId, KeyId, Scope, TenantId},
    position::LogTime,
};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Since when.
    pub created_at: LogTime,
}

impl Tenant {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(self.id)
    }

    /// The name of a tenant's row.
    pub fn key(id: TenantId) -> RowKey {
        RowKey::new(Table::Tenant, Scope::directory(id), "")
    }
}

/// The secret that all processes use for something now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    /// For what.
    pub name: String,
    /// Which: nothing that helps to guess it.
    pub fingerprint: String,
}

impl Secret {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(&self.name)
    }

    /// The name of a secret's row. It is nobody's but the house's.
    pub fn key(name: &str) -> RowKey {
        RowKey::new(Table::Secret, Scope::OPERATOR, name)
    }
}

impl State for Secret {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Secret(state) = row { Some(state) } else { None }
    }
}

/// What a key is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum KeyType {
    // Agents in production.
    #[default]
    Live,
    // Agents in a sandbox.
    Test,
    // Administration.
    Admin,
}

/// An API key, by its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// Its id, for logs and provenance.
    pub id: KeyId,
    /// Whose; `TenantId::NONE` for the operator.
    pub tenant: TenantId,
    /// The only fleet it is good for, if there is one.
    pub fleet: Option<FleetId>,
    /// What it is for.
    pub key_type: KeyType,
}

impl Key {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(&self.hash)
    }

    /// The name of a key's row. It is found without knowing whose it is.
    pub fn key(hash: &str) -> RowKey {
        RowKey::new(Table::Key, Scope::OPERATOR, hash)
    }
}
