//! Fleets: what a tenant's agents share, and where in the log it lives.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

pub use crate::row::fleet::{Fleet, Head, Home, Slug};
use crate::{
    act::{Act, Applied},
    code::{Code, Refusal},
    frame::Shown,
    header::{At, Header},
    ids::{FleetId, Scope},
    limits::Limits,
    position::{Partition, Partitions, StreamRef},
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
    /// For how many seconds that partition's log keeps events, if it is one that the fleet has to itself; none: as long as others do.
    pub retention_s: Option<i64>,
}

impl Created {
    fn home(&self) -> Result<Partition, Refusal> {
        let out_of_range = |_| Refusal::invalid("partition", "`partition` must be a small number.");
        u16::try_from(self.partition).map(Partition).map_err(out_of_range)
    }
}

impl Act for Created {
    type Effect = ();

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        slug("slug", &self.slug, limits.name_bytes)?;
        let is_dedicated = self.home()?.is_dedicated();
        match self.retention_s {
            Some(..=0) => Err(Refusal::invalid("retention_s", "`retention_s` must be at least 1.")),
            Some(_) if !is_dedicated => {
                Err(Refusal::invalid("retention_s", "A fleet of the pool has no `retention_s` of its own."))
            }
            _ => Ok(()),
        }
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(Fleet::key(Scope { tenant: at.tenant_id, fleet: self.id }));
        needs.row(Slug::key(at.tenant_id, &self.slug));
        if let Some(home) = self.home().ok().filter(|home| home.is_dedicated()) {
            needs.row(Home::key(home));
        }
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let scope = Scope { tenant: at.header.tenant_id, fleet: self.id };
        if rows.get::<Fleet>(&Fleet::key(scope)).is_some() {
            return Ok(Applied::new(()));
        }
        if rows.get::<Slug>(&Slug::key(scope.tenant, &self.slug)).is_some() {
            return Err(Refusal::because(Code::Conflict, "A fleet of this name exists."));
        }
        let partition = self.home()?;
        let stream = StreamRef { partition, epoch: 0 };
        let fleet = Fleet { scope, slug: self.slug.clone(), stream, created_at: at.time };
        let slug = Slug { tenant: scope.tenant, slug: self.slug.clone(), fleet: self.id };
        let applied = Applied::new(()).row(Row::Fleet(fleet)).row(Row::Slug(slug));
        if !partition.is_dedicated() {
            return Ok(applied);
        }
        if rows.get::<Home>(&Home::key(partition)).is_some() {
            return Err(Refusal::because(Code::Conflict, "Another fleet has this partition to itself."));
        }
        let retention_s = self.retention_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(applied.row(Row::Home(Home { partition, scope, retention_s })))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// Where a new fleet lives in a log with these partitions: on one of the pool's. Ids end in random bits.
pub fn home(fleet: FleetId, partitions: Partitions) -> Partition {
    let pool = partitions.shared.saturating_sub(Partition::POOL.0).max(1);
    let at = u16::try_from(fleet.bits() % u128::from(pool)).expect("less than a u16");
    Partition(Partition::POOL.0 + at)
}

#[cfg(test)]
mod tests;
