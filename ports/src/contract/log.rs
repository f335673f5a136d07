//! The promises of `Log`, one function each.

mod owned;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join, join_all, maybe_done, poll_immediate, try_join, try_join_all},
    stream::BoxStream,
};
use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    limits,
    position::{LogTime, Offset, Partition, Partitions},
};

pub use owned::everything_is_owned;

use super::{Failure, JumpingClock, Outcome, ensure, same, soon};
use crate::{
    Error,
    clock::Clock,
    log::{AppendError, Log, Placed, Record, Stored},
};

/// Partitions of every log under test.
pub const PARTITIONS: u16 = 3;

const ONE: Partition = Partition(1);
const TWO: Partition = Partition(2);
const START: LogTime = LogTime(1_700_000_000_000_000);

/// An adapter under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A new, empty log of `PARTITIONS` that takes its time from `clock` (where it does not take it from a broker).
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Log>;

    /// The log opened last, as it would be found if its process died now (it is still open, and is not used again); `None` if
    /// it cannot outlive its process.
    async fn reopen(&self, clock: Arc<dyn Clock>) -> Option<Arc<dyn Log>>;
}

/// A promise as a value, to run a whole suite in a loop.
pub type Promise = for<'a> fn(&'a dyn Subject) -> BoxFuture<'a, Outcome>;

/// Every promise by name.
pub const PROMISES: [(&str, Promise); 24] = [
    ("everything_is_owned", |subject| everything_is_owned(subject).boxed()),
    ("places_are_counted_without_holes", |subject| places_are_counted_without_holes(subject).boxed()),
    ("what_is_read_is_what_was_appended", |subject| what_is_read_is_what_was_appended(subject).boxed()),
    ("concurrent_appends_keep_their_order", |subject| concurrent_appends_keep_their_order(subject).boxed()),
    ("a_caller_keeps_its_order", |subject| a_caller_keeps_its_order(subject).boxed()),
    ("an_abandoned_append_stays", |subject| an_abandoned_append_stays(subject).boxed()),
    ("limits_are_refused", |subject| limits_are_refused(subject).boxed()),
    ("an_unknown_partition_is_refused", |subject| an_unknown_partition_is_refused(subject).boxed()),
    ("overload_is_honest", |subject| overload_is_honest(subject).boxed()),
    ("time_does_not_fall", |subject| time_does_not_fall(subject).boxed()),
    ("reading_starts_where_asked", |subject| reading_starts_where_asked(subject).boxed()),
    ("batches_are_bounded", |subject| batches_are_bounded(subject).boxed()),
    ("readers_follow", |subject| readers_follow(subject).boxed()),
    ("readers_beyond_the_end_wait", |subject| readers_beyond_the_end_wait(subject).boxed()),
    ("readers_and_writers_at_once", |subject| readers_and_writers_at_once(subject).boxed()),
    ("reading_what_is_trimmed_is_gone", |subject| reading_what_is_trimmed_is_gone(subject).boxed()),
    ("a_trim_under_a_reader_is_told", |subject| a_trim_under_a_reader_is_told(subject).boxed()),
    ("seeks_find_what_is_kept", |subject| seeks_find_what_is_kept(subject).boxed()),
    ("bounds_cover_what_was_acknowledged", |subject| bounds_cover_what_was_acknowledged(subject).boxed()),
    ("trims_stay_within_bounds", |subject| trims_stay_within_bounds(subject).boxed()),
    ("acknowledged_appends_survive", |subject| acknowledged_appends_survive(subject).boxed()),
    ("what_was_read_survives", |subject| what_was_read_survives(subject).boxed()),
    ("offsets_are_not_reused_after_a_restart", |subject| offsets_are_not_reused_after_a_restart(subject).boxed()),
    ("time_does_not_fall_across_a_restart", |subject| time_does_not_fall_across_a_restart(subject).boxed()),
];

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        Self::Broken(error.to_string())
    }
}

fn record(name: &str) -> Record {
    let scope = Scope { tenant: TenantId::from_bits(7), fleet: FleetId::from_bits(name.len() as u128) };
    Record { scope, bytes: Arc::from(name.as_bytes()) }
}

