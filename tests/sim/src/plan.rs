//! What a run is made of: its seed, its members, how long it lasts, and the bug that is planted in
//! it, if any. Also the times of the simulated cluster, those of the preset `lan`.

use std::time::Duration;

use maia_common::ids::{GroupId, RegionName, TenantId};
use maia_common::placement::{ConflictStrategy, ShortagePolicy, SyncMode};
use maia_coordinator::core::acks::AckRule;

/// A moment or a stretch of simulated time, in microseconds.
pub type Micros = u64;

pub const MS: Micros = 1000;
pub const HEARTBEAT: Micros = 50 * MS;
/// Nobody campaigns before, and the least of a follower's patience.
pub const ELECTION_MIN: Micros = 300 * MS;
pub const ELECTION_MAX: Micros = 600 * MS;
/// What followers promise a leader whom they have heard.
pub const LEASE: Micros = ELECTION_MIN;
pub const REPLICA_TIMEOUT: Micros = 1000 * MS;
/// A follower that is silent for longer is not reachable.
pub const SILENCE: Micros = 400 * MS;
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_millis(2000);
/// Proposals without an answer that a node keeps (I12).
pub const MAX_PENDING: usize = 64;

pub const GROUP: GroupId = GroupId::new(1);
/// Two data members and a witness, or three data members.
pub const MEMBERS: usize = 3;
/// The member that is the witness where there is one.
pub const WITNESS: usize = 2;

/// A bug that can be planted, to prove that a checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Followers and leaders count what they have not synced.
    AckBeforeFsync,
    /// An early answer does not look for control records that are not applied yet.
    EarlyBehindSeal,
    /// The witness counts as a copy of the data.
    WitnessAsCopy,
    /// Conditions are decided by what is in the leader's log, committed or not.
    UncommittedVisible,
    /// After a restart the hybrid clock begins with the wall clock.
    ClockRestartedLow,
    /// Snapshots leave out what idempotency keys are known.
    DedupLostInSnapshot,
    /// An idempotency key is known by its name alone.
    SameKeyOtherBody,
    /// A token is judged by its index alone.
    CutOffTokenHonoured,
    /// The witness gets whatever the leader has.
    WitnessAhead,
    /// What a new leader cuts off is dropped.
    DroppedAtTruncation,
    /// What an installed snapshot replaces is dropped.
    DroppedUnderSnapshot,
    /// What leaves a log is written again, committed or not.
    AppliedTwice,
    /// A resolution takes its own time for that of the record.
    ResolvedByArrival,
    /// What a node has that leaves the group is dropped.
    DroppedAtLeaving,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 14] = [
        Bug::AckBeforeFsync,
        Bug::EarlyBehindSeal,
        Bug::WitnessAsCopy,
        Bug::UncommittedVisible,
        Bug::ClockRestartedLow,
        Bug::DedupLostInSnapshot,
        Bug::SameKeyOtherBody,
        Bug::CutOffTokenHonoured,
        Bug::WitnessAhead,
        Bug::DroppedAtTruncation,
        Bug::DroppedUnderSnapshot,
        Bug::AppliedTwice,
        Bug::ResolvedByArrival,
        Bug::DroppedAtLeaving,
    ];
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Fixes everything.
    pub seed: u64,
    /// Whether the third member is a witness.
    pub has_witness: bool,
    /// What becomes of writes that did not know of each other.
    pub strategy: ConflictStrategy,
    /// Whether a member leaves the group in the end. Not where it would leave one data member.
    pub has_leaver: bool,
    /// Whether that one is cut off shortly before, so that it leaves with what it alone has.
    pub has_farewell: bool,
    /// The longest pause between two faults.
    pub calm: Micros,
    /// How long clients and faults go on; then all is healed and comes to rest.
    pub busy: Micros,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// Whether to keep the trace.
    pub traced: bool,
}

impl Plan {
    /// The run of a seed: even seeds have a witness, and some see more faults than others, another
    /// conflict strategy, or a member that leaves.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            has_witness: seed.is_multiple_of(2),
            strategy: match seed % 5 {
                3 => ConflictStrategy::Merge,
                4 => ConflictStrategy::Reject,
                _ => ConflictStrategy::LastWriteWins,
            },
            has_leaver: seed % 4 == 1,
            has_farewell: seed % 8 == 5,
            calm: [300, 1000, 3000][(seed / 2 % 3) as usize] * MS,
            busy: 8000 * MS,
            bug: None,
            traced: false,
        }
    }

    /// The same with a planted bug.
    #[must_use]
    pub fn with_bug(self, bug: Bug) -> Self {
        Self {
            bug: Some(bug),
            ..self
        }
    }

    /// Whether this bug is planted.
    #[must_use]
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether a member stores payloads.
    #[must_use]
    pub fn is_data(&self, node: usize) -> bool {
        !(self.has_witness && node == WITNESS)
    }

    /// The members that store payloads.
    pub fn data_members(&self) -> impl Iterator<Item = usize> + use<> {
        let plan = *self;
        (0..MEMBERS).filter(move |node| plan.is_data(*node))
    }
}

/// Tenants of every sync mode.
pub const TENANTS: [(&str, AckRule); 4] = {
    const fn rule(mode: SyncMode, on_too_few: ShortagePolicy) -> AckRule {
        AckRule {
            mode,
            min_sync_replicas: 1,
            on_too_few,
        }
    }
    [
        ("async", rule(SyncMode::Async, ShortagePolicy::Degrade)),
        ("semi", rule(SyncMode::SemiSync, ShortagePolicy::Reject)),
        ("lenient", rule(SyncMode::SemiSync, ShortagePolicy::Degrade)),
        ("sync", rule(SyncMode::Sync, ShortagePolicy::Reject)),
    ]
};

/// A tenant by its place in [`TENANTS`].
#[must_use]
pub fn tenant(n: usize) -> TenantId {
    TenantId::new(TENANTS[n].0).expect("a legal name")
}

/// The place of a tenant in [`TENANTS`]; the first for none.
#[must_use]
pub fn tenant_number(of: Option<&TenantId>) -> usize {
    let is_it = |name: &(&str, _)| of.is_some_and(|tenant| tenant.as_str() == name.0);
    TENANTS.iter().position(is_it).unwrap_or_default()
}

/// The region of a member.
#[must_use]
pub fn region(node: usize) -> RegionName {
    RegionName::new(format!("r{node}")).expect("a legal name")
}
