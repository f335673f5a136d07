//! The pure heart on one core: door, Avro, fold, frames. Two commands stand for all: an activity that a fleet sees and a
//! memory value, each of 256 bytes.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringforge_domain::{
    catalog::Command,
    cursor::Seal,
    door::{Incoming, parse},
    fold::fold,
    frame::{Encoder, Shape},
    ids::{AgentId, FleetId, Scope, TenantId},
    limits::{Limits, READ_RECORDS_MAX},
    position::{Generation, LogTime, Offset, Partition, Position, StreamRef},
    row::Rows,
    schema::{decode, encode},
    verdict::frames_of,
    world::{Folded, Member, World},
};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The two commands, as agents send them.
fn texts() -> [(&'static str, String); 2] {
    let value = "x".repeat(256);
    let broadcast = format!(
        r#"{{"type":"activity","action":"broadcast","ref":"r-1","event":{{"kind":"discovery","description":"found","data":{{"text":"{value}"}},"tags":["research","ml"]}}}}"#
    );
    let set = format!(
        r#"{{"type":"memory","action":"set","ref":"r-2","key":"research/findings/one","value":"{value}","tags":["research"],"metadata":{{"source":"arxiv"}}}}"#
    );
    [("broadcast", broadcast), ("set", set)]
}

fn read(text: &str) -> Command {
    match parse(text, &Limits::default()).expect("the door lets it pass").incoming {
        Incoming::Command(command) => command,
        other => panic!("not a command: {other:?}"),
    }
}

/// A fleet of a hundred agents, one of which asks.
fn world() -> (World, Member) {
    let mut world = World::new();
    let asker = world.joins("asker");
    for agent in 1..100 {
        world.joins(&format!("agent-{agent}"));
    }
    (world, asker)
}

/// Everything the fleet has, as loaded.
fn loaded(world: &World) -> Rows {
    let mut rows = Rows::at(world.store.time);
    rows.load(world.store.rows.keys().cloned(), world.store.rows.values().cloned());
    rows
}

fn door(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("door");
    let limits = Limits::default();
    for (name, text) in texts() {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parse(&text, &limits)));
    }
    group.finish();
}

/// Every record carries about five ids as text.
fn ids(criterion: &mut Criterion) {
    let id = AgentId::from_bits(0x0192_3f4e_5a6b_7c8d_9e0f_1a2b_3c4d_5e6f);
    let text = id.to_string();
    let mut group = criterion.benchmark_group("id");
    group.bench_function("write", |bencher| bencher.iter(|| black_box(id).to_string()));
    group.bench_function("read", |bencher| bencher.iter(|| black_box(&text).parse::<AgentId>()));
    group.finish();
}

fn avro(criterion: &mut Criterion) {
    let (mut world, asker) = world();
    let header = world.header_of(&asker);
    let position = Position { partition: Partition::POOL, offset: Offset(1) };
    let mut group = criterion.benchmark_group("avro");
    for (name, text) in texts() {
        let command = read(&text);
        let bytes = encode(&header, &command);
        group.bench_function(format!("encode/{name}"), |bencher| bencher.iter(|| encode(&header, &command)));
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| decode(&bytes, position, LogTime(1)).expect("an event"));
        });
    }
    group.finish();
}

fn folding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    for (name, text) in texts() {
        let (mut world, asker) = world();
        let told = world.when(&asker, read(&text));
        let rows = loaded(&world);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(|| rows.clone(), |rows| fold(rows, &told.event), BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// What the projector does with a full batch: needs, load, fold, keep what changed.
fn projecting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("project");
    group.throughput(Throughput::Elements(READ_RECORDS_MAX as u64));
    for (name, text) in texts() {
        let (mut world, asker) = world();
        let before = world.store.clone();
        let batch: Vec<_> = (0..READ_RECORDS_MAX).map(|_| world.when(&asker, read(&text)).event).collect();
        group.bench_function(format!("{}/{name}", batch.len()), |bencher| {
            bencher.iter_batched_ref(|| before.clone(), |store| store.project(&batch), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let encoder = Encoder {
        seal: Seal::new([7; 32]),
        scope: Scope { tenant: TenantId::from_bits(1), fleet: FleetId::from_bits(1) },
        stream: StreamRef { partition: Partition::POOL, epoch: 0 },
        generation: Generation(1),
    };
    let mut group = criterion.benchmark_group("frames");
    for (name, text) in texts() {
        let (mut world, asker) = world();
        let Folded { event, verdict, shown } = world.when(&asker, read(&text));
        group.bench_function(format!("of/{name}"), |bencher| bencher.iter(|| frames_of(&event, &verdict)));
        let push = &shown.pushes.last().expect("others see it").frame;
        group.bench_function(format!("encode/{name}"), |bencher| bencher.iter(|| encoder.encode(push, Shape::Flat)));
    }
    group.finish();
}

criterion_group!(benches, door, ids, avro, folding, projecting, frames);
criterion_main!(benches);
