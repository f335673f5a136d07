//! Verdicts and the log they are of.

use std::sync::Arc;

use ringforge_domain::{
    activity::Broadcast,
    event::Header,
    fold::Damaged,
    golden,
    ids::{CommandId, FleetId, TenantId},
    position::{Generation, LogTime},
    world::Store,
};
use ringforge_ports::{
    clock::ManualClock,
    log::Record,
    memory::{in_memory, log::MemoryLog},
};

use super::*;

const POOL: Partition = Partition::POOL;

fn record(command: u128) -> Record {
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let header = Header {
        command_id: CommandId::from_bits(command),
        tenant_id: scope.tenant,
        fleet_id: scope.fleet,
        ..golden::bare_header()
    };
    let broadcast = Broadcast { kind: "custom".to_owned(), ..Broadcast::default() };
    Record { scope, bytes: schema::encode(&header, &broadcast.into()).into() }
}

#[tokio::test]
async fn a_verdict_is_never_shown_with_another_event() {
    let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
    let log = MemoryLog::new(clock.clone(), 2, Generation(1));
    let services = Services { log: log.clone(), ..in_memory(clock) };
    let damaged = Record { bytes: Arc::from(&b"no event"[..]), ..record(0) };
    services.log.append(POOL, vec![record(1), damaged, record(2)]).await.expect("appended");
    let (mut store, mut verdicts) = (Store::default(), Vec::new());
    for stored in services.log.seek(POOL, &[0, 1, 2].map(Offset)).await.expect("records") {
        let (position, time) = (Position { partition: POOL, offset: stored.offset }, stored.time);
        verdicts.push(if let Ok(event) = schema::decode(&stored.record.bytes, position, time) {
            store.project(&[event]).pop().expect("a verdict")
        } else {
            let hash = schema::record_hash(&stored.record.bytes);
            store.project_damaged(&Damaged { scope: stored.record.scope, position, time, hash })
        });
    }
    let joined = updates(&services, POOL, verdicts.clone()).await.expect("they belong together");
    let events: Vec<_> = joined.updates.iter().map(|update| update.event.is_some()).collect();
    assert_eq!(events, [true, false, true]);
    log.cut(POOL, Offset(2));
    services.log.append(POOL, vec![record(3)]).await.expect("appended");
    let refused = updates(&services, POOL, verdicts).await;
    assert!(
        matches!(refused, Err(Error::Corrupt(ref what)) if what.contains("record 2 of partition 1")),
        "{refused:?}"
    );
}
