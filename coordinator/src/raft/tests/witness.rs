//! Two copies and a witness: who dies, who goes on, who waits; and no payload on the witness's disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::{GroupId, NodeId, Position};
use openraft::EntryPayload;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest};

use super::super::config::Sabotage;
use super::super::propose::within;
use super::super::transport::inbound::InboundError;
use super::super::types::{RaftEntry, RaftVote, log_id, position_of};
use super::super::*;
use super::faults::Weather;
use super::field::Field;
use super::harness::*;
use crate::core::record::{Hlc, Record};

const G: GroupId = GroupId::new(4);
const WITNESS: u64 = 3;
const SETUP: GroupSetup = GroupSetup {
    group: G,
    witness: Some(NodeId::new(WITNESS)),
};

fn field(sabotage: Option<Sabotage>) -> Field {
    Field::new(5, &[SETUP], move |config| {
        config.replica_timeout = Duration::from_millis(600);
        config.sabotage = sabotage;
    })
}

fn leads(field: &Field, id: u64) -> bool {
    let status = field.engine(id).and_then(|engine| engine.status(G));
    status.is_some_and(|status| status.role == Role::Leader)
}

/// The leader and the other one with data.
async fn leader(field: &Field) -> (u64, u64) {
    let mut leader = None;
    until("a leader", || {
        leader = (1..=3).find(|id| leads(field, *id));
        leader.is_some()
    })
    .await;
    let leader = leader.unwrap();
    assert_ne!(leader, WITNESS);
    (leader, 3 - leader)
}

/// Proposes at whoever leads until it is acknowledged.
async fn acknowledged(field: &Field, body: &str) -> Applied {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no proposal goes through");
        for engine in field.engines() {
            let proposed = engine.propose(G, record(body), within(Duration::from_secs(2)));
            if let Ok(applied) = proposed.await {
                return applied;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_free(field: &Field, id: u64) -> bool {
    let status = field.engine(id).and_then(|engine| engine.status(G));
    status.is_some_and(|status| status.role == Role::Leader && status.is_witness_free)
}

async fn is_applied(field: &Field, id: u64, position: Position) {
    let engine = field.engine(id).unwrap();
    let applied = engine.wait_applied(G, position, within(PATIENCE)).await;
    applied.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_follower_wins_with_the_witness_and_nothing_is_lost() {
    let field = field(None);
    field.begin().await;
    let mut bodies_acked = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            let body = format!("{round} {number}");
            let applied = acknowledged(&field, &body).await;
            let witness = NodeId::new(WITNESS);
            assert!(!applied.durable_on.contains(&witness), "{applied:?}");
            bodies_acked.push(body);
        }
        let (dead, next) = leader(&field).await;
        field.power_cut(dead).await;
        // The new leader takes writes once it has waited for the dead one.
        let body = format!("{round} after");
        let applied = acknowledged(&field, &body).await;
        assert_eq!(applied.durable_on, [NodeId::new(next)]);
        bodies_acked.push(body);
        assert!(is_free(&field, next));
        field.start(dead).await;
        is_applied(&field, dead, applied.position).await;
        until("the witness follows again", || !is_free(&field, next)).await;
    }
    for id in [1, 2] {
        assert_eq!(bodies(&field.engine(id).unwrap(), G), bodies_acked);
    }
    assert_eq!(bodies(&field.engine(WITNESS).unwrap(), G).len(), 0);
    field.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_without_its_witness_goes_on_and_one_without_its_follower_after_a_while() {
    let field = field(None);
    field.begin().await;
    acknowledged(&field, "all").await;
    let (at, other) = leader(&field).await;
    field.power_cut(WITNESS).await;
    let applied = acknowledged(&field, "without the witness").await;
    assert_eq!(applied.durable_on.len(), 2);
    assert!(!is_free(&field, at), "the follower answers");
    field.start(WITNESS).await;
    field.power_cut(other).await;
    let applied = acknowledged(&field, "without the follower").await;
    assert_eq!(applied.durable_on, [NodeId::new(at)]);
    assert!(is_free(&field, at));
    field.start(other).await;
    is_applied(&field, other, applied.position).await;
    until("it follows again", || !is_free(&field, at)).await;
    field.end().await;
}

/// What stands on the leader and the witness alone is not given up: the follower can't win, and the
/// group waits for the leader's disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_group_waits_for_a_leader_that_dies_while_its_witness_runs_free() {
    let field = field(None);
    field.begin().await;
    acknowledged(&field, "both").await;
    let (at, away) = leader(&field).await;
    field.power_cut(away).await;
    acknowledged(&field, "one copy").await;
    field.power_cut(at).await;
    field.start(away).await;
    let engine = field.engine(away).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(!leads(&field, away), "it lacks what was acknowledged");
        let _ = engine.trigger_election(G).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(engine);
    field.start(at).await;
    let last = acknowledged(&field, "again").await;
    for id in [1, 2] {
        is_applied(&field, id, last.position).await;
        let all = bodies(&field.engine(id).unwrap(), G);
        assert_eq!(all, ["both", "one copy", "again"]);
    }
    field.end().await;
}

/// The witness never has what the leader's disk may lose: else a leader that comes back after a power
/// cut could not win, and there is nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_only_copy_comes_back_with_the_witness_alone() {
    let field = field(None);
    field.begin().await;
    acknowledged(&field, "first").await;
    let (at, away) = leader(&field).await;
    field.power_cut(away).await;
    let before = acknowledged(&field, "one copy").await.position;
    let engine = field.engine(at).unwrap();
    is_applied(&field, WITNESS, before).await;
    // Its disk hangs with a record in its memory alone, then the power goes.
    engine.flusher.stall(true);
    let proposing = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move {
            let proposed = engine.propose(G, record("lost"), within(Duration::from_secs(2)));
            proposed.await.is_err()
        }
    });
    until("it is in the leader's memory", || {
        last(&field, G, at) > Some(before)
    })
    .await;
    let (end, mut is_elsewhere) = (Instant::now() + Duration::from_millis(500), false);
    while Instant::now() < end {
        is_elsewhere |= last(&field, G, WITNESS) != Some(before);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.flusher.fail_next();
    engine.flusher.stall(false);
    assert!(!is_elsewhere, "the witness has what the leader may lose");
    drop(engine);
    assert!(proposing.await.unwrap());
    field.power_cut(at).await;
    field.start(at).await;
    acknowledged(&field, "again").await;
    assert!(is_free(&field, at));
    field.start(away).await;
    let last = acknowledged(&field, "all").await;
    is_applied(&field, away, last.position).await;
    for id in [at, away] {
        let all = bodies(&field.engine(id).unwrap(), G);
        assert_eq!(all, ["first", "one copy", "again", "all"]);
    }
    field.end().await;
}

