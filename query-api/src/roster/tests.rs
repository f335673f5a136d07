//! A roster that was kept is the one that would be read anew, and no answer is older than what is known.

use std::time::Duration;

use futures_util::FutureExt;
use ringforge_domain::{
    catalog::Query,
    code::Code,
    cursor::Seal,
    ids::{EdgeId, FleetId, KeyId, SessionId, TenantId},
    limits::OFFLINE_SHOWN_MICROS,
    position::{Generation, StreamRef},
    presence::Current,
    row::RowKey,
};
use ringforge_ports::{clock::ManualClock, memory::in_memory, reads::Commit};

use super::*;
use crate::{Freshness, answer::answer};

const FLEET: Scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) };
const NOW: LogTime = LogTime(1_770_000_000_000_000);

struct Stage {
    services: Services,
    clock: Arc<ManualClock>,
    asker: Asker,
    rosters: Rosters,
    upto: Offset,
}

fn stage() -> Stage {
    let clock = ManualClock::at(NOW);
    let services = in_memory(clock.clone());
    let stream = StreamRef { partition: Partition::POOL, epoch: 0 };
    let encoder =
        ringforge_domain::frame::Encoder { seal: Seal::new([7; 32]), scope: FLEET, stream, generation: Generation(1) };
    let asker = Asker { agent: AgentId::from_bits(1), encoder: Arc::new(encoder), known: None };
    Stage { services, clock, asker, rosters: Rosters::default(), upto: Offset::ZERO }
}

fn member(number: u128) -> Agent {
    let session = Current {
        id: SessionId::from_bits(1),
        key: KeyId::from_bits(1),
        edge: EdgeId::from_bits(1),
        started: Offset(1),
    };
    Agent {
        scope: FLEET,
        id: AgentId::from_bits(number),
        name: Some(format!("agent {number}")),
        framework: None,
        version: None,
        capabilities: Vec::new(),
        metadata: None,
        exclusive: false,
        state: Presence::Online,
        task: None,
        load: None,
        detail: None,
        since: NOW,
        connected_at: NOW,
        last_seen: NOW,
        session: Some(session),
        resume_hash: None,
        interest: Interest::default(),
    }
}

fn away(number: u128) -> Agent {
    Agent { state: Presence::Offline, session: None, ..member(number) }
}

impl Stage {
    fn changes(&mut self, agents: impl IntoIterator<Item = Agent>) {
        let rows = agents.into_iter().map(|agent| (RowKey::agent(FLEET, agent.id), Some(Row::Agent(Box::new(agent)))));
        let (previous, upto) = (self.upto, self.upto.next());
        let (partition, rows) = (Partition::POOL, rows.collect());
        let commit = Commit { partition, previous, upto, time: NOW, rows, verdicts: Vec::new() };
        self.services.reads.commit(&[commit]).now_or_never().expect("at once").expect("it follows");
        self.upto = upto;
    }

    /// The ids on a page, which must be what somebody sees who asks for the first time.
    fn page(&self, query: &Roster) -> (Vec<u128>, Option<String>) {
        let ask = |rosters: &Rosters| {
            let frame = roster(&self.services, rosters, &self.asker, query).now_or_never();
            frame.expect("at once").expect("an answer").object().value()
        };
        let shown = ask(&self.rosters);
        assert_eq!(shown, ask(&Rosters::default()), "what was kept is not what is there");
        let id = |agent: &Value| agent["agent_id"].as_str().and_then(|id| id.parse::<AgentId>().ok());
        let agents = shown["agents"].as_array().expect("a list");
        let ids = agents.iter().map(|agent| id(agent).expect("an id").bits()).collect();
        assert_eq!(shown["has_more"].as_bool(), Some(shown["next_cursor"].is_string()));
        (ids, shown["next_cursor"].as_str().map(str::to_owned))
    }

    fn ids(&self) -> Vec<u128> {
        self.page(&Roster::default()).0
    }
}

