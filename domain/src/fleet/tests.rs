//! Given a tenant, when fleets are made, then each name is one fleet's.

use super::*;
use crate::{ids::TenantId, world::World};

fn created(id: u128, slug: &str) -> Created {
    Created { id: FleetId::from_bits(id), slug: slug.to_owned(), partition: 1, retention_s: None }
}

#[test]
fn a_name_is_one_fleet_within_a_tenant() {
    let mut world = World::new();
    world.scope = Scope::directory(TenantId::from_bits(3));
    assert!(world.timer(created(1, "default")).code().is_none());
    assert!(world.timer(created(1, "default")).code().is_none(), "the same fleet again changes nothing");
    assert_eq!(world.timer(created(2, "default")).code(), Some(Code::Conflict));
    assert!(world.timer(created(2, "other")).code().is_none());
    let slug: &Slug = world.row(&Slug::key(TenantId::from_bits(3), "default")).expect("a row");
    assert_eq!(slug.fleet, FleetId::from_bits(1));
    let scope = Scope { tenant: TenantId::from_bits(3), fleet: FleetId::from_bits(1) };
    let fleet: &Fleet = world.row(&Fleet::key(scope)).expect("a row");
    assert_eq!(fleet.stream, StreamRef { partition: Partition::POOL, epoch: 0 });
    world.scope = Scope::directory(TenantId::from_bits(4));
    assert!(world.timer(created(7, "default")).code().is_none(), "another tenant has names of its own");
}

#[test]
fn new_fleets_are_spread_over_the_pool() {
    let homes = |shared| {
        let mut homes: Vec<u16> =
            (0..60).map(|id| home(FleetId::from_bits(id), Partitions { shared, dedicated: 9 }).0).collect();
        homes.sort_unstable();
        homes.dedup();
        homes
    };
    assert_eq!(homes(2), [1], "an embedded log has one");
    assert_eq!(homes(5), [1, 2, 3, 4], "none in the directory");
}

#[test]
fn a_fleet_has_a_name_and_a_place() {
    let limits = Limits::default();
    assert!(created(1, "default").check(&limits).is_ok());
    assert!(created(1, "No").check(&limits).is_err());
    for partition in [-1, 1 << 16] {
        assert!(Created { partition, ..created(1, "a") }.check(&limits).is_err());
    }
}

#[test]
fn a_fleet_may_have_a_partition_to_itself() {
    let mut world = World::new();
    world.scope = Scope::directory(TenantId::from_bits(3));
    let home = i32::from(Partition::DEDICATED.0) + 1;
    let alone = |id, slug| Created { partition: home, retention_s: Some(86_400), ..created(id, slug) };
    assert!(world.timer(alone(1, "big")).code().is_none());
    assert!(world.timer(alone(1, "big")).code().is_none(), "the same fleet again changes nothing");
    world.scope = Scope::directory(TenantId::from_bits(4));
    assert_eq!(world.timer(alone(2, "other")).code(), Some(Code::Conflict), "it is somebody's");
    assert!(world.timer(Created { partition: home + 1, ..alone(2, "other") }).code().is_none());
    let partition = Partition(Partition::DEDICATED.0 + 1);
    let known: &Home = world.row(&Home::key(partition)).expect("a row");
    let scope = Scope { tenant: TenantId::from_bits(3), fleet: FleetId::from_bits(1) };
    assert_eq!(*known, Home { partition, scope, retention_s: Some(86_400) });
    let limits = Limits::default();
    assert!(alone(1, "big").check(&limits).is_ok());
    assert!(Created { retention_s: Some(0), ..alone(1, "big") }.check(&limits).is_err());
    assert!(Created { partition: 1, ..alone(1, "big") }.check(&limits).is_err(), "the pool's is not its own");
}
