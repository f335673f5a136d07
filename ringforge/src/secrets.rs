//! The secret that all processes of an installation share: it seals event ids and cursors, so that they mean the same at every
//! edge and nobody else can make one. The directory names the one in use, by its fingerprint.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use ringforge_command_api::Gate;
use ringforge_domain::{
    cursor::Seal,
    ids::{Scope, TenantId},
    position::Partition,
    row::State as _,
    tenant::{Secret, SecretDeclared},
};
use ringforge_ports::Services;
use tracing::warn;

use crate::bootstrap::{self, CATCH_UP};

/// What the directory calls it.
const SEAL: &str = "seal";
/// How to have the same everywhere.
pub const FIX: &str = "give every process the same secrets.seal (RINGFORGE__SECRETS__SEAL): 64 hex digits, made by `openssl rand -hex 32`";

/// Reads a list of keys, the one in use first, then those that were: `HEX[,HEX..]`.
///
/// # Errors
/// One of them is no key.
pub fn parse(text: &str) -> anyhow::Result<Seal> {
    let keys: Option<Vec<[u8; 32]>> = text.split(',').map(|key| key_of(key.trim())).collect();
    // The text is a secret, so it is not told.
    let keys =
        keys.filter(|keys| !keys.is_empty()).context("a key is 64 hex digits, and keys are separated by commas")?;
    Ok(Seal::of(keys))
}

fn key_of(digits: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if digits.len() != 2 * key.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

/// The seal of this process: the one that is set, or the one that the data directory was made with.
///
/// # Errors
/// There is neither.
pub fn seal(set: &str, kept: Option<&str>) -> anyhow::Result<Seal> {
    if !set.is_empty() {
        return parse(set).context("secrets.seal is wrong");
    }
    let Some(kept) = kept else { bail!("event ids must mean the same at every process: {FIX}") };
    parse(kept).context("`seal_key` in the credentials file is damaged: restore the file from a backup")
}

/// Sees to it that all processes use the same seal: declares ours, where there is none or where we know the one that is used, so
/// that ours is its successor.
///
/// # Errors
/// Others use one that we do not know. Where nobody else can be there, it is replaced all the same.
pub async fn agree(services: &Services, gate: &Gate, seal: &Seal, is_alone: bool) -> anyhow::Result<()> {
    let used = used(services).await?;
    if used.as_deref() == Some(&seal.fingerprint()) {
        return Ok(());
    }
    if let Some(used) = used.as_ref().filter(|used| !seal.knows(used)) {
        if !is_alone {
            bail!("event ids are sealed with another key here (its fingerprint is {used}): {FIX}");
        }
        warn!("the keys of this data directory are new: event ids from before are not known again");
    }
    let declared = SecretDeclared { name: SEAL.to_owned(), fingerprint: seal.fingerprint(), previous: used };
    let scope = Scope::directory(TenantId::NONE);
    let placed = gate.submit_internal(scope, Partition::DIRECTORY, None, declared.into()).await;
    let placed = placed.map_err(|refusal| anyhow::anyhow!("write the directory: {}", refusal.message))?;
    bootstrap::applied(services, Partition::DIRECTORY, placed.next(), CATCH_UP).await?;
    match self::used(services).await? {
        // Somebody who came at the same moment may have been first.
        Some(used) if !seal.knows(&used) => bail!("event ids were just sealed with another key ({used}): {FIX}"),
        _ => Ok(()),
    }
}

/// The fingerprint of the seal in use.
async fn used(services: &Services) -> anyhow::Result<Option<String>> {
    let keys = BTreeSet::from([Secret::key(SEAL)]);
    let found = services.reads.load(Partition::DIRECTORY, &keys).await.context("read the directory")?;
    Ok(found.rows.first().and_then(Secret::of).map(|secret| secret.fingerprint.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let (one, two) = ("01".repeat(32), "a2".repeat(32));
        let seal = parse(&format!("{two}, {one}")).expect("keys");
        assert_eq!(seal.fingerprint(), parse(&two).expect("a key").fingerprint());
        assert!(seal.knows(&parse(&one).expect("a key").fingerprint()));
        assert!(!parse(&two).expect("a key").knows(&parse(&one).expect("a key").fingerprint()));
        for wrong in ["", ",", "01", &format!("{one},"), &"0g".repeat(32), &"é".repeat(32), &format!("+{}", &one[1..])]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_set_comes_before_what_is_kept() {
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        let fingerprint = |seal: anyhow::Result<Seal>| seal.map(|seal| seal.fingerprint()).ok();
        assert_eq!(fingerprint(seal(&one, Some(&two))), fingerprint(parse(&one)));
        assert_eq!(fingerprint(seal("", Some(&two))), fingerprint(parse(&two)));
        assert!(seal("", None).is_err_and(|error| error.to_string().contains("secrets.seal")));
    }
}
