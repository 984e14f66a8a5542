//! What health needs that no single look can tell: rates, and since when a follower is behind. One
//! loop samples the engine; readers take the newest sample.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use maia_common::ids::{GroupId, NodeId};

use crate::raft::{Engine, Role};

const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Rates are smoothed over about this many samples.
const SMOOTHING: f64 = 10.0;

/// One sample.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// Records appended here per second, smoothed.
    pub entries_per_s: f64,
    /// Bytes appended here per second, smoothed.
    pub bytes_per_s: f64,
    /// Followers of groups led here that have not caught up, and since when.
    pub behind_since: BTreeMap<(GroupId, NodeId), Instant>,
}

impl Vitals {
    /// How long the node has been behind in the group of which that is longest.
    #[must_use]
    pub fn lag(&self, node: NodeId, now: Instant) -> Duration {
        let since = self
            .behind_since
            .iter()
            .filter(|((_, n), _)| *n == node)
            .map(|(_, at)| *at);
        since
            .min()
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    fn next(&self, engine: &Engine, before: (u64, u64), after: (u64, u64), now: Instant) -> Self {
        let per_s = |old: f64, from: u64, to: u64| {
            let rate = to.saturating_sub(from) as f64 / SAMPLE_EVERY.as_secs_f64();
            old + (rate - old) / SMOOTHING
        };
        Self {
            entries_per_s: per_s(self.entries_per_s, before.0, after.0),
            bytes_per_s: per_s(self.bytes_per_s, before.1, after.1),
            behind_since: self.behind(engine, now),
        }
    }

    fn behind(&self, engine: &Engine, now: Instant) -> BTreeMap<(GroupId, NodeId), Instant> {
        let mut behind = BTreeMap::new();
        for group in engine.group_ids() {
            let Some(status) = engine.status(group).filter(|s| s.role == Role::Leader) else {
                continue;
            };
            for follower in status
                .followers
                .iter()
                .filter(|f| status.lag_entries(f) > 0)
            {
                let place = (group, follower.node);
                let since = self.behind_since.get(&place).copied().unwrap_or(now);
                behind.insert(place, since);
            }
        }
        behind
    }
}

/// Samples the engine until its task is stopped.
pub async fn sample(engine: Arc<Engine>, vitals: Arc<ArcSwap<Vitals>>) {
    let counted = |engine: &Engine| {
        let stats = engine.log_stats();
        (stats.appends, stats.bytes)
    };
    let mut before = counted(&engine);
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let after = counted(&engine);
        let next = vitals.load().next(&engine, before, after, Instant::now());
        vitals.store(Arc::new(next));
        before = after;
    }
}
