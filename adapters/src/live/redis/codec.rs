//! News as bytes, for a channel.
//!
//! ```text
//!   head    | version | 0 | offset, 8 bytes |
//!   update  | version | 1 | length of the JSON, 4 bytes | JSON: [verdict, record] | the event, as in the log |
//! ```
//!
//! An event is written as today's builds write it. A record that an older one wrote is shorter and has other hashes, which the
//! event's id and the idempotency of its command are made of: they go with it.

use std::sync::Arc;

use ringforge_domain::{
    event::{At, Event},
    ids::Scope,
    limits::LIVE_UPDATE_BYTES_MAX,
    position::{LogTime, Offset},
    schema,
    verdict::Verdict,
};
use ringforge_ports::{live::News, reads::Update};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const HEAD: u8 = 0;
const UPDATE: u8 = 1;

/// What an event's bytes do not say of its record.
#[derive(Serialize, Deserialize)]
struct Record {
    time: LogTime,
    hash: u32,
    bytes: usize,
    body_hash: String,
}

/// News as bytes. A large update is only pointed to.
pub fn encode(news: &News) -> Vec<u8> {
    match news {
        News::Head { last, .. } => head(*last),
        News::Update(update) => {
            let small = update.weight() <= LIVE_UPDATE_BYTES_MAX;
            let bytes = small.then(|| whole(update)).filter(|bytes| bytes.len() <= LIVE_UPDATE_BYTES_MAX);
            bytes.unwrap_or_else(|| head(update.verdict.position.offset))
        }
    }
}

fn head(last: Offset) -> Vec<u8> {
    let mut bytes = vec![VERSION, HEAD];
    bytes.extend(last.0.to_be_bytes());
    bytes
}

fn whole(update: &Update) -> Vec<u8> {
    let record = update.event.as_ref().map(|Event { at, .. }| Record {
        time: at.time,
        hash: at.hash,
        bytes: at.bytes,
        body_hash: at.body_hash.clone(),
    });
    let json = serde_json::to_vec(&(&update.verdict, record)).expect("verdicts serialise");
    let mut bytes = vec![VERSION, UPDATE];
    bytes.extend(u32::try_from(json.len()).expect("a verdict is far smaller than that").to_be_bytes());
    bytes.extend(json);
    if let Some(event) = &update.event {
        bytes.extend(schema::encode(&event.at.header, &event.command));
    }
    bytes
}

/// News of a fleet from bytes.
///
/// # Errors
/// What is wrong with them.
pub fn decode(scope: Scope, bytes: &[u8]) -> Result<News, String> {
    match bytes {
        [VERSION, HEAD, last @ ..] => {
            let last = last.try_into().map_err(|_| "a head of another length".to_owned())?;
            Ok(News::Head { scope, last: Offset(u64::from_be_bytes(last)) })
        }
        [VERSION, UPDATE, a, b, c, d, rest @ ..] => {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let (json, event) = rest.split_at_checked(length).ok_or("an update that is cut off")?;
            let (verdict, record): (Verdict, Option<Record>) =
                serde_json::from_slice(json).map_err(|error| error.to_string())?;
            if verdict.scope != scope {
                return Err("an update of another fleet".to_owned());
            }
            let event = record.map(|record| record.event(&verdict, event)).transpose()?;
            Ok(News::Update(Arc::new(Update { event, verdict })))
        }
        [version, ..] if *version != VERSION => Err(format!("version {version}: another build sent it")),
        _ => Err("no news".to_owned()),
    }
}

impl Record {
    fn event(self, verdict: &Verdict, bytes: &[u8]) -> Result<Event, String> {
        let Self { time, hash, bytes: length, body_hash } = self;
        let Event { at, command } = schema::decode(bytes, verdict.position, time).map_err(|error| error.to_string())?;
        Ok(Event { at: At { hash, bytes: length, body_hash, ..at }, command })
    }
}

#[cfg(test)]
mod tests;
