//! Tenant → decision in the proxy, at several sizes, tenants in random order: the way of every
//! request, from the tenant's name to what is to be done. Targets: 120 ns at a million tenants,
//! 200 ns at ten million.
//!
//! `one_access` is what the machine itself takes for one access to a random line of as much memory
//! as the table has, where the next one waits for it: no table can be quicker but by the caches.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use maia_benches::cpu_time::CpuTime;
use maia_benches::names::Names;
use maia_benches::world::placements;
use maia_proxy::core::classify::Class;
use maia_proxy::core::decide::{Decision, Facts};

/// Enough that the tables of a million and more don't fit any cache.
const ASKED: usize = 4_000_000;

fn decisions(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("tenant_to_decision");
    for tenants in [1_000, 100_000, 1_000_000, 10_000_000] {
        let placements = placements(tenants);
        let mut names = Names::random(ASKED, tenants);
        for class in [Class::Read, Class::Write] {
            let facts = Facts {
                class,
                preferred: None,
            };
            let id = BenchmarkId::new(class.as_str(), tenants);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    placements.route(names.pick(), &facts, |decision, _| {
                        matches!(black_box(decision), Some(Decision::Redirect { .. }))
                    })
                });
            });
        }
    }
    group.finish();
}

/// Bytes of a cache line, in words.
const LINE: usize = 8;
/// Bytes of a tenant in the table.
const TENANT_BYTES: usize = 33;

fn one_access(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("one_access");
    for tenants in [1_000, 100_000, 1_000_000, 10_000_000] {
        let lines = tenants * TENANT_BYTES / (LINE * size_of::<u64>());
        let mut random = fastrand::Rng::with_seed(7);
        let memory: Vec<[u64; LINE]> = (0..lines).map(|_| [random.u64(..); LINE]).collect();
        let (mut at, mut step) = (0, 0_u64);
        group.bench_function(BenchmarkId::from_parameter(tenants), |bencher| {
            bencher.iter(|| {
                step = step.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (memory[at][0] ^ step).wrapping_mul(0xD6E8_FEB8_6659_FD93);
                at = ((u128::from(mixed) * lines as u128) >> 64) as usize;
                at
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = maia_benches::cpu_time::criterion().sample_size(30);
    targets = decisions, one_access
}
criterion_main!(benches);
