//! What is kept of projectors.

use serde::{Deserialize, Serialize};

use super::{Row, RowKey, State, Table};
use crate::{ids::Scope, position::Partition};

/// What whoever projects a partition can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projector {
    /// The partition.
    pub partition: Partition,
    /// The newest schema that it reads, by its id.
    pub schemas: u32,
}

impl Projector {
    /// Its row's name.
    pub fn row_key(&self) -> RowKey {
        Self::key(self.partition)
    }

    /// The name of a partition's row. It is nobody's but the house's.
    pub fn key(partition: Partition) -> RowKey {
        RowKey::new(Table::Projector, Scope::OPERATOR, partition.0)
    }
}

impl State for Projector {
    fn of(row: &Row) -> Option<&Self> {
        if let Row::Projector(state) = row { Some(state) } else { None }
    }
}
