//! The first tenants, fleets and keys. The keys are kept in the data directory, so that a restart prints the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use ringforge_command_api::{Gate, key};
use ringforge_domain::{
    catalog::Command,
    fleet::{self, Fleet, Home},
    ids::{FleetId, KeyId, Scope, TenantId},
    limits::Limits,
    position::{Offset, Partition, Partitions},
    row::RowKey,
    tenant::{self, Key, KeyType, Tenant},
};
use ringforge_ports::{Services, clock::Ids, names};
use serde::{Deserialize, Serialize};

/// How long the read models may take to catch up at the start, a rebuild included.
pub const CATCH_UP: Duration = Duration::from_hours(1);
/// How soon it is looked again whether they have, at first.
const LOOK: Duration = Duration::from_millis(1);
/// How soon in the end.
const LOOK_LATER: Duration = Duration::from_millis(250);

/// What an installation was made with. Whoever reads this file is everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Seals event ids, in hex.
    pub seal_key: String,
    /// The operator's key.
    pub operator_key: String,
    /// The id of that key.
    pub operator_key_id: KeyId,
    /// The tenants.
    pub tenants: Vec<TenantCredentials>,
}

/// A tenant's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCredentials {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TenantId,
    /// Its admin key.
    pub admin_key: String,
    /// The id of that key.
    pub admin_key_id: KeyId,
    /// Its fleets.
    pub fleets: Vec<FleetCredentials>,
}

/// A fleet's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetCredentials {
    /// Its name.
    pub slug: String,
    /// Its id.
    pub id: FleetId,
    /// Its agents' key.
    pub agent_key: String,
    /// The id of that key.
    pub agent_key_id: KeyId,
    /// Whether it has a partition to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedicated: Option<Dedicated>,
}

/// What a fleet wants that has a partition to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedicated {
    /// For how many seconds its log keeps events; none: as long as others do.
    pub retention_s: Option<i64>,
}

/// A bootstrap file: what shall be there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    tenant: Vec<WantedTenant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedTenant {
    name: String,
    /// None said: one that is called `default`, unless there are others.
    fleets: Option<Vec<String>>,
    #[serde(default)]
    dedicated: Vec<WantedDedicated>,
}

/// A fleet that shall have a partition to itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedDedicated {
    fleet: String,
    retention_hours: Option<f64>,
}

impl WantedDedicated {
    fn read(&self) -> anyhow::Result<Dedicated> {
        let seconds = |hours: f64| {
            let seconds = (hours * 3_600.0).round();
            // Up to a thousand years.
            if !(1.0..=3e10).contains(&seconds) {
                bail!("bootstrap: `retention_hours` of `{}` must be a time of some seconds at least", self.fleet);
            }
            #[expect(clippy::cast_possible_truncation, reason = "it was looked at")]
            Ok(seconds as i64)
        };
        Ok(Dedicated { retention_s: self.retention_hours.map(seconds).transpose()? })
    }
}

fn none_left(slug: &str) -> String {
    format!(
        "the log has no partition left that the fleet `{slug}` could have to itself: make more with `ringforge topics create \
         --dedicated N` and start every process again (a log in files has none: name it in `fleets`)"
    )
}

fn default_fleets() -> Vec<String> {
    vec!["default".to_owned()]
}

/// Reads the keys of a data directory, makes what the bootstrap file wants and is not there, and keeps them. `partitions`: those of
/// the log.
///
/// # Errors
/// A file that cannot be read or written, a name that cannot be used, or more fleets that want a partition to themselves than there
/// are: then nothing is kept.
pub fn credentials(
    data: &Path,
    bootstrap: Option<&Path>,
    partitions: Partitions,
    ids: &dyn Ids,
) -> anyhow::Result<Credentials> {
    let path = data.join(names::CREDENTIALS_FILE);
    let known = read(&path)?;
    let mut credentials = known.clone().unwrap_or_else(|| Credentials::new(ids));
    credentials.add(&wanted(bootstrap, known.is_none())?, ids)?;
    let mut alone =
        credentials.tenants.iter().flat_map(|tenant| &tenant.fleets).filter(|fleet| fleet.dedicated.is_some());
    if let Some(fleet) = alone.nth(usize::from(partitions.dedicated)) {
        bail!("{}", none_left(&fleet.slug));
    }
    if known.as_ref() != Some(&credentials) {
        write(&path, &credentials).with_context(|| format!("cannot keep the keys in {}", path.display()))?;
    }
    Ok(credentials)
}

