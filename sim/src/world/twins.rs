//! Twin worlds: a tenant alone, and the same beside another that does what it wants. What the first one sees must not differ.

use serde_json::{Value, json};

use super::World;
use crate::{
    history::Link,
    rng::Rng,
    tally::Tally,
    vocabulary::{
        clients::{Client, Phase},
        faults::Disturbance,
    },
};

/// What was sent in a world of twins.
#[derive(Debug)]
pub struct Lived {
    /// To the agents of the tenant that is watched.
    pub own: Vec<Vec<Link>>,
    /// To strangers.
    pub strange: Vec<Link>,
}

/// 128 bits that occur in no text but a stranger's.
pub const CANARY: &str = "5d0c1e7fa94b4e2c8f6b3a7d921cb05e";

/// The fleets of the tenant that is watched, and of the stranger.
const OWN: [usize; 2] = [0, 1];
const STRANGE: usize = 2;
/// Agents in each fleet.
const AGENTS: usize = 3;
/// How often an agent does something.
const ROUNDS: u64 = 60;
/// What strangers do meanwhile, each time.
const STRANGE_ACTS: u64 = 12;

impl World {
    /// Lets a tenant live, beside strangers or not. Its agents act one after the other, each when everything has come to rest:
    /// what they see is decided by the seed alone, however the strangers come between.
    ///
    /// # Errors
    /// A role met what it must never meet.
    pub fn twin(seed: u64, beside: bool) -> anyhow::Result<Lived> {
        let mut world = Self::of(seed, Tally::default())?;
        world.fate.calm();
        let mut chance = Rng::new(seed);
        world.settle_down(&mut chance);
        for _ in 0..ROUNDS {
            let (mut own, strange) = (chance.fork(), chance.fork());
            if beside {
                world.rng = strange;
                for _ in 0..STRANGE_ACTS {
                    world.act_strange();
                }
            }
            let who = own.index(OWN.len() * AGENTS);
            world.rng = own.fork();
            world.act_own(who);
            world.settle()?;
            world.clock.advance(std::time::Duration::from_millis(own.below(1_500)));
            world.tick();
            world.settle()?;
        }
        let told = world.tell()?;
        let own = told.agents.iter().filter(|agent| OWN.contains(&agent.fleet));
        let strange = told.agents.iter().filter(|agent| agent.fleet == STRANGE);
        let own = own.map(|agent| agent.diary.links.clone()).collect();
        let strange = strange.flat_map(|agent| agent.diary.links.clone()).collect();
        Ok(Lived { own, strange })
    }

    /// The agents: everywhere the same names.
    fn settle_down(&mut self, chance: &mut Rng) {
        self.clients.clear();
        for fleet in OWN.into_iter().chain([STRANGE]) {
            for number in 0..AGENTS {
                let mut client = Client::new(self.clients.len(), fleet, false, chance);
                client.name = format!("agent{number}");
                self.clients.push(client);
            }
        }
    }

    fn act_own(&mut self, who: usize) {
        match self.clients[who].phase {
            Phase::Away => self.connect(who),
            Phase::Entering => {}
            Phase::Inside if self.rng.chance(60) => self.disturb(who, Disturbance::HangUp),
            Phase::Inside => self.ask(who),
        }
    }

    /// A stranger does something, to everyone it can name, and is not waited for.
    fn act_strange(&mut self) {
        let who = OWN.len() * AGENTS + self.rng.index(AGENTS);
        match self.clients[who].phase {
            Phase::Away => self.connect(who),
            Phase::Inside if self.rng.chance(700) => {
                let names = self.clients.iter().map(|client| client.name.clone());
                let ids = self.clients.iter().filter_map(|client| client.diary.id.clone());
                let peers: Vec<String> = names.chain(ids).collect();
                let mut body = crate::vocabulary::commands::wish(&mut self.clients[who], &peers, false, &mut self.rng);
                mark(&mut body);
                let key = self.rng.chance(300).then(|| CANARY.to_owned());
                if let Some(key) = &key {
                    body["idempotency_key"] = json!(key);
                }
                let Some(line) = self.line_of(who) else { return };
                let Some(socket) = &mut self.lines[line].socket else { return };
                let frame = self.clients[who].send(body, key);
                socket.up.push_back(frame);
            }
            Phase::Inside if self.rng.chance(50) => self.disturb(who, Disturbance::HangUp),
            Phase::Entering | Phase::Inside => {
                for _ in 0..4 {
                    self.serve();
                }
                self.listen();
            }
        }
    }
}

/// Puts what can be recognised into whatever a stranger says.
fn mark(body: &mut Value) {
    match (body["type"].as_str().unwrap_or_default(), body["action"].as_str().unwrap_or_default()) {
        ("activity", "broadcast") => body["event"]["description"] = json!(CANARY),
        ("memory", "set") if body["op"].is_null() => {
            body["value"] = json!(CANARY);
            body["tags"] = json!([CANARY]);
            body["metadata"] = json!({ "mark": CANARY });
        }
        ("direct", "send") => body["message"] = json!({ "mark": CANARY }),
        ("presence", "update") => body["task"] = json!(CANARY),
        _ => {}
    }
}
