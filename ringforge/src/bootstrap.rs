//! The first tenants, fleets and keys. The keys are kept in the data directory, so that a restart prints the same ones.

use std::{
    collections::BTreeSet,
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
    fleet::{self, Fleet},
    ids::{FleetId, KeyId, Scope, TenantId},
    limits::Limits,
    position::{Offset, Partition},
    row::RowKey,
    tenant::{self, Key, KeyType, Tenant},
};
use ringforge_ports::{Services, clock::Ids, names};
use serde::{Deserialize, Serialize};

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
    #[serde(default = "default_fleets")]
    fleets: Vec<String>,
}

fn default_fleets() -> Vec<String> {
    vec!["default".to_owned()]
}

/// Reads the keys of a data directory, makes what the bootstrap file wants and is not there, and keeps them.
///
/// # Errors
/// A file that cannot be read or written, or a name that cannot be used.
pub fn credentials(data: &Path, bootstrap: Option<&Path>, ids: &dyn Ids) -> anyhow::Result<Credentials> {
    let path = data.join(names::CREDENTIALS_FILE);
    let known = read(&path)?;
    let mut credentials = known.clone().unwrap_or_else(|| Credentials::new(ids));
    credentials.add(&wanted(bootstrap, known.is_none())?, ids)?;
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
        let wanted: Self =
            toml::from_str(text).context("a bootstrap file has [[tenant]] with `name` and `fleets`, and no more")?;
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

    /// The key that seals event ids.
    ///
    /// # Errors
    /// It was edited.
    pub fn seal(&self) -> anyhow::Result<[u8; 32]> {
        let digits =
            |at: usize| self.seal_key.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let mut seal = [0; 32];
        for (at, byte) in seal.iter_mut().enumerate() {
            *byte =
                digits(at).context("`seal_key` in the credentials file is damaged: restore the file from a backup")?;
        }
        Ok(seal)
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
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
        let dev = WantedTenant { name: "dev".to_owned(), fleets: default_fleets() };
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
    for slug in &wanted.fleets {
        named("fleets", slug)?;
        let fleets = &mut credentials.tenants[at].fleets;
        if fleets.iter().all(|fleet| fleet.slug != *slug) {
            fleets.push(FleetCredentials {
                slug: slug.clone(),
                id: FleetId::from_bits(ids.next()),
                agent_key: key::new(KeyType::Live, ids),
                agent_key_id: KeyId::from_bits(ids.next()),
            });
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
/// A port is away.
pub async fn submit(services: &Services, gate: &Gate, credentials: &Credentials) -> anyhow::Result<Offset> {
    let wanted = commands(credentials, services.log.partitions());
    let keys: BTreeSet<RowKey> = wanted.iter().map(|(key, _, _)| key.clone()).collect();
    let (mut known, mut asked) = (BTreeSet::new(), keys);
    while !asked.is_empty() {
        let found = services.reads.load(Partition::DIRECTORY, &asked).await.context("read the directory")?;
        known.extend(found.rows.iter().map(ringforge_domain::row::Row::key));
        asked = found.rest.into_iter().collect();
    }
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

/// What makes an installation on a log of so many partitions, each with the row that shows that it is there.
pub fn commands(credentials: &Credentials, partitions: u16) -> Vec<(RowKey, TenantId, Command)> {
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
            let partition = i32::from(fleet::home(fleet.id, partitions).0);
            let command = Command::FleetCreated(fleet::Created { id: fleet.id, slug: fleet.slug.clone(), partition });
            commands.push((Fleet::key(scope), tenant.id, command));
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
        loop {
            let found = services.reads.load(partition, &BTreeSet::new()).await?;
            if found.applied.upto >= upto {
                return Ok::<(), ringforge_ports::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(timeout, waiting).await.context("the read models did not catch up with the log in time")??;
    Ok(())
}
