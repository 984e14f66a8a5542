//! Whose wall clock is believed, and who may lead a group by it. Decisions of `shell/clock_watch`, which asks
//! the others for their time and keeps what this needs; the simulation asks [`may_lead`].
//!
//! A leader's clock stamps a group's records, and the later of two conflicting writes wins: so a node whose wall clock
//! is far from those of most voters does not lead, and readings do not follow a clock that has jumped before
//! somebody has confirmed it ([`belief`]).
//!
//! ```text
//!            starts, or jumps beyond the bound
//! Followed ───────────────────────────────────▶ Doubted ── MAX_DOUBT ─▶ SetAside
//!    ▲  most of those who answer are near          │                       │
//!    └───────── nobody has answered for MAX_SILENCE, or nobody could ◀─────┘
//! ```
//! Doubt costs leaders, so it ends by itself: a group whose members all are in doubt, as when their hosts resume
//! from a suspend and can't reach one another yet, has one again after [`MAX_DOUBT`] at the latest. And it takes
//! leadership from nobody: readings go on from where the clock stood, so a leader in doubt does no harm.
//!
//! By what each node sees, somebody of the voters that it hears may lead ([`unfit`]).

use std::collections::BTreeSet;
use std::time::Duration;

use maia_common::ids::NodeId;

/// For so long a node campaigns for nothing since its clock has started, or jumped, and is not confirmed.
/// Those that live answer within a second or two; a group without leader can't wait for the others.
pub const MAX_DOUBT: Duration = Duration::from_secs(10);

/// For so long a jump is not followed that nobody answers for. Much longer than a doubt: it keeps nobody from
/// leading, and who has a quorum and yet hears nobody's time may be wrong (by a clock that is days off no
/// certificate is valid, so that no new connection can be made while old ones go on).
pub const MAX_SILENCE: Duration = Duration::from_secs(300);

/// What is known of this node's wall clock after a look at the others'.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// How far it has moved against a clock that nobody sets since it was last followed, in milliseconds; none:
    /// it was never.
    pub step_ms: Option<i64>,
    /// Of those who have answered now: their clock minus this one, in milliseconds.
    pub heard_ms: &'a [i64],
    /// Whether no group of this node has another voter: nobody could say anything else.
    pub is_alone: bool,
    /// For how long it has not been followed.
    pub doubted_for: Duration,
    /// For how long of that nobody has answered.
    pub silent_for: Duration,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Readings follow it.
    Followed,
    /// They do not, and this node begins to lead nothing.
    Doubted,
    /// They do not; who may lead is a matter of the offsets alone.
    SetAside,
}

fn is_near(ms: i64, max_clock_offset: Duration) -> bool {
    u128::from(ms.unsigned_abs()) <= max_clock_offset.as_millis()
}

/// Whether this node's wall clock is believed.
#[must_use]
pub fn belief(look: Look<'_>, max_clock_offset: Duration) -> Belief {
    let near = |ms: &&i64| is_near(**ms, max_clock_offset);
    // Within the bound clocks are kept right all the time.
    let is_small = look.step_ms.as_ref().is_some_and(|ms| near(&ms));
    let confirm = look.heard_ms.iter().filter(near).count();
    let is_confirmed = confirm * 2 > look.heard_ms.len();
    let is_silent = look.heard_ms.is_empty() && look.silent_for >= MAX_SILENCE;
    if is_small || is_confirmed || is_silent || look.is_alone {
        Belief::Followed
    } else if look.doubted_for < MAX_DOUBT {
        Belief::Doubted
    } else {
        Belief::SetAside
    }
}

/// Whether a wall clock has been set between two looks, by how far it moved against one that nobody sets:
/// what was measured before is void.
#[must_use]
pub fn has_jumped(step_ms: i64, max_clock_offset: Duration) -> bool {
    !is_near(step_ms, max_clock_offset)
}

/// Whether a node may lead a group with so many voters, by how far their wall clocks are from its own (theirs
/// minus its own, in milliseconds), as far as they were heard lately: unless more than half of them are far. Those
/// that were not heard count as near: nodes that went by what was heard long ago would wait for one another for
/// ever.
#[must_use]
pub fn may_lead(offsets_ms: &[i64], voters: usize, max_clock_offset: Duration) -> bool {
    let far = offsets_ms
        .iter()
        .filter(|ms| !is_near(**ms, max_clock_offset));
    far.count() * 2 <= voters
}

/// Who of a group's voters shall not lead it, by the clocks that are known (a node's minus any one, in
/// milliseconds). Not all of them: if none that can lead may, the one with the median clock may, of those as near
/// to it the one with the lowest id. The witness has a clock, and never leads.
#[must_use]
pub fn unfit(
    voters: usize,
    witness: Option<NodeId>,
    clocks_ms: &[(NodeId, i64)],
    max_clock_offset: Duration,
) -> BTreeSet<NodeId> {
    let is_unfit = |of: i64| {
        let offsets: Vec<i64> = clocks_ms
            .iter()
            .map(|(_, ms)| ms.saturating_sub(of))
            .collect();
        !may_lead(&offsets, voters, max_clock_offset)
    };
    let mut unfit: BTreeSet<NodeId> = clocks_ms
        .iter()
        .filter(|(_, ms)| is_unfit(*ms))
        .map(|(node, _)| *node)
        .collect();
    let mut can_lead = clocks_ms.iter().filter(|(node, _)| Some(*node) != witness);
    if can_lead.clone().all(|(node, _)| unfit.contains(node)) {
        let mut sorted: Vec<i64> = clocks_ms.iter().map(|(_, ms)| *ms).collect();
        sorted.sort_unstable();
        let median = sorted
            .get(sorted.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or_default();
        let nearest = can_lead.by_ref();
        let nearest = nearest.min_by_key(|(node, ms)| (ms.abs_diff(median), *node));
        if let Some((node, _)) = nearest {
            unfit.remove(node);
        }
    }
    unfit
}

/// How far another wall clock is ahead of this one at least, in milliseconds (behind: below zero): it
/// said `their_ms` when it was asked at `own_ms`, and the answer took so long. Both in milliseconds since 1970.
/// What the way may account for is taken off.
#[must_use]
pub fn offset_ms(own_ms: u64, took: Duration, their_ms: u64) -> i64 {
    let limit = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let apart = limit(their_ms).saturating_sub(limit(own_ms));
    // It was read some time on the way: never earlier than asked, never later than answered.
    let took = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    if apart < 0 {
        apart
    } else {
        apart.saturating_sub(took).max(0)
    }
}

#[cfg(test)]
#[path = "clocks_test.rs"]
mod tests;
