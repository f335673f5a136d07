//! How SQLite says that a file is not as it was written.

use rusqlite::{ErrorCode, ffi};

/// Whether the file is to blame, and not what reads it or is read through.
pub(crate) fn is_damage(error: ffi::Error) -> bool {
    // It is shorter than it says: no disk fails so.
    let short = error.extended_code == ffi::SQLITE_IOERR_SHORT_READ;
    short || matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}
