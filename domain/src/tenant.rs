//! Tenants, API keys and the house's own secrets: who may come in. Folded from the `directory` stream; of keys and secrets
//! only hashes are ever logged.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

pub use crate::row::tenant::{Key, KeyType, Secret, Tenant};
use crate::{
    act::{Act, Applied},
    code::{Code, Refusal},
    frame::Shown,
    header::{At, Header},
    ids::{FleetId, KeyId},
    limits::Limits,
    row::{Needs, Row, Rows},
};

/// `tenant.created`: the tenant is the one in the header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct Created {
    /// Its name.
    pub name: String,
}

impl Act for Created {
    type Effect = ();

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        slug("name", &self.name, limits.name_bytes)
    }

    fn needs(&self, at: &Header, needs: &mut Needs<'_>) {
        needs.row(Tenant::key(at.tenant_id));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let id = at.header.tenant_id;
        if rows.get::<Tenant>(&Tenant::key(id)).is_some() {
            return Ok(Applied::new(()));
        }
        Ok(Applied::new(()).row(Row::Tenant(Tenant { id, name: self.name.clone(), created_at: at.time })))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// `key.created`: a key of the tenant in the header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct KeyCreated {
    /// Its id.
    pub id: KeyId,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// What it is for.
    pub key_type: KeyType,
    /// The only fleet it is good for, if there is one.
    pub fleet: Option<FleetId>,
}

impl Act for KeyCreated {
    type Effect = ();

    fn check(&self, _: &Limits) -> Result<(), Refusal> {
        let hex = self.hash.len() == 64 && self.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex { Ok(()) } else { Err(Refusal::invalid("hash", "`hash` must be SHA-256 in hex.")) }
    }

    fn needs(&self, _: &Header, needs: &mut Needs<'_>) {
        needs.row(Key::key(&self.hash));
    }

    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        if rows.get::<Key>(&Key::key(&self.hash)).is_some() {
            return Ok(Applied::new(()));
        }
        Ok(Applied::new(()).row(Row::Key(Key {
            hash: self.hash.clone(),
            id: self.id,
            tenant: at.header.tenant_id,
            fleet: self.fleet,
            key_type: self.key_type,
        })))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// `secret.declared`: all processes use this secret from now on. Whoever does not know it must not take part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, AvroSchema)]
pub struct SecretDeclared {
    /// For what.
    pub name: String,
    /// Which: nothing that helps to guess it.
    pub fingerprint: String,
    /// Which one was used until now, if there was one. It must still be so.
    pub previous: Option<String>,
}

impl Act for SecretDeclared {
    type Effect = ();

    fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        slug("name", &self.name, limits.name_bytes)?;
        slug("fingerprint", &self.fingerprint, limits.name_bytes)
    }

    fn needs(&self, _: &Header, needs: &mut Needs<'_>) {
        needs.row(Secret::key(&self.name));
    }

    fn apply(&self, _: &At, rows: &Rows) -> Result<Applied<()>, Refusal> {
        let known = rows.get::<Secret>(&Secret::key(&self.name)).map(|known| &known.fingerprint);
        if known == Some(&self.fingerprint) {
            return Ok(Applied::new(()));
        }
        if known != self.previous.as_ref() {
            return Err(Refusal::because(Code::Conflict, "Another secret is used by now."));
        }
        let secret = Secret { name: self.name.clone(), fingerprint: self.fingerprint.clone() };
        Ok(Applied::new(()).row(Row::Secret(secret)))
    }

    fn show(&self, _: &At, (): &()) -> Shown {
        Shown::default()
    }
}

/// Whether a tenant's or fleet's name has the form `[a-z0-9._-]{1,100}`.
///
/// # Errors
/// `invalid_message` naming the field.
pub fn slug(field: &str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    let fits = (1..=bytes_max).contains(&text.len());
    let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    if fits && plain {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("`{field}` must be 1 to {bytes_max} of a-z 0-9 . _ -"))
        .with("limit", bytes_max))
}

#[cfg(test)]
mod tests;
