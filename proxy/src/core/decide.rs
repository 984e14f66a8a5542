//! What becomes of a request: a pure function of the tenant's entry, the topology and a few facts
//! of the request. Called by the shell for every request, again whenever a held request is
//! released, and by `/explain`, so that all three always agree. No I/O, no clock, no allocation.
//!
//! ```text
//! no entry ─────────────▶ Reject(unknown_tenant)        group unknown ─▶ Reject(region_unavailable)
//! write ── holding ─────▶ Hold(tenant_held)
//!       ── no leader ───▶ Hold(group_leaderless)
//!       ── leader here ─▶ Local          leader elsewhere ─▶ Redirect(write-to-primary)
//! read ─── preferred holds a replica ─▶ Local or Redirect(preferred-region)
//!      ─── local holds a replica ─────▶ Local
//!      ─── else ──────────────────────▶ Redirect(no-local-replica) to primary, home, first usable
//! ```
//! Invariants: I10 (what is unknown, held or contradictory is never `Local` as a write). A region
//! that is `down` is never a target, nor served from.
//!
//! Not in this slice: `write_routing = forward`. Until forwarding exists such a request is
//! redirected, which every client understands and which reaches no wrong origin.

use maia_common::placement::WriteRouting;
use maia_common::topology::{GroupView, Region, RegionState, Topology};
use maia_common::{ErrorCode, GroupId, RegionName, Term, Version};

use super::classify::Class;
use super::table::Entry;

/// What a request brings to the decision.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'r> {
    /// Whether it writes.
    pub class: Class,
    /// `X-MAIA-Preferred-Region`, as the client sent it: legal or not, known or not.
    pub preferred: Option<&'r str>,
}

/// What the proxy itself brings to the decision.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The region that this proxy stands in.
    pub local_region: RegionName,
    /// For tenants that don't say.
    pub write_routing: WriteRouting,
}

/// The fencing token that goes to the origin: `group/term/version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// The group that holds the tenant's data.
    pub group: GroupId,
    /// The term of its leader as known here; 0 where none is.
    pub term: Term,
    /// The version of the tenant's placement.
    pub version: Version,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.term, self.version)
    }
}

/// Why a request is served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalReason {
    /// A write, and the group's leader is here.
    Primary,
    /// A read that prefers this region, which holds a replica.
    Preferred,
    /// A read, and this region holds a replica.
    Replica,
}

/// Why a request is sent to another region: the values of `X-MAIA-Redirect-Reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectReason {
    /// The group's leader is there.
    WriteToPrimary,
    /// The client prefers it, and it holds a replica.
    PreferredRegion,
    /// There is no copy here.
    NoLocalReplica,
}

impl RedirectReason {
    /// The value of the header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RedirectReason::WriteToPrimary => "write-to-primary",
            RedirectReason::PreferredRegion => "preferred-region",
            RedirectReason::NoLocalReplica => "no-local-replica",
        }
    }
}

/// Why a write waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// The tenant is about to switch groups.
    TenantHeld,
    /// The group has no leader that may be taking writes.
    GroupLeaderless,
}

impl HoldReason {
    /// The code with which a hold that ran out is answered (I11).
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            HoldReason::TenantHeld => ErrorCode::TenantHeld,
            HoldReason::GroupLeaderless => ErrorCode::GroupLeaderless,
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'t> {
    /// Passed to this region's origin.
    Local {
        /// The fencing token.
        epoch: Epoch,
        /// Why here.
        reason: LocalReason,
    },
    /// Answered 307.
    Redirect {
        /// Where to.
        to: &'t Region,
        /// The region that leads the group, if one is known.
        primary: Option<&'t RegionName>,
        /// Why there.
        reason: RedirectReason,
    },
    /// Kept waiting, within the hold budget, and decided again when the topology changes.
    Hold(HoldReason),
    /// Answered with a problem document.
    Reject(ErrorCode),
}

impl Decision<'_> {
    /// The decision as metrics and `/explain` name it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Decision::Local { .. } => "local",
            Decision::Redirect { .. } => "redirect",
            Decision::Hold(_) => "hold",
            Decision::Reject(_) => "reject",
        }
    }

    /// Its reason as `/explain` and the access log name it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Decision::Local { reason, .. } => match reason {
                LocalReason::Primary => "primary-is-local",
                LocalReason::Preferred => "preferred-region-is-local",
                LocalReason::Replica => "local-replica",
            },
            Decision::Redirect { reason, .. } => reason.as_str(),
            Decision::Hold(reason) => reason.code().as_str(),
            Decision::Reject(code) => code.as_str(),
        }
    }
}

