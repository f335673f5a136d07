//! Projectors: what those that run can read. Gates write nothing that one of them could not.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

pub use crate::row::projector::Projector;
use crate::{
    act::{Act, Applied},
    code::Refusal,
    frame::Shown,
    header::{At, Header},
    limits::Limits,
    position::Partition,
    row::{Needs, Row, Rows},
};

/// `projector.declared`: whoever projects a partition from now on reads schemas up to this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Declared {
    /// The partition.
    pub partition: i32,
    /// The newest schema, by its id.
    pub schemas: i32,
}

impl Declared {
    fn read(&self) -> Result<Projector, Refusal> {
        let wrong = |field: &str| Refusal::invalid(field, format!("`{field}` must be a number from 0 on."));
        let partition = u16::try_from(self.partition).map(Partition).map_err(|_| wrong("partition"))?;
        Ok(Projector { partition, schemas: u32::try_from(self.schemas).map_err(|_| wrong("schemas"))? })
    }
}

impl Act for Declared {
    type Effect = ();

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        self.read().map(drop)
    }

    fn needs(&self, _: &Header, needs: &mut Needs<'_>) {
        if let Ok(projector) = self.read() {
            needs.row(projector.row_key());
        }
    }

    fn apply(&self, _: &At, _: &Rows) -> Result<Applied<()>, Refusal> {
        Ok(Applied::new(()).row(Row::Projector(self.read()?)))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{Scope, TenantId},
        world::World,
    };

    #[test]
    fn the_last_one_to_declare_counts() {
        let mut world = World::new();
        world.scope = Scope::directory(TenantId::NONE);
        for schemas in [25, 26, 24] {
            assert!(world.timer(Declared { partition: 3, schemas }).code().is_none());
            let known: &Projector = world.row(&Projector::key(Partition(3))).expect("a row");
            assert_eq!(i64::from(known.schemas), i64::from(schemas));
        }
        let limits = Limits::default();
        assert!(Declared { partition: 3, schemas: 1 }.check(&limits).is_ok());
        for (partition, schemas) in [(-1, 1), (1 << 16, 1), (1, -1)] {
            assert!(Declared { partition, schemas }.check(&limits).is_err());
        }
    }
}