/// The last record in the node's log of a group.
pub(super) fn last(field: &Field, group: GroupId, id: u64) -> Option<Position> {
    let engine = field.engine(id)?;
    let group = engine.groups.running(group)?;
    let metrics = group.raft.data_metrics();
    let last = metrics.borrow_watched().last_log;
    last.as_ref().map(position_of)
}

/// Writes over a bad network; returns whether the witness was ever ahead of the follower.
async fn gets_ahead(sabotage: Option<Sabotage>) -> bool {
    let field = Arc::new(field(sabotage));
    field.begin().await;
    acknowledged(&field, "first").await;
    let (at, other) = leader(&field).await;
    field.net.set_weather(Weather {
        lost: 0,
        doubled: 50,
        delay_max: Duration::from_millis(8),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (engine, stop) = (field.engine(at).unwrap(), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let body = format!("writer {writer}");
                let _ = engine.propose(G, record(&body), within(PATIENCE)).await;
            }
        }));
    }
    let (end, mut ahead, mut moved) = (Instant::now() + Duration::from_secs(2), false, 0);
    let mut before = None;
    while Instant::now() < end && !ahead {
        assert!(
            leads(&field, at) && !is_free(&field, at),
            "the follower answers"
        );
        // In this order: the follower may have grown between the two looks.
        let witness = last(&field, G, WITNESS);
        ahead = witness > last(&field, G, other);
        moved += u32::from(witness != before);
        before = witness;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(ahead || moved > 20, "the witness follows: {moved}");
    Arc::into_inner(field).unwrap().end().await;
    ahead
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_witness_is_never_ahead_of_a_follower_that_answers() {
    assert!(!gets_ahead(None).await);
}

/// The test above proves itself: off the leash the witness is found ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn off_the_leash_it_gets_ahead() {
    for _ in 0..3 {
        if gets_ahead(Some(Sabotage::WitnessAhead)).await {
            return;
        }
    }
    panic!("three tries off the leash did not get the witness ahead");
}

