//! What every kind of command can do, and what comes of it. The areas say it for their kinds, the catalogue for all.

use apache_avro::AvroSchema;
use serde::{Deserialize, Serialize};

use crate::{
    code::Refusal,
    frame::Shown,
    header::{At, Header},
    history::Index,
    limits::Limits,
    row::{Needs, Row, RowKey, Rows},
};

/// What a kind of command does, from the gate to the frames. All pure.
pub trait Act: AvroSchema + Serialize + for<'de> Deserialize<'de> {
    /// What its frames need beyond the event itself.
    type Effect: Clone + PartialEq + std::fmt::Debug + Serialize + for<'de> Deserialize<'de>;

    /// Whether a repeat under the same idempotency key takes effect again, although it is answered as the first time: its
    /// effect may have ended with the session, and doing it twice changes nothing.
    const RENEWS: bool = false;

    /// Whether it is within bounds, before it is logged.
    ///
    /// # Errors
    /// `invalid_message` or `payload_too_large`.
    fn check(&self, limits: &Limits) -> Result<(), Refusal>;

    /// Names the rows it touches. If it peeks at rows, it is asked again when more are known.
    fn needs(&self, at: &Header, needs: &mut Needs<'_>);

    /// Decides. Touches nothing: what changes is in the answer.
    ///
    /// # Errors
    /// It is refused and nothing of it stays.
    fn apply(&self, at: &At, rows: &Rows) -> Result<Applied<Self::Effect>, Refusal>;

    /// What everyone sees of it once it is applied.
    fn show(&self, at: &At, effect: &Self::Effect) -> Shown;
}

/// What an area's `apply` hands to the fold.
#[derive(Clone, Debug)]
pub struct Applied<E> {
    /// What the frames need and the event does not say.
    pub effect: E,
    /// Rows as they are now.
    pub rows: Vec<Row>,
    /// Rows that are no more.
    pub gone: Vec<RowKey>,
    /// How searches find it.
    pub index: Index,
}

impl<E> Applied<E> {
    /// An effect and no changed row.
    pub fn new(effect: E) -> Self {
        Self { effect, rows: Vec::new(), gone: Vec::new(), index: Index::default() }
    }

    /// With this row as it is now.
    #[must_use]
    pub fn row(mut self, row: Row) -> Self {
        self.rows.push(row);
        self
    }

    /// Without this row.
    #[must_use]
    pub fn without(mut self, key: RowKey) -> Self {
        self.gone.push(key);
        self
    }

    /// Found by this.
    #[must_use]
    pub fn indexed(mut self, index: Index) -> Self {
        self.index = index;
        self
    }

    /// The same with another effect around it.
    pub fn map<F>(self, wrap: impl FnOnce(E) -> F) -> Applied<F> {
        Applied { effect: wrap(self.effect), rows: self.rows, gone: self.gone, index: self.index }
    }
}
