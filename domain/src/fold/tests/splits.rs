//! However a log is cut into batches, it folds to the same rows and verdicts.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    activity, answer,
    catalog::{CommandKind, Effect},
    direct, fleet,
    ids::{AgentId, CommandId, KeyId, MessageId, SessionId, TenantId},
    position::Partition,
    presence::{self, Started},
    projector, tenant,
    verdict::Verdict,
    world::{Folded, Member, Store},
};

/// One thing that happens: numbers, read as the deed needs them.
#[derive(Clone, Copy, Debug)]
struct Step {
    fleet: usize,
    who: usize,
    deed: u8,
    dice: u32,
    jump: usize,
    key: u8,
}

const NAMES: [&str; 4] = ["ada", "bob", "eve", "zoe"];
const FLEETS: [(u128, u128); 3] = [(1, 1), (1, 2), (2, 3)];
const JUMPS: [i64; 8] = [0, 0, 0, 1, 1, 20, -3_600, 90_000];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..FLEETS.len(), 0..NAMES.len(), 0u8..16, any::<u32>(), 0..JUMPS.len(), 0u8..8);
    let step = step.prop_map(|(fleet, who, deed, dice, jump, key)| Step { fleet, who, deed, dice, jump, key });
    proptest::collection::vec(step, 1..260)
}

/// Everything that ever joined or was written, so that later steps can mean it.
#[derive(Default)]
struct Actors {
    members: Vec<(usize, usize, Member)>,
    tokens: Vec<(usize, Member, String)>,
    messages: Vec<(usize, MessageId)>,
    statuses: Vec<(usize, CommandId)>,
    keyed: Option<(Header, Command)>,
}

impl Actors {
    /// The newest session of a name, an older one now and then, or somebody who never was.
    fn member(&self, world: &World, step: Step) -> Member {
        let own = |(fleet, who, _): &&(usize, usize, Member)| *fleet == step.fleet && *who == step.who;
        let mut sessions = self.members.iter().rev().filter(own).map(|(_, _, member)| *member);
        let newest = sessions.next();
        let older = if step.dice.is_multiple_of(17) { sessions.next() } else { None };
        let nobody = Member {
            scope: world.scope,
            agent: AgentId::from_bits(u128::from(step.dice)),
            session: SessionId::from_bits(1),
        };
        older.or(newest).unwrap_or(nobody)
    }

    fn message(&self, step: Step) -> MessageId {
        one_of(&self.messages, step).unwrap_or(MessageId::from_bits(1))
    }

    /// Remembers what later steps can mean.
    fn saw(&mut self, step: Step, folded: &Folded) {
        match &folded.verdict.outcome {
            Outcome::Applied(Effect::DirectSend(effect)) => self.messages.push((step.fleet, effect.message)),
            Outcome::Applied(Effect::DirectDelivered(_) | Effect::DirectAck(_) | Effect::DirectExpire(_)) => {
                self.statuses.push((step.fleet, folded.verdict.command_id));
            }
            _ => {}
        }
    }
}

/// One of those of the step's fleet.
fn one_of<T: Copy>(known: &[(usize, T)], step: Step) -> Option<T> {
    let own: Vec<_> = known.iter().filter(|(fleet, _)| *fleet == step.fleet).collect();
    let at = usize::try_from(step.dice).unwrap_or_default() % own.len().max(1);
    own.get(at).map(|(_, one)| *one)
}

fn wire<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a payload")
}

fn key_of(step: Step) -> String {
    format!("k/{}", step.dice % 3)
}

fn starts(world: &mut World, actors: &mut Actors, step: Step) {
    let mut start = Started {
        resumes: step.dice & 1 == 1,
        exclusive: step.dice % 29 == 3,
        capabilities: if step.dice & 2 == 2 { vec!["code".to_owned()] } else { Vec::new() },
        ..world.start(Some(NAMES[step.who]).filter(|_| step.dice % 11 != 5))
    };
    if let Some((_, member, token)) = actors.tokens.iter().rev().find(|(fleet, ..)| *fleet == step.fleet)
        && step.dice.is_multiple_of(5)
    {
        start.claimed = Some(member.agent);
        start.proof = Some(token.clone());
    }
    let folded = world.timer(start.clone());
    if let Ok(Effect::SessionStarted(effect)) = folded.verdict.outcome.as_ref_result() {
        let member = Member { scope: world.scope, agent: effect.agent, session: start.session };
        actors.members.push((step.fleet, step.who, member));
        actors.tokens.push((step.fleet, member, start.resume_hash));
    }
}

