//! The promises that an adapter need not be tried on, each with its reason. A skip that is not listed fails its test, and so
//! does a listed one that could be tried.

const NOT_DURABLE: &str = "the memory log dies with its process; the embedded log is tried instead";
const READS_NOT_DURABLE: &str = "the memory read models die with their process; SQLite is tried instead";
const BLOBS_NOT_DURABLE: &str = "the objects in memory die with their process; files and S3 are tried instead";
const BLOBS_NOT_SERVED: &str =
    "nobody serves the URLs of objects in memory; those of files and of S3 are tried instead";

/// `port/adapter/promise` and the reason.
pub const ALLOWED: &[(&str, &str)] = &[
    ("log/memory/acknowledged_appends_survive", NOT_DURABLE),
    ("log/memory/what_was_read_survives", NOT_DURABLE),
    ("log/memory/offsets_are_not_reused_after_a_restart", NOT_DURABLE),
    ("log/memory/time_does_not_fall_across_a_restart", NOT_DURABLE),
    ("reads/memory/what_was_committed_survives", READS_NOT_DURABLE),
    ("blobs/memory/what_was_put_survives", BLOBS_NOT_DURABLE),
    ("blobs/memory/damage_is_told", BLOBS_NOT_DURABLE),
    ("blobs/memory/an_upload_url_uploads", BLOBS_NOT_SERVED),
    ("blobs/memory/an_upload_url_is_for_one_object", BLOBS_NOT_SERVED),
    ("blobs/memory/the_bytes_are_those_that_were_declared", BLOBS_NOT_SERVED),
    ("blobs/memory/uploads_do_not_overwrite", BLOBS_NOT_SERVED),
    ("blobs/memory/a_download_url_downloads", BLOBS_NOT_SERVED),
    ("blobs/memory/a_download_url_is_for_one_object", BLOBS_NOT_SERVED),
    ("blobs/memory/ranges_are_downloaded", BLOBS_NOT_SERVED),
    ("blobs/memory/file_names_are_harmless", BLOBS_NOT_SERVED),
    ("blobs/memory/nobody_gets_in_without_a_url", BLOBS_NOT_SERVED),
    ("blobs/memory/urls_expire", BLOBS_NOT_SERVED),
];
