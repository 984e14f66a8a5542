//! The way of one write of 256 bytes through a node's log: its record to the persisted form and back,
//! what apply makes of it, appended by a lone node (on disk, committed and applied), and all of a log
//! applied again at a start. The first two on one thread; the others are time that passed, disk included.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use maia_benches::cpu_time::{self, CpuTime};
use maia_benches::log::{self, GROUP};
use maia_common::{Index, Position, Term};
use maia_coordinator::core::data;
use maia_coordinator::core::record::Record;
use maia_coordinator::metastore::memory::MemoryState;
use maia_coordinator::raft::{Engine, Mutations};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);
/// Resources that apply meets.
const RESOURCES: usize = 100_000;
/// Proposals of one round, each by a task of its own.
const TOGETHER: usize = 64;
/// Records of the log that is applied again.
const REPLAYED: usize = 20_000;

fn encode(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("encode");
    let encoded = log::put(1).encode();
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("record", |bencher| {
        let fresh = || log::put(1);
        bencher.iter_batched(fresh, |record| record.encode(), BatchSize::SmallInput);
    });
    group.bench_function("record_back", |bencher| {
        bencher.iter(|| Record::decode(encoded.clone()).expect("as it was written"));
    });
    group.finish();
}

fn position(index: usize) -> Position {
    Position::new(Term::new(1), Index::new(index as u64))
}

fn apply_one(state: &MemoryState, number: usize, record: &Record) -> (Bytes, Mutations) {
    let mut out = Mutations::default();
    let applied = data::apply(GROUP, position(number + 1), record, state, &mut out);
    (applied.expect("a map does not fail"), out)
}

fn apply(criterion: &mut Criterion<CpuTime>) {
    let mut state = MemoryState::default();
    for number in 0..RESOURCES {
        let (_, out) = apply_one(&state, number, &log::put(number));
        state.write(out);
    }
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));
    for (name, first) in [("replaced", 0), ("created", RESOURCES)] {
        group.bench_function(name, |bencher| {
            let fresh = || {
                let number = first + fastrand::usize(..RESOURCES);
                (number, log::put(number))
            };
            let apply = |(number, record): (usize, Record)| apply_one(&state, number, &record);
            bencher.iter_batched(fresh, apply, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Proposes these, so many at a time.
async fn propose(engine: &Arc<Engine>, numbers: std::ops::Range<usize>) {
    let one = |number| {
        let engine = Arc::clone(engine);
        async move {
            let deadline = Instant::now() + PATIENCE;
            let applied = engine.propose(GROUP, log::put(number), deadline).await;
            applied.expect("a lone node takes it");
        }
    };
    join_all(numbers.map(one)).await;
}

async fn lone(dir: &Path) -> Arc<Engine> {
    let engine = log::engine(dir);
    engine.start_group(GROUP).await.expect("a sound folder");
    let alone = BTreeSet::from([log::NODE]);
    let begun = engine.initialize_group(GROUP, alone).await;
    begun.expect("one voter");
    let deadline = Instant::now() + PATIENCE;
    // Until it has elected itself it says that it does not lead.
    while let Err(error) = engine.apply_term_start(GROUP, deadline).await {
        assert!(Instant::now() < deadline, "it elects itself: {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine
}

async fn stop(engine: Arc<Engine>) {
    let late = engine.shutdown(PATIENCE).await;
    assert!(late.is_empty(), "did not end: {late:?}");
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let engine = runtime.block_on(lone(dir.path()));
    let mut group = criterion.benchmark_group("append");
    for together in [1, TOGETHER] {
        group.throughput(Throughput::Elements(together as u64));
        group.bench_function(format!("{together}_together"), |bencher| {
            bencher.iter(|| {
                let first = fastrand::usize(..RESOURCES);
                runtime.block_on(propose(&engine, first..first + together));
            });
        });
    }
    group.finish();
    runtime.block_on(stop(engine));
}

/// Starts the node without the state that its log had made, and waits until it is there again.
async fn replayed(dir: &Path, last: Position) -> Arc<Engine> {
    std::fs::remove_dir_all(dir.join("state")).expect("nobody has it open");
    let engine = log::engine(dir);
    engine.start_group(GROUP).await.expect("a sound log");
    let deadline = Instant::now() + PATIENCE;
    let applied = engine.wait_applied(GROUP, last, deadline).await;
    applied.expect("all of it is committed");
    engine
}

fn replay(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let last = runtime.block_on(async {
        let engine = lone(dir.path()).await;
        for first in (0..REPLAYED).step_by(TOGETHER) {
            propose(&engine, first..first + TOGETHER).await;
        }
        let applied = engine.status(GROUP).and_then(|status| status.applied);
        stop(engine).await;
        applied.expect("it has just applied")
    });
    let mut group = criterion.benchmark_group("replay");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.throughput(Throughput::Elements(REPLAYED as u64));
    group.bench_function("records", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let began = Instant::now();
                let engine = runtime.block_on(replayed(dir.path(), last));
                took += began.elapsed();
                runtime.block_on(stop(engine));
            }
            took
        });
    });
    group.finish();
}

criterion_group! {
    name = one_thread;
    config = cpu_time::criterion()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = encode, apply
}
criterion_group! {
    name = engine;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = append, replay
}
criterion_main!(one_thread, engine);