fn records(name: &str, count: usize) -> Vec<Record> {
    (0..count).map(|at| record(&format!("{name} {at}"))).collect()
}

fn sized(bytes: usize) -> Record {
    Record { scope: Scope::OPERATOR, bytes: Arc::from(vec![b'x'; bytes]) }
}

async fn fresh(subject: &dyn Subject) -> Arc<dyn Log> {
    subject.open(JumpingClock::at(START)).await
}

async fn reopened(subject: &dyn Subject, log: Arc<dyn Log>) -> Result<Arc<dyn Log>, Failure> {
    // Still open: what it would only write when it is closed must be lost.
    let found = subject.reopen(JumpingClock::at(START)).await;
    drop(log);
    found.ok_or(Failure::Skipped("it does not outlive its process"))
}

/// Appends and joins what was appended with the places that were given.
async fn append(log: &dyn Log, partition: Partition, records: Vec<Record>) -> Result<Vec<Stored>, Failure> {
    let placed = soon("an append", log.append(partition, records.clone())).await??;
    same("places given", &placed.len(), &records.len())?;
    let join = |(place, record): (Placed, Record)| Stored { offset: place.offset, time: place.time, record };
    Ok(placed.into_iter().zip(records).map(join).collect())
}

/// Appends `records` one by one.
async fn append_each(log: &dyn Log, partition: Partition, records: Vec<Record>) -> Result<Vec<Stored>, Failure> {
    let mut all = Vec::new();
    for record in records {
        all.extend(append(log, partition, vec![record]).await?);
    }
    Ok(all)
}

type Reader = BoxStream<'static, Result<Vec<Stored>, Error>>;

async fn next(reader: &mut Reader) -> Result<Vec<Stored>, Failure> {
    let batch = soon("a batch", reader.next()).await?.ok_or(Failure::broken("the reader ended"))??;
    ensure(!batch.is_empty(), "an empty batch")?;
    Ok(batch)
}

/// Reads on until `offset`, not further than the batch that holds it; stops at the first record that is not the next.
async fn read_until(reader: &mut Reader, mut from: Offset, offset: Offset) -> Result<Vec<Stored>, Failure> {
    let mut all = Vec::new();
    while from < offset {
        for stored in next(reader).await? {
            same("the next record", &stored.offset, &from)?;
            from = from.next();
            all.push(stored);
        }
    }
    Ok(all)
}

/// Everything that is kept.
async fn read_all(log: &dyn Log, partition: Partition) -> Result<Vec<Stored>, Failure> {
    let bounds = log.bounds(partition).await?;
    read_until(&mut log.read(partition, bounds.oldest), bounds.oldest, bounds.end).await
}

/// Places rise from 0 by one, in each partition by itself; no records have no places.
pub async fn places_are_counted_without_holes(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut end = 0;
    for count in [1, 7, 0, limits::APPEND_RECORDS_MAX, 2] {
        let placed = append(&*log, ONE, records("a", count)).await?;
        let got: Vec<_> = placed.iter().map(|stored| stored.offset.0).collect();
        same("places", &got, &(end..end + count as u64).collect())?;
        end += count as u64;
    }
    let other = append(&*log, TWO, records("b", 1)).await?;
    same("the first place of another partition", &other[0].offset, &Offset::ZERO)
}

/// Scope, bytes, offset and time come back as they were given, to readers and seeks.
pub async fn what_is_read_is_what_was_appended(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut mixed = records("a", 20);
    mixed.extend([sized(0), sized(100_000), sized(1)]);
    let want = append(&*log, ONE, mixed).await?;
    append(&*log, TWO, records("not mine", 3)).await?;
    same("read", &read_all(&*log, ONE).await?, &want)?;
    let offsets: Vec<_> = want.iter().map(|stored| stored.offset).collect();
    same("sought", &log.seek(ONE, &offsets).await?, &want)
}

