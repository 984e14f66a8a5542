//! Tenant → decision in the proxy, at several sizes, tenants in random order: the way of every
//! request. Run with `make bench`; targets in `docs/benchmarks.md` come with the table that is
//! chosen by benchmark.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use maia_common::placement::{Mode, WriteRouting};
use maia_common::topology::{GroupView, Leader, Region, RegionState, Topology};
use maia_common::{GroupId, NodeId, RegionName, TenantId, Term, Version};
use maia_proxy::core::classify::Class;
use maia_proxy::core::decide::{Facts, Rules, decide};
use maia_proxy::core::table::{Builder, Entry, Table};

fn region(name: &str) -> RegionName {
    RegionName::new(name).expect("a legal name")
}

/// One group in region `a`, led there.
fn topology() -> Topology {
    let mut topology = Topology::default();
    for name in ["a", "b"] {
        let view = Region {
            name: region(name),
            public_url: format!("http://{name}.test"),
            priority: 1,
            state: RegionState::Active,
        };
        topology.regions.insert(region(name), view);
    }
    let leader = Leader {
        term: Term::new(1),
        node: NodeId::new(1),
        region: region("a"),
    };
    let group = GroupView {
        home_region: region("a"),
        mode: Mode::Replicated,
        regions: vec![region("a"), region("b")],
        leader: Some(leader),
        leaderless_since: None,
    };
    topology.groups.insert(GroupId::new(1), group);
    topology
}

fn table(tenants: usize) -> Table {
    let mut builder = Builder::default();
    let entry = Entry {
        group: GroupId::new(1),
        version: Version::new(1),
        holding: false,
        write_routing: None,
    };
    for n in 0..tenants {
        builder.insert(
            &TenantId::new(format!("tenant-{n:08}")).expect("a legal name"),
            entry,
        );
    }
    let table = Table::default();
    table.replace(builder);
    table
}

fn decisions(criterion: &mut Criterion) {
    let topology = topology();
    let rules = Rules {
        local_region: region("b"),
        write_routing: WriteRouting::Redirect,
    };
    let facts = Facts {
        class: Class::Write,
        preferred: None,
    };
    let mut group = criterion.benchmark_group("tenant_to_decision");
    for tenants in [1_000, 100_000, 1_000_000] {
        let table = table(tenants);
        group.bench_function(BenchmarkId::from_parameter(tenants), |bencher| {
            bencher.iter_batched_ref(
                || format!("tenant-{:08}", fastrand::usize(..tenants)),
                |tenant| {
                    let entry = table.lookup(tenant);
                    matches!(
                        black_box(decide(&facts, entry.as_ref(), &topology, &rules)),
                        maia_proxy::core::decide::Decision::Redirect { .. }
                    )
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
