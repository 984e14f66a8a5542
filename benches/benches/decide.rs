//! Tenant → decision in the proxy, at several sizes, tenants in random order: the way of every
//! request, from the tenant's name to what is to be done. Targets: 120 ns at a million tenants,
//! 200 ns at ten million.

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

criterion_group! {
    name = benches;
    config = maia_benches::cpu_time::criterion().sample_size(30);
    targets = decisions
}
criterion_main!(benches);