/// The records of one append keep their order, each with the place it was given, whoever else appends.
pub async fn concurrent_appends_keep_their_order(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let appends = (0..40).map(|caller| append(&*log, ONE, records(&format!("caller {caller}"), 1 + caller % 5)));
    let placed = try_join_all(appends).await?;
    for group in &placed {
        let rising = group.windows(2).all(|pair| pair[0].offset < pair[1].offset);
        ensure(rising, "the records of one append changed their order")?;
    }
    let mut placed = placed.concat();
    placed.sort_by_key(|stored| stored.offset);
    same("read", &read_all(&*log, ONE).await?, &placed)
}

/// Of two appends by one caller the one polled first stands first.
pub async fn a_caller_keeps_its_order(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    for round in 0..20 {
        let [mut first, mut second] = [("first", 3), ("second", 1)]
            .map(|(name, count)| Box::pin(maybe_done(log.append(ONE, records(name, count)))));
        let _ = (poll_immediate(&mut first).await, poll_immediate(&mut second).await);
        // Polled second, but asked for its result first.
        soon("two appends", join(&mut second, &mut first)).await?;
        let [first, second] = [first, second].map(|mut append| append.as_mut().take_output().expect("it is done"));
        let (first, second) = (first?, second?);
        ensure(first[2].offset < second[0].offset, &format!("round {round}: the second append overtook the first"))?;
    }
    Ok(())
}

/// A future dropped after its first poll does not take its records back.
pub async fn an_abandoned_append_stays(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut abandoned = log.append(ONE, records("abandoned", 3));
    let _ = poll_immediate(&mut abandoned).await;
    drop(abandoned);
    append(&*log, ONE, records("after", 1)).await?;
    let got: Vec<_> = read_all(&*log, ONE).await?.into_iter().map(|stored| stored.record).collect();
    same("read", &got, &[records("abandoned", 3), records("after", 1)].concat())
}

/// One record or byte more than an append may have is refused and leaves nothing; the bound itself is taken.
pub async fn limits_are_refused(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let too_many = records("a", limits::APPEND_RECORDS_MAX + 1);
    let too_large = vec![sized(1), sized(limits::APPEND_BYTES_MAX)];
    for records in [too_many, too_large] {
        match log.append(ONE, records).await {
            Err(AppendError::Refused(Error::TooLarge(_))) => {}
            other => return Err(Failure::Broken(format!("more than the bound: {other:?}"))),
        }
    }
    same("kept after a refusal", &log.bounds(ONE).await?.end, &Offset::ZERO)?;
    append(&*log, ONE, records("a", limits::APPEND_RECORDS_MAX)).await?;
    append(&*log, ONE, vec![sized(limits::APPEND_BYTES_MAX)]).await?;
    same("kept", &read_all(&*log, ONE).await?.len(), &(limits::APPEND_RECORDS_MAX + 1))
}

/// A partition that the log does not have is `Unavailable`, whatever is asked of it.
pub async fn an_unknown_partition_is_refused(subject: &dyn Subject) -> Outcome {
    let (log, none) = (fresh(subject).await, Partition(PARTITIONS));
    same("partitions", &log.partitions(), &Partitions::shared(PARTITIONS))?;
    let refused = matches!(log.append(none, records("a", 1)).await, Err(AppendError::Refused(Error::Unavailable(_))));
    ensure(refused, "append")?;
    ensure(matches!(log.bounds(none).await, Err(Error::Unavailable(_))), "bounds")?;
    ensure(matches!(log.seek(none, &[Offset::ZERO]).await, Err(Error::Unavailable(_))), "seek")?;
    ensure(matches!(log.trim(none, Offset::ZERO).await, Err(Error::Unavailable(_))), "trim")?;
    let mut reader = log.read(none, Offset::ZERO);
    ensure(matches!(soon("an error", reader.next()).await?, Some(Err(Error::Unavailable(_)))), "read")?;
    ensure(soon("the end", reader.next()).await?.is_none(), "the error was not the last item")
}

