//! The promises that an adapter need not be tried on, each with its reason. A skip that is not listed fails its test, and so
//! does a listed one that could be tried.

const NOT_DURABLE: &str = "the memory log dies with its process; the embedded log is tried instead";
const READS_NOT_DURABLE: &str = "the memory read models die with their process; SQLite is tried instead";

/// `port/adapter/promise` and the reason.
pub const ALLOWED: &[(&str, &str)] = &[
    ("log/memory/acknowledged_appends_survive", NOT_DURABLE),
    ("log/memory/what_was_read_survives", NOT_DURABLE),
    ("log/memory/offsets_are_not_reused_after_a_restart", NOT_DURABLE),
    ("log/memory/time_does_not_fall_across_a_restart", NOT_DURABLE),
    ("reads/memory/what_was_committed_survives", READS_NOT_DURABLE),
];
