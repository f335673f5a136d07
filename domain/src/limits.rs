//! Every bound in the system. Those an operator may change are fields of `Limits`; the rest are constants.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{code::Refusal, json::Json};

/// Records of one append.
pub const APPEND_RECORDS_MAX: usize = 256;
/// Bytes of one append.
pub const APPEND_BYTES_MAX: usize = 8 << 20;
/// Bytes of the reason for which the router refuses a request: beyond, nothing is said of it.
pub const REASON_BYTES_MAX: usize = 4 << 10;
/// Of what may wait in a partition one fleet has at most this part at one gate: the others in it go on.
pub const FLEET_LAG_SHARE: u64 = 4;
/// How often it is tried to create what of the tenants and fleets is missing. What the directory still refuses then, it refuses for good:
/// its key is good for nothing.
pub const BOOTSTRAP_TRIES_MAX: u32 = 3;
/// Records waiting for the log writer; one more is refused.
pub const APPEND_QUEUE_MAX: usize = 8_192;
/// Records of one group commit.
pub const GROUP_RECORDS_MAX: usize = 1_024;
/// Bytes of one group commit, about.
pub const GROUP_BYTES_MAX: usize = 8 << 20;
/// Bytes waiting for the log writer; more are refused.
pub const APPEND_QUEUE_BYTES_MAX: usize = 8 * GROUP_BYTES_MAX;
/// Records of a partition that are kept in memory for readers that have caught up.
pub const LOG_TAIL_RECORDS_MAX: usize = 4 * GROUP_RECORDS_MAX;
/// Their bytes.
pub const LOG_TAIL_BYTES_MAX: usize = 2 * GROUP_BYTES_MAX;
/// Their bytes in all partitions, about; each has an equal part.
pub const LOG_TAILS_BYTES_MAX: usize = 4 * LOG_TAIL_BYTES_MAX;
/// How long Kafka may take to acknowledge an append, in milliseconds; then its outcome is unknown, and it may still be written
/// later. More than the death of one broker costs, so that nobody notices it.
pub const KAFKA_APPEND_MS: u64 = 10_000;
/// How long a process that ends waits for what it has given to Kafka, in milliseconds; then its outcome is unknown.
pub const KAFKA_FLUSH_MS: u64 = 3_000;
/// How long Kafka may take to answer anything else, in milliseconds; then it is unavailable.
pub const KAFKA_REQUEST_MS: u64 = 5_000;
/// Bytes of what Kafka takes as one message or batch: the largest append as one record, its key and its frame.
pub const KAFKA_MESSAGE_BYTES_MAX: usize = APPEND_BYTES_MAX + (64 << 10);
/// Bytes of a message beside those of its record and key, about.
pub const KAFKA_MESSAGE_OVERHEAD: usize = 128;
/// Consumers that read old ranges of a Kafka log, each one range at a time; whoever comes later waits for his turn.
pub const KAFKA_READS_MAX: usize = 4;
/// Bytes that one of them fetches ahead of what is asked for.
pub const KAFKA_READ_AHEAD_BYTES_MAX: usize = 1 << 20;
/// Bytes that wait in the consumer that follows partitions for their tails.
pub const KAFKA_FOLLOW_BYTES_MAX: usize = 16 << 20;
/// Characters of a topic's prefix: Kafka allows 249 in all.
pub const KAFKA_PREFIX_CHARS_MAX: usize = 200;
/// Reads that wait for a reader thread of the embedded log; whoever comes later waits to get in.
pub const LOG_READS_WAITING_MAX: usize = 64;
/// Pages of the embedded log's write-ahead log (32 MiB) beyond which the writer moves them itself: only while nobody writes
/// can all of it be moved, and only then does it start over. Short, so that it is overwritten rather than extended, which
/// syncs faster.
pub const WAL_PAGES_MAX: u64 = 4 << 10;
/// Trimmed records deleted in one transaction.
pub const DELETED_MAX: u64 = 5_000;
/// Trigrams that narrow a memory search down; the rest is left to the text itself.
pub const TRIGRAMS_MAX: usize = 32;
/// Questions that wait for a reader thread of the read models; whoever comes later waits to get in.
pub const READS_WAITING_MAX: usize = 256;
/// How long a search of the read models may take, in milliseconds, until a thread is free for it included; then it is refused.
pub const SEARCH_MS: u64 = 2_000;
/// How long the read models in a server may take for anything else, in milliseconds; then it is given up.
pub const STATEMENT_MS: u64 = 10_000;
/// How long a connection to that server may take to show that it still stands, in milliseconds; then another is taken.
pub const PING_MS: u64 = 500;
/// How long each step may take that brings their tables to a newer version.
pub const MIGRATION_MS: u64 = 600_000;
/// Connections to a server of the read models that write, and read what is of no single tenant.
pub const PROJECT_CONNECTIONS_MAX: u32 = 8;
/// Connections to such a server that read what is of one tenant.
pub const QUERY_CONNECTIONS_MAX: u32 = 8;
/// Of those, how many search at once. One tenant has all of them but one at most.
pub const SERVER_SEARCHES_MAX: usize = 4;
/// Searches that wait for a thread; one more is refused.
pub const SEARCHES_WAITING_MAX: usize = 1_024;
/// Of those, of one tenant; one more is refused.
pub const SEARCHES_WAITING_TENANT_MAX: usize = 128;
/// About the bytes of commits that the read models have accepted and not written; whoever commits more waits.
pub const READS_PENDING_BYTES_MAX: usize = 8 << 20;
/// About the bytes of commits that are written without waiting for more.
pub const READS_WRITE_BYTES: usize = 1 << 20;
/// Changed memory texts that searches look at one by one; beyond, commits make them part of the index of words.
pub const UNREAD_MAX: u64 = 8_192;
/// Of those, how many become part of it in one transaction.
pub const UNREAD_AT_ONCE: i64 = 128;
/// About the bytes of rows or verdicts in one answer of the read models, one that is larger apart.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What may wait for one follower of a fleet; when it is full, the follower loses what waits and is told so.
pub const FOLLOWER_QUEUE_MAX: usize = 1_024;
/// About the bytes of their events and verdicts, those of one commit and as much again; with more, the same happens.
pub const FOLLOWER_QUEUE_BYTES_MAX: usize = 2 * PROJECTOR_COMMIT_BYTES_MAX;
/// Bytes of an update on a live bus between processes; a larger one is only pointed to, and read from index and log.
pub const LIVE_UPDATE_BYTES_MAX: usize = 16 << 10;
/// How long a server of the live bus may take for an answer. Then it is away, and until it is back nobody waits for it.
pub const LIVE_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two tries to reach it.
pub const LIVE_RETRY_MAX: Duration = Duration::from_secs(1);
/// Fleets that are followed or left in one go.
pub const FOLLOWED_AT_ONCE_MAX: usize = 256;
/// How far apart two looks at a directory of facts may be for it to count as intact in between: what is renewed every five
/// seconds and lasts for fifteen outlasts a clock that jumps by less.
pub const LOOKS_APART_MAX: Duration = Duration::from_secs(10);
/// About the bytes of the rows that a projector keeps from one batch to the next, and loads for one; beyond, it forgets them and
/// takes a smaller batch.
pub const PROJECTOR_ROWS_BYTES_MAX: usize = 8 << 20;
/// About the bytes that a projector commits at once: it ends a batch when what came of it weighs more, however little was
/// asked.
pub const PROJECTOR_COMMIT_BYTES_MAX: usize = 8 << 20;
/// The longest wait of a projector after a failure, in milliseconds.
pub const PROJECTOR_RETRY_MS_MAX: u64 = 5_000;
/// How often a session's end is tried to be logged. Once the log is back for good, so is this process or its successor.
pub const LEAVE_TRIES_MAX: u32 = 60;
/// Frames that one event can be shown as.
pub const PUSHES_MAX: usize = 32;
/// Records of one batch read from the log.
pub const READ_RECORDS_MAX: usize = 1_024;
/// Bytes of one batch read from the log, about.
pub const READ_BYTES_MAX: usize = 4 << 20;
/// Offsets of one seek.
pub const SEEK_MAX: usize = 1_024;

