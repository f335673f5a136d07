//! Given keys and failures, when somebody comes, then who is let in, who is told to wait, and that nobody learns more.

use std::{net::Ipv4Addr, sync::Arc};

use futures_util::FutureExt;
use ringforge_domain::{
    ids::KeyId,
    position::{LogTime, Offset},
};
use ringforge_ports::{
    clock::{ManualClock, SeededIds},
    memory::in_memory,
    reads::Commit,
};

use super::*;

const TENANT: TenantId = TenantId::from_bits(1);
const FLEET: FleetId = FleetId::from_bits(1);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

struct Stage {
    services: Services,
    clock: Arc<ManualClock>,
    authenticator: Authenticator,
    upto: Offset,
}

/// A fleet, and nobody who may come in.
fn stage() -> Stage {
    let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
    let services = in_memory(clock.clone());
    let authenticator = Authenticator::new(services.clone());
    let mut stage = Stage { services, clock, authenticator, upto: Offset::ZERO };
    let scope = Scope { tenant: TENANT, fleet: FLEET };
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    stage.put(Row::Fleet(Fleet { scope, slug: "default".to_owned(), stream, created_at: LogTime(1) }));
    stage.put(Row::Slug(Slug { tenant: TENANT, slug: "default".to_owned(), fleet: FLEET }));
    stage
}

impl Stage {
    fn commit(&mut self, key: RowKey, row: Option<Row>) {
        let (previous, upto) = (self.upto, self.upto.next());
        let (partition, time, rows) = (Partition::DIRECTORY, LogTime(1), vec![(key, row)]);
        let commit = Commit { partition, previous, upto, time, rows, verdicts: Vec::new() };
        self.services.reads.commit(&[commit]).now_or_never().expect("nothing waits").expect("it is committed");
        self.upto = upto;
    }

    fn put(&mut self, row: Row) {
        self.commit(row.key(), Some(row));
    }

    /// A new key of this kind.
    fn make(&mut self, key_type: KeyType, fleet: Option<FleetId>) -> String {
        let text = key::new(key_type, &*self.services.ids);
        let id = KeyId::from_bits(self.services.ids.next());
        self.put(Row::Key(Key { hash: key::hash(&text), id, tenant: TENANT, fleet, key_type }));
        text
    }

    fn enters(&self, api_key: &str, from: IpAddr) -> Result<Entrance, Refusal> {
        self.authenticator.enter(api_key, None, from).now_or_never().expect("nothing waits")
    }

    fn refused(&self, api_key: &str, from: IpAddr) -> Code {
        self.enters(api_key, from).expect_err("a wrong key").code
    }
}

/// A wrong key with this hint.
fn wrong(hint: u32, number: u32) -> String {
    format!("rf_live_{hint:06}{number}")
}

#[test]
fn failures_of_one_origin_with_one_hint_have_to_wait_and_a_good_key_never_does() {
    let mut stage = stage();
    let good = stage.make(KeyType::Live, Some(FLEET));
    for at in 0..AUTH_FAILURES_MAX {
        assert_eq!(stage.refused(&wrong(7, at), HOME), Code::InvalidApiKey, "{at}");
        assert!(stage.enters(&good, HOME).is_ok(), "another agent behind the same address");
    }
    let refusal = stage.enters(&wrong(7, 99), HOME).expect_err("a wrong key");
    assert_eq!(refusal.code, Code::RateLimited);
    assert!(refusal.retry_after_ms.is_some_and(|ms| (1..=60_000).contains(&ms)), "{refusal:?}");
    assert!(stage.enters(&good, HOME).is_ok());
    assert_eq!(stage.refused(&wrong(8, 1), HOME), Code::InvalidApiKey, "another hint");
    assert_eq!(stage.refused(&wrong(7, 1), AWAY), Code::InvalidApiKey, "another address");
    stage.clock.advance(WINDOW);
    assert_eq!(stage.refused(&wrong(7, 1), HOME), Code::InvalidApiKey, "its time is over");
}

#[test]
fn success_clears_the_failures_of_its_hint() {
    let mut stage = stage();
    let good = stage.make(KeyType::Live, Some(FLEET));
    let typo = format!("{}!", &good[..good.len() - 1]);
    for _ in 0..3 {
        for _ in 0..AUTH_FAILURES_MAX {
            assert_eq!(stage.refused(&typo, HOME), Code::InvalidApiKey);
        }
        assert!(stage.enters(&good, HOME).is_ok());
    }
}

