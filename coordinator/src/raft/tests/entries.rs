//! Entries for those who follow a group, while logs are kept short and snapshots installed.

use std::time::Duration;

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

#[tokio::test(flavor = "multi_thread")]
async fn entries_have_no_gap_and_what_is_gone_is_said_to_be() {
    let mut cluster = Cluster::three(G, |config| {
        config.retention = Some(Retention {
            bytes: 2 << 20,
            age_ms: u64::MAX,
        });
        config.tail_bytes = 0;
    })
    .await;
    let first = cluster.propose(G, "trace me").await.position;
    cluster.applied_everywhere(G, first).await;
    let leader = cluster.leader(G).await;
    let engine = &cluster.up[&leader].engine;
    let all = read_all(engine, None).await;
    assert_eq!(indexes(&all), (0..=first.index.get()).collect::<Vec<_>>());
    let last = all.last().unwrap();
    assert_eq!(last.trace.as_deref(), Some(&b"trace me"[..]));
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
        engine.log_size_bytes(G) <= 3 << 20
    })
    .await;
    let lost = engine
        .entries(G, Some(first), usize::MAX, MANY)
        .await
        .unwrap_err();
    let EntriesError::NotRetained { from } = lost else {
        panic!("{lost}")
    };
    let kept = read_all(engine, Some(from)).await;
    let (applied, oldest) = engine.applied_and_oldest(G).unwrap();
    assert_eq!(oldest, Some(from));
    let expected: Vec<u64> = (from.index.get() + 1..=applied.unwrap().index.get()).collect();
    assert_eq!(indexes(&kept), expected);
    assert!(
        kept.iter()
            .filter(|e| e.record.is_some())
            .all(|e| e.trace.is_some())
    );
    let prefix = group_key(G, TRACE_MARK);
    let traces = engine
        .state()
        .scan(StateCf::Marks, &prefix, None, MANY)
        .unwrap();
    let mut left = traces.iter().filter_map(|(key, _)| index_of_trace_key(key));
    assert!(
        left.all(|index| index > from.index.get()),
        "traces leave with their entries"
    );

    cluster.start(away).await;
    cluster.up[&away].engine.start_group(G).await.unwrap();
    let end = cluster.propose(G, "trace the end").await.position;
    cluster.applied_everywhere(G, end).await;
    let node = &cluster.up[&away];
    assert_eq!(
        *node.keeper.installs.lock().unwrap(),
        [G],
        "it got a snapshot"
    );
    let lost = node
        .engine
        .entries(G, Some(first), usize::MAX, MANY)
        .await
        .unwrap_err();
    let EntriesError::NotRetained { from } = lost else {
        panic!("{lost}")
    };
    let kept = read_all(&node.engine, Some(from)).await;
    let expected: Vec<u64> = (from.index.get() + 1..=end.index.get()).collect();
    assert_eq!(indexes(&kept), expected);

    let ask = |term: u64, index: u64| {
        let position = Position::new(Term::new(term), Index::new(index));
        node.engine.entries(G, Some(position), usize::MAX, MANY)
    };
    let (term, index) = (end.term.get(), end.index.get());
    let error = |asked: Result<Stretch, EntriesError>| asked.unwrap_err();
    assert_eq!(error(ask(term + 1, index).await), EntriesError::Diverged);
    assert_eq!(
        error(ask(term + 1, from.index.get()).await),
        EntriesError::Diverged
    );
    assert_eq!(
        error(ask(term - 1, index + 5).await),
        EntriesError::Diverged
    );
    assert_eq!(error(ask(term, index + 5).await), EntriesError::NotYet);
    tokio::time::timeout(Duration::from_secs(5), ask(term, index))
        .await
        .unwrap()
        .unwrap();
}
