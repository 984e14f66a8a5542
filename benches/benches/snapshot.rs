//! Snapshots of all placements, whole: encoded by a coordinator from what the metastore stores
//! (JSON to messages ready to be sent), taken by a proxy from those very messages up to the table,
//! and the same table to and from the format on the proxy's disk. One thread; no network, no disk.

use std::time::Duration;

use bytes::Bytes;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use maia_benches::cpu_time::CpuTime;
use maia_benches::stored::metastore;
use maia_common::wire::feed::Down;
use maia_coordinator::core::cluster_state::ClusterState;
use maia_coordinator::feed::{Contents, Image};
use maia_proxy::core::disk_snapshot::{
    LENGTH_BYTES, decode_section, decode_shard, encode_section, encode_shard,
};
use maia_proxy::core::feed::{FeedState, Step};
use maia_proxy::core::fingerprint::FingerprintKey;
use maia_proxy::core::table::{Builder, Table};
use prost::Message;

/// gRPC's own frame before each message, which tonic takes off before the proxy sees it.
const GRPC_HEAD_BYTES: usize = 5;

/// The proxy's table after all of the messages.
fn take(messages: &[Bytes]) -> Table {
    let mut state = FeedState::new(FingerprintKey::new(&[7; 16]));
    let mut tenants = None;
    for framed in messages {
        let message = Down::decode(framed.slice(GRPC_HEAD_BYTES..)).expect("a coordinator's");
        if let Step::Snapshot { tenants: all, .. } = state.take(message).expect("in order") {
            tenants = Some(all);
        }
    }
    tenants.expect("the last message is the snapshot's end")
}

/// All sections of tenants, through one buffer as the proxy writes them.
fn to_disk(table: &Table, section: &mut Vec<u8>, mut write: impl FnMut(&[u8])) {
    for shard in table.shards() {
        encode_section(section, |out| encode_shard(out, shard));
        write(section);
    }
}

/// The table of these sections.
fn from_disk(sections: &[Vec<u8>], tenants: usize) -> Table {
    let mut builder = Builder::new(tenants);
    for section in sections {
        let (length, rest) = section
            .split_first_chunk::<LENGTH_BYTES>()
            .expect("a length");
        let payload = decode_section(*length, rest).expect("as it was written");
        decode_shard(payload, &mut builder).expect("as it was written");
    }
    builder.build()
}

fn snapshots(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat);
    for tenants in [100_000, 1_000_000] {
        group.throughput(Throughput::Elements(tenants as u64));
        let (store, cluster) = (metastore(tenants), ClusterState::default());
        let encode = || Image::build(&store, &cluster, Contents::Everything).expect("in memory");
        let messages = encode().messages;
        group.bench_function(BenchmarkId::new("coordinator-encode", tenants), |bencher| {
            bencher.iter_with_large_drop(encode);
        });
        drop(store);
        let table = take(&messages);
        assert_eq!(table.len(), tenants);
        group.bench_function(BenchmarkId::new("proxy-decode", tenants), |bencher| {
            bencher.iter_with_large_drop(|| take(&messages));
        });
        let mut section = Vec::new();
        group.bench_function(BenchmarkId::new("disk-encode", tenants), |bencher| {
            bencher.iter(|| {
                to_disk(&table, &mut section, |bytes| {
                    std::hint::black_box(bytes);
                });
            });
        });
        let mut sections = Vec::new();
        to_disk(&table, &mut section, |bytes| sections.push(bytes.to_vec()));
        assert_eq!(from_disk(&sections, tenants).len(), tenants);
        group.bench_function(BenchmarkId::new("disk-decode", tenants), |bencher| {
            bencher.iter_with_large_drop(|| from_disk(&sections, tenants));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = maia_benches::cpu_time::criterion()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    targets = snapshots
}
criterion_main!(benches);
