//! One suite for every backend: what a user of the metastore may rely on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::position::Revision;

use super::memory::MemoryMetastore;
use super::{Metastore, Outcome, Versioned, Watch, WatchError, get, range};
use crate::core::metastore::{Precondition, Transaction};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn new() -> Transaction {
    Transaction::new(format!("{:032x}", fastrand::u128(..)), 1)
}

async fn commit(store: &dyn Metastore, transaction: Transaction) -> Revision {
    match store.transact(transaction, soon()).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(compare) => panic!("comparison {compare} did not hold"),
    }
}

/// Everything, one after the other, on an empty store.
pub async fn suite(store: Arc<dyn Metastore>) {
    reads_see_what_was_committed(&*store).await;
    compare_and_set_lets_one_of_many_win(&store).await;
    a_retry_takes_effect_once(&*store).await;
    ranges_page_in_order(&*store).await;
    a_watch_sees_every_change_in_order(&store).await;
    a_watch_of_the_future_waits(&store).await;
}

async fn reads_see_what_was_committed(store: &dyn Metastore) {
    assert_eq!(get::<u32>(store, "a").unwrap(), None);
    let revision = commit(store, new().put_json("a", &1).put_json("b", &2)).await;
    assert_eq!(
        get(store, "a").unwrap(),
        Some(Versioned {
            value: 1,
            revision,
            created: revision
        })
    );
    assert_eq!(
        get(store, "b").unwrap(),
        Some(Versioned {
            value: 2,
            revision,
            created: revision
        })
    );
    assert!(
        get::<String>(store, "a").is_err(),
        "another type is an error, never a default"
    );
    store.catch_up(soon()).await.unwrap();
    commit(store, new().delete("a")).await;
    assert_eq!(get::<u32>(store, "a").unwrap(), None);
}

async fn compare_and_set_lets_one_of_many_win(store: &Arc<dyn Metastore>) {
    let at = commit(&**store, new().put_json("counter", &0)).await;
    let tries = (0..16).map(|n| {
        let store = Arc::clone(store);
        async move {
            let set = new()
                .when("counter", Precondition::At(at))
                .put_json("counter", &n);
            store.transact(set, soon()).await.unwrap()
        }
    });
    let outcomes = futures::future::join_all(tries).await;
    let won = outcomes
        .iter()
        .filter(|o| matches!(o, Outcome::Committed(_)))
        .count();
    assert_eq!(won, 1, "{outcomes:?}");
}

async fn a_retry_takes_effect_once(store: &dyn Metastore) {
    let create = new()
        .when("once", Precondition::Absent)
        .put_json("once", &true);
    let first = commit(store, create.clone()).await;
    assert_eq!(commit(store, create).await, first);
}

async fn ranges_page_in_order(store: &dyn Metastore) {
    for n in [3, 1, 2, 5, 4] {
        commit(store, new().put_json(format!("page/{n}"), &n)).await;
    }
    commit(store, new().put_json("pagf", &9)).await;
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut page = Vec::new();
        store
            .read(&mut |view| {
                page = range(view, "page/", after.as_deref(), 2)?;
                Ok(())
            })
            .unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(seen, ["page/1", "page/2", "page/3", "page/4", "page/5"]);
}

async fn a_watch_sees_every_change_in_order(store: &Arc<dyn Metastore>) {
    let mut watch = Watch::new(Arc::clone(store), Revision::default());
    let last = commit(&**store, new().put_json("watched", &1).event(&"seen")).await;
    let mut expected = Revision::default();
    while expected < last {
        let change = watch.next().await.unwrap();
        expected = expected.next();
        assert_eq!(Revision::new(change.revision), expected);
        if expected == last {
            let keys: BTreeSet<_> = change.keys.iter().map(|k| k.key.as_str()).collect();
            assert_eq!(keys.len(), 2);
            assert!(keys.contains("watched"));
        }
    }
}

async fn a_watch_of_the_future_waits(store: &Arc<dyn Metastore>) {
    let now = *store.revisions().borrow();
    let mut watch = Watch::new(Arc::clone(store), now);
    let waiting = watch.next();
    let (change, revision) = futures::join!(waiting, commit(&**store, new().put_json("w", &1)));
    assert_eq!(Revision::new(change.unwrap().revision), revision);
}

#[tokio::test]
async fn memory_conforms() {
    suite(Arc::new(MemoryMetastore::default())).await;
}

#[tokio::test]
async fn a_compacted_history_says_so() {
    let store: Arc<dyn Metastore> = Arc::new(MemoryMetastore::default());
    for n in 0..=maia_common::limits::WATCH_HISTORY_REVISIONS {
        commit(&*store, new().put_json("a", &n)).await;
    }
    let mut watch = Watch::new(Arc::clone(&store), Revision::default());
    let error = watch.next().await.unwrap_err();
    assert_eq!(
        error,
        WatchError::Compacted {
            oldest: Revision::new(2)
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raft_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engine) = alone(dir.path()).await;
    suite(Arc::new(store)).await;
    assert_eq!(
        engine.shutdown(Duration::from_secs(10)).await,
        Vec::<&str>::new()
    );
}

/// A metastore of one node that leads itself.
async fn alone(dir: &std::path::Path) -> (super::RaftMetastore, Arc<crate::raft::Engine>) {
    use crate::raft::{Engine, EngineConfig};
    use crate::shell::applier::RecordApplier;
    use crate::shell::clock::Clock;
    use crate::shell::peers::{Directory, Peers};
    use maia_common::cluster_key::ClusterKey;
    use maia_common::ids::{GroupId, NodeId};
    use maia_common::rpc::Rpc;

    let node = NodeId::new(1);
    let clock = Arc::new(Clock::default());
    let revisions = tokio::sync::watch::Sender::new(Revision::default());
    let applier = Arc::new(RecordApplier::new(Arc::clone(&clock), revisions.clone()));
    let rpc = Rpc::plaintext(&ClusterKey::from_secret("test"));
    let directory = Arc::new(Directory::new(rpc));
    let config = EngineConfig {
        disk_watermark_bytes: 0,
        ..EngineConfig::new(node, dir)
    };
    let engine = Engine::open(
        config,
        Arc::clone(&applier) as _,
        Arc::clone(&directory) as _,
    );
    let engine = engine.unwrap();
    applier.opened(engine.state()).unwrap();
    engine.start_group(GroupId::METASTORE).await.unwrap();
    engine
        .initialize_group(GroupId::METASTORE, [node].into())
        .await
        .unwrap();
    let peers = Arc::new(Peers::new(directory));
    let store = super::RaftMetastore::new(Arc::clone(&engine), peers, clock, revisions, node);
    (store, engine)
}
