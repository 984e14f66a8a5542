//! Regions as operators change them: adding one, changing its URL, priority or state. Pure plans;
//! `shell/regions` runs them. A region is never removed: groups name it, and its state says whether
//! it takes tenants. Invariant: I12 (regions are capped; additions compare a common key, so that two
//! at once can't both be the last).

use maia_common::ids::RegionName;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::topology::{Region, RegionState};
use serde::{Deserialize, Serialize};

use super::keyspace;
use super::metastore::{Precondition, Transaction};
use super::placements::{Change, Event};

/// What an operator asks for: the body of `PUT /admin/regions/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSpec {
    /// Where clients reach its proxies, such as `https://us.example.com/base`.
    pub public_url: String,
    /// Greater comes first at an election.
    #[serde(default)]
    pub priority: u32,
    /// Whether it takes tenants and requests; active unless told otherwise.
    #[serde(default = "active")]
    pub state: RegionState,
}

fn active() -> RegionState {
    RegionState::Active
}

/// What the metastore has under a region's name, and of additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The region.
    pub region: Option<(Region, Revision)>,
    /// How many were added, and by which revision the last.
    pub added: Option<(u64, Revision)>,
    /// How many there are.
    pub count: usize,
}

/// A region after a PUT, as it is remembered with the idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionPut {
    /// What the PUT did.
    pub change: Change,
    /// The region afterwards.
    pub region: Region,
    /// The revision that made it so; none: the one of the PUT itself.
    pub since: Option<Revision>,
}

/// The cap of regions is reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster has {} regions, as many as it may have",
    limits::MAX_REGIONS
)]
pub struct TooManyRegions;

/// The transaction that makes the region as asked, with what it comes to; when all is as asked
/// already it changes nothing.
///
/// # Errors
/// [`TooManyRegions`].
pub fn put(
    name: &RegionName,
    spec: &RegionSpec,
    found: &Found,
    (id, now_unix_us): (&str, u64),
) -> Result<(RegionPut, Transaction), TooManyRegions> {
    let region = Region {
        name: name.clone(),
        public_url: spec.public_url.trim_end_matches('/').to_owned(),
        priority: spec.priority,
        state: spec.state,
    };
    let key = keyspace::region(name);
    let at = found.region.as_ref().map(|(_, at)| *at);
    let unchanged = at.map_or(Precondition::Absent, Precondition::At);
    let transaction = Transaction::new(id, now_unix_us).when(&key, unchanged);
    let (change, kind, transaction) = match &found.region {
        Some((present, at)) if *present == region => {
            let put = RegionPut {
                change: Change::Unchanged,
                region,
                since: Some(*at),
            };
            return Ok((put, transaction));
        }
        Some(_) => (Change::Changed, "region_changed", transaction),
        None if found.count >= limits::MAX_REGIONS => return Err(TooManyRegions),
        None => {
            let (added, at) = match found.added {
                Some((added, at)) => (added + 1, Precondition::At(at)),
                None => (1, Precondition::Absent),
            };
            let transaction = transaction
                .when(keyspace::ADDED_REGIONS, at)
                .put_json(keyspace::ADDED_REGIONS, &added);
            (Change::Created, "region_added", transaction)
        }
    };
    let event = Event {
        kind: kind.into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: None,
        detail: format!(
            "region {name}: {}, priority {}, {}",
            region.state, region.priority, region.public_url
        ),
    };
    let transaction = transaction.put_json(key, &region).event(&event);
    let put = RegionPut {
        change,
        region,
        since: None,
    };
    Ok((put, transaction))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(state: RegionState) -> RegionSpec {
        RegionSpec {
            public_url: "http://r/".into(),
            priority: 3,
            state,
        }
    }

    #[test]
    fn a_region_is_added_changed_and_left_alone() {
        let name = RegionName::new("r").unwrap();
        let ask = |found: &Found, state| put(&name, &spec(state), found, ("id", 1));
        let (added, _) = ask(&Found::default(), RegionState::Active).unwrap();
        assert_eq!(added.change, Change::Created);
        assert_eq!(added.region.public_url, "http://r");
        let found = Found {
            region: Some((added.region, Revision::new(4))),
            count: limits::MAX_REGIONS,
            ..Found::default()
        };
        let (same, transaction) = ask(&found, RegionState::Active).unwrap();
        assert_eq!(same.change, Change::Unchanged);
        let nothing = Transaction::new("id", 1)
            .when(keyspace::region(&name), Precondition::At(Revision::new(4)));
        assert_eq!(transaction, nothing);
        let (changed, _) = ask(&found, RegionState::Draining).unwrap();
        assert_eq!(changed.change, Change::Changed);
        assert_eq!(changed.region.state, RegionState::Draining);
    }

    #[test]
    fn regions_are_capped_and_additions_see_each_other() {
        let name = RegionName::new("r").unwrap();
        let full = Found {
            count: limits::MAX_REGIONS,
            ..Found::default()
        };
        let refused = put(&name, &spec(RegionState::Active), &full, ("id", 1));
        assert_eq!(refused.unwrap_err(), TooManyRegions);
        let (_, one) = put(
            &name,
            &spec(RegionState::Active),
            &Found::default(),
            ("id", 1),
        )
        .unwrap();
        let demands = Transaction::new("id", 1)
            .when(keyspace::region(&name), Precondition::Absent)
            .when(keyspace::ADDED_REGIONS, Precondition::Absent);
        assert_eq!(one.compares(), demands.compares());
    }
}
