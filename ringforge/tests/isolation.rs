//! No tenant reaches another, no fleet reaches its neighbour: every kind of the catalogue is tried with all that an
//! attacker may have learnt of its victim, from another tenant and from another fleet of the same one.

#![allow(clippy::disallowed_methods, reason = "a test runs on the machine's clock")]

#[path = "isolation/attacks.rs"]
mod attacks;
#[path = "isolation/forgeries.rs"]
mod forgeries;
#[path = "support.rs"]
mod support;
#[path = "isolation/victim.rs"]
mod victim;

use std::time::Duration;

use attacks::{Attack, Must};
use ringforge_domain::catalog::{CommandKind, QueryKind, SignalKind};
use serde_json::{Value, json};
use support::{Client, Got, Options, Server};
use victim::{CANARY, Victim};

/// In everything that attackers say.
const MINE: &str = "badc0de15a7e4f02963bd88c1f0e27aa";
/// Where attackers sit: tenant and fleet. The first has the victim's slug, the second its tenant.
const LAIRS: [(&str, &str); 2] = [("evil", "default"), ("acme", "research")];

fn world() -> Server {
    let fleets = |slugs: &[&str]| slugs.iter().map(|slug| (*slug).to_owned()).collect::<Vec<_>>();
    let tenants =
        vec![("acme".to_owned(), fleets(&["default", "research"])), ("evil".to_owned(), fleets(&["default"]))];
    Server::start(Options { tenants, ..Options::default() })
}

#[tokio::test]
async fn no_kind_reaches_another_tenant_or_another_fleet() {
    let server = world();
    let mut victim = Victim::settle(&server).await;
    victim.look().await;
    victim.shown.clear();
    for (tenant, fleet) in LAIRS {
        let mut attacker = Attacker::enter(&server, tenant, fleet).await;
        for attack in every_attack(&victim) {
            attacker.try_one(&attack).await;
        }
        attacker.linger().await;
        attacker.learnt_nothing(&victim);
    }
    victim.look().await;
    for frame in &victim.shown {
        assert!(frame["type"] == "pong" || frame["type"] == "ping", "the victim noticed: {frame}");
        assert!(!frame.to_string().contains(MINE), "the victim was reached: {frame}");
    }
    victim.is_untouched().await;
}

/// Every kind of the catalogue has at least one row.
fn every_attack(victim: &Victim) -> Vec<Attack> {
    let rows = |attacks: Vec<Attack>| {
        assert!(!attacks.is_empty(), "a kind without an attack");
        attacks
    };
    // Questions first: what attackers wrote themselves is theirs to find.
    let queries = QueryKind::ALL.iter().flat_map(|kind| rows(attacks::by_query(*kind, victim)));
    let commands = CommandKind::ALL.iter().flat_map(|kind| rows(attacks::by_command(*kind, victim, MINE)));
    let signals = SignalKind::ALL.iter().flat_map(|kind| rows(attacks::by_signal(*kind, victim, MINE)));
    queries.chain(commands).chain(signals).collect()
}

/// Somebody with a good key, for somewhere else.
struct Attacker {
    client: Client,
    number: u32,
    heard: Vec<Value>,
}

impl Attacker {
    async fn enter(server: &Server, tenant: &str, fleet: &str) -> Self {
        let key = server.key(tenant, fleet);
        let (client, welcome) = Client::enter(server.ws_url(), key, "mallory", json!({ "presence": "each" })).await;
        Self { client, number: 0, heard: vec![welcome] }
    }

    /// Sends it and reads the answer, which must be the one that is due.
    async fn try_one(&mut self, (frame, must): &Attack) {
        self.number += 1;
        let reference = json!(format!("attack-{}", self.number));
        let mut frame = frame.clone();
        frame["ref"] = reference.clone();
        self.client.send(&frame).await;
        if matches!(must, Must::Silent) {
            return;
        }
        loop {
            let reply = self.client.frame().await;
            self.heard.push(reply.clone());
            if reply["ref"] == reference && reply["event"] != "start" && reply["event"] != "item" {
                return judge(&frame, &reply, *must);
            }
        }
    }

