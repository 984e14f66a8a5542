//! Placements: where a tenant lives, and the groups in which tenants of equal spec live together.
//! Plain data and its checks; interning and storing are the coordinator's (`core/placements`),
//! deciding a request by it is the proxy's (`core/decide`). Source: the design's vocabulary.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId, RegionName, TenantId};
use crate::limits;
use crate::position::Version;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// The choice as people and programs write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("`{text}` is none of {}", [$($text),*].join(", "))),
                }
            }
        }
    };
}

choice!(
    /// How many regions hold a tenant's data.
    Mode {
        /// The primary region alone.
        Single = "single",
        /// The primary and the named replicas.
        Replicated = "replicated",
        /// The primary and, when none are named, every other region.
        Global = "global",
    }
);
choice!(
    /// When a write is acknowledged.
    SyncMode {
        /// Durable at the leader.
        Async = "async",
        /// Committed, and durable on `min_sync_replicas` data followers.
        SemiSync = "semi-sync",
        /// Committed, and durable on every data member.
        Sync = "sync",
    }
);
choice!(
    /// What happens to a write when too few data followers are reachable.
    ShortagePolicy {
        /// Refused before it is proposed.
        Reject = "reject",
        /// Acknowledged at commit on fewer copies; the answer says so.
        Degrade = "degrade",
    }
);
choice!(
    /// How divergent records are resolved.
    ConflictStrategy {
        /// The greater (hybrid logical clock, region) wins.
        LastWriteWins = "last-write-wins",
        /// JSON objects, field by field.
        Merge = "merge",
        /// An operator decides.
        Reject = "reject",
    }
);
choice!(
    /// How a request that must leave the region gets to the other one.
    WriteRouting {
        /// The client is told where to go (307).
        Redirect = "redirect",
        /// The proxy passes it on.
        Forward = "forward",
    }
);
choice!(
    /// Whether a tenant takes writes.
    PlacementState {
        /// Open.
        Active = "active",
        /// Its writes are held while it migrates.
        Holding = "holding",
        /// It takes neither writes nor reads; its data is being purged. Its name stays reserved.
        Deleting = "deleting",
    }
);
choice!(
    /// Where a group is in its life.
    GroupState {
        /// Recorded; its first leader has not yet confirmed it.
        Creating = "creating",
        /// Tenants may be placed in it.
        Active = "active",
        /// Being collected.
        Closing = "closing",
    }
);

/// What an operator asks for: the body of `PUT /v1/placements/{tenant}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementSpec {
    /// The home region: where the writes shall go.
    pub primary_region: RegionName,
    /// The other regions that hold a copy.
    #[serde(default)]
    pub replicas: Vec<RegionName>,
    /// How many regions hold the data; by default as many as are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// When a write is acknowledged; semi-sync unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_mode: Option<SyncMode>,
    /// Data followers that semi-sync waits for; 1 unless told otherwise, 0 without replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_sync_replicas: Option<u32>,
    /// `degrade` for two copies, `reject` otherwise, unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_too_few: Option<ShortagePolicy>,
    /// `last-write-wins` unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_strategy: Option<ConflictStrategy>,
    /// Unless told otherwise, as the proxy is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_routing: Option<WriteRouting>,
}

/// Why a placement can't be as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A region that the cluster does not have.
    #[error("region `{0}` is not part of this cluster")]
    UnknownRegion(RegionName),
    /// A region that takes no new tenants.
    #[error("region `{0}` is {1} and takes no new tenants")]
    RegionNotActive(RegionName, crate::topology::RegionState),
    /// The same region twice, or the primary among the replicas.
    #[error("region `{0}` is named twice: a replica is another region than the primary")]
    DuplicateRegion(RegionName),
    /// `single` with replicas, or `replicated` without.
    #[error("mode `{mode}` does not go with {replicas} replicas")]
    ModeMismatch {
        /// The mode as asked.
        mode: Mode,
        /// The replicas as asked.
        replicas: usize,
    },
    /// More acknowledgements than followers.
    #[error("min_sync_replicas is {asked}, but there are only {replicas} replicas")]
    TooManySyncReplicas {
        /// As asked.
        asked: u32,
        /// Data followers of the placement.
        replicas: usize,
    },
    /// More regions than a group may have.
    #[error("{0} regions are more than a placement may have ({max})", max = limits::MAX_REGIONS)]
    TooManyRegions(usize),
}