/// Decides. `entry` was loaded before `topology` (architecture.md, "The way of a request").
#[must_use]
#[inline]
pub fn decide<'t>(
    facts: &Facts<'_>,
    entry: Option<&Entry>,
    topology: &'t Topology,
    rules: &Rules,
) -> Decision<'t> {
    let Some(entry) = entry else {
        return Decision::Reject(ErrorCode::UnknownTenant);
    };
    let Some(group) = topology.groups.get(&entry.group) else {
        return Decision::Reject(ErrorCode::RegionUnavailable);
    };
    match facts.class {
        Class::Write => write(entry, group, topology, rules),
        Class::Read | Class::Preflight => read(facts, entry, group, topology, rules),
    }
}

#[inline]
fn write<'t>(
    entry: &Entry,
    group: &'t GroupView,
    topology: &'t Topology,
    rules: &Rules,
) -> Decision<'t> {
    if entry.holding {
        return Decision::Hold(HoldReason::TenantHeld);
    }
    let Some(leader) = group.live_leader() else {
        return Decision::Hold(HoldReason::GroupLeaderless);
    };
    let target = topology.regions.get(&leader.region).filter(|r| usable(r));
    // A leader outside its own group's regions contradicts the placement: fail closed (I10).
    let Some(target) = target.filter(|r| group.regions.contains(&r.name)) else {
        return Decision::Reject(ErrorCode::RegionUnavailable);
    };
    if target.name == rules.local_region {
        return Decision::Local {
            epoch: epoch(entry, group),
            reason: LocalReason::Primary,
        };
    }
    Decision::Redirect {
        to: target,
        primary: Some(&leader.region),
        reason: RedirectReason::WriteToPrimary,
    }
}

#[inline]
fn read<'t>(
    facts: &Facts<'_>,
    entry: &Entry,
    group: &'t GroupView,
    topology: &'t Topology,
    rules: &Rules,
) -> Decision<'t> {
    let local = |reason| Decision::Local {
        epoch: epoch(entry, group),
        reason,
    };
    let redirect = |to, reason| Decision::Redirect {
        to,
        primary: group.live_leader().map(|l| &l.region),
        reason,
    };
    if let Some(preferred) = preferred(facts, group, topology) {
        return if preferred.name == rules.local_region {
            local(LocalReason::Preferred)
        } else {
            redirect(preferred, RedirectReason::PreferredRegion)
        };
    }
    let replica_here = group.regions.contains(&rules.local_region);
    if replica_here
        && topology
            .regions
            .get(&rules.local_region)
            .is_some_and(usable)
    {
        return local(LocalReason::Replica);
    }
    match elsewhere(group, topology, &rules.local_region) {
        Some(to) => redirect(to, RedirectReason::NoLocalReplica),
        None => Decision::Reject(ErrorCode::RegionUnavailable),
    }
}

/// The preferred region, if the group has a replica in it and it takes requests.
fn preferred<'t>(
    facts: &Facts<'_>,
    group: &'t GroupView,
    topology: &'t Topology,
) -> Option<&'t Region> {
    let wanted = facts.preferred?;
    let name = group.regions.iter().find(|r| r.as_str() == wanted)?;
    let region = topology.regions.get(name)?;
    (region.state == RegionState::Active).then_some(region)
}

/// Where a read goes that can't be served here: primary, home, then the other replicas in order.
fn elsewhere<'t>(
    group: &'t GroupView,
    topology: &'t Topology,
    local: &RegionName,
) -> Option<&'t Region> {
    let primary = group.live_leader().map(|l| &l.region);
    primary
        .into_iter()
        .filter(|name| group.regions.contains(name))
        .chain(&group.regions)
        .filter(|name| *name != local)
        .find_map(|name| topology.regions.get(name).filter(|r| usable(r)))
}

/// A draining region serves what it has; one that is down serves nothing.
#[inline]
fn usable(region: &Region) -> bool {
    region.state != RegionState::Down
}

#[inline]
fn epoch(entry: &Entry, group: &GroupView) -> Epoch {
    Epoch {
        group: entry.group,
        term: group.leader.as_ref().map_or(Term::new(0), |l| l.term),
        version: entry.version,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
