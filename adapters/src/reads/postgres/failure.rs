//! What went wrong, in words that say what to do.

use ringforge_ports::Error;
use sqlx::{error::DatabaseError, migrate::MigrateError};

/// What went wrong while `doing` something with the read models.
pub fn failed(doing: &str, error: &sqlx::Error) -> Error {
    let what = format!("{doing} the read models: {error}");
    let code = error.as_database_error().and_then(DatabaseError::code);
    match (error, code.as_deref().unwrap_or_default()) {
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => Error::Corrupt(what),
        (_, "54000") => Error::TooLarge(what),
        // Integrity constraints and damaged data.
        (_, code) if code.starts_with("23") || matches!(code, "XX001" | "XX002") => Error::Corrupt(what),
        _ => Error::Unavailable(what),
    }
}

/// What kept a database from being opened. `place` is what the address says without its password.
pub fn opening(place: &str, error: &sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(DatabaseError::code);
    let fix = match code.as_deref().unwrap_or_default() {
        "28P01" | "28000" => "the server does not take this user and password: put the right ones into the address",
        "3D000" => "there is no such database: create it, or name another in the address",
        "42501" => {
            "this user may not: run migrations/postgres/roles.sql as a user who may, and grant it the three roles"
        }
        "53300" => "the server has no connection left: raise its max_connections",
        _ if error.to_string().contains("certificate") => {
            "set SSL_CERT_FILE, or sslrootcert in the address, to a file of the authorities that signed it"
        }
        _ => "is the server there, and the address right?",
    };
    Error::Unavailable(format!("open the read models at {place}: {error} ({fix})"))
}

/// What kept a database from being migrated.
pub fn migrating(place: &str, error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => Error::Corrupt(format!(
            "the read models at {place} are of a newer version of this program (migration {version}): run that one"
        )),
        MigrateError::VersionMismatch(version) => Error::Corrupt(format!(
            "the read models at {place} were not made by this program (migration {version} differs): name another database"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => opening(place, &error),
        error => Error::Corrupt(format!("migrate the read models at {place}: {error}")),
    }
}