/// Nesting of a frame.
pub const JSON_DEPTH_MAX: usize = 32;
/// Keys of a frame's envelope.
pub const ENVELOPE_KEYS_MAX: usize = 256;
/// Integers beyond this are not the same number in every language.
pub const INTEGER_MAX: u64 = 1 << 53;
/// Bytes that an Avro decode may allocate at once.
pub const AVRO_ALLOCATION_MAX: usize = 2 << 20;

/// Bytes of `ref`, `correlation_id`, `caused_by`, `trace`, as text.
pub const TOKEN_BYTES_MAX: usize = 255;
/// Bytes of `idempotency_key`.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long an answer is remembered, in log time.
pub const ANSWER_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// A command that lands this much after its deadline is refused by the fold.
pub const LATE_MICROS: i64 = 5 * 60 * 1_000_000;
/// The longest `ttl` in seconds: ten years.
pub const TTL_SECONDS_MAX: f64 = 10.0 * 365.25 * 86_400.0;
/// Bytes of a memory value that an `op` may grow to. The fold reads no configuration, so this is fixed.
pub const OP_VALUE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a value that a conflict tells and keeps. A longer one is kept as the place where it was set: many conflicts must not
/// multiply it.
pub const CONFLICT_VALUE_BYTES_MAX: usize = 4 << 10;
/// Bytes of a glob.
pub const GLOB_BYTES_MAX: usize = 256;
/// Stars of a glob.
pub const GLOB_STARS_MAX: usize = 8;
/// Entries of `reads`.
pub const READS_MAX: usize = 32;
/// Subscriptions of one agent in force at a time.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// Subscriptions kept in an agent's row, ended ones included; the oldest ended are forgotten first.
pub const SPANS_MAX: usize = 1_024;
/// Capabilities of an agent.
pub const CAPABILITIES_MAX: usize = 64;
/// Bytes of the text that memory search looks at.
pub const SEARCH_TEXT_BYTES_MAX: usize = 64 << 10;

