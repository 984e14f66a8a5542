//! The tenant table against what it was chosen among: lookups in random order, of known and of
//! unknown tenants, at several sizes; changes and a whole snapshot at a million tenants; and the
//! hashes that could make fingerprints.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use maia_benches::candidates::{Candidate, ENTRY, Flat, Papaya, Sharded};
use maia_benches::cpu_time::CpuTime;
use maia_benches::names::{Names, name};
use maia_proxy::core::fingerprint::FingerprintKey;
use maia_proxy::core::table::Builder;

const MILLION: usize = 1_000_000;
/// Enough that the tables of a million and more don't fit any cache.
const ASKED: usize = 4 * MILLION;

fn lookup<C: Candidate>(criterion: &mut Criterion<CpuTime>, tenants: usize) {
    let id = BenchmarkId::new(C::NAME, tenants);
    // Made only when it is measured: a filter may leave it out.
    let mut prepared = None;
    criterion
        .benchmark_group("lookup")
        .bench_function(id, |bencher| {
            let make = || (C::of(tenants), Names::random(ASKED, tenants));
            let (table, names) = prepared.get_or_insert_with(make);
            bencher.iter(|| black_box(table.lookup(names.pick())));
        });
}

/// The candidates one after the other at each size: what else the machine does changes slowly.
fn lookups(criterion: &mut Criterion<CpuTime>) {
    for tenants in [1_000, 100_000, MILLION, 10 * MILLION] {
        lookup::<Flat>(criterion, tenants);
        lookup::<Papaya>(criterion, tenants);
        lookup::<Sharded>(criterion, tenants);
    }
}

fn unknown(criterion: &mut Criterion<CpuTime>) {
    let table = Flat::of(MILLION);
    // Of ten million names nine tenths are unknown.
    let mut names = Names::random(ASKED, 10 * MILLION);
    let id = BenchmarkId::new(Flat::NAME, MILLION);
    criterion
        .benchmark_group("lookup_mostly_unknown")
        .bench_function(id, |bencher| {
            bencher.iter(|| black_box(table.lookup(names.pick())));
        });
}

fn change<C: Candidate>(criterion: &mut Criterion<CpuTime>) {
    let table = C::of(MILLION);
    let mut group = criterion.benchmark_group("change_at_1000000");
    for changes in [1, 1000] {
        group.bench_function(BenchmarkId::new(C::NAME, changes), |bencher| {
            let tenants = || -> Vec<String> {
                let random = (0..changes).map(|_| name(fastrand::usize(..MILLION)));
                random.collect()
            };
            bencher.iter_batched_ref(tenants, |t| table.change(t), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn changes(criterion: &mut Criterion<CpuTime>) {
    change::<Flat>(criterion);
    change::<Papaya>(criterion);
    change::<Sharded>(criterion);
}

fn snapshot(criterion: &mut Criterion<CpuTime>) {
    let key = FingerprintKey::new(&[7; 16]);
    let names: Vec<String> = (0..MILLION).map(name).collect();
    criterion.bench_function("snapshot_of_1000000", |bencher| {
        bencher.iter(|| {
            let mut builder = Builder::new(MILLION);
            for name in &names {
                builder.insert(key.of(name), &ENTRY);
            }
            black_box(builder.build());
        });
    });
}

fn hashes(criterion: &mut Criterion<CpuTime>) {
    let mut names = Names::random(1000, MILLION);
    let mut group = criterion.benchmark_group("fingerprint");
    let key = FingerprintKey::new(&[7; 16]);
    group.bench_function("siphash-1-3-128", |bencher| {
        bencher.iter(|| black_box(key.of(names.pick())));
    });
    let pair = [(); 2].map(|()| foldhash::quality::RandomState::default());
    group.bench_function("foldhash-twice", |bencher| {
        bencher.iter(|| {
            let name = names.pick();
            black_box(pair.each_ref().map(|state| {
                let mut hasher = state.build_hasher();
                hasher.write(name.as_bytes());
                hasher.finish()
            }))
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = maia_benches::cpu_time::criterion()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = hashes, lookups, unknown, changes, snapshot
}
criterion_main!(benches);