#[test]
fn who_comes_changes_and_goes_is_seen() {
    let mut stage = stage();
    assert_eq!(stage.ids(), []);
    stage.changes([member(3), member(1)]);
    assert_eq!(stage.ids(), [1, 3]);
    stage.changes([Agent { task: Some("review".to_owned()), ..member(1) }, member(2)]);
    assert_eq!(stage.ids(), [1, 2, 3]);
    stage.changes([away(3)]);
    assert_eq!(stage.ids(), [1, 2, 3]);
    let busy = Roster { state: Some(Presence::Offline), ..Roster::default() };
    assert_eq!(stage.page(&busy).0, [3]);
}

#[test]
fn whoever_knows_more_than_the_read_models_is_not_shown_less() {
    let mut stage = stage();
    stage.changes([member(1)]);
    let key = json!({ "key": "a" });
    let queries = [
        Query::MemoryGet(serde_json::from_value(key.clone()).expect("a query")),
        Query::MemoryHistory(serde_json::from_value(key).expect("a query")),
        Query::MemoryList(serde_json::from_value(json!({})).expect("a query")),
        Query::MemoryList(serde_json::from_value(json!({ "author": "ada" })).expect("a query")),
        Query::MemoryQuery(serde_json::from_value(json!({})).expect("a query")),
        Query::PresenceRoster(Roster::default()),
    ];
    for query in queries {
        let code = |known: u64| {
            let asker = Asker { known: Some(Offset(known)), ..stage.asker.clone() };
            let freshness = Freshness::default();
            let answered = answer(&stage.services, &stage.rosters, &freshness, &asker, &query).now_or_never();
            answered.expect("at once").err().map(|refusal| refusal.code)
        };
        assert_ne!(code(0), Some(Code::Unavailable), "{query:?}");
        assert_eq!(code(1), Some(Code::Unavailable), "{query:?}");
    }
}

#[test]
fn who_has_left_is_shown_for_a_day() {
    let mut stage = stage();
    stage.changes([member(1), away(2)]);
    let day = Duration::from_micros(OFFLINE_SHOWN_MICROS.unsigned_abs());
    stage.clock.advance(day.saturating_sub(Duration::from_secs(1)));
    assert_eq!(stage.ids(), [1, 2]);
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.ids(), [1]);
    stage.changes([member(2)]);
    assert_eq!(stage.ids(), [1, 2], "it came back");
}

#[test]
fn heartbeats_are_shown_with_the_rest() {
    let mut stage = stage();
    stage.changes([member(1), member(2)]);
    assert_eq!(stage.ids(), [1, 2]);
    for load in [Some(0.5), Some(0.75), None] {
        stage.clock.advance(Duration::from_secs(30));
        let heard = serde_json::to_string(&Heard { at: stage.services.clock.wall(), load }).expect("JSON");
        let key = names::heartbeat(FLEET, AgentId::from_bits(1));
        let put = stage.services.live.put(&key, &heard, Duration::from_mins(1));
        put.now_or_never().expect("at once").expect("kept");
        assert_eq!(stage.ids(), [1, 2]);
    }
    stage.clock.advance(Duration::from_secs(61));
    assert_eq!(stage.ids(), [1, 2], "the heartbeat is over");
}

#[test]
fn pages_follow_each_other() {
    let mut stage = stage();
    let many = u128::from(ROWS_PAGE_MAX) + 5;
    stage.changes((1..=many).map(member));
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let (ids, next) = stage.page(&Roster { cursor, limit: Some(400), ..Roster::default() });
        seen.extend(ids);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=many).collect::<Vec<_>>());
    for (limit, fits) in [(None, ROSTER_PAGE_MAX), (Some(u32::MAX), ROSTER_PAGE_MAX), (Some(0), 1)] {
        let (ids, next) = stage.page(&Roster { limit, ..Roster::default() });
        assert_eq!((ids.len(), next.is_some()), (fits as usize, true), "{limit:?}");
    }
}

#[test]
fn a_page_is_bounded_by_bytes() {
    let mut stage = stage();
    let large = |number| {
        let detail = ringforge_domain::json::Json::of(&"x".repeat(8 << 10));
        Agent { detail: Some(detail), ..member(number) }
    };
    stage.changes((1..=300).map(large));
    let (ids, next) = stage.page(&Roster::default());
    assert!(ids.len() * (8 << 10) < PAGE_BYTES_MAX && ids.len() > 100 && next.is_some(), "{} agents", ids.len());
}
