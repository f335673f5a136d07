//! The digest of rows that come one after the other: as many as there are, in the memory of one.

use crate::position::Offset;

/// BLAKE3 over the texts of rows in key order, and where their partition stands.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    hasher: blake3::Hasher,
}

impl Sum {
    /// Adds the next row's text.
    pub fn add(&mut self, text: &[u8]) {
        self.hasher.update(&text.len().to_le_bytes());
        self.hasher.update(text);
    }

    /// What they come to, in hex.
    pub fn digest(mut self, applied: Offset) -> String {
        self.hasher.update(&applied.0.to_le_bytes());
        self.hasher.finalize().to_hex().to_string()
    }
}