impl Wanted {
    /// Reads a bootstrap file.
    ///
    /// # Errors
    /// It is no such file, or names no tenant.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let wanted: Self = toml::from_str(text)
            .context("a bootstrap file has [[tenant]] with `name`, `fleets` and [[tenant.dedicated]], and no more")?;
        if wanted.tenant.is_empty() {
            bail!("a bootstrap file names a [[tenant]], this one none");
        }
        Ok(wanted)
    }
}

impl Credentials {
    /// Of a new installation without tenants.
    pub fn new(ids: &dyn Ids) -> Self {
        Self {
            seal_key: hex(&ids.secret()),
            operator_key: key::new(KeyType::Admin, ids),
            operator_key_id: KeyId::from_bits(ids.next()),
            tenants: Vec::new(),
        }
    }

    /// Adds keys for what is wanted and not there.
    ///
    /// # Errors
    /// A name that cannot be used.
    pub fn add(&mut self, wanted: &Wanted, ids: &dyn Ids) -> anyhow::Result<()> {
        wanted.tenant.iter().try_for_each(|tenant| add(self, tenant, ids))
    }
}

/// In hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

/// The keys that a data directory has, if it has any.
///
/// # Errors
/// The file cannot be read.
pub fn kept(data: &Path) -> anyhow::Result<Option<Credentials>> {
    read(&data.join(names::CREDENTIALS_FILE))
}

fn read(path: &Path) -> anyhow::Result<Option<Credentials>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read the keys in {}", path.display())),
    };
    let credentials = serde_json::from_str(&text);
    credentials.map(Some).with_context(|| format!("{} is damaged: restore it from a backup", path.display()))
}

fn wanted(bootstrap: Option<&Path>, fresh: bool) -> anyhow::Result<Wanted> {
    let Some(path) = bootstrap else {
        let dev = WantedTenant { name: "dev".to_owned(), fleets: None, dedicated: Vec::new() };
        return Ok(Wanted { tenant: if fresh { vec![dev] } else { Vec::new() } });
    };
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the bootstrap file {}", path.display()))?;
    Wanted::read(&text).with_context(|| format!("{} cannot be used", path.display()))
}

fn add(credentials: &mut Credentials, wanted: &WantedTenant, ids: &dyn Ids) -> anyhow::Result<()> {
    let bytes_max = Limits::default().name_bytes;
    let named = |what: &str, name: &str| {
        tenant::slug(what, name, bytes_max)
            .map_err(|refusal| anyhow::anyhow!("bootstrap: `{name}`: {}", refusal.message))
    };
    named("name", &wanted.name)?;
    let at = credentials.tenants.iter().position(|tenant| tenant.name == wanted.name).unwrap_or_else(|| {
        credentials.tenants.push(TenantCredentials {
            name: wanted.name.clone(),
            id: TenantId::from_bits(ids.next()),
            admin_key: key::new(KeyType::Admin, ids),
            admin_key_id: KeyId::from_bits(ids.next()),
            fleets: Vec::new(),
        });
        credentials.tenants.len() - 1
    });
    let default = if wanted.dedicated.is_empty() { default_fleets() } else { Vec::new() };
    let shared = wanted.fleets.as_ref().unwrap_or(&default).iter().map(|slug| anyhow::Ok((slug, None)));
    let alone = wanted.dedicated.iter().map(|wanted| anyhow::Ok((&wanted.fleet, Some(wanted.read()?))));
    for fleet in shared.chain(alone) {
        let (slug, dedicated): (&String, Option<Dedicated>) = fleet?;
        named("fleets", slug)?;
        let fleets = &mut credentials.tenants[at].fleets;
        match fleets.iter().find(|fleet| fleet.slug == *slug) {
            None => fleets.push(FleetCredentials {
                slug: slug.clone(),
                id: FleetId::from_bits(ids.next()),
                agent_key: key::new(KeyType::Live, ids),
                agent_key_id: KeyId::from_bits(ids.next()),
                dedicated,
            }),
            Some(known) if known.dedicated == dedicated => {}
            Some(_) => bail!(
                "bootstrap: the fleet `{slug}` of `{}` stays as it was created, in the pool or in a partition of its own with \
                 its retention: name it as before, and only once",
                wanted.name
            ),
        }
    }
    Ok(())
}

