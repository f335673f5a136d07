//! Given these records, then these verdicts.

use ringforge_domain::{
    activity::Broadcast,
    code::{Code, Effected},
    event::Header,
    ids::{CommandId, FleetId, TenantId},
    position::{Generation, LogTime},
    verdict::Outcome,
};
use ringforge_ports::{
    clock::{ManualClock, SeededIds},
    live::Heard,
    log::Record,
    memory::{live::MemoryLive, log::MemoryLog, reads::MemoryReads},
};

use super::*;

#[tokio::test]
async fn a_damaged_event_has_a_verdict_that_is_told_like_any_other() {
    let clock = ManualClock::at(LogTime(1_770_000_000_000_000));
    let services = Services {
        log: MemoryLog::new(clock.clone(), 2, Generation(1)),
        reads: Arc::new(MemoryReads::new()),
        live: MemoryLive::new(clock.clone()),
        clock,
        ids: SeededIds::new(1),
    };
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
    let header = Header {
        command_id: CommandId::from_bits(5),
        tenant_id: scope.tenant,
        fleet_id: scope.fleet,
        agent_id: None,
        session_id: None,
        caused_by: None,
        key_id: None,
        idempotency_key: None,
        reference: None,
        trace: None,
        deadline: None,
    };
    let whole = schema::encode(&header, &Broadcast { kind: "custom".to_owned(), ..Broadcast::default() }.into());
    // A record of a known kind that ends too soon.
    let damaged = whole[..whole.len() - 3].to_vec();
    let records = [damaged, whole].map(|bytes| Record { scope, bytes: bytes.into() });
    services.log.append(Partition::POOL, records.into()).await.expect("appended");
    let mut heard = services.live.subscribe(scope).await.expect("it follows");
    let mut projector = Projector::open(services.clone(), Partition::POOL).await.expect("it opens");
    let records = services.log.seek(Partition::POOL, &[Offset(0), Offset(1)]).await.expect("records");
    assert_eq!(projector.step(records).await.expect("applied"), Stepped::To(Offset(2)));
    let mut told = Vec::new();
    for _ in 0..2 {
        let Some(Heard::News(News::Update(update))) = heard.next().await else { panic!("both are told") };
        told.push((update.event.is_some(), update.verdict.previous, update.verdict.outcome.clone()));
    }
    let Outcome::Refused(refusal) = &told[0].2 else { panic!("it has no effect") };
    assert_eq!((refusal.code, refusal.outcome), (Code::ServerError, Effected::None));
    let links: Vec<_> = told.iter().map(|(event, previous, _)| (*event, *previous)).collect();
    assert_eq!(links, [(false, None), (true, Some(Offset(0)))], "the chain goes on over it");
}
