//! One change handed to all subscribers of a coordinator's feed: from the change until each of the
//! waiting streams has been woken and has the bytes. Encoded once: what a larger change adds must
//! not grow with the subscribers. One thread; no HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use maia_benches::cpu_time::CpuTime;
use maia_benches::stored::placement;
use maia_common::runtime::Tasks;
use maia_common::wire::feed::Changes;
use maia_common::wire::record::MetaChange;
use maia_coordinator::core::feed::tenant_message;
use maia_coordinator::feed::{Hub, Push};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;

/// One tenant placed; and as many as a bulk load places at once.
const TENANTS: [usize; 2] = [1, 500];

/// A stream as far as the hub knows it. A permit for each delta that it has got.
async fn stream(mut pushes: Receiver<Push>, got: Arc<Semaphore>) {
    while let Ok(Push::Delta { .. }) = pushes.recv().await {
        got.add_permits(1);
    }
}

fn changes(tenants: usize) -> Changes {
    let tenants = (0..tenants).filter_map(|number| tenant_message(&placement(number).1));
    Changes {
        tenants: tenants.collect(),
        ..Changes::default()
    }
}

fn fan_out(criterion: &mut Criterion<CpuTime>) {
    let runtime: Runtime = Builder::new_current_thread().build().expect("a runtime");
    for tenants in TENANTS {
        let changes = changes(tenants);
        let mut group = criterion.benchmark_group(format!("fan_out_of_{tenants}"));
        for subscribers in [1, 100, 1000] {
            let (hub, got, tasks) = (Hub::default(), Arc::new(Semaphore::new(0)), Tasks::new());
            let _context = runtime.enter();
            for _ in 0..subscribers {
                tasks.spawn_until_stop("stream", stream(hub.subscribe(), Arc::clone(&got)));
            }
            let mut change = MetaChange::default();
            let mut push = |changes| {
                change.revision += 1;
                hub.delta(&change, changes);
                let all = runtime.block_on(got.acquire_many(subscribers));
                all.expect("never closed").forget();
            };
            group.throughput(Throughput::Elements(u64::from(subscribers)));
            group.bench_function(BenchmarkId::from_parameter(subscribers), |bencher| {
                bencher.iter_batched(|| changes.clone(), &mut push, BatchSize::SmallInput);
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = maia_benches::cpu_time::criterion()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = fan_out
}
criterion_main!(benches);