/// Whole or not at all, for our eyes only.
fn write(path: &Path, credentials: &Credentials) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary: PathBuf = path.with_extension("json.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(credentials)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Submits to the directory what it does not have yet, and says how far it must be applied for all of it to hold.
///
/// # Errors
/// A port is away, or no partition is left that a fleet could have to itself.
pub async fn submit(services: &Services, gate: &Gate, credentials: &Credentials) -> anyhow::Result<Offset> {
    let partitions = services.log.partitions();
    let pool = |fleet: &FleetCredentials| fleet::home(fleet.id, partitions);
    let mut asked: BTreeSet<RowKey> = commands(credentials, pool).into_iter().map(|(key, _, _)| key).collect();
    asked.extend(partitions.iter().filter(|partition| partition.is_dedicated()).map(Home::key));
    let mut known = BTreeSet::new();
    while !asked.is_empty() {
        let found = services.reads.load(Partition::DIRECTORY, &asked).await.context("read the directory")?;
        known.extend(found.rows.iter().map(ringforge_domain::row::Row::key));
        asked = found.rest.into_iter().collect();
    }
    let free = partitions.iter().filter(|one| one.is_dedicated() && !known.contains(&Home::key(*one)));
    let fleets =
        credentials.tenants.iter().flat_map(|tenant| tenant.fleets.iter().map(move |fleet| (tenant.id, fleet)));
    let is_new = |(tenant, fleet): &(TenantId, &FleetCredentials)| {
        fleet.dedicated.is_some() && !known.contains(&Fleet::key(Scope { tenant: *tenant, fleet: fleet.id }))
    };
    let alone: Vec<&FleetCredentials> = fleets.filter(is_new).map(|(_, fleet)| fleet).collect();
    let homes: BTreeMap<FleetId, Partition> = alone.iter().map(|fleet| fleet.id).zip(free).collect();
    if let Some(fleet) = alone.get(homes.len()) {
        bail!("{}", none_left(&fleet.slug));
    }
    let wanted = commands(credentials, |fleet| homes.get(&fleet.id).copied().unwrap_or_else(|| pool(fleet)));
    let mut upto = Offset::ZERO;
    for (key, tenant, command) in wanted {
        if known.contains(&key) {
            continue;
        }
        let placed = gate.submit_internal(Scope::directory(tenant), Partition::DIRECTORY, None, command).await;
        let placed = placed.map_err(|refusal| anyhow::anyhow!("write the directory: {}", refusal.message))?;
        upto = placed.next();
    }
    Ok(upto)
}

/// What makes an installation whose fleets have these homes, each with the row that shows that it is there.
pub fn commands(
    credentials: &Credentials,
    mut home: impl FnMut(&FleetCredentials) -> Partition,
) -> Vec<(RowKey, TenantId, Command)> {
    let created = |text: &str, id: KeyId, key_type: KeyType, fleet: Option<FleetId>| {
        let hash = key::hash(text);
        (Key::key(&hash), Command::KeyCreated(tenant::KeyCreated { id, hash, key_type, fleet }))
    };
    let mut commands = Vec::new();
    let (row, command) = created(&credentials.operator_key, credentials.operator_key_id, KeyType::Admin, None);
    commands.push((row, TenantId::NONE, command));
    for tenant in &credentials.tenants {
        let name = tenant.name.clone();
        commands.push((Tenant::key(tenant.id), tenant.id, Command::TenantCreated(tenant::Created { name })));
        let (row, command) = created(&tenant.admin_key, tenant.admin_key_id, KeyType::Admin, None);
        commands.push((row, tenant.id, command));
        for fleet in &tenant.fleets {
            let scope = Scope { tenant: tenant.id, fleet: fleet.id };
            let home = home(fleet);
            let new = fleet::Created {
                id: fleet.id,
                slug: fleet.slug.clone(),
                partition: i32::from(home.0),
                retention_s: fleet.dedicated.filter(|_| home.is_dedicated()).and_then(|alone| alone.retention_s),
            };
            commands.push((Fleet::key(scope), tenant.id, Command::FleetCreated(new)));
            let (row, command) = created(&fleet.agent_key, fleet.agent_key_id, KeyType::Live, Some(fleet.id));
            commands.push((row, tenant.id, command));
        }
    }
    commands
}

/// Waits until a partition is applied up to a place.
///
/// # Errors
/// Reads are away, or it takes longer than `timeout`.
pub async fn applied(services: &Services, partition: Partition, upto: Offset, timeout: Duration) -> anyhow::Result<()> {
    let waiting = async {
        let mut wait = LOOK;
        loop {
            let found = services.reads.load(partition, &BTreeSet::new()).await?;
            if found.applied.upto >= upto {
                return Ok::<(), ringforge_ports::Error>(());
            }
            tokio::time::sleep(wait).await;
            wait = (wait + wait / 8).min(LOOK_LATER);
        }
    };
    tokio::time::timeout(timeout, waiting).await.context("the read models did not catch up with the log in time")??;
    Ok(())
}