/// Messages waiting for one absent recipient from one sender.
pub const MAILBOX_PAIR_MAX: u32 = 100;
/// Messages waiting for one absent recipient.
pub const MAILBOX_MAX: u32 = 1_000;
/// Messages on their way to one connected recipient; one more is refused.
pub const IN_FLIGHT_MAX: u32 = 10_000;
/// Of those, from one sender: nobody can take the places of all others.
pub const IN_FLIGHT_PAIR_MAX: u32 = 1_000;
/// When to try again then, in milliseconds.
pub const IN_FLIGHT_RETRY_MS: u64 = 1_000;
/// Statuses of one `direct.told`; so many at most are known to have been told and not in the log yet.
pub const TOLD_MAX: usize = 64;
/// How long one waits for others: after a crash it would come again.
pub const TOLD_WAIT: Duration = Duration::from_secs(1);
/// How long a message waits: normal.
pub const MAIL_SECONDS: f64 = 300.0;
/// How long a message waits: priority high or critical.
pub const MAIL_URGENT_SECONDS: f64 = 86_400.0;
/// How long a message waits at most, and how long a status waits for its sender.
pub const MAIL_SECONDS_MAX: f64 = 7.0 * 86_400.0;

/// Entries of one memory page.
pub const PAGE_MAX: u32 = 100;
/// Entries of a page when the client names no limit.
pub const PAGE_DEFAULT: u32 = 20;
/// Agents of one roster page.
pub const ROSTER_PAGE_MAX: u32 = 1_000;
/// Items of one replay.
pub const REPLAY_MAX: u32 = 1_000;
/// Items of a replay when the client names no limit.
pub const REPLAY_DEFAULT: u32 = 100;
/// Filter values of one query, each kind.
pub const FILTER_VALUES_MAX: usize = 64;
/// About the bytes of the rosters that are kept in memory.
pub const ROSTERS_BYTES_MAX: u64 = 64 << 20;
/// An offline agent stays in the roster this long.
pub const OFFLINE_SHOWN_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// Rows of one page of an adapter's query.
pub const ROWS_PAGE_MAX: u32 = 1_000;
/// Rounds in which the needs of a batch are loaded.
pub const NEEDS_ROUNDS_MAX: usize = 4;

