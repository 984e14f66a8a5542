//! A leader that nobody hears any more answers early while its lease lives, what it has flushed, and
//! nothing else; what it answered is known in quarantine (I3).

use std::time::Duration;

use maia_common::{GroupId, NodeId};

use super::super::propose::within;
use super::super::*;
use super::field::{Field, NODES};
use super::harness::*;
use super::quarantine::{data, entries, leader};
use crate::core::acks::{self, EarlyFacts};
use crate::core::quarantine::Acknowledged;
use crate::core::record::{Record, RecordFields, RecordKind};

const G: GroupId = GroupId::new(3);
/// Long enough for all that the tests do within its first 0.8.
const LEASE: Duration = Duration::from_secs(5);
/// What is not answered by then is not answered early.
const MOMENT: Duration = Duration::from_millis(300);

/// Proposes by the real rule, for a tenant that is open.
async fn propose(engine: &Engine, record: &Record, patience: Duration) -> Option<Settled> {
    let rule = |facts| {
        let facts = EarlyFacts {
            is_tenant_open: true,
            has_room_aside: true,
            ..facts
        };
        acks::may_answer_early(record, facts)
    };
    let rule: Option<EarlyRule<'_>> = Some(&rule);
    let settled = engine.propose_early(G, record.clone(), within(patience), rule);
    settled.await.ok()
}

fn is_early(settled: Option<Settled>, on: u64) -> bool {
    let alone = [NodeId::new(on)];
    matches!(settled, Some(Settled::Early { durable_on, .. }) if durable_on == alone)
}

/// Three nodes, of which the leader is cut off.
async fn cut_off() -> (Field, u64, Vec<u64>) {
    let field = Field::new(11, &[G], |config| {
        config.heartbeat = Duration::from_millis(50);
        config.election_min = LEASE.saturating_sub(Duration::from_millis(500));
        config.election_max = LEASE;
    });
    field.begin().await;
    let old = leader(&field, &NODES).await;
    let engine = field.engine(old).unwrap();
    let first = engine.propose(G, data("committed"), within(PATIENCE));
    first.await.unwrap();
    let others: Vec<u64> = NODES.into_iter().filter(|id| *id != old).collect();
    for other in &others {
        field.net.cut(NodeId::new(old), NodeId::new(*other));
        field.net.cut(NodeId::new(*other), NodeId::new(old));
    }
    (field, old, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_early_is_kept_as_such() {
    let (field, old, others) = cut_off().await;
    let engine = field.engine(old).unwrap();
    let early = propose(&engine, &data("early"), PATIENCE).await;
    assert!(is_early(early.clone(), old), "{early:?}");
    let spent = LEASE.mul_f64(0.8).as_millis();
    until("the lease has come to its last fifth", || {
        let status = engine.status(G).unwrap();
        status
            .millis_since_quorum_ack
            .is_none_or(|ms| u128::from(ms) >= spent)
    })
    .await;
    let late = propose(&engine, &data("late"), MOMENT).await;
    assert_eq!(late, None, "nobody knows who leads by now");

    drop(engine);
    let kept = cut_off_by(&field, old, &others).await;
    assert_eq!(kept, Some(Acknowledged::Yes));
    field.end().await;
}

/// What was noted in memory is gone: then all that might have been answered counts as answered.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_power_cut_counts_as_perhaps_answered() {
    let (field, old, others) = cut_off().await;
    let engine = field.engine(old).unwrap();
    let early = propose(&engine, &data("early"), PATIENCE).await;
    assert!(is_early(early.clone(), old), "{early:?}");
    drop(engine);
    field.power_cut(old).await;
    field.start(old).await;
    let kept = cut_off_by(&field, old, &others).await;
    assert_eq!(kept, Some(Acknowledged::Perhaps));
    field.end().await;
}

/// The others go on under a new leader, and the old one joins them; returns as what it keeps the record
/// that it had answered early.
async fn cut_off_by(field: &Field, old: u64, others: &[u64]) -> Option<Acknowledged> {
    let new = leader(field, others).await;
    let went_on = field.engine(new).unwrap();
    let went_on = went_on.propose(G, data("went on"), within(PATIENCE));
    let last = went_on.await.unwrap().position;
    field.net.heal();
    let engine = field.engine(old).unwrap();
    let applied = engine.wait_applied(G, last, within(PATIENCE));
    applied.await.unwrap();
    let kept = entries(&engine.quarantine());
    let kept = kept.iter().find(|entry| entry.record == data("early"));
    kept.map(|entry| entry.acknowledged)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_its_flush_or_behind_a_control_record() {
    let (field, old, _) = cut_off().await;
    let engine = field.engine(old).unwrap();
    engine.flusher.stall(true);
    let unflushed = propose(&engine, &data("unflushed"), MOMENT).await;
    engine.flusher.stall(false);
    assert_eq!(unflushed, None);
    assert!(is_early(
        propose(&engine, &data("flushed"), PATIENCE).await,
        old
    ));
    let with = |change: fn(&mut RecordFields)| {
        let mut fields = (*data("x")).clone();
        change(&mut fields);
        Record::new(fields)
    };
    let semi_sync = with(|fields| fields.sync_mode = None);
    assert_eq!(propose(&engine, &semi_sync, MOMENT).await, None);
    let purge = with(|fields| fields.kind = RecordKind::Purge);
    assert_eq!(propose(&engine, &purge, MOMENT).await, None);
    let behind = propose(&engine, &data("behind"), MOMENT).await;
    assert_eq!(behind, None, "the purge may end the tenant");
    drop(engine);
    field.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hands_over_answers_nothing_early() {
    let (field, old, _) = cut_off().await;
    let engine = field.engine(old).unwrap();
    let group = engine.groups.running(G).unwrap();
    group.transferring.begin(group.status().term);
    assert_eq!(propose(&engine, &data("late"), MOMENT).await, None);
    drop((engine, group));
    field.end().await;
}
