//! Fleets: what a tenant's agents share, and where in the log it lives.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

pub use crate::row::fleet::{Fleet, Head, Slug};
use crate::{
    act::{Act, Applied},
    code::{Code, Refusal},
    frame::Shown,
    header::{At, Header},
    ids::{FleetId, Scope},
    limits::Limits,
    position::{Partition, StreamRef},
    row::{Needs, Row, Rows},
    tenant::slug,
};

/// `fleet.created`: a fleet of the tenant in the header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Created {
    /// Its id.
    pub id: FleetId,
    /// Its name within the tenant.
    pub slug: String,
    /// The partition it lives on.
    pub partition: i32,
}

impl Act for Created {
    type Effect = ();

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        slug("slug", &self.slug, limits.name_bytes)?;
        u16::try_from(self.partition)
            .map(|_| ())
            .map_err(|_| Refusal::invalid("partition", "`partition` must be a small number."))
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(Fleet::key(Scope { tenant: at.tenant_id, fleet: self.id }));
        needs.row(Slug::key(at.tenant_id, &self.slug));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let scope = Scope { tenant: at.header.tenant_id, fleet: self.id };
        if rows.get::<Fleet>(&Fleet::key(scope)).is_some() {
            return Ok(Applied::new(()));
        }
        if rows.get::<Slug>(&Slug::key(scope.tenant, &self.slug)).is_some() {
            return Err(Refusal::because(Code::Conflict, "A fleet of this name exists."));
        }
        let partition = u16::try_from(self.partition).map_err(|_| Refusal::invalid("partition", "out of range"))?;
        let stream = StreamRef { partition: Partition(partition), epoch: 0 };
        let fleet = Fleet { scope, slug: self.slug.clone(), stream, created_at: at.time };
        let slug = Slug { tenant: scope.tenant, slug: self.slug.clone(), fleet: self.id };
        Ok(Applied::new(()).row(Row::Fleet(fleet)).row(Row::Slug(slug)))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// Where a new fleet lives in a log of so many partitions: on one of the pool's. Ids end in random bits.
pub fn home(fleet: FleetId, partitions: u16) -> Partition {
    let pool = partitions.saturating_sub(Partition::POOL.0).max(1);
    let at = u16::try_from(fleet.bits() % u128::from(pool)).expect("less than a u16");
    Partition(Partition::POOL.0 + at)
}

#[cfg(test)]
mod tests;
