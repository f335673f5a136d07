//! News as bytes, for a channel.
//!
//! ```text
//!   head    | version | 0 | offset, 8 bytes |
//!   update  | version | 1 | length of the JSON, 4 bytes | JSON: [verdict, log time] | the event's record, as in the log |
//! ```
//!
//! What is damaged has neither log time nor record.

use ringforge_domain::{
    ids::Scope,
    limits::LIVE_UPDATE_BYTES_MAX,
    position::{LogTime, Offset},
    schema,
    verdict::Verdict,
};
use ringforge_ports::{live::News, reads::Update};

const VERSION: u8 = 2;
const HEAD: u8 = 0;
const UPDATE: u8 = 1;

/// News as bytes. A large update is only pointed to, as is one whose record is not at hand.
pub fn encode(news: &News) -> Vec<u8> {
    match news {
        News::Head { last, .. } => head(*last),
        News::Update { update, record } => {
            let small = update.weight() <= LIVE_UPDATE_BYTES_MAX;
            let bytes = small
                .then(|| whole(update, record.as_deref()))
                .flatten()
                .filter(|bytes| bytes.len() <= LIVE_UPDATE_BYTES_MAX);
            bytes.unwrap_or_else(|| head(update.verdict.position.offset))
        }
    }
}

fn head(last: Offset) -> Vec<u8> {
    let mut bytes = vec![VERSION, HEAD];
    bytes.extend(last.0.to_be_bytes());
    bytes
}

fn whole(update: &Update, record: Option<&[u8]>) -> Option<Vec<u8>> {
    let (time, record) = match &update.event {
        Some(event) => (Some(event.at.time), record?),
        None => (None, &[][..]),
    };
    let json = serde_json::to_vec(&(&update.verdict, time)).expect("verdicts serialise");
    let mut bytes = vec![VERSION, UPDATE];
    bytes.extend(u32::try_from(json.len()).expect("a verdict is far smaller than that").to_be_bytes());
    bytes.extend(json);
    bytes.extend(record);
    Some(bytes)
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
            let (json, record) = rest.split_at_checked(length).ok_or("an update that is cut off")?;
            let (verdict, time): (Verdict, Option<LogTime>) =
                serde_json::from_slice(json).map_err(|error| error.to_string())?;
            if verdict.scope != scope {
                return Err("an update of another fleet".to_owned());
            }
            let event = time.map(|time| schema::decode(record, verdict.position, time)).transpose();
            let event = event.map_err(|error| error.to_string())?;
            Ok(Update { event, verdict }.into())
        }
        [version, ..] if *version != VERSION => Err(format!("version {version}: another build sent it")),
        _ => Err("no news".to_owned()),
    }
}

#[cfg(test)]
mod tests;
