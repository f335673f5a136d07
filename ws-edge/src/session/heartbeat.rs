//! Signs of life: most change nothing and are never logged; a new state, task or load bucket is a command.

use ringforge_domain::{
    catalog::Command,
    door::Meta,
    frame::Frame,
    ids::CommandId,
    json::Json,
    presence::{State, Update},
};

use super::{Action, Session};

/// What this session last said of itself.
#[derive(Debug, Default)]
pub struct Vitals {
    state: Option<State>,
    task: Option<String>,
    bucket: Option<u8>,
}

impl Vitals {
    /// Takes note of what is known.
    pub fn know(&mut self, update: &Update) {
        if update.state.is_some() {
            self.task = None;
            self.state = update.state;
        }
        if update.task.is_some() {
            self.task.clone_from(&update.task);
        }
        self.bucket = update.load.map(bucket).or(self.bucket);
    }

    fn differ(&self, update: &Update) -> bool {
        let state = update.state.is_some() && update.state != self.state;
        let task = update.task.is_some() && update.task != self.task;
        let load = update.load.is_some_and(|load| Some(bucket(load)) != self.bucket);
        state || task || load || update.capabilities.is_some() || update.metadata.is_some()
    }
}

/// Tenths of load.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates, and `check` bounds it"
)]
fn bucket(load: f64) -> u8 {
    (load * 10.0) as u8
}

impl Session {
    pub(super) fn on_heartbeat(&mut self, update: Update, reference: Option<Json>, id: CommandId) {
        use ringforge_domain::act::Act as _;
        if let Err(refusal) = update.check(&self.config.limits) {
            return self.refuse(&refusal, reference);
        }
        self.actions.push(Action::Heartbeat(update.load));
        if reference.is_some() {
            self.send(&Frame::new("presence", "heartbeat_ok", &()).reference(reference));
        }
        if self.vitals.differ(&update) {
            self.submit(id, Command::PresenceUpdate(update), Meta::default());
        }
    }
}
