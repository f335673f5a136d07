//! Who may come in: keys, fleets, and how often one may be wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Mutex,
    time::Duration,
};

use moka::sync::Cache;
use ringforge_domain::{
    code::{Code, Refusal},
    fleet::{Fleet, Slug},
    ids::{FleetId, Scope, TenantId},
    limits::{
        AUTH_FAILURES_ADDRESS_MAX, AUTH_FAILURES_MAX, AUTH_FAILURES_TRACKED_MAX, DIRECTORY_CACHE_MAX, PERMISSION_MS,
    },
    position::{Partition, StreamRef},
    row::{Row, RowKey, State},
    tenant::{Key, KeyType},
};
use ringforge_ports::Services;
use tracing::warn;

use crate::key;

/// How long failures count against their origin.
const WINDOW: Duration = Duration::from_mins(1);

/// How long a look into the directory counts.
const PERMISSION: Duration = Duration::from_millis(PERMISSION_MS);

/// What a key opens: a fleet, and where its events are.
#[derive(Clone, Debug, PartialEq)]
pub struct Entrance {
    /// The key.
    pub key: Key,
    /// The fleet.
    pub scope: Scope,
    /// The fleet's name.
    pub slug: String,
    /// Where its events are.
    pub stream: StreamRef,
}

/// Knows the directory, from rows that are at most a second old.
pub struct Authenticator {
    services: Services,
    /// With when each was read. The cache itself knows no time: its clock is the machine's, ours is passed in.
    rows: Cache<RowKey, (Duration, Row)>,
    failures: Mutex<BTreeMap<(IpAddr, String), Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    since: Duration,
}

impl Authenticator {
    /// Over these services.
    pub fn new(services: Services) -> Self {
        Self { services, rows: Cache::new(DIRECTORY_CACHE_MAX), failures: Mutex::default() }
    }

    /// Lets an agent in, or says no in a way that gives nothing away.
    ///
    /// # Errors
    /// `invalid_api_key`, `forbidden`, `not_found` (fleet), `rate_limited`, `unavailable`.
    pub async fn enter(&self, api_key: &str, fleet: Option<&str>, from: IpAddr) -> Result<Entrance, Refusal> {
        let key = self.known(api_key, from).await?;
        if key.key_type == KeyType::Admin {
            return Err(Refusal::because(Code::Forbidden, "An admin key is not for agents.")
                .fix("Connect with an agent key of the fleet."));
        }
        self.open(key, fleet).await
    }

    /// Lets a request in that is no agent's: with an admin key as well. What is another's looks as if there were nothing.
    ///
    /// # Errors
    /// `invalid_api_key`, `not_found` (fleet), `rate_limited`, `unavailable`.
    pub async fn admit(&self, api_key: &str, fleet: &str, from: IpAddr) -> Result<Entrance, Refusal> {
        let key = self.known(api_key, from).await?;
        let opened = self.open(key, Some(fleet)).await;
        let nothing = || Refusal::not_found("There is no such fleet.");
        opened.map_err(|refusal| if refusal.code == Code::Forbidden { nothing() } else { refusal })
    }

    /// The key, if there is one like this.
    async fn known(&self, api_key: &str, from: IpAddr) -> Result<Key, Refusal> {
        let hint = key::hint(api_key);
        let known = if key::well_formed(api_key) { self.key(&key::hash(api_key)).await? } else { None };
        let Some(known) = known else { return Err(self.failed(from, hint)) };
        self.failures().remove(&(from, hint));
        Ok(known)
    }

    /// What a key opens.
    async fn open(&self, key: Key, fleet: Option<&str>) -> Result<Entrance, Refusal> {
        let scope = self.fleet_of(&key, fleet).await?;
        let fleet: Option<Fleet> = self.row(&Fleet::key(scope)).await?;
        let fleet = fleet.ok_or_else(|| Refusal::not_found("There is no such fleet."))?;
        Ok(Entrance { key, scope, slug: fleet.slug, stream: fleet.stream })
    }