/// A tenant's own properties: they change at once, without a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantProperties {
    /// When a write is acknowledged.
    pub sync_mode: SyncMode,
    /// Data followers that semi-sync waits for.
    pub min_sync_replicas: u32,
    /// What happens when too few are reachable.
    pub on_too_few: ShortagePolicy,
    /// How divergent records are resolved.
    pub conflict_strategy: ConflictStrategy,
    /// How misrouted requests travel; `None`: as the proxy is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_routing: Option<WriteRouting>,
}

/// What tenants share that live in one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupKey {
    /// Where the primary shall be.
    pub home_region: RegionName,
    /// The other regions with data.
    pub replicas: BTreeSet<RegionName>,
    /// As asked.
    pub mode: Mode,
    /// Always 0 for now.
    pub shard: u32,
}

impl GroupKey {
    /// Home region first, then the replicas in order.
    pub fn regions(&self) -> impl Iterator<Item = &RegionName> {
        std::iter::once(&self.home_region).chain(&self.replicas)
    }
}

impl std::fmt::Display for GroupKey {
    /// One text per key: what the metastore keeps it under.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replicas: Vec<&str> = self.replicas.iter().map(RegionName::as_str).collect();
        write!(
            f,
            "{}|{}|{}|{}",
            self.home_region,
            replicas.join(","),
            self.mode,
            self.shard
        )
    }
}

/// What a member does in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Holds data and votes.
    Voter,
    /// Holds data without a vote.
    Learner,
    /// Votes without data: of each record it stores where it stands, never what it says.
    Witness,
}

impl MemberRole {
    /// Whether it has a vote.
    #[must_use]
    pub const fn votes(self) -> bool {
        matches!(self, Self::Voter | Self::Witness)
    }

    /// Whether it stores what records say (I7: only in regions of the placement).
    #[must_use]
    pub const fn holds_data(self) -> bool {
        matches!(self, Self::Voter | Self::Learner)
    }
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
    /// What it does.
    pub role: MemberRole,
}

/// A placement group as the metastore keeps it. `members` are the first members and never change;
/// who of them is to go, and who has gone, stands beside them.
///
/// ```text
/// member ──node remove──▶ leaving ──out of Raft's membership, committed──▶ left
/// member ──group closing, its instance deleted────────────────────────────▶ left
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its id, never reused.
    pub id: GroupId,
    /// What its tenants share.
    pub key: GroupKey,
    /// Where it is in its life.
    pub state: GroupState,
    /// Home first.
    pub members: Vec<Member>,
    /// Members that the group's leader is to take out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<NodeId>,
    /// Members that are out for ever, and delete what they have of the group.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left: BTreeSet<NodeId>,
}

impl GroupRecord {
    /// The members that stay, home first while it stays.
    pub fn staying(&self) -> impl Iterator<Item = &Member> {
        let gone = |node| self.leaving.contains(node) || self.left.contains(node);
        self.members.iter().filter(move |m| !gone(&m.node))
    }

    /// The members that stay and hold data.
    pub fn copies(&self) -> impl Iterator<Item = &Member> {
        self.staying().filter(|m| m.role.holds_data())
    }

    /// Its witness, if it began with one; it may have left since.
    #[must_use]
    pub fn witness(&self) -> Option<NodeId> {
        let mut witnesses = self.members.iter().filter(|m| !m.role.holds_data());
        witnesses.next().map(|m| m.node)
    }

    /// Whether each of its regions has a member that stays. A group that lost one keeps its tenants
    /// and takes no others: they would have fewer copies than they ask for.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.copies().count() >= self.key.regions().count()
    }

    /// The nodes with a vote once all that leave have left.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let voters = self.staying().filter(|m| m.role.votes());
        voters.map(|m| m.node).collect()
    }

    /// Who leaves when this node does: the witness goes with the last copy but one, since it would
    /// only make one copy's writes wait for two nodes.
    #[must_use]
    pub fn leavers_with(&self, node: NodeId) -> BTreeSet<NodeId> {
        let copies_left = self.copies().filter(|m| m.node != node).count();
        let witness = self.witness().filter(|_| copies_left < 2);
        witness.into_iter().chain([node]).collect()
    }

    /// Whether the node may have something of the group: a member that has not left.
    #[must_use]
    pub fn has_member(&self, node: NodeId) -> bool {
        self.members.iter().any(|m| m.node == node) && !self.left.contains(&node)
    }
}