    /// Whatever else comes.
    async fn linger(&mut self) {
        while let Got::Frame(frame) = self.client.next(Duration::from_millis(1_500)).await {
            self.heard.push(frame);
        }
    }

    /// Nothing it was sent holds a word or an id of the victim, but for what it said itself.
    fn learnt_nothing(&self, victim: &Victim) {
        for frame in &self.heard {
            let text = frame.to_string();
            assert!(!text.contains(CANARY), "the canary got out: {text}");
            for id in [&victim.agent_id, &victim.message_id, &victim.session_id, &victim.resume_token] {
                assert!(!text.contains(id), "an id got out: {text}");
            }
            let from = &frame["from"]["agent_id"];
            assert!(from.is_null() || *from == self.heard[0]["agent_id"], "somebody else spoke: {text}");
        }
        let synced = self.heard.iter().filter(|frame| frame["event"] == "synced").count();
        assert_eq!(synced, 1, "the snapshot came to its end");
    }
}

fn judge(frame: &Value, reply: &Value, must: Must) {
    match must {
        Must::Work("") => assert_ne!(reply["type"], "error", "{frame} got {reply}"),
        Must::Work(event) => assert_eq!(reply["event"], event, "{frame} got {reply}"),
        Must::Fail(code) => {
            assert_eq!(reply["code"], code, "{frame} got {reply}");
            assert_eq!(reply["outcome"], "none", "{frame} got {reply}");
            for field in ["current_value", "current_version", "author"] {
                assert!(reply["details"][field].is_null(), "{frame} got {reply}");
            }
        }
        Must::Find(what, wanted) => {
            assert_ne!(reply["type"], "error", "{frame} got {reply}");
            let found = reply[what].as_array().map(Vec::len).or(reply[what].as_u64().and_then(|n| n.try_into().ok()));
            assert_eq!(found, Some(wanted), "{frame} got {reply}");
            assert!(reply["total"].is_null() || reply["total"] == wanted, "{frame} got {reply}");
        }
        Must::Silent => {}
    }
}

/// What `auth` with something of the victim's comes to.
#[tokio::test]
async fn nobody_comes_in_as_somebody_elses_agent_or_from_somebody_elses_event() {
    let server = world();
    let mut victim = Victim::settle(&server).await;
    victim.look().await;
    victim.shown.clear();
    for (tenant, fleet) in LAIRS {
        let key = server.key(tenant, fleet);
        // The same name is another agent elsewhere.
        let (namesake, welcome) = Client::enter(server.ws_url(), key, "vera", json!({})).await;
        assert_ne!(welcome["agent_id"], victim.agent_id.as_str());
        namesake.close().await;
        // A foreign event is no place to go on from.
        let (mut client, _) =
            Client::enter(server.ws_url(), key, "mallory", json!({ "last_event_id": victim.event_id })).await;
        let resumed = client.frame_where(|frame| frame["event"] == "resumed").await;
        assert_eq!((&resumed["recovered"], &resumed["reason"]), (&json!(false), &json!("invalid")), "{resumed}");
        assert!(!resumed.to_string().contains(CANARY));
        client.close().await;
        // Nor do its id and token open anything, nor its fleet's name.
        for stolen in [
            json!({ "agent_id": victim.agent_id, "resume_token": victim.resume_token }),
            json!({ "agent_id": victim.agent_id }),
            json!({ "fleet": victim.fleet_id }),
        ] {
            let mut auth = json!({ "type": "auth", "api_key": key });
            auth.as_object_mut().expect("an object").extend(stolen.as_object().expect("an object").clone());
            let mut client = Client::connect(server.ws_url()).await;
            client.send(&auth).await;
            let error = client.frame_where(|frame| frame["type"] != "auth_required").await;
            assert_eq!(error["type"], "auth_error", "{stolen} got {error}");
            assert!(!error.to_string().contains(CANARY), "{error}");
            assert!((4_400..4_500).contains(&client.closed().await), "{stolen} got {error}");
        }
    }
    victim.look().await;
    assert!(victim.shown.iter().all(|frame| frame["type"] == "pong" || frame["type"] == "ping"), "{:?}", victim.shown);
    victim.is_untouched().await;
}