/// Bytes of pushes waiting for one connection, beside the recent updates of its fleet; over it the connection lags and is fed
/// from the log. It takes so many at a time.
pub const OUTBOX_BYTES_MAX: usize = 64 << 10;
/// Bytes of frames of our own making, presence of many agents together, that wait for one connection. What all members get they
/// share.
pub const OUTBOX_MADE_BYTES_MAX: usize = 1 << 20;
/// Recent updates of a fleet that an edge keeps.
pub const TAIL_UPDATES_MAX: usize = 1_024;
/// Bytes of recent updates of a fleet that an edge keeps, about.
pub const TAIL_BYTES_MAX: usize = 1 << 20;
/// How many times as much it keeps while there is room.
pub const TAIL_STRETCH: usize = 8;
/// Bytes of recent updates of all fleets of an edge, about, for which there is room.
pub const TAILS_BYTES_MAX: usize = 64 << 20;
/// Updates that a member may be behind to join; else it is fed page by page.
pub const JOIN_UPDATES_MAX: usize = 256;
/// Events of one page of a catch-up.
pub const CATCH_UP_PAGE_MAX: u32 = 128;
/// Messages and statuses of one page of waiting mail: 2 MiB of messages, as large as they may be by default.
pub const MAIL_PAGE_MAX: u32 = 32;
/// Commands of one connection that wait for their verdict; more are read later.
pub const PENDING_MAX: usize = 256;
/// Bytes of commands of one connection that wait for the gate, about; more are read later.
pub const PENDING_BYTES_MAX: usize = 4 << 20;
/// Events read from the log at once for a page, of which the bytes are not known before.
pub const SEEK_PART: usize = 16;
/// Bytes of a page, about: one larger entry comes alone.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Questions of one connection that wait for their answer; more are read later.
pub const ASKED_MAX: usize = 16;
/// Pieces of work of one connection at once; more are read later.
pub const WORK_MAX: usize = 64;
/// Bytes of replies waiting for one connection; over it reading pauses.
pub const REPLIES_BYTES_MAX: usize = 64 << 10;
/// Items of a replay at once, and per second on average.
pub const REPLAY_BURST: u32 = 1_000;
/// WebSocket connections of one process; an operator may allow fewer.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Connections that wait to be accepted, if the kernel allows so many. One more is asked to try again in a second.
pub const BACKLOG_MAX: u32 = 4_096;
/// Connections beside them: whoever asks for health, and whoever is about to be told that there is no place.
pub const REQUESTS_MAX: usize = 1_024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes of one connection that the kernel takes and cannot send yet: else a reader that stalls gets megabytes.
pub const UNSENT_BYTES_MAX: u32 = 16_384;
/// Bytes of a request's head.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes that a socket's read buffer begins with.
pub const SOCKET_READ_BUFFER: usize = 1 << 10;
/// Frames that a socket gathers before it writes.
pub const SOCKET_FRAMES_MAX: usize = 64;
/// Bytes that a socket gathers before it writes.
pub const SOCKET_WRITE_BUFFER: usize = 32 << 10;
/// Fragments of a message.
pub const FRAGMENTS_MAX: usize = 64;
/// WebSocket pings and pongs of one connection at once; one more is allowed a second.
pub const PINGS_BURST: u32 = 10;
/// Bytes before authentication.
pub const EARLY_FRAME_BYTES_MAX: usize = 64 << 10;
/// Sockets of one address that have been silent for a second before `auth`.
pub const SILENT_ADDRESS_MAX: usize = 64;
/// Sockets in all that have been silent for a second before `auth`.
pub const SILENT_MAX: usize = 512;

