//! How long an image of many tenants takes to build from the disk: `MAIA_FEED_TENANTS=1000000`
//! measures what it says; few unless told otherwise.

use std::time::Instant;

use futures::future::BoxFuture;
use maia_common::position::Revision;
use maia_common::wire::feed::down::Kind;
use maia_common::wire::record::MetaValue;
use rocksdb::{Cache, WriteBatch};
use tokio::sync::watch;

use super::image::{Contents, Image};
use super::message::parse;
use crate::core::cluster_state::ClusterState;
use crate::core::metastore::{META_VERSION, Transaction, meta_key};
use crate::core::{frame, keyspace};
use crate::metastore::{Metastore, MetastoreError, Outcome};
use crate::raft::db::{family, open_state};
use crate::raft::{DbOptions, StateCf, StateError, StateReader, StateView};

/// A metastore's state on disk, which nobody changes.
struct OnDisk(StateReader);

impl Metastore for OnDisk {
    fn transact(
        &self,
        _: Transaction,
        _: Instant,
    ) -> BoxFuture<'_, Result<Outcome, MetastoreError>> {
        Box::pin(async { Err(MetastoreError::Leaderless) })
    }

    fn catch_up(&self, _: Instant) -> BoxFuture<'_, Result<(), MetastoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn read(
        &self,
        read: &mut dyn FnMut(&dyn StateView) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        read(&self.0.snapshot())
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        watch::channel(Revision::default()).1
    }
}

#[test]
fn an_image_has_every_tenant_of_the_disk() {
    let count = std::env::var("MAIA_FEED_TENANTS").ok();
    let count: u64 = count.map_or(20_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new_lru_cache(64 << 20);
    let db = open_state(dir.path(), &DbOptions::default(), &cache).unwrap();
    let mut batch = WriteBatch::default();
    for n in 0..count {
        let value = format!(
            r#"{{"tenant":"tenant-{n:09}","group":{},"version":1,"state":"active","properties":{{"sync_mode":"semi-sync","min_sync_replicas":1,"on_too_few":"reject","conflict_strategy":"last-write-wins"}}}}"#,
            n % 60
        );
        let stored = MetaValue {
            create_revision: n,
            revision: n,
            value: value.into(),
        };
        let key = meta_key(&format!("{}tenant-{n:09}", keyspace::TENANTS));
        let meta = family(&db, StateCf::Meta.name());
        batch.put_cf(meta, key, frame::encode(META_VERSION, &stored));
        if batch.len() >= 10_000 {
            db.write(std::mem::take(&mut batch)).unwrap();
        }
    }
    db.write(batch).unwrap();
    let store = OnDisk(StateReader::new(db));
    let began = Instant::now();
    let image = Image::build(&store, &ClusterState::default(), Contents::Everything).unwrap();
    let took = began.elapsed();
    let bytes: usize = image.messages.iter().map(bytes::Bytes::len).sum();
    assert_eq!(image.tenants, count);
    let Some(Kind::SnapshotEnd(end)) = image.messages.last().map(|m| parse(m)) else {
        panic!("an end")
    };
    assert_eq!(
        (end.tenants, end.chunks),
        (count, image.messages.len() as u64 - 2)
    );
    eprintln!("{count} tenants, {bytes} bytes, {took:?}");
}
