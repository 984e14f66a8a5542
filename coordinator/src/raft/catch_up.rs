//! Holds back what is sent to a follower that catches up, while clients wait for writes; the rule is
//! `core/pace`. Asked by the way to the follower (`transport/network`) before each message with
//! records; told of writes by `propose`.
//!
//! A message waits here for milliseconds where its group is written to; where only others are, for its
//! share of `CATCH_UP_BYTES_PER_SECOND`, which may be seconds with many followers behind at once. openraft drops it
//! with its stream when the leader steps down. Heartbeats do not come this way.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use maia_common::limits::{CATCH_UP_LOOK, CATCH_UP_RECORDS};
use maia_common::{Index, NodeId};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::raft::AppendEntriesResponse;
use openraft::{EntryPayload, Instant as _};

use super::counters::Counters;
use super::log::store::SharedTail;
use super::types::{RaftEntry, TypeConfig, next_index};
use super::witness::Leash;
use crate::core::pace::{self, Facts, Member, Pace};

/// What clients and catch-ups do at this node, over all groups.
pub(crate) struct Load {
    started: Instant,
    /// Client writes under way.
    writes: AtomicU64,
    /// When the last one ended, in microseconds since the start.
    ended_us: AtomicU64,
    /// Messages that are held back, and their bytes.
    held: AtomicU64,
    held_bytes: AtomicU64,
    counters: Arc<Counters>,
}

/// One of a number; takes itself off again.
pub(crate) struct Counted<'a> {
    count: &'a AtomicU64,
    amount: u64,
    /// Whose writes it is one of, if it is one.
    ended: Option<&'a Load>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(load) = self.ended {
            // Before it is taken off: who finds no write must not find an old end.
            let now_us = u64::try_from(load.started.elapsed().as_micros());
            load.ended_us
                .fetch_max(now_us.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.count.fetch_sub(self.amount, Ordering::Release);
    }
}

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64, amount: u64, ended: Option<&'a Load>) -> Self {
        count.fetch_add(amount, Ordering::Relaxed);
        Self {
            count,
            amount,
            ended,
        }
    }
}

impl Load {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self {
            started: Instant::now(),
            writes: AtomicU64::new(0),
            ended_us: AtomicU64::new(0),
            held: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            counters,
        }
    }

    /// A client waits for a write for as long as this is held.
    pub(crate) fn write(&self) -> Counted<'_> {
        Counted::new(&self.writes, 1, Some(self))
    }

    fn quiet(&self, now: Duration) -> Option<Duration> {
        let is_quiet = self.writes.load(Ordering::Acquire) == 0;
        let ended = Duration::from_micros(self.ended_us.load(Ordering::Relaxed));
        is_quiet.then(|| now.saturating_sub(ended))
    }
}

/// What the ways to one group's followers share.
pub(crate) struct CatchUp {
    load: Arc<Load>,
    node: NodeId,
    /// Of the group's witness, if it has one.
    leash: Option<Arc<Leash>>,
    tail: SharedTail,
    /// One that has not answered for so long is not level.
    patience: Duration,
    /// Writes that are committed and wait for more copies.
    wanting: AtomicU64,
    /// Of the instance, once it is there; nothing is held back before.
    metrics: OnceLock<WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>>,
}

impl CatchUp {
    pub(crate) fn new(
        load: &Arc<Load>,
        node: NodeId,
        leash: Option<Arc<Leash>>,
        tail: SharedTail,
        patience: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            load: Arc::clone(load),
            node,
            leash,
            tail,
            patience,
            wanting: AtomicU64::new(0),
            metrics: OnceLock::new(),
        })
    }

    /// From now on knows the group by this.
    pub(crate) fn see(&self, metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>) {
        // An instance has one: a second one would be the same.
        let _ = self.metrics.set(metrics);
    }

    /// A committed write waits for more copies for as long as this is held: nothing is held back.
    pub(crate) fn wanting(&self) -> Counted<'_> {
        Counted::new(&self.wanting, 1, None)
    }

    /// Waits until the message may go to this follower. What of it was taken is to be charged then.
    pub(crate) async fn turn(&self, to: NodeId, pace: &mut Pace, freight: &Freight) {
        if freight.count == 0 {
            return;
        }
        let _held = Counted::new(&self.load.held, 1, None);
        let _bytes = Counted::new(&self.load.held_bytes, freight.bytes, None);
        while !self
            .facts(to, freight.first)
            .is_none_or(|facts| pace.may_send(&facts))
        {
            let began = Instant::now();
            tokio::time::sleep(CATCH_UP_LOOK).await;
            self.load.counters.held_back(began.elapsed());
        }
    }

    /// What is so now; none: not known.
    fn facts(&self, to: NodeId, first: u64) -> Option<Facts> {
        let now = self.load.started.elapsed();
        let (written, next) = {
            let tail = self.tail.lock();
            (tail.weight, next_index(tail.last.as_ref()))
        };
        let metrics = self.metrics.get()?.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.local_committed);
        let lacks = next.saturating_sub(first);
        // What decides nothing for one in step is not looked for.
        let is_needed = pace::is_behind(lacks)
            && (self.wanting.load(Ordering::Relaxed) > 0
                || self.is_one_copy()
                || self.is_needed(to, next, &metrics));
        Some(Facts {
            now,
            lacks,
            written,
            committed: committed.map(|id| Index::new(id.index())),
            is_all_committed: next_index(committed.as_ref()) >= next,
            quiet: self.load.quiet(now),
            sharers: self.load.held.load(Ordering::Relaxed),
            held_bytes: self.load.held_bytes.load(Ordering::Relaxed),
            answers: self.answers(to.get(), &metrics),
            is_needed,
        })
    }

    /// Whether records may stand on this node and the witness alone: the next copy is needed, whoever
    /// seems level.
    fn is_one_copy(&self) -> bool {
        self.leash.as_ref().is_some_and(|leash| leash.is_free())
    }

    fn answers(&self, node: u64, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let answered = metrics.heartbeat.as_ref().and_then(|at| *at.get(&node)?);
        answered.is_some_and(|at| at.elapsed() < self.patience)
    }

    fn is_needed(&self, to: NodeId, next: u64, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let members = &metrics.membership_config;
        let voters: Vec<BTreeSet<NodeId>> = members
            .get_joint_config()
            .iter()
            .map(|nodes| nodes.iter().copied().map(NodeId::new).collect())
            .collect();
        let witness = self.leash.as_ref().map(|leash| leash.witness());
        let others = metrics.replication.iter().flatten().map(|(node, matched)| {
            let lacks = next.saturating_sub(next_index(matched.as_ref()));
            Member {
                node: NodeId::new(*node),
                is_level: self.answers(*node, metrics) && lacks <= CATCH_UP_RECORDS,
                holds_data: witness != Some(NodeId::new(*node)),
            }
        });
        let others = others.filter(|other| other.node != self.node);
        let others: Vec<Member> = others.collect();
        pace::is_needed(to, self.node, &voters, &others)
    }
}