#[test]
fn whoever_tries_many_keys_from_one_address_has_to_wait_whatever_they_are() {
    let mut stage = stage();
    let good = stage.make(KeyType::Live, Some(FLEET));
    for hint in 0..AUTH_FAILURES_ADDRESS_MAX {
        assert_eq!(stage.refused(&wrong(hint, 1), HOME), Code::InvalidApiKey, "{hint}");
    }
    assert_eq!(stage.refused(&wrong(AUTH_FAILURES_ADDRESS_MAX, 1), HOME), Code::RateLimited);
    assert_eq!(stage.refused("rf_live_nonsense", HOME), Code::RateLimited);
    assert!(stage.enters(&good, HOME).is_ok());
    assert_eq!(stage.refused(&wrong(1, 1), AWAY), Code::InvalidApiKey);
}

#[test]
fn what_is_remembered_of_failures_is_bounded() {
    let mut stage = stage();
    let good = stage.make(KeyType::Live, Some(FLEET));
    let since = stage.services.clock.monotonic();
    for at in 0..u32::try_from(AUTH_FAILURES_TRACKED_MAX).expect("few") {
        let address = IpAddr::V4(Ipv4Addr::from_bits(at));
        stage.authenticator.failures().insert((address, "hint".to_owned()), Failures { count: 1, since });
    }
    assert_eq!(stage.refused("wrong", HOME), Code::RateLimited);
    assert_eq!(stage.authenticator.failures().len(), AUTH_FAILURES_TRACKED_MAX);
    assert!(stage.enters(&good, HOME).is_ok());
    stage.clock.advance(WINDOW);
    assert_eq!(stage.refused("wrong", HOME), Code::InvalidApiKey);
    assert_eq!(stage.authenticator.failures().len(), 1);
}

#[test]
fn nobody_learns_whether_a_key_ever_was_one() {
    let mut stage = stage();
    let gone = stage.make(KeyType::Live, Some(FLEET));
    let entrance = stage.enters(&gone, HOME).expect("it is good");
    let still = |stage: &Stage| stage.authenticator.still(&entrance.key).now_or_never().expect("nothing waits");
    assert_eq!(still(&stage), Ok(()));
    stage.commit(Key::key(&entrance.key.hash), None);
    stage.clock.advance(PERMISSION);
    assert_eq!(still(&stage).expect_err("it is gone").code, Code::Unauthorized);
    let never = key::new(KeyType::Live, &*SeededIds::new(9));
    let told: Vec<Refusal> = [gone, never, "rf_live_nonsense".to_owned(), String::new(), "x".repeat(255)]
        .iter()
        .map(|key| stage.enters(key, HOME).expect_err("it opens nothing"))
        .collect();
    assert!(told.iter().all(|refusal| *refusal == told[0]), "{told:?}");
    assert_eq!(told[0].code, Code::InvalidApiKey);
}

#[test]
fn a_key_opens_its_own_fleet_only() {
    let mut stage = stage();
    let (bound, free, admin) =
        (stage.make(KeyType::Live, Some(FLEET)), stage.make(KeyType::Live, None), stage.make(KeyType::Admin, None));
    let enters = |key: &str, fleet: Option<&str>| {
        let entered = stage.authenticator.enter(key, fleet, HOME).now_or_never().expect("nothing waits");
        entered.map(|entrance| entrance.scope.fleet).map_err(|refusal| refusal.code)
    };
    let id = FLEET.to_string();
    let other = FleetId::from_bits(2).to_string();
    for fleet in [None, Some("default"), Some(id.as_str())] {
        assert_eq!(enters(&bound, fleet), Ok(FLEET), "{fleet:?}");
        assert_eq!(enters(&free, fleet), Ok(FLEET), "{fleet:?}");
        assert_eq!(enters(&admin, fleet), Err(Code::Forbidden), "{fleet:?}");
    }
    for fleet in [Some("nowhere"), Some(other.as_str()), Some("")] {
        assert_eq!(enters(&bound, fleet), Err(Code::Forbidden), "{fleet:?}");
        assert_eq!(enters(&free, fleet), Err(Code::NotFound), "{fleet:?}");
    }
}