/// Whether these bytes stand anywhere in the folder's files.
fn stands_in(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return stands_in(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

/// By entries, by a snapshot, over restarts: the log, the state, the snapshots, the temporary files and
/// the quarantine of a witness have nothing of what a client wrote (I7).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_payload_is_on_the_witness() {
    const MARK: &str = "XqZ7-payload-of-a-tenant-93kd";
    let field = Field::new(6, &[SETUP], move |config| {
        config.replica_timeout = Duration::from_millis(600);
        config.snapshots = SnapshotRules {
            entries_since_last: 50,
            entries_to_keep: 5,
        };
        config.tail_bytes = 0;
    });
    field.begin().await;
    let write = |number: u32| {
        let body = format!("{MARK} {number}");
        let field = &field;
        async move { acknowledged(field, &body).await }
    };
    for number in 0..20 {
        write(number).await;
    }
    field.power_cut(WITNESS).await;
    let mut last = None;
    for number in 20..300 {
        last = Some(write(number).await.position);
    }
    let (at, _) = leader(&field).await;
    until("the leader has purged", || {
        let status = field.engine(at).unwrap().status(G).unwrap();
        status.purged.is_some_and(|p| p.index.get() > 200)
    })
    .await;
    field.start(WITNESS).await;
    is_applied(&field, WITNESS, last.unwrap()).await;
    let engine = field.engine(WITNESS).unwrap();
    engine.trigger_snapshot(G).await.unwrap();
    for number in 300..400 {
        last = Some(write(number).await.position);
    }
    is_applied(&field, WITNESS, last.unwrap()).await;
    let needle = MARK.as_bytes();
    assert!(
        stands_in(&field.dir_of(at), needle),
        "the search finds it where it is"
    );
    assert!(!stands_in(&field.dir_of(WITNESS), needle));
    let digest = engine.digest(G).await;
    assert!(digest.is_err(), "it has no state to compare");
    drop(engine);
    field.power_cut(WITNESS).await;
    field.start(WITNESS).await;
    is_applied(&field, WITNESS, write(400).await.position).await;
    assert!(!stands_in(&field.dir_of(WITNESS), needle));
    field.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_witness_refuses_what_it_may_not_have_or_do() {
    let field = field(None);
    field.begin().await;
    acknowledged(&field, "first").await;
    let (at, _) = leader(&field).await;
    let engine = field.engine(WITNESS).unwrap();
    let inbound = engine.inbound();
    let (from, to) = (NodeId::new(at), NodeId::new(WITNESS));
    let route = Route { group: G, from, to };
    let vote = RaftVote::new_committed(99, at);
    let body = Bytes::from_static(b"payload");
    let entry = RaftEntry {
        log_id: log_id(99, 99),
        payload: EntryPayload::Normal(Record::meta(Hlc::new(1, 0), body)),
    };
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: None,
        entries: vec![entry],
        leader_commit: None,
    };
    let refused = inbound.append(route, request).await.unwrap_err();
    assert!(matches!(refused, InboundError::Witness(_)), "{refused}");
    let refused = inbound.snapshot_file(route, 1).unwrap_err();
    assert!(matches!(refused, InboundError::Witness(_)), "{refused}");
    let request = TransferLeaderRequest::new(vote, WITNESS, None);
    let refused = inbound.transfer(route, request).await.unwrap_err();
    assert!(matches!(refused, InboundError::Witness(_)), "{refused}");
    let refused = engine.trigger_election(G).await.unwrap_err();
    assert!(matches!(refused, GroupError::Witness(_)), "{refused}");
    let refused = engine
        .initialize_group(G, nodes(&[1, 2, 3]))
        .await
        .unwrap_err();
    assert!(matches!(refused, GroupError::Witness(_)), "{refused}");
    let refused = field.engine(at).unwrap().transfer(G, to).await.unwrap_err();
    assert!(
        matches!(refused, GroupError::TransferTarget { .. }),
        "{refused}"
    );
    let status = engine.status(G).unwrap();
    assert!(!status.has_copy(to) && status.voters.contains(&to));
    drop((engine, inbound));
    field.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_does_not_take_over_does_not_end_the_writing() {
    let field = field(None);
    field.begin().await;
    acknowledged(&field, "first").await;
    let (at, _) = leader(&field).await;
    let to = if at == 1 { 2 } else { 1 };
    // The leader does not know of it, so it asks and openraft stops writing for the term.
    let target = field.engine(to).unwrap();
    assert!(target.set_unfit(G, nodes(&[to])));
    let asked = field.engine(at).unwrap();
    asked.transfer(G, NodeId::new(to)).await.unwrap();
    acknowledged(&field, "second").await;
    assert_eq!(leader(&field).await.0, at, "the other may not lead");
    drop((target, asked));
    field.end().await;
}
