//! Given a directory, when tenants and keys are made, then these rows.

use super::*;
use crate::{
    ids::{Scope, TenantId},
    world::World,
};

fn key(hash: &str) -> KeyCreated {
    KeyCreated { id: KeyId::from_bits(5), hash: hash.repeat(64), key_type: KeyType::Live, fleet: None }
}

fn directory(tenant: u128) -> World {
    let mut world = World::new();
    world.scope = Scope::directory(TenantId::from_bits(tenant));
    world
}

#[test]
fn a_tenant_is_made_once() {
    let mut world = directory(3);
    world.timer(Created { name: "acme".to_owned() });
    let made = world.now;
    world.later(1);
    let again = world.timer(Created { name: "other".to_owned() });
    assert!(again.code().is_none() && again.pushes().is_empty());
    let tenant: &Tenant = world.row(&Tenant::key(TenantId::from_bits(3))).expect("a row");
    assert_eq!((tenant.name.as_str(), tenant.created_at), ("acme", made));
}

#[test]
fn a_key_is_found_by_its_hash_without_knowing_whose_it_is() {
    let mut world = directory(3);
    world.timer(key("a"));
    world.scope = Scope::directory(TenantId::from_bits(4));
    world.timer(key("a"));
    world.timer(KeyCreated { fleet: Some(FleetId::from_bits(9)), key_type: KeyType::Admin, ..key("b") });
    let first: &Key = world.row(&Key::key(&"a".repeat(64))).expect("a row");
    assert_eq!(first.tenant, TenantId::from_bits(3), "a hash belongs to who had it first");
    let second: &Key = world.row(&Key::key(&"b".repeat(64))).expect("a row");
    assert_eq!((second.fleet, second.key_type), (Some(FleetId::from_bits(9)), KeyType::Admin));
}

#[test]
fn names_and_hashes_have_a_form() {
    let limits = Limits::default();
    let long = "x".repeat(limits.name_bytes + 1);
    for name in ["", "Acme", "a b", "a/b", "é", &long] {
        assert!(Created { name: name.to_owned() }.check(&limits).is_err(), "{name}");
    }
    assert!(Created { name: "acme-2.x_y".to_owned() }.check(&limits).is_ok());
    assert!(key("a").check(&limits).is_ok());
    assert!(key("g").check(&limits).is_err());
    assert!(KeyCreated { hash: "ab".to_owned(), ..key("a") }.check(&limits).is_err());
}

#[test]
fn a_secret_is_replaced_by_who_knows_the_last_one() {
    let mut world = directory(0);
    let declared = |fingerprint: &str, previous: Option<&str>| SecretDeclared {
        name: "seal".to_owned(),
        fingerprint: fingerprint.to_owned(),
        previous: previous.map(str::to_owned),
    };
    assert_eq!(world.timer(declared("a", Some("x"))).code(), Some(Code::Conflict), "there is none yet");
    assert_eq!(world.timer(declared("a", None)).code(), None);
    assert_eq!(world.timer(declared("b", None)).code(), Some(Code::Conflict), "who does not know it");
    assert_eq!(world.timer(declared("a", None)).code(), None, "the same again");
    assert_eq!(world.timer(declared("b", Some("a"))).code(), None, "who does");
    assert_eq!(world.timer(declared("c", Some("a"))).code(), Some(Code::Conflict), "who comes late");
    let secret: &Secret = world.row(&Secret::key("seal")).expect("a row");
    assert_eq!(secret.fingerprint, "b");
    let limits = Limits::default();
    assert!(declared("", None).check(&limits).is_err() && declared("a", None).check(&limits).is_ok());
}
