//! The embedded log: durable appends of 1, 10 and 100 records, one at a time.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringforge_adapters::log::embedded::EmbeddedLog;
use ringforge_domain::{
    ids::{FleetId, Scope, TenantId},
    position::Partition,
};
use ringforge_ports::{
    clock::SystemClock,
    log::{Log, Record},
};

fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let log = EmbeddedLog::open(&folder.path().join("log.db"), 2, SystemClock::start()).expect("a log");
    let scope = Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(2) };
    let record = Record { scope, bytes: Arc::from([7; 300]) };
    let mut group = criterion.benchmark_group("log-append");
    for count in [1, 10, 100] {
        group.throughput(Throughput::Elements(count));
        let records = vec![record.clone(); usize::try_from(count).expect("small")];
        group.bench_function(count.to_string(), |bencher| {
            bencher
                .iter(|| black_box(runtime.block_on(log.append(Partition::POOL, records.clone())).expect("appended")));
        });
    }
    group.finish();
    runtime.block_on(log.close());
}

criterion_group!(benches, append);
criterion_main!(benches);
