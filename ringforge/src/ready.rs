//! What is said on stdout once everything works: a block for people, or one line for scripts.

use std::{io::Write as _, net::SocketAddr, path::Path, time::Instant};

use serde_json::{Value, json};

use crate::{
    bootstrap::{Credentials, FleetCredentials, TenantCredentials},
    role::Duty,
};

/// A process that is ready.
pub struct Ready<'a> {
    /// What it does.
    pub duty: Duty,
    /// Where it listens.
    pub address: SocketAddr,
    /// The keys of its data directory, if it has any.
    pub credentials: Option<&'a Credentials>,
    /// Since when it has been starting.
    pub started: Instant,
}

impl Ready<'_> {
    /// Says it.
    ///
    /// # Errors
    /// Stdout is closed.
    pub fn say(&self, data: &Path, as_json: bool) -> std::io::Result<()> {
        let ready_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let text = if as_json { self.line(ready_ms) } else { self.block(ready_ms, data) };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn line(&self, ready_ms: u64) -> String {
        let address = self.address;
        let mut line = json!({
            "ready": true,
            "version": env!("CARGO_PKG_VERSION"),
            "ready_ms": ready_ms,
            "rest_url": format!("http://{address}"),
        });
        if self.duty != Duty::All {
            line["role"] = json!(self.duty.text());
        }
        if self.duty.is_edge() {
            line["ws_url"] = json!(format!("ws://{address}/ws"));
        }
        if let Some(credentials) = self.credentials {
            line["operator_key"] = json!(credentials.operator_key);
            line["tenants"] = credentials.tenants.iter().map(tenant).collect();
        }
        format!("{line}\n")
    }

    fn block(&self, ready_ms: u64, data: &Path) -> String {
        use std::fmt::Write as _;
        let address = self.address;
        let mut text = format!("RingForge {}", env!("CARGO_PKG_VERSION"));
        if self.duty != Duty::All {
            let _ = write!(text, " {}", self.duty);
        }
        let _ = writeln!(text, " · ready in {ready_ms} ms · data in {}", data.display());
        if self.duty.is_edge() {
            let _ = writeln!(text, "  WebSocket     ws://{address}/ws");
        }
        let _ = writeln!(text, "  Health        http://{address}/health");
        let Some(credentials) = self.credentials else { return text };
        let _ = writeln!(text, "  Operator key  {}", credentials.operator_key);
        for tenant in &credentials.tenants {
            let _ = writeln!(text, "  Tenant        {}  {}", tenant.name, tenant.id);
            let _ = writeln!(text, "    Admin key   {}", tenant.admin_key);
            for fleet in &tenant.fleets {
                let _ = writeln!(text, "    Fleet       {}  {}", fleet.slug, fleet.id);
                let _ = writeln!(text, "      Agent key {}", fleet.agent_key);
            }
        }
        text
    }
}

fn tenant(tenant: &TenantCredentials) -> Value {
    let fleet = |fleet: &FleetCredentials| json!({ "slug": fleet.slug, "id": fleet.id, "agent_key": fleet.agent_key });
    let fleets: Vec<Value> = tenant.fleets.iter().map(fleet).collect();
    json!({ "name": tenant.name, "id": tenant.id, "admin_key": tenant.admin_key, "fleets": fleets })
}
