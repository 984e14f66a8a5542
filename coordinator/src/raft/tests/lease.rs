//! A leader may answer reads on its lease alone. That is safe only if those who promised it the
//! lease remember their promise over a restart: hence the silence.

use std::time::Duration;

use maia_common::{GroupId, NodeId, Position};

use super::super::config::Sabotage;
use super::super::propose::within;
use super::super::*;
use super::field::Field;
use super::harness::*;

const G: GroupId = GroupId::new(1);
const LEASE: Duration = Duration::from_secs(3);

/// Leader A is confirmed by B alone; B restarts at once and could vote for C within A's lease.
/// Returns whether A then answered a read that missed C's acknowledged write.
async fn stale_read_happens(sabotage: Option<Sabotage>) -> bool {
    let field = Field::new(1, &[G], move |config| {
        config.heartbeat = Duration::from_millis(50);
        config.election_min = LEASE.saturating_sub(Duration::from_millis(500));
        config.election_max = LEASE;
        config.sabotage = sabotage;
    });
    field.begin().await;
    let leads = |id| {
        field
            .engine(id)
            .unwrap()
            .status(G)
            .is_some_and(|s| s.role == Role::Leader)
    };
    let mut leader = None;
    until("a leader", || {
        leader = (1..=3).find(|id| leads(*id));
        leader.is_some()
    })
    .await;
    let a = leader.unwrap();
    let (b, c) = (a % 3 + 1, (a + 1) % 3 + 1);
    let (engine_a, engine_c) = (field.engine(a).unwrap(), field.engine(c).unwrap());
    let first = engine_a
        .propose(G, record("first"), within(PATIENCE))
        .await
        .unwrap();
    engine_c
        .wait_applied(G, first.position, within(PATIENCE))
        .await
        .unwrap();
    engine_a.read_barrier(G, within(PATIENCE)).await.unwrap();

    field.net.cut(NodeId::new(a), NodeId::new(c));
    field.net.cut(NodeId::new(c), NodeId::new(a));
    // C's own promise to A must have run out; B keeps confirming A meanwhile.
    tokio::time::sleep(LEASE).await;
    field.power_cut(b).await;
    field.net.cut(NodeId::new(a), NodeId::new(b));
    field.net.cut(NodeId::new(b), NodeId::new(a));
    field.start(b).await;
    let second = acknowledged_by_others(&field, &[b, c]).await;
    let read = engine_a
        .read_barrier(G, within(Duration::from_millis(500)))
        .await;
    drop((engine_a, engine_c));
    field.end().await;
    read.is_ok_and(|position| position < second)
}

/// Has these nodes elect one of them and acknowledge a record.
async fn acknowledged_by_others(field: &Field, others: &[u64]) -> Position {
    let deadline = within(PATIENCE);
    loop {
        for id in others {
            let engine = field.engine(*id).unwrap();
            // Refused while it is silent, or while it keeps its own promise.
            let _ = engine.trigger_election(G).await;
            let proposed = engine.propose(G, record("second"), within(Duration::from_secs(1)));
            if let Ok(applied) = proposed.await {
                return applied.position;
            }
        }
        assert!(
            std::time::Instant::now() < deadline,
            "nobody else ever leads"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restarted_voter_does_not_break_the_lease_it_promised() {
    assert!(!stale_read_happens(None).await);
}

/// The test above proves itself: without the silence the stale read happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_silence_a_read_is_stale() {
    for _ in 0..3 {
        if stale_read_happens(Some(Sabotage::NoVoteSilence)).await {
            return;
        }
    }
    panic!("three tries without silence gave no stale read");
}
