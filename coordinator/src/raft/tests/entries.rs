//! Entries for those who follow a group, while logs are kept short and snapshots installed.

use maia_common::{GroupId, Index, Position, Term};

use super::super::keys::{TRACE_MARK, group_key, index_of_trace_key};
use super::super::*;
use super::harness::*;
use crate::core::retention::Retention;

const G: GroupId = GroupId::new(1);
const MANY: usize = 10_000;

/// All entries after a position, in small pages.
async fn read_all(engine: &Engine, mut after: Option<Position>) -> Vec<AppliedEntry> {
    let mut all = Vec::new();
    loop {
        let stretch = engine.entries(G, after, 300_000, 7).await.unwrap();
        after = stretch.upto;
        all.extend(stretch.entries);
        if !stretch.more {
            return all;
        }
    }
}

fn indexes(entries: &[AppliedEntry]) -> Vec<u64> {
    entries.iter().map(|e| e.position.index.get()).collect()
}

/// Asks after a position that is gone; the oldest one to go on from.
async fn oldest_after(engine: &Engine, gone: Position) -> Position {
    match engine.entries(G, Some(gone), usize::MAX, MANY).await {
        Err(EntriesError::NotRetained { from }) => from,
        other => panic!("{other:?}"),
    }
}

/// All from a position to what is applied is there, each with its trace.
async fn nothing_is_missing(engine: &Engine, from: Position) {
    let kept = read_all(engine, Some(from)).await;
    let (applied, oldest) = engine.applied_and_oldest(G).unwrap();
    assert_eq!(oldest, Some(from));
    let expected: Vec<u64> = (from.index.get() + 1..=applied.unwrap().index.get()).collect();
    assert_eq!(indexes(&kept), expected);
    let records = kept.iter().filter(|entry| entry.record.is_some());
    assert!(records.clone().count() > 0);
    assert!(records.clone().all(|entry| entry.trace.is_some()));
    let prefix = group_key(G, TRACE_MARK);
    let traces = engine.state();
    let traces = traces.scan(StateCf::Marks, &prefix, None, MANY).unwrap();
    let mut left = traces.iter().filter_map(|(key, _)| index_of_trace_key(key));
    assert!(
        left.all(|index| index > from.index.get()),
        "traces leave with their entries"
    );
}

async fn positions_are_judged(engine: &Engine, from: Position, end: Position) {
    let ask = |term: u64, index: u64| {
        let position = Position::new(Term::new(term), Index::new(index));
        async move {
            let asked = engine.entries(G, Some(position), usize::MAX, MANY).await;
            asked.map(|stretch| stretch.entries.len())
        }
    };
    let (term, index) = (end.term.get(), end.index.get());
    assert_eq!(ask(term, index).await, Ok(0));
    assert_eq!(ask(term + 1, index).await, Err(EntriesError::Diverged));
    let oldest = from.index.get();
    assert_eq!(ask(term + 1, oldest).await, Err(EntriesError::Diverged));
    assert_eq!(ask(0, index + 5).await, Err(EntriesError::Diverged));
    assert_eq!(ask(term, index + 5).await, Err(EntriesError::NotYet));
}

async fn three_with_short_logs() -> Cluster {
    Cluster::three(G, |config| {
        config.retention = Some(Retention {
            bytes: 2 << 20,
            age_ms: u64::MAX,
        });
        config.tail_bytes = 0;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_have_no_gap_and_what_is_gone_is_said_to_be() {
    let mut cluster = three_with_short_logs().await;
    let first = cluster.propose(G, "trace me").await.position;
    cluster.applied_everywhere(G, first).await;
    let leader = cluster.leader(G).await;
    let all = read_all(&cluster.up[&leader].engine, None).await;
    assert_eq!(indexes(&all), (0..=first.index.get()).collect::<Vec<_>>());
    let trace = all.last().and_then(|entry| entry.trace.as_deref());
    assert_eq!(trace, Some(&b"trace me"[..]));
    assert!(all.iter().rev().skip(1).all(|entry| entry.trace.is_none()));

    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(away).await;
    let large = "x".repeat(200_000);
    for i in 0..40 {
        cluster.propose(G, &format!("trace {i} {large}")).await;
    }
    let leader = cluster.leader(G).await;
    let engine = &cluster.up[&leader].engine;
    until("the leader keeps its log short", || {
        engine.log_size_bytes(G) <= 2 << 20
    })
    .await;
    let from = oldest_after(engine, first).await;
    nothing_is_missing(engine, from).await;

    cluster.start(away).await;
    cluster.up[&away].engine.start_group(G).await.unwrap();
    let end = cluster.propose(G, "trace the end").await.position;
    cluster.applied_everywhere(G, end).await;
    let node = &cluster.up[&away];
    assert_eq!(*node.keeper.installs.lock().unwrap(), [G], "a snapshot");
    let from = oldest_after(&node.engine, first).await;
    nothing_is_missing(&node.engine, from).await;
    positions_are_judged(&node.engine, from, end).await;
}