/// A tenant's placement as the metastore keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The tenant.
    pub tenant: TenantId,
    /// The group that holds its data.
    pub group: GroupId,
    /// Grows by one with each change.
    pub version: Version,
    /// Whether it takes writes.
    pub state: PlacementState,
    /// Its own properties.
    pub properties: TenantProperties,
}

/// A region as a check of a spec sees it.
pub trait Regions {
    /// The region's state; `None`: not part of the cluster.
    fn state_of(&self, region: &RegionName) -> Option<crate::topology::RegionState>;
    /// Every region, in order.
    fn all(&self) -> Vec<RegionName>;
}

impl PlacementSpec {
    /// Checks the spec against the cluster's regions, and fills in what was left out. `present`:
    /// what the tenant's group has in common, if the tenant is placed. It may stay there whatever
    /// became of the regions: only new tenants need regions that are active, and `global` without
    /// names means the regions that there were when the tenant was placed.
    ///
    /// # Errors
    /// [`SpecError`] names the part of the spec that can't be.
    pub fn resolve(
        &self,
        regions: &impl Regions,
        present: Option<&GroupKey>,
    ) -> Result<(GroupKey, TenantProperties), SpecError> {
        let mode = self.mode.unwrap_or(if self.replicas.is_empty() {
            Mode::Single
        } else {
            Mode::Replicated
        });
        let named = self.named_replicas(mode, regions, present);
        if named.len() >= limits::MAX_REGIONS {
            return Err(SpecError::TooManyRegions(named.len() + 1));
        }
        let mut seen = BTreeSet::new();
        for region in std::iter::once(&self.primary_region).chain(&named) {
            if regions.state_of(region).is_none() {
                return Err(SpecError::UnknownRegion(region.clone()));
            }
            if !seen.insert(region) {
                return Err(SpecError::DuplicateRegion(region.clone()));
            }
        }
        if (mode == Mode::Single) != named.is_empty() && mode != Mode::Global {
            return Err(SpecError::ModeMismatch {
                mode,
                replicas: named.len(),
            });
        }
        let properties = self.properties(named.len())?;
        let key = GroupKey {
            home_region: self.primary_region.clone(),
            replicas: named.into_iter().collect(),
            mode,
            shard: 0,
        };
        if present != Some(&key) {
            check_active(&key, regions)?;
        }
        Ok((key, properties))
    }

    fn named_replicas(
        &self,
        mode: Mode,
        regions: &impl Regions,
        present: Option<&GroupKey>,
    ) -> Vec<RegionName> {
        if mode != Mode::Global || !self.replicas.is_empty() {
            return self.replicas.clone();
        }
        let here = present.filter(|k| k.mode == mode && k.home_region == self.primary_region);
        if let Some(key) = here {
            return key.replicas.iter().cloned().collect();
        }
        let active = Some(crate::topology::RegionState::Active);
        let mut all = regions.all();
        all.retain(|r| *r != self.primary_region && regions.state_of(r) == active);
        all
    }

    fn properties(&self, replicas: usize) -> Result<TenantProperties, SpecError> {
        let min_sync_replicas = self.min_sync_replicas.unwrap_or(u32::from(replicas > 0));
        if min_sync_replicas as usize > replicas {
            return Err(SpecError::TooManySyncReplicas {
                asked: min_sync_replicas,
                replicas,
            });
        }
        let two_copies = replicas == 1;
        Ok(TenantProperties {
            sync_mode: self.sync_mode.unwrap_or(SyncMode::SemiSync),
            min_sync_replicas,
            on_too_few: self.on_too_few.unwrap_or(if two_copies {
                ShortagePolicy::Degrade
            } else {
                ShortagePolicy::Reject
            }),
            conflict_strategy: self
                .conflict_strategy
                .unwrap_or(ConflictStrategy::LastWriteWins),
            write_routing: self.write_routing,
        })
    }
}

fn check_active(key: &GroupKey, regions: &impl Regions) -> Result<(), SpecError> {
    for region in key.regions() {
        match regions.state_of(region) {
            None => return Err(SpecError::UnknownRegion(region.clone())),
            Some(crate::topology::RegionState::Active) => {}
            Some(state) => return Err(SpecError::RegionNotActive(region.clone(), state)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