impl Outcome {
    fn as_ref_result(&self) -> Result<&Effect, &Refusal> {
        match self {
            Self::Applied(effect) => Ok(effect),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

/// What the installation itself does.
fn house(world: &mut World, actors: &mut Actors, by: &Member, step: Step) {
    let message = actors.message(step);
    match step.deed {
        0 | 1 => starts(world, actors, step),
        2 => drop(world.leaves(by)),
        3 => {
            let version = i64::from(step.dice % 7);
            drop(world.timer(memory::Expire { key: key_of(step), version }));
        }
        4 if step.dice & 1 == 1 => {
            let asked = |key: u8| answer::Asked { agent: by.agent, key: key.to_string() };
            drop(world.timer(answer::Forget { asked: (0..3).map(asked).collect() }));
        }
        4 => {
            let status = one_of(&actors.statuses, step).filter(|_| step.dice & 64 == 64);
            let told = world.timer(direct::Expire { message, status });
            actors.saw(step, &told);
        }
        5 => {
            let told = world.internal(by, direct::Delivered { message });
            actors.saw(step, &told);
        }
        6 => {
            let newest = actors.statuses.last().map(|(_, id)| *id);
            let statuses = one_of(&actors.statuses, step).into_iter().chain(newest).collect();
            drop(world.internal(by, direct::Told { message, statuses }));
        }
        _ => {
            let scope = world.scope;
            world.scope = Scope::directory(TenantId::from_bits(u128::from(step.dice % 2)));
            let id = FleetId::from_bits(u128::from(step.dice % 3));
            let hash = format!("{:064x}", step.dice % 5);
            let slug = format!("s{}", step.dice % 2);
            match step.dice % 5 {
                0 => drop(world.timer(tenant::Created { name: slug })),
                1 => {
                    let (partition, retention_s) = home_of(step.dice);
                    drop(world.timer(fleet::Created { id, slug, partition, retention_s }));
                }
                2 => {
                    let (partition, schemas) = (i32::from(step.dice & 8 == 0), i32::from(step.dice & 16 == 0));
                    drop(world.timer(projector::Declared { partition, schemas }));
                }
                3 => {
                    let print = |dice: u32| format!("f{}", dice % 2);
                    let previous = Some(print(step.dice / 8)).filter(|_| step.dice & 16 == 16);
                    let (name, fingerprint) = ("seal".to_owned(), print(step.dice / 4));
                    drop(world.timer(tenant::SecretDeclared { name, fingerprint, previous }));
                }
                _ => {
                    let key_type = tenant::KeyType::Test;
                    drop(world.timer(tenant::KeyCreated { id: KeyId::from_bits(1), hash, key_type, fleet: Some(id) }));
                }
            }
            world.scope = scope;
        }
    }
}

/// Where a fleet is to live: in the pool, or alone, where another may live already.
fn home_of(dice: u32) -> (i32, Option<i64>) {
    if dice & 32 == 0 { (1, None) } else { (i32::from(Partition::DEDICATED.0), (dice & 64 == 0).then_some(60)) }
}

fn asked(actors: &Actors, step: Step) -> Command {
    let dice = step.dice;
    let to = NAMES[usize::try_from(dice / 7).unwrap_or_default() % NAMES.len()];
    let tags = json!([format!("t{}", dice % 3)]);
    let state = ["online", "busy", "away"][step.who % 3];
    let scope = ["fleet", "tagged", "direct"][step.who % 3];
    match step.deed {
        8 => wire::<presence::Update>(json!({
            "state": state, "task": Some("t").filter(|_| dice & 1 == 1),
            "load": f64::from(dice % 11) / 10.0,
        }))
        .into(),
        9 => wire::<activity::Broadcast>(json!({
            "scope": scope, "tags": tags, "to": to, "kind": "alert", "data": dice,
        }))
        .into(),
        10 if dice & 1 == 1 => wire::<activity::Unsubscribe>(json!({"tags": tags})).into(),
        10 => wire::<activity::Subscribe>(json!({"tags": tags, "kinds": ["alert"]})).into(),
        11 if dice & 1 == 1 => memory::Unsubscribe { pattern: key_of(step) }.into(),
        11 => wire::<memory::Subscribe>(json!({"pattern": key_of(step), "values": dice & 2 == 2})).into(),
        12 => wire::<memory::Delete>(json!({
            "key": key_of(step), "expected_version": Some(dice % 5).filter(|_| dice & 8 == 8),
        }))
        .into(),
        13 => wire::<direct::Send>(json!({
            "to": to, "payload": dice, "ack": dice & 1 == 1, "ttl": Some(15).filter(|_| dice & 2 == 2),
        }))
        .into(),
        14 => direct::Ack { message_id: actors.message(step) }.into(),
        _ => {
            let op = [None, Some("incr"), Some("append"), Some("merge"), Some("add_to_set")];
            let op = op[usize::try_from(dice / 3).unwrap_or_default() % op.len()];
            let op = op.filter(|_| dice & 16 == 16);
            wire::<memory::Set>(json!({
                "key": key_of(step), "value": dice % 4, "op": op, "ttl": Some(15).filter(|_| dice & 1 == 1),
                "expected_version": Some(dice % 4).filter(|_| dice & 2 == 2),
                "reads": if dice & 4 == 4 { json!([{"key": "k/0", "version": dice % 3}]) } else { json!([]) },
            }))
            .into()
        }
    }
}

fn happened(steps: &[Step]) -> World {
    let mut world = World::new();
    let mut actors = Actors::default();
    for step in steps.iter().copied() {
        let (tenant, fleet) = FLEETS[step.fleet];
        world.scope = Scope { tenant: TenantId::from_bits(tenant), fleet: FleetId::from_bits(fleet) };
        world.later(JUMPS[step.jump]);
        let by = actors.member(&world, step);
        if step.deed < 8 {
            house(&mut world, &mut actors, &by, step);
            continue;
        }
        let header = Header {
            idempotency_key: Some(step.key.to_string()).filter(|_| step.key < 3),
            deadline: Some(world.now.0 - 200_000_000).filter(|_| step.dice.is_multiple_of(13)),
            ..world.header_of(&by)
        };
        let (header, command) = match actors.keyed.clone() {
            Some((first, command)) if step.key == 3 => (Header { command_id: header.command_id, ..first }, command),
            _ => (header, asked(&actors, step)),
        };
        if header.idempotency_key.is_some() {
            actors.keyed = Some((header.clone(), command.clone()));
        }
        let folded = world.submit(&header, command);
        actors.saw(step, &folded);
    }
    world
}

/// Folds a log in batches of these sizes, over and over.
fn folded(log: &[Event], sizes: &[usize]) -> (String, Vec<Verdict>) {
    let mut store = Store::default();
    let mut verdicts = Vec::new();
    let mut rest = log;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, later) = rest.split_at((*size).min(rest.len()));
        verdicts.extend(store.project(batch));
        rest = later;
    }
    (store.digest(), verdicts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_log_folds_to_the_same(steps in steps(), sizes in proptest::collection::vec(1usize..40, 1..8)) {
        let world = happened(&steps);
        let expected = (world.store.digest(), world.verdicts);
        for sizes in [&[1][..], &[7], &[1_000], &sizes] {
            let found = folded(&world.log, sizes);
            for (one, other) in found.1.iter().zip(&expected.1) {
                prop_assert_eq!(one, other, "batches of {:?}", sizes);
            }
            prop_assert_eq!(&found.0, &expected.0, "batches of {:?}", sizes);
        }
    }
}

#[test]
fn the_steps_reach_every_kind_and_outcome() {
    let mut seen = std::collections::BTreeSet::new();
    let steps: Vec<Step> = (0..4_000u32)
        .map(|at| {
            let random = blake3::hash(&at.to_le_bytes());
            let [fleet, who, deed, jump, key, dice @ ..] = random.as_bytes().map(usize::from);
            let dice = dice[..4].iter().fold(0, |sum, byte| (sum << 8) | u32::try_from(*byte).expect("a byte"));
            let [deed, key] = [deed % 16, key % 8].map(|number| u8::try_from(number).expect("small"));
            Step { fleet: fleet % FLEETS.len(), who: who % NAMES.len(), deed, dice, jump: jump % JUMPS.len(), key }
        })
        .collect();
    let world = happened(&steps);
    let mut codes = std::collections::BTreeSet::new();
    let mut repeated = false;
    for (event, verdict) in world.log.iter().zip(&world.verdicts) {
        match &verdict.outcome {
            Outcome::Applied(_) => drop(seen.insert(event.command.kind())),
            Outcome::Refused(refusal) => drop(codes.insert(refusal.code)),
        }
        repeated |= verdict.first.is_some();
    }
    let missing: Vec<_> = CommandKind::ALL.iter().filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "never applied: {missing:?}");
    for code in
        [Code::Conflict, Code::Forbidden, Code::NotFound, Code::Timeout, Code::IdempotencyMismatch, Code::Unauthorized]
    {
        assert!(codes.contains(&code), "never refused with {code:?}");
    }
    assert!(repeated);
}