/// How long what the directory says may be remembered: so long a revoked key still works.
pub const PERMISSION_MS: u64 = 1_000;
/// Directory rows remembered.
pub const DIRECTORY_CACHE_MAX: u64 = 100_000;
/// Failed logins of one address with one key hint within a minute, before it must wait.
pub const AUTH_FAILURES_MAX: u32 = 5;
/// Failed logins of one address within a minute, before it must wait.
pub const AUTH_FAILURES_ADDRESS_MAX: u32 = 100;
/// Origins of failed logins remembered.
pub const AUTH_FAILURES_TRACKED_MAX: usize = 10_000;

/// Bytes of an object's key.
pub const BLOB_KEY_BYTES_MAX: usize = 255;
/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of the name that a download is saved under.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// How long a signed URL may be good for.
pub const BLOB_URL_TTL_MAX: Duration = Duration::from_hours(1);
/// Bytes of one upload: S3 takes no more in one request.
pub const UPLOAD_BYTES_MAX: u64 = 5 << 30;
/// Bytes of one piece of an object that is read.
pub const BLOB_PIECE_BYTES_MAX: usize = 8 << 20;
/// Bytes of one part of an object that is written: S3 takes 5 MiB and more, and so many are in memory for each that is written.
pub const BLOB_PART_BYTES: usize = 8 << 20;
/// Parts of an object: S3 takes no more.
pub const BLOB_PARTS_MAX: u64 = 10_000;
/// Bytes of an object.
pub const BLOB_BYTES_MAX: u64 = BLOB_PARTS_MAX * BLOB_PART_BYTES as u64;
/// Bytes that are written to a file at once.
pub const BLOB_WRITE_BYTES: usize = 1 << 20;
/// Keys of one page of objects.
pub const BLOBS_PAGE_MAX: usize = 1_000;
/// Directories that are known to be durable; beyond, all are made sure of again.
pub const BLOB_DIRECTORIES_MAX: usize = 4_096;
/// Bytes that a store copies in one request, by itself.
pub const BLOB_COPY_BYTES_MAX: u64 = 1 << 30;
/// How often a request to S3 is tried.
pub const S3_ATTEMPTS_MAX: u32 = 3;
/// How long to wait for a connection to S3.
pub const S3_CONNECT: Duration = Duration::from_secs(3);
/// How long one try of a request to S3 may take: a part at 300 kB/s.
pub const S3_ATTEMPT: Duration = Duration::from_secs(30);
/// How long a request to S3 may take with all its tries.
pub const S3_REQUEST: Duration = Duration::from_secs(75);
/// How long S3 may take to copy by itself.
pub const S3_COPY: Duration = Duration::from_mins(5);
/// How far this machine's clock may be from the store's: signed URLs are too old or too new by that.
pub const S3_SKEW_MAX: Duration = Duration::from_mins(5);
/// What was being written when its process ended is removed from S3 after this long.
pub const S3_STAGED_MAX: Duration = Duration::from_hours(24);

