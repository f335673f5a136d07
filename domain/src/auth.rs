//! The `auth` frame: who comes in, as whom, and from where in the log.

use apache_avro::{
    AvroSchema,
    schema::{RecordField, Schema},
};
use serde::Deserialize;

use crate::{
    code::{Code, Refusal},
    json::Json,
    limits::{Limits, TOKEN_BYTES_MAX},
    presence::check_capabilities,
};

/// Protocol versions this build speaks, newest first.
pub const VERSIONS: [&str; 1] = ["1.0"];

/// How an agent wants to see the presence of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, AvroSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the schema derive allows no docs on variants")]
pub enum PresenceMode {
    // A frame for each change.
    #[default]
    Each,
    // Changes gathered, a frame per 250 ms at most.
    Delta,
    // Not at all.
    None,
}

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Profile {
    /// The name it is known by; without one it gets a new id each time.
    pub name: Option<String>,
    /// What it is built with.
    pub framework: Option<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Its own version.
    pub version: Option<String>,
    /// Anything else.
    pub metadata: Option<Json>,
    /// Whether only a resume token may take its name over.
    pub exclusive: bool,
}

/// `auth`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, AvroSchema)]
#[serde(default)]
pub struct Auth {
    /// The key, unless it came as Bearer on the upgrade.
    pub api_key: Option<String>,
    /// Who.
    pub agent: Profile,
    /// The agent to take over, with `resume_token`.
    pub agent_id: Option<String>,
    /// The proof from an earlier `auth_ok`.
    pub resume_token: Option<String>,
    /// Resume after this event.
    pub last_event_id: Option<String>,
    /// The version the client speaks.
    pub protocol_version: Option<String>,
    /// Slug or id, for keys that span fleets.
    pub fleet: Option<String>,
    /// How to see presence.
    pub presence: PresenceMode,
    /// Whether a text message may hold several JSON lines.
    pub batch: bool,
}

impl Auth {
    /// Its `type`.
    pub const TYPE: &'static str = "auth";

    /// Its fields, as Avro would have them: for the reference.
    pub fn fields() -> Vec<RecordField> {
        if let Schema::Record(record) = Self::get_schema() { record.fields } else { Vec::new() }
    }

    /// Whether it is within bounds.
    ///
    /// # Errors
    /// `invalid_message`, `version_unsupported`.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        if let Some(version) = self.protocol_version.as_ref().filter(|version| !VERSIONS.contains(&version.as_str())) {
            let message =
                format!("Protocol version {} is not supported.", version.chars().take(20).collect::<String>());
            return Err(Refusal::because(Code::VersionUnsupported, message).with("versions", VERSIONS.to_vec()));
        }
        let profile = &self.agent;
        if profile.name.as_ref().is_some_and(|name| name.trim().is_empty() || name.contains('\0')) {
            return Err(Refusal::invalid("name", "`agent.name` must not be empty."));
        }
        let texts = [("name", &profile.name), ("framework", &profile.framework), ("version", &profile.version)];
        for (field, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > limits.name_bytes) {
                return Err(Refusal::over(field, limits.name_bytes));
            }
        }
        limits.metadata(profile.metadata.as_ref())?;
        check_capabilities(limits, &profile.capabilities)?;
        let tokens = [
            ("agent_id", &self.agent_id),
            ("resume_token", &self.resume_token),
            ("last_event_id", &self.last_event_id),
            ("fleet", &self.fleet),
            ("api_key", &self.api_key),
        ];
        for (field, text) in tokens {
            if text.as_ref().is_some_and(|text| text.len() > TOKEN_BYTES_MAX) {
                return Err(Refusal::over(field, TOKEN_BYTES_MAX));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(wire: Value) -> Result<(), Code> {
        let auth: Auth = serde_json::from_value(wire).expect("an auth");
        auth.check(&Limits::default()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn nothing_is_asked_for_but_bounds() {
        let long = "x".repeat(Limits::default().name_bytes);
        assert_eq!(checked(json!({})), Ok(()));
        let agent = json!({"name": long, "capabilities": ["code"], "metadata": {"a": 1}, "exclusive": true});
        let key = "x".repeat(TOKEN_BYTES_MAX);
        let full = json!({"api_key": key, "agent": agent, "protocol_version": "1.0", "fleet": "default",
            "presence": "delta", "batch": true, "last_event_id": "evt_1", "unknown": 1});
        assert_eq!(checked(full), Ok(()));
    }

    #[test]
    fn the_reference_names_what_may_be_asked_for() {
        let names: Vec<String> = Auth::fields().into_iter().map(|field| field.name).collect();
        for named in ["api_key", "agent", "fleet", "resume_token", "last_event_id", "presence", "batch"] {
            assert!(names.iter().any(|name| name == named), "{named} in {names:?}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let long = |bytes: usize| "x".repeat(bytes + 1);
        let name = Limits::default().name_bytes;
        for wire in [
            json!({"agent": {"name": ""}}),
            json!({"agent": {"name": "  "}}),
            json!({"agent": {"name": "a\u{0}"}}),
            json!({"agent": {"name": long(name)}}),
            json!({"agent": {"framework": long(name)}}),
            json!({"agent": {"capabilities": vec!["c"; crate::limits::CAPABILITIES_MAX + 1]}}),
            json!({"agent": {"capabilities": [""]}}),
            json!({"agent": {"metadata": long(Limits::default().metadata_bytes)}}),
            json!({"api_key": long(TOKEN_BYTES_MAX)}),
            json!({"resume_token": long(TOKEN_BYTES_MAX)}),
            json!({"last_event_id": long(TOKEN_BYTES_MAX)}),
        ] {
            assert_eq!(checked(wire.clone()), Err(Code::InvalidMessage), "{wire}");
        }
        for version in ["0.9", "2", &long(1_000)] {
            assert_eq!(checked(json!({"protocol_version": version})), Err(Code::VersionUnsupported));
        }
    }
}
