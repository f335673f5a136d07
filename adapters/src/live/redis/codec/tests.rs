//! Given an update of every kind, when it went through its bytes, then it is the same; damaged bytes are told, or something else,
//! but they never stop anybody.

use std::sync::Arc;

use ringforge_domain::{
    catalog::CommandKind,
    code::{Code, Refusal},
    golden,
    ids::{AgentId, CommandId},
    position::{Partition, Position},
    verdict::{Index, Outcome},
    world::World,
};

use super::*;

/// Numbers that look like chance and are the same every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).expect("below the bound")
    }
}

/// As a projector tells it.
fn told(update: Update) -> News {
    let record = update.event.as_ref().map(|event| schema::encode(&event.at.header, &event.command).into());
    News::Update { update: Arc::new(update), record }
}

/// An event and what came of it, of every kind: as anybody asks for it, and as a member of the fleet does.
fn updates() -> Vec<Update> {
    let mut world = World::new();
    let member = world.joins("someone");
    let mut updates = Vec::new();
    for (header, command) in CommandKind::ALL.iter().flat_map(|kind| golden::samples(*kind)) {
        let key = updates.len().to_string();
        for folded in [world.submit(&header, command.clone()), world.when_keyed(&member, &key, command)] {
            updates.push(Update { event: Some(folded.event), verdict: folded.verdict });
        }
    }
    updates
}

fn refused(details: usize) -> Update {
    let verdict = Verdict {
        position: Position { partition: Partition::POOL, offset: Offset(7) },
        time: LogTime(5),
        scope: Scope::OPERATOR,
        command_id: CommandId::from_bits(1),
        agent: Some(AgentId::from_bits(3)),
        previous: Some(Offset(2)),
        outcome: Outcome::Refused(Refusal::new(Code::Conflict).with("current_value", "x".repeat(details))),
        first: None,
        index: Index::default(),
    };
    Update { event: None, verdict }
}

#[test]
fn every_update_is_the_same_after_its_journey() {
    let mut updates = updates();
    let applied = updates.iter().filter(|update| matches!(update.verdict.outcome, Outcome::Applied(_))).count();
    assert!(applied > 20 && updates.len() > applied, "{applied} of {}", updates.len());
    updates.push(refused(10));
    for update in updates {
        let scope = update.verdict.scope;
        let bytes = encode(&told(update.clone()));
        assert!(bytes.len() <= LIVE_UPDATE_BYTES_MAX);
        assert_eq!(decode(scope, &bytes), Ok(update.into()));
    }
    let head = News::Head { scope: Scope::OPERATOR, last: Offset(1 << 40) };
    assert_eq!(decode(Scope::OPERATOR, &encode(&head)), Ok(head));
}

#[test]
fn what_an_older_build_logged_travels_as_it_is() {
    let golden = include_bytes!("../../../../../schemas/golden/direct.told.v1.avro");
    // Records stand in it one after the other, each after its length.
    let (length, records) = golden.split_first_chunk().expect("a length");
    let record = &records[..u32::from_be_bytes(*length) as usize];
    let Update { verdict, .. } = refused(1);
    let event = schema::decode(record, verdict.position, LogTime(9)).expect("it is still read");
    assert_ne!(schema::encode(&event.at.header, &event.command), record, "a schema that has changed since");
    let update = Update { event: Some(event), verdict };
    let news = News::Update { update: Arc::new(update.clone()), record: Some(record.into()) };
    assert_eq!(decode(Scope::OPERATOR, &encode(&news)), Ok(update.clone().into()));
    let head = News::Head { scope: Scope::OPERATOR, last: Offset(7) };
    assert_eq!(decode(Scope::OPERATOR, &encode(&update.into())), Ok(head), "without its record it is pointed to");
}

#[test]
fn large_updates_are_pointed_to() {
    let head = News::Head { scope: Scope::OPERATOR, last: Offset(7) };
    for bytes in [LIVE_UPDATE_BYTES_MAX - 600, LIVE_UPDATE_BYTES_MAX, 1 << 20] {
        let news = News::from(refused(bytes));
        let want = if bytes < LIVE_UPDATE_BYTES_MAX { news.clone() } else { head.clone() };
        assert!(decode(Scope::OPERATOR, &encode(&news)) == Ok(want), "{bytes}");
    }
}

#[test]
fn damaged_bytes_stop_nobody() {
    let mut chance = Chance(1);
    let mut errors = 0;
    for update in updates() {
        let scope = update.verdict.scope;
        let bytes = encode(&told(update));
        for length in 0..bytes.len() {
            errors += u32::from(decode(scope, &bytes[..length]).is_err());
        }
        for _ in 0..200 {
            let mut damaged = bytes.clone();
            for _ in 0..=chance.below(3) {
                let at = chance.below(damaged.len());
                damaged[at] ^= 1 << chance.below(8);
            }
            // It may still be news: what counts is that it returns.
            errors += u32::from(decode(scope, &damaged).is_err());
        }
    }
    assert!(errors > 10_000, "{errors}");
}

#[test]
fn news_that_are_not_ours_are_told() {
    let update = updates().remove(0);
    let other = Scope { tenant: ringforge_domain::ids::TenantId::from_bits(99), ..update.verdict.scope };
    let bytes = encode(&told(update));
    assert_eq!(decode(other, &bytes), Err("an update of another fleet".to_owned()));
    assert_eq!(decode(other, &[1, 0]), Err("version 1: another build sent it".to_owned()));
    assert_eq!(decode(other, b""), Err("no news".to_owned()));
    assert!(decode(other, &[VERSION, HEAD, 0]).is_err());
}

/// What an older build published is read, whatever was added since.
#[test]
fn what_was_published_once_can_be_read() {
    let json = concat!(
        r#"[{"position":{"partition":1,"offset":7},"time":5,"scope":{"tenant":"tn_0000000000000000000000","#,
        r#""fleet":"fl_0000000000000000000000"},"command_id":"cmd_0000000000000000000001","#,
        r#""agent":"ag_0000000000000000000003","previous":2,"outcome":{"refused":{"code":"conflict","#,
        r#""message":"Something else is there than was expected.","fix":null,"details":{"current_value":"x"},"#,
        r#""retry_after_ms":null,"outcome":"none"}},"first":null,"index":{"stream":null,"label":null,"#,
        r#""subject":null,"tags":[],"routing":[],"parties":[]}},null]"#,
    );
    let length = u32::try_from(json.len()).expect("a short text").to_be_bytes();
    let bytes = [&[2, 1], length.as_slice(), json.as_bytes()].concat();
    assert_eq!(decode(Scope::OPERATOR, &bytes), Ok(News::from(refused(1))));
    assert_eq!(
        decode(Scope::OPERATOR, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
        Ok(News::Head { scope: Scope::OPERATOR, last: Offset(9) })
    );
}