    /// Whether a key that was good a moment ago still is.
    ///
    /// # Errors
    /// `unauthorized`, `unavailable`.
    pub async fn still(&self, key: &Key) -> Result<(), Refusal> {
        match self.key(&key.hash).await? {
            Some(known) if known == *key => Ok(()),
            _ => Err(Refusal::because(Code::Unauthorized, "The API key is no longer valid.")),
        }
    }

    async fn fleet_of(&self, key: &Key, wanted: Option<&str>) -> Result<Scope, Refusal> {
        let wanted = match (wanted, key.fleet) {
            (None, Some(only)) => return Ok(Scope { tenant: key.tenant, fleet: only }),
            (wanted, _) => wanted.unwrap_or("default"),
        };
        let fleet = match self.fleet_id(key.tenant, wanted).await? {
            Some(fleet) => fleet,
            None if key.fleet.is_some() => return Err(other_fleet()),
            None => {
                return Err(Refusal::not_found("There is no such fleet.")
                    .fix("Name one of the tenant's fleets in `auth.fleet`."));
            }
        };
        if key.fleet.is_some_and(|only| only != fleet) {
            return Err(other_fleet());
        }
        Ok(Scope { tenant: key.tenant, fleet })
    }

    async fn fleet_id(&self, tenant: TenantId, wanted: &str) -> Result<Option<FleetId>, Refusal> {
        if let Ok(fleet) = wanted.parse::<FleetId>() {
            let known: Option<Fleet> = self.row(&Fleet::key(Scope { tenant, fleet })).await?;
            return Ok(known.map(|known| known.scope.fleet));
        }
        let known: Option<Slug> = self.row(&Slug::key(tenant, wanted)).await?;
        Ok(known.map(|known| known.fleet))
    }

    async fn key(&self, hash: &str) -> Result<Option<Key>, Refusal> {
        self.row(&Key::key(hash)).await
    }

    async fn row<T: State + Clone>(&self, key: &RowKey) -> Result<Option<T>, Refusal> {
        let now = self.services.clock.monotonic();
        if let Some((read_at, known)) = self.rows.get(key)
            && now.saturating_sub(read_at) < PERMISSION
        {
            return Ok(T::of(&known).cloned());
        }
        let found = self.services.reads.load(Partition::DIRECTORY, &BTreeSet::from([key.clone()])).await;
        let found = found.map_err(|error| {
            warn!(%error, "directory cannot be read");
            Refusal::new(Code::Unavailable)
        })?;
        let row = found.rows.into_iter().next();
        // What is not there is not remembered: a key may be made the next moment.
        match &row {
            Some(row) => self.rows.insert(key.clone(), (now, row.clone())),
            None => self.rows.invalidate(key),
        }
        Ok(row.as_ref().and_then(T::of).cloned())
    }

    fn failed(&self, from: IpAddr, hint: String) -> Refusal {
        let now = self.services.clock.monotonic();
        let mut failures = self.failures();
        failures.retain(|_, known| now.saturating_sub(known.since) < WINDOW);
        let from_address: u32 =
            failures.iter().filter(|((address, _), _)| *address == from).map(|(_, known)| known.count).sum();
        if failures.len() >= AUTH_FAILURES_TRACKED_MAX && !failures.contains_key(&(from, hint.clone())) {
            return Refusal::new(Code::RateLimited).after_ms(1_000);
        }
        let known = failures.entry((from, hint)).or_insert(Failures { count: 0, since: now });
        known.count = known.count.saturating_add(1);
        if known.count <= AUTH_FAILURES_MAX && from_address < AUTH_FAILURES_ADDRESS_MAX {
            return Refusal::new(Code::InvalidApiKey);
        }
        let wait = WINDOW.saturating_sub(now.saturating_sub(known.since));
        Refusal::because(Code::RateLimited, "Too many failed attempts.")
            .after_ms(u64::try_from(wait.as_millis()).unwrap_or(60_000).max(1))
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<(IpAddr, String), Failures>> {
        self.failures.lock().expect("no panic while the lock is held")
    }
}

fn other_fleet() -> Refusal {
    Refusal::because(Code::Forbidden, "This key is for another fleet.")
        .fix("Leave `auth.fleet` out, or use a key of that fleet.")
}

#[cfg(test)]
mod tests;