/// Checkpoints of a partition that are kept while the log is trimmed to one of them. More: the log is trimmed closer to its
/// retention.
pub const CHECKPOINTS_KEPT_MAX: usize = 8;
/// The longest retention in hours, and the longest time between checkpoints in minutes: more than a century, and two years.
pub const PERIOD_MAX: f64 = 1e6;
/// How often another checkpoint is looked for because the last one was deleted while it was read.
pub const CHECKPOINT_TRIES_MAX: usize = 8;
/// Bytes of what is told of a checkpoint.
pub const CHECKPOINT_TOLD_BYTES_MAX: usize = 4 << 10;
/// Bytes of one row of a checkpoint.
pub const CHECKPOINT_ROW_BYTES_MAX: usize = 64 << 20;
/// Partitions whose read models are made anew at once.
pub const REBUILT_AT_ONCE: usize = 4;
/// How long a snapshot of read models may be open: what changes meanwhile is kept twice.
pub const SNAPSHOT: Duration = Duration::from_mins(30);
/// Verdicts that are forgotten at once: whoever commits waits that long.
pub const FORGOTTEN_AT_ONCE: u32 = 256;

/// What an operator may change and every agent is told in `auth_ok.config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a message, `memory.set` apart.
    pub message_bytes: usize,
    /// Bytes of a memory value.
    pub memory_value_bytes: usize,
    /// Bytes of a memory key.
    pub memory_key_bytes: usize,
    /// Tags of one thing.
    pub tags: usize,
    /// Bytes of a tag.
    pub tag_bytes: usize,
    /// Bytes of a description.
    pub description_bytes: usize,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Bytes of metadata.
    pub metadata_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 << 10,
            memory_value_bytes: 1 << 20,
            memory_key_bytes: 512,
            tags: 20,
            tag_bytes: 50,
            description_bytes: 10_000,
            name_bytes: 100,
            metadata_bytes: 8 << 10,
        }
    }
}

impl Limits {
    /// Bytes of the largest frame that is parsed at all: a memory value and its envelope.
    pub fn frame_bytes(&self) -> usize {
        self.memory_value_bytes + (16 << 10)
    }

    /// Bounds on tags.
    ///
    /// # Errors
    /// `invalid_message` with `details.limit`.
    pub fn tags(&self, field: &str, tags: &[String]) -> Result<(), Refusal> {
        if tags.len() > self.tags {
            return Err(Refusal::over(field, self.tags));
        }
        if tags.iter().any(|tag| tag.is_empty() || tag.len() > self.tag_bytes) {
            return Err(Refusal::over(field, self.tag_bytes));
        }
        Ok(())
    }

    /// Bounds on metadata.
    ///
    /// # Errors
    /// `invalid_message` with `details.limit`.
    pub fn metadata(&self, metadata: Option<&Json>) -> Result<(), Refusal> {
        let too_long = metadata.is_some_and(|metadata| metadata.text().len() > self.metadata_bytes);
        if too_long { Err(Refusal::over("metadata", self.metadata_bytes)) } else { Ok(()) }
    }

    /// Bounds on a text.
    ///
    /// # Errors
    /// `invalid_message` with `details.limit`.
    pub fn text(&self, field: &str, text: Option<&String>, bytes_max: usize) -> Result<(), Refusal> {
        if text.is_some_and(|text| text.len() > bytes_max) { Err(Refusal::over(field, bytes_max)) } else { Ok(()) }
    }

    /// Bounds on a time to live, in seconds.
    ///
    /// # Errors
    /// `invalid_message` with `details.limit`.
    pub fn ttl(&self, ttl: Option<f64>, seconds_max: f64) -> Result<(), Refusal> {
        let wrong = ttl.is_some_and(|ttl| !(ttl > 0.0 && ttl <= seconds_max));
        if !wrong {
            return Ok(());
        }
        Err(Refusal::invalid("ttl", format!("`ttl` must be more than 0 and at most {seconds_max} seconds."))
            .with("limit", seconds_max))
    }
}

/// A checked time to live in microseconds, rounded up so that it never ends early.
#[expect(clippy::cast_possible_truncation, reason = "`Limits::ttl` bounds it to ten years")]
pub fn ttl_micros(seconds: f64) -> i64 {
    (seconds * 1e6).ceil() as i64
}

#[cfg(test)]
mod tests;
