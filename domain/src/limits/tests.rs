//! Bounds fit into each other, and each of them is exact.

use super::*;
use crate::code::Code;

#[test]
fn what_is_largest_fits_wherever_it_goes() {
    let limits = Limits::default();
    let frame = limits.frame_bytes();
    assert_eq!((limits.message_bytes, limits.memory_value_bytes, frame), (64 << 10, 1 << 20, (1 << 20) + (16 << 10)));
    assert_eq!((OP_VALUE_BYTES_MAX, EARLY_FRAME_BYTES_MAX), (limits.memory_value_bytes, limits.message_bytes));
    // A record is decoded at once, appended with others, and read back in a page.
    assert!(AVRO_ALLOCATION_MAX > frame + limits.metadata_bytes && AVRO_ALLOCATION_MAX < APPEND_BYTES_MAX);
    assert!(PENDING_BYTES_MAX > 2 * frame && APPEND_BYTES_MAX > PENDING_BYTES_MAX);
    assert!((APPEND_BYTES_MAX..16 << 20).contains(&GROUP_BYTES_MAX));
    assert!((APPEND_RECORDS_MAX..APPEND_QUEUE_MAX).contains(&GROUP_RECORDS_MAX));
    assert!((2 * GROUP_BYTES_MAX..64 << 20).contains(&LOG_TAIL_BYTES_MAX) && LOG_TAIL_RECORDS_MAX > GROUP_RECORDS_MAX);
    assert!((4 * GROUP_BYTES_MAX..=64 << 20).contains(&APPEND_QUEUE_BYTES_MAX) && APPEND_QUEUE_MAX > GROUP_RECORDS_MAX);
    assert!((2 * frame..APPEND_BYTES_MAX).contains(&READ_BYTES_MAX));
    // And its value goes into a page, an answer and a commit.
    assert!((limits.memory_value_bytes..frame).contains(&PAGE_BYTES_MAX));
    assert!((2 * frame..READ_BYTES_MAX + 1).contains(&ANSWER_BYTES_MAX));
    assert!((4 * frame..16 << 20).contains(&PROJECTOR_COMMIT_BYTES_MAX));
    assert!((2 * PROJECTOR_COMMIT_BYTES_MAX..32 << 20).contains(&FOLLOWER_QUEUE_BYTES_MAX));
    assert!((PROJECTOR_COMMIT_BYTES_MAX..16 << 20).contains(&PROJECTOR_ROWS_BYTES_MAX));
    assert!((1 << 19..8 << 20).contains(&READS_WRITE_BYTES));
    assert!((4 * READS_WRITE_BYTES..32 << 20).contains(&READS_PENDING_BYTES_MAX));
    assert!((limits.message_bytes..frame).contains(&TAIL_BYTES_MAX));
    assert!((CATCH_UP_PAGE_MAX as usize..TAIL_UPDATES_MAX).contains(&JOIN_UPDATES_MAX));
    assert!((2 * TAIL_STRETCH * TAIL_BYTES_MAX..128 << 20).contains(&TAILS_BYTES_MAX));
    assert!(CONFLICT_VALUE_BYTES_MAX >= 1 << 10 && CONFLICT_VALUE_BYTES_MAX < limits.message_bytes);
    assert!((limits.metadata_bytes..limits.memory_value_bytes).contains(&SEARCH_TEXT_BYTES_MAX));
}

#[test]
fn a_connection_costs_no_more_than_it_should() {
    assert!((1 << 10..HEADER_BYTES_MAX).contains(&SOCKET_READ_BUFFER));
    assert!((SOCKET_READ_BUFFER..OUTBOX_BYTES_MAX).contains(&SOCKET_WRITE_BUFFER));
    assert!((SOCKET_READ_BUFFER..32 << 10).contains(&HEADER_BYTES_MAX));
    assert!((32 << 10..128 << 10).contains(&OUTBOX_BYTES_MAX) && OUTBOX_BYTES_MAX == REPLIES_BYTES_MAX);
    assert!((16 << 20..256 << 20).contains(&ROSTERS_BYTES_MAX));
    // Pages of 8 KiB.
    assert_eq!(WAL_PAGES_MAX * (8 << 10), 32 << 20);
}

#[test]
fn times_are_what_their_names_say() {
    const DAY: i64 = 86_400_000_000;
    assert_eq!((ANSWER_MICROS, OFFLINE_SHOWN_MICROS, LATE_MICROS), (DAY, DAY, 300_000_000));
    assert_eq!((MAIL_SECONDS_MAX, TTL_SECONDS_MAX, INTEGER_MAX), (604_800.0, 315_576_000.0, 9_007_199_254_740_992));
    for (seconds, micros) in [(1.5, 1_500_000), (0.000_001, 1), (0.000_000_1, 1), (2.000_000_5, 2_000_001)] {
        assert_eq!(ttl_micros(seconds), micros, "{seconds}");
    }
}

#[test]
fn each_bound_is_exact() {
    let limits = Limits { tags: 2, tag_bytes: 3, metadata_bytes: 4, ..Limits::default() };
    let tags = |tags: &[&str]| {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        limits.tags("tags", &tags).map_err(|refusal| refusal.fact("limit"))
    };
    assert_eq!((tags(&[]), tags(&["abc", "a"])), (Ok(()), Ok(())));
    assert_eq!((tags(&["a", "b", "c"]), tags(&["abcd"]), tags(&[""])), (Err(2.into()), Err(3.into()), Err(3.into())));
    let metadata = |text: &str| limits.metadata(Json::parse(text).ok().as_ref()).is_ok();
    assert!(limits.metadata(None).is_ok() && metadata("1234") && !metadata("12345"));
    let text = |text: &str| limits.text("name", Some(&text.to_owned()), 3).is_ok();
    assert!(limits.text("name", None, 0).is_ok() && text("abc") && !text("abcd"));
    let ttl = |seconds: f64| limits.ttl(Some(seconds), 10.0).map_err(|refusal| refusal.code);
    for fits in [f64::MIN_POSITIVE, 1.0, 10.0] {
        assert_eq!(ttl(fits), Ok(()), "{fits}");
    }
    for wrong in [0.0, -0.0, -1.0, 10.1, f64::INFINITY, f64::NAN] {
        assert_eq!(ttl(wrong), Err(Code::InvalidMessage), "{wrong}");
    }
    assert_eq!(limits.ttl(None, 10.0), Ok(()));
}
