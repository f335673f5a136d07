//! Event ids and ids from strangers. What opens is what was sealed, to the letter; what was not sealed never opens.

#![no_main]

use std::{
    fmt::{Debug, Display},
    str::FromStr,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringforge_domain::{
    cursor::{Cursor, Seal},
    ids::{AgentId, CommandId, EdgeId, FleetId, KeyId, MemoryId, MessageId, Scope, SessionId, TenantId},
    position::{Generation, Offset, Partition, StreamRef},
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    key: u8,
    tenant: u128,
    fleet: u128,
    epoch: u16,
    generation: u32,
    offset: u64,
    hash: u32,
    /// A letter of the event id, and what it becomes.
    forged: (u8, char),
    text: &'a str,
}

fuzz_target!(|input: Input| {
    let seal = Seal::new([input.key; 32]);
    let scope = Scope { tenant: TenantId::from_bits(input.tenant), fleet: FleetId::from_bits(input.fleet) };
    let stream = StreamRef { partition: Partition::POOL, epoch: input.epoch };
    let offset = Offset(input.offset % Offset::LIMIT.0);
    let cursor = Cursor { generation: Generation(input.generation), offset, hash: input.hash };
    let event_id = seal.event_id(&scope, stream, cursor);
    assert_eq!(seal.open(&scope, stream, &event_id), Some(cursor));

    let others = [
        (Seal::new([!input.key; 32]), scope, stream),
        (seal.clone(), Scope { tenant: TenantId::from_bits(input.tenant ^ 1), ..scope }, stream),
        (seal.clone(), Scope { fleet: FleetId::from_bits(input.fleet ^ 1), ..scope }, stream),
        (seal.clone(), scope, StreamRef { epoch: input.epoch ^ 1, ..stream }),
    ];
    for (seal, scope, stream) in others {
        assert_eq!(seal.open(&scope, stream, &event_id), None);
    }
    let forged = forged(&event_id, input.forged);
    if forged != event_id {
        assert_eq!(seal.open(&scope, stream, &forged), None, "{forged}");
    }
    if let Some(opened) = seal.open(&scope, stream, input.text) {
        assert_eq!(seal.event_id(&scope, stream, opened), input.text);
    }
    ids(input.tenant, input.text);
});

/// With one letter changed.
fn forged(event_id: &str, (at, letter): (u8, char)) -> String {
    let mut letters: Vec<char> = event_id.chars().collect();
    let at = usize::from(at) % letters.len();
    letters[at] = letter;
    letters.into_iter().collect()
}

/// Each kind reads its own text, and nothing that it would write differently.
fn ids(bits: u128, text: &str) {
    reads(AgentId::from_bits(bits), text);
    reads(CommandId::from_bits(bits), text);
    reads(EdgeId::from_bits(bits), text);
    reads(FleetId::from_bits(bits), text);
    reads(KeyId::from_bits(bits), text);
    reads(MemoryId::from_bits(bits), text);
    reads(MessageId::from_bits(bits), text);
    reads(SessionId::from_bits(bits), text);
    reads(TenantId::from_bits(bits), text);
}

fn reads<T: FromStr + Display + Debug + PartialEq>(id: T, text: &str) {
    assert_eq!(id.to_string().parse::<T>().ok(), Some(id));
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string(), text);
    }
}
