//! What was kept in S3 amid all of it: the newest checkpoint of each partition holds what its log folds to up to there.

use std::sync::Arc;

use ringforge_adapters::{blobs::s3::S3Blobs, log::kafka::KafkaLog};
use ringforge_domain::row::digest;
use ringforge_ports::{
    clock::{SystemClock, SystemIds},
    log::Log as _,
};
use ringforge_projectors::checkpoint;
use ringforge_sim::offline::{fold, read};

use super::telling::records;

/// How many partitions have one.
pub async fn check(log: &KafkaLog, url: &str) -> usize {
    let blobs = S3Blobs::open(url, SystemClock::start(), Arc::new(SystemIds)).await.expect("the objects are there");
    let mut checked = 0;
    for partition in log.partitions().iter() {
        let generation = log.bounds(partition).await.expect("bounds").generation;
        let taken = checkpoint::list(&*blobs, generation, partition).await.expect("they are listed");
        let Some(newest) = taken.last() else { continue };
        let mut records = records(log, partition).await;
        records.retain(|record| record.offset < newest.applied);
        let folded = fold(read(partition, &records));
        assert_eq!(digest(folded.store.rows.values(), newest.applied), newest.digest, "{newest:?}");
        checked += 1;
    }
    assert!(checked > 0, "there is no checkpoint at all");
    checked
}