/// With more than the queue holds, what was refused is not there and what was placed is.
pub async fn overload_is_honest(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let callers = 2 * limits::APPEND_QUEUE_MAX / limits::APPEND_RECORDS_MAX;
    let groups: Vec<_> = (0..callers).map(|at| records(&format!("caller {at}"), limits::APPEND_RECORDS_MAX)).collect();
    let answers = join_all(groups.iter().map(|group| log.append(ONE, group.clone())));
    let mut want = Vec::new();
    for (answer, group) in soon("all answers", answers).await?.into_iter().zip(groups) {
        match answer {
            Ok(placed) => want.extend(placed.into_iter().map(|place| place.offset).zip(group)),
            Err(AppendError::Refused(Error::Unavailable(_))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    want.sort_by_key(|(offset, _)| *offset);
    let got: Vec<_> = read_all(&*log, ONE).await?.into_iter().map(|stored| (stored.offset, stored.record)).collect();
    ensure(got == want, "what is kept is not what was placed")
}

/// Log time follows the wall clock forward and stands still when it falls.
pub async fn time_does_not_fall(subject: &dyn Subject) -> Outcome {
    let clock = JumpingClock::at(START);
    let log = subject.open(Arc::<JumpingClock>::clone(&clock)).await;
    for step in [0, 5_000_000, -60_000_000, -1, 1, 9_000_000, -3_600_000_000] {
        clock.jump(START.plus(step));
        append(&*log, ONE, records("a", 2)).await?;
    }
    let all = read_all(&*log, ONE).await?;
    ensure(all.windows(2).all(|pair| pair[0].time <= pair[1].time), "log time fell")
}

/// From every offset on, what is read is what was appended from there on.
pub async fn reading_starts_where_asked(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let want = append_each(&*log, ONE, records("a", 12)).await?;
    for (from, rest) in (0..).map(Offset).zip((0..want.len()).map(|at| &want[at..])) {
        let got = read_until(&mut log.read(ONE, from), from, Offset(12)).await?;
        same("read", &got[..], rest)?;
    }
    Ok(())
}

/// No batch has more records or bytes than it may; a record larger than a batch comes alone.
pub async fn batches_are_bounded(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let fits = limits::READ_BYTES_MAX / 4;
    for _ in 0..2 * limits::READ_RECORDS_MAX / limits::APPEND_RECORDS_MAX {
        append(&*log, ONE, records("a", limits::APPEND_RECORDS_MAX)).await?;
    }
    append(&*log, ONE, vec![sized(fits), sized(fits), sized(fits)]).await?;
    append(&*log, ONE, vec![sized(fits), sized(fits), sized(1), sized(limits::READ_BYTES_MAX + 1), sized(1)]).await?;
    let (mut reader, mut from) = (log.read(ONE, Offset::ZERO), 0);
    while from < log.bounds(ONE).await?.end.0 {
        let batch = next(&mut reader).await?;
        same("the next record", &batch[0].offset.0, &from)?;
        from += batch.len() as u64;
        let bytes: usize = batch.iter().map(|stored| stored.record.bytes.len()).sum();
        ensure(batch.len() <= limits::READ_RECORDS_MAX, "a batch of too many records")?;
        ensure(bytes <= limits::READ_BYTES_MAX || batch.len() == 1, "a batch of too many bytes")?;
    }
    Ok(())
}

/// A reader that has caught up gets what comes later, once and in order.
pub async fn readers_follow(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut reader = log.read(ONE, Offset::ZERO);
    let mut from = Offset::ZERO;
    for round in 0..10 {
        ensure(poll_immediate(reader.next()).await.is_none(), "a reader with nothing to read did not wait")?;
        let want = append(&*log, ONE, records("a", 1 + round)).await?;
        let end = Offset(from.0 + want.len() as u64);
        same("followed", &read_until(&mut reader, from, end).await?, &want)?;
        from = end;
    }
    Ok(())
}

/// A reader that starts beyond the end waits, and its first record is the one it asked for.
pub async fn readers_beyond_the_end_wait(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    append(&*log, ONE, records("a", 2)).await?;
    let mut reader = log.read(ONE, Offset(5));
    for _ in 0..3 {
        ensure(poll_immediate(reader.next()).await.is_none(), "a reader beyond the end did not wait")?;
        append(&*log, ONE, records("a", 1)).await?;
    }
    let want = append(&*log, ONE, records("here", 1)).await?;
    same("the first", &next(&mut reader).await?, &want)
}

/// Readers that run beside writers see every record of their partition once, in order.
pub async fn readers_and_writers_at_once(subject: &dyn Subject) -> Outcome {
    const ROUNDS: usize = 30;
    const END: Offset = Offset(ROUNDS as u64 * (1 + 4 + 9));
    let log = &*fresh(subject).await;
    let write = |partition, count| async move {
        let mut placed = Vec::new();
        for round in 0..ROUNDS {
            placed.extend(append(log, partition, records(&format!("{count} {round}"), count)).await?);
        }
        Ok::<_, Failure>(placed)
    };
    for partition in (0..PARTITIONS).map(Partition) {
        let writers = try_join_all([1, 4, 9].map(|count| write(partition, count)));
        let read = || async { read_until(&mut log.read(partition, Offset::ZERO), Offset::ZERO, END).await };
        let (placed, seen) = try_join(writers, try_join(read(), read())).await?;
        let mut want = placed.concat();
        want.sort_by_key(|stored| stored.offset);
        ensure(seen.0 == want && seen.1 == want, "a reader saw something else than was written")?;
    }
    Ok(())
}

/// One `Gone` that names the oldest kept, then the end.
pub async fn reading_what_is_trimmed_is_gone(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let want = append(&*log, ONE, records("a", 10)).await?;
    log.trim(ONE, Offset(4)).await?;
    for from in [0, 3] {
        let mut reader = log.read(ONE, Offset(from));
        match soon("an error", reader.next()).await? {
            Some(Err(Error::Gone { oldest: Offset(4) })) => {}
            other => return Err(Failure::Broken(format!("reading from {from}: {other:?}"))),
        }
        ensure(soon("the end", reader.next()).await?.is_none(), "the error was not the last item")?;
    }
    same("read", &read_until(&mut log.read(ONE, Offset(4)), Offset(4), Offset(10)).await?[..], &want[4..])
}

/// A reader that trimming has overtaken is told `Gone`; it never skips.
pub async fn a_trim_under_a_reader_is_told(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    for _ in 0..10 {
        append(&*log, ONE, records("a", limits::APPEND_RECORDS_MAX)).await?;
    }
    let mut reader = log.read(ONE, Offset::ZERO);
    let mut from = next(&mut reader).await?.len() as u64;
    let end = log.bounds(ONE).await?.end;
    log.trim(ONE, end).await?;
    append(&*log, ONE, records("after", 1)).await?;
    // It may have fetched ahead; then it goes on in order until it meets the hole.
    loop {
        match soon("a batch", reader.next()).await? {
            Some(Ok(batch)) => {
                same("the next record", &batch[0].offset.0, &from)?;
                from += batch.len() as u64;
                ensure(from <= end.0, "what was trimmed last was still there")?;
            }
            Some(Err(Error::Gone { oldest })) => return same("the oldest", &oldest, &end),
            other => return Err(Failure::Broken(format!("after a trim: {other:?}"))),
        }
    }
}

/// A seek gives what is kept of what was asked for, in that order; more than `SEEK_MAX` is `TooLarge`.
pub async fn seeks_find_what_is_kept(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let want = append_each(&*log, ONE, records("a", 10)).await?;
    log.trim(ONE, Offset(3)).await?;
    let got = log.seek(ONE, &[1, 2, 3, 6, 9, 10, 5_000].map(Offset)).await?;
    same("sought", &got, &vec![want[3].clone(), want[6].clone(), want[9].clone()])?;
    same("nothing sought", &log.seek(ONE, &[]).await?.len(), &0)?;
    let most: Vec<_> = (0..limits::SEEK_MAX as u64).map(Offset).collect();
    same("the most", &log.seek(ONE, &most).await?[..], &want[3..])?;
    let more: Vec<_> = (0..=limits::SEEK_MAX as u64).map(Offset).collect();
    ensure(matches!(log.seek(ONE, &more).await, Err(Error::TooLarge(_))), "more than the bound was sought")
}

/// `end` is past every acknowledged append at once; an empty partition's bounds meet; one generation for all partitions.
pub async fn bounds_cover_what_was_acknowledged(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let empty = log.bounds(TWO).await?;
    same("an empty partition", &(empty.oldest, empty.end), &(Offset::ZERO, Offset::ZERO))?;
    for count in 1..20 {
        append(&*log, ONE, records("a", 1)).await?;
        let bounds = log.bounds(ONE).await?;
        same("bounds", &(bounds.oldest, bounds.end), &(Offset::ZERO, Offset(count)))?;
        same("the generation", &bounds.generation, &empty.generation)?;
    }
    Ok(())
}

/// Trimming never goes back and never beyond the end; what follows continues the count; other partitions keep theirs.
pub async fn trims_stay_within_bounds(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    append(&*log, ONE, records("a", 10)).await?;
    append(&*log, TWO, records("b", 10)).await?;
    for (before, oldest) in [(0, 0), (4, 4), (2, 4), (10, 10), (1_000, 10)] {
        log.trim(ONE, Offset(before)).await?;
        let bounds = log.bounds(ONE).await?;
        same(&format!("bounds after trim({before})"), &(bounds.oldest, bounds.end), &(Offset(oldest), Offset(10)))?;
    }
    let after = append(&*log, ONE, records("c", 2)).await?;
    same("the next place", &after[0].offset, &Offset(10))?;
    same("kept", &read_all(&*log, ONE).await?, &after)?;
    same("kept elsewhere", &read_all(&*log, TWO).await?.len(), &10)
}

/// What was acknowledged is there after the death of the process, with its place and time; so are trims and the generation.
pub async fn acknowledged_appends_survive(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut want = append_each(&*log, ONE, records("a", 20)).await?;
    want.extend(append(&*log, ONE, records("b", 5)).await?);
    log.trim(ONE, Offset(7)).await?;
    want.extend(append(&*log, ONE, records("last", 1)).await?);
    let before = log.bounds(ONE).await?;
    let log = reopened(subject, log).await?;
    same("bounds", &log.bounds(ONE).await?, &before)?;
    same("read", &read_all(&*log, ONE).await?[..], &want[7..])?;
    let after = append(&*log, ONE, records("after", 1)).await?;
    same("the next place", &after[0].offset, &before.end)
}

/// What a reader was shown is there after the death of the process, even if nobody was told that it had been appended.
pub async fn what_was_read_survives(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    let mut reader = log.read(ONE, Offset::ZERO);
    let mut appending = log.append(ONE, records("a", 3));
    let _ = poll_immediate(&mut appending).await;
    let seen = next(&mut reader).await?;
    drop((appending, reader));
    let log = reopened(subject, log).await?;
    ensure(read_all(&*log, ONE).await?.starts_with(&seen), "what a reader was shown is lost")
}

/// A partition trimmed of everything continues its count after a restart.
pub async fn offsets_are_not_reused_after_a_restart(subject: &dyn Subject) -> Outcome {
    let log = fresh(subject).await;
    append(&*log, ONE, records("a", 9)).await?;
    log.trim(ONE, Offset(9)).await?;
    let log = reopened(subject, log).await?;
    let after = append(&*log, ONE, records("b", 1)).await?;
    same("the next place", &after[0].offset, &Offset(9))
}

/// A wall clock that is behind after a restart does not pull log time back, not even if nothing is kept.
pub async fn time_does_not_fall_across_a_restart(subject: &dyn Subject) -> Outcome {
    let log = subject.open(JumpingClock::at(START.plus(3_600_000_000))).await;
    let kept = append(&*log, ONE, records("a", 1)).await?;
    let trimmed = append(&*log, TWO, records("a", 1)).await?;
    log.trim(TWO, Offset(1)).await?;
    let log = reopened(subject, log).await?;
    for (partition, before) in [(ONE, kept), (TWO, trimmed)] {
        let after = append(&*log, partition, records("b", 1)).await?;
        ensure(before[0].time <= after[0].time, "log time fell across a restart")?;
    }
    Ok(())
}
