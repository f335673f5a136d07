//! What is said on stdout once everything works: a block for people, or one line for scripts.

use std::{io::Write as _, net::SocketAddr, time::Instant};

use serde_json::json;

use crate::bootstrap::Credentials;

/// Says it.
///
/// # Errors
/// Stdout is closed.
pub fn say(
    address: SocketAddr,
    credentials: &Credentials,
    started: Instant,
    data: &std::path::Path,
    as_json: bool,
) -> std::io::Result<()> {
    let ready_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let text = if as_json { line(address, credentials, ready_ms) } else { block(address, credentials, ready_ms, data) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn line(address: SocketAddr, credentials: &Credentials, ready_ms: u64) -> String {
    let tenants: Vec<_> = credentials
        .tenants
        .iter()
        .map(|tenant| {
            let fleets: Vec<_> = tenant
                .fleets
                .iter()
                .map(|fleet| json!({ "slug": fleet.slug, "id": fleet.id, "agent_key": fleet.agent_key }))
                .collect();
            json!({ "name": tenant.name, "id": tenant.id, "admin_key": tenant.admin_key, "fleets": fleets })
        })
        .collect();
    let line = json!({
        "ready": true,
        "version": env!("CARGO_PKG_VERSION"),
        "ready_ms": ready_ms,
        "ws_url": format!("ws://{address}/ws"),
        "rest_url": format!("http://{address}"),
        "operator_key": credentials.operator_key,
        "tenants": tenants,
    });
    format!("{line}\n")
}

fn block(address: SocketAddr, credentials: &Credentials, ready_ms: u64, data: &std::path::Path) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "RingForge {} · ready in {ready_ms} ms · data in {}\n  WebSocket     ws://{address}/ws\n  Health        http://{address}/health\n  Operator key  {}\n",
        env!("CARGO_PKG_VERSION"),
        data.display(),
        credentials.operator_key,
    );
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
