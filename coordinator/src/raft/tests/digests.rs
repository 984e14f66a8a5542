//! Replicas of a group that is always being written to are compared: as of an index that is asked for
//! ahead (I13).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use maia_common::{GroupId, Index};

use super::super::propose::within;
use super::super::*;
use super::field::{Field, NODES};
use super::harness::*;
use super::quarantine::{data, leader};

const G: GroupId = GroupId::new(3);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_under_load_meet_at_one_index() {
    let field = Field::new(5, &[G], |_| {});
    field.begin().await;
    let leader = leader(&field, &NODES).await;
    let engine = field.engine(leader).unwrap();
    let first = engine.propose(G, data("first"), within(PATIENCE));
    let first = first.await.unwrap().position.index.get();
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (engine, enough) = (Arc::clone(&engine), Arc::clone(&enough));
        writers.spawn(async move {
            while !enough.load(Ordering::Relaxed) {
                let written = engine.propose(G, data(&format!("w{n}")), within(PATIENCE));
                written.await.unwrap();
            }
        });
    }
    let mut met = 0;
    for _ in 0..10 {
        let applied = engine.status(G).unwrap().applied.unwrap().index.get();
        let index = Index::new(applied + 500);
        let engines = field.engines();
        let until = Instant::now() + Duration::from_secs(5);
        let asked = engines
            .iter()
            .map(|engine| engine.digest_at(G, index, until));
        let found = futures::future::join_all(asked).await.into_iter();
        let Ok(found) = found.collect::<Result<Vec<StateDigest>, _>>() else {
            continue;
        };
        // Where the processors are busy one may come late: then its position says so.
        if found.iter().all(|d| d.position.unwrap().index == index) {
            assert!(found[0].rows > 0);
            assert!(found.iter().all(|digest| *digest == found[0]), "I13");
            met += 1;
        }
    }
    assert!(met > 0, "they never met");
    enough.store(true, Ordering::Relaxed);
    writers.join_all().await;
    let passed = engine.digest_at(G, Index::new(first), Instant::now() + PATIENCE);
    let passed = passed.await.unwrap_err().to_string();
    assert!(passed.contains("is applied already"), "{passed}");
    let never = engine.digest_at(
        G,
        Index::new(u64::MAX),
        Instant::now() + Duration::from_millis(50),
    );
    let never = never.await.unwrap_err().to_string();
    assert!(never.contains("not applied in time"), "{never}");
    drop(engine);
    field.end().await;
}