/// What a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freight {
    first: u64,
    count: u64,
    /// Of its records, at this node.
    bytes: u64,
    /// What it counts for once it is taken.
    weight: u64,
}

impl Freight {
    /// Of a message with these entries; to a witness without their payloads.
    pub(crate) fn of(entries: &[RaftEntry], to_witness: bool) -> Self {
        let counted = |entry: &RaftEntry| pace::weight(if to_witness { 0 } else { size_of(entry) });
        Self {
            first: entries.first().map_or(0, |entry| entry.log_id.index()),
            count: entries.len() as u64,
            bytes: entries.iter().map(|entry| size_of(entry) as u64).sum(),
            weight: entries.iter().map(counted).sum(),
        }
    }

    /// Charges what the answer says was taken. Without an answer nothing was, as far as anybody knows.
    pub(crate) fn charge(&self, pace: &mut Pace, answer: &AppendEntriesResponse<TypeConfig>) {
        let taken = match answer {
            AppendEntriesResponse::Success => self.count,
            AppendEntriesResponse::PartialSuccess(upto) => {
                let taken = next_index(upto.as_ref()).saturating_sub(self.first);
                taken.min(self.count)
            }
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => 0,
        };
        let of_all = self.weight.saturating_mul(taken);
        if let Some(weight) = of_all.checked_div(self.count) {
            pace.sent(weight);
        }
    }
}

/// What the entry counts for, written or sent.
pub(crate) fn weight_of(entry: &RaftEntry) -> u64 {
    pace::weight(size_of(entry))
}

fn size_of(entry: &RaftEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(record) => record.body.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::super::types::log_id;
    use super::*;
    use crate::core::record::{Hlc, Record};

    #[test]
    fn it_is_quiet_from_the_last_write_on() {
        let load = Load::new(Arc::default());
        let (first, second) = (load.write(), load.write());
        drop(first);
        assert_eq!(load.quiet(load.started.elapsed()), None, "one waits");
        let before = load.started.elapsed();
        drop(second);
        let after = load.started.elapsed();
        let quiet = load.quiet(after + Duration::from_secs(1));
        let quiet = quiet.expect("nobody waits");
        let least = Duration::from_secs(1);
        let most = least + after.saturating_sub(before) + Duration::from_millis(1);
        assert!((least..=most).contains(&quiet), "{quiet:?}");
    }

    #[test]
    fn what_is_taken_is_charged_and_nothing_else() {
        let entries: Vec<RaftEntry> = (5..9)
            .map(|index| {
                let record = Record::meta(Hlc::new(1, 0), vec![7; 1000].into());
                RaftEntry::new(log_id(1, index), EntryPayload::Normal(record))
            })
            .collect();
        let each = pace::weight(1000);
        let owed = |to_witness, answer| {
            let mut pace = Pace::default();
            pace.sent(77);
            Freight::of(&entries, to_witness).charge(&mut pace, &answer);
            pace.owed()
        };
        let upto = |index| AppendEntriesResponse::PartialSuccess(Some(log_id(1, index)));
        assert_eq!(owed(false, AppendEntriesResponse::Success), 4 * each);
        assert_eq!(owed(false, upto(6)), 2 * each);
        assert_eq!(owed(false, upto(4)), 0, "none granted");
        assert_eq!(owed(false, AppendEntriesResponse::Conflict), 0);
        let bare = pace::weight(0);
        assert_eq!(owed(true, AppendEntriesResponse::Success), 4 * bare);
        let mut pace = Pace::default();
        pace.sent(77);
        Freight::of(&[], false).charge(&mut pace, &AppendEntriesResponse::Success);
        assert_eq!(pace.owed(), 77, "a message without records");
    }
}
