//! Many placements in one request: all of them are looked up at one moment, their groups are found
//! or made once for each distinct spec, and what is to change is one transaction. An answer that is
//! lost is asked for again: what was committed is then found unchanged.

use std::collections::BTreeMap;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, IdempotencyKey};
use maia_common::limits;
use maia_common::placement::{GroupKey, GroupRecord, PlacementSpec};
use maia_common::position::Revision;
use serde::Serialize;

use super::{Placements, Refusal, find, request_id};
use crate::core::metastore as metastore_core;
use crate::core::placements::load::{Home, Line, LoadPlan, Tally, Trouble};
use crate::core::placements::{self as plans, Found};
use crate::metastore::{MetastoreError, Versioned};
use crate::shell::changes::{MAX_PLANS, earlier, too_busy};
use crate::shell::clock::unix_us;

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// The revision that holds it.
    pub revision: Revision,
    /// What became of the tenants.
    #[serde(flatten)]
    pub tally: Tally,
}

/// A spec, and the group in which its tenant lives already.
type Case<'a> = (&'a PlacementSpec, Option<GroupId>);
type Homes<'a> = BTreeMap<Case<'a>, Result<Home, Trouble>>;

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Trouble {
            code: refusal.code,
            detail: refusal.detail,
        }
    }
}

impl Placements {
    /// Places the tenants of these lines, or changes their properties, all at one revision; those
    /// that can't be as asked are reported and left as they are. In force here when it returns.
    /// `body`: what the lines were read from, which tells requests with the same key apart.
    ///
    /// # Errors
    /// [`Refusal`] when nothing, or with `outcome_unknown` all, may have been carried out: a
    /// repetition is harmless.
    pub async fn load(
        &self,
        (lines, body): (&[Line], &[u8]),
        key: Option<&IdempotencyKey>,
        deadline: Instant,
    ) -> Result<Loaded, Refusal> {
        let request = request_id(key, ("load", "load"), body);
        for _ in 0..MAX_PLANS {
            self.settle(deadline).await?;
            if let Some((revision, tally)) = earlier::<Tally>(&*self.store, &request)? {
                return Ok(Loaded { revision, tally });
            }
            let (found, now) = self.find_all(lines)?;
            let homes = self.homes(lines, &found, deadline).await?;
            let mut plan = LoadPlan::default();
            for (line, found) in lines.iter().zip(&found) {
                plan.add(line, found, &homes[&case(line, found)]);
            }
            if plan.is_empty() && key.is_none() {
                return Ok(Loaded {
                    revision: now,
                    tally: plan.tally,
                });
            }
            let transaction = plan.transaction(request.id(), unix_us());
            let transaction = request.sign(transaction, &plan.tally.memo());
            if let Some(revision) = self.commit(transaction, deadline).await? {
                // The same request may have come twice at once: then one answer stands for both.
                let earlier = earlier::<Tally>(&*self.store, &request)?;
                let other = earlier.filter(|(_, memo)| *memo != plan.tally.memo());
                let tally = other.map_or(plan.tally, |(_, memo)| memo);
                return Ok(Loaded { revision, tally });
            }
        }
        Err(too_busy())
    }

    /// What there is of each line's tenant, as of the returned revision.
    fn find_all(&self, lines: &[Line]) -> Result<(Vec<Found>, Revision), Refusal> {
        let mut found = Vec::with_capacity(lines.len());
        let mut revision = Revision::default();
        let read = self.store.read(&mut |view| {
            revision = metastore_core::current_revision(view)?;
            for (_, item) in lines {
                found.push(find(view, &item.tenant)?);
            }
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        Ok((found, revision))
    }

    /// Where each distinct spec leads: found or made once, however many tenants ask for it. Groups
    /// that are new elect their leaders at the same time.
    async fn homes<'a>(
        &self,
        lines: &'a [Line],
        found: &'a [Found],
        deadline: Instant,
    ) -> Result<Homes<'a>, Refusal> {
        let cluster = self.cluster.state();
        let mut cases = BTreeMap::new();
        for (line, found) in lines.iter().zip(found) {
            cases
                .entry(case(line, found))
                .or_insert_with_key(|(spec, present)| {
                    let resolved = plans::resolve(spec, *present, &cluster);
                    resolved.map_err(|error| Trouble::from(Refusal::from(error)))
                });
        }
        let mut groups: BTreeMap<GroupKey, Result<GroupId, Trouble>> = BTreeMap::new();
        for (key, _) in cases.values().flatten() {
            if !groups.contains_key(key) {
                groups.insert(key.clone(), self.recorded_or_trouble(key, deadline).await?);
            }
        }
        let patience = deadline.min(Instant::now() + limits::LOAD_GROUP_PATIENCE);
        let mut active: BTreeMap<GroupKey, Result<Versioned<GroupRecord>, Trouble>> =
            BTreeMap::new();
        for (key, group) in groups {
            let group = match group {
                Ok(group) => match self.active(group, patience).await {
                    Ok(Some(group)) => Ok(group),
                    // Closed a moment ago: another one takes its place.
                    Ok(None) => self.open_group(&key, patience).await.map_err(Trouble::from),
                    Err(refusal) => Err(refusal.into()),
                },
                Err(trouble) => Err(trouble),
            };
            active.insert(key, group);
        }
        let home = |resolved: Result<(GroupKey, _), Trouble>| {
            let (key, properties) = resolved?;
            let group = active[&key].as_ref().map_err(Clone::clone)?;
            Ok(Home {
                group: (group.value.id, group.revision),
                properties,
            })
        };
        Ok(cases.into_iter().map(|(case, r)| (case, home(r))).collect())
    }

    /// The group with this key; what stands against it concerns its tenants alone.
    async fn recorded_or_trouble(
        &self,
        key: &GroupKey,
        deadline: Instant,
    ) -> Result<Result<GroupId, Trouble>, Refusal> {
        match self.recorded(key, deadline).await {
            Ok(group) => Ok(Ok(group)),
            Err(refusal) => match refusal.code {
                ErrorCode::TooManyGroups | ErrorCode::PlacementConflict => Ok(Err(refusal.into())),
                _ => Err(refusal),
            },
        }
    }
}

fn case<'a>(line: &'a Line, found: &Found) -> Case<'a> {
    let group = found.placement.as_ref().map(|(present, _)| present.group);
    (&line.1.spec, group)
}
