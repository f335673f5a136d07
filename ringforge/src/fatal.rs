//! Why the process must not go on: what was found first.

use tokio::sync::watch;

/// Known to all who may find something, and to whoever ends the process.
#[derive(Clone, Debug, Default)]
pub struct Fatal(watch::Sender<Option<String>>);

impl Fatal {
    /// The process must end, and this is why, unless it must already.
    pub fn fail(&self, reason: String) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(reason);
            first
        });
    }

    /// Resolves once the process must end.
    pub async fn failed(&self) -> anyhow::Error {
        let mut heard = self.0.subscribe();
        let reason = heard.wait_for(Option::is_some).await.expect("we hold the sender").clone();
        anyhow::Error::msg(reason.unwrap_or_default())
    }

    /// Why the process must end, if it must.
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}
