//! Loading many tenants as one transaction: reading the lines, deciding for each tenant, and putting
//! together what is to be committed. Pure; `shell/placements/load` finds the tenants and their
//! groups, and runs the result. A tenant that is as asked already is left alone, so a load may be
//! repeated as often as wanted: each tenant is placed once (I8, by content).

use std::collections::BTreeMap;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::placement::{Placement, PlacementSpec, TenantProperties};
use maia_common::position::Revision;
use serde::{Deserialize, Serialize};

use super::{Change, Event, Found, placed, put_placement};
use crate::core::keyspace;
use crate::core::metastore::{Precondition, Transaction};

/// One line of a load: a tenant, and what a PUT of its placement would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadItem {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it shall live.
    #[serde(flatten)]
    pub spec: PlacementSpec,
}

/// A line that is no item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// An item and the number of its line, from 1.
pub type Line = (usize, LoadItem);

/// Reads newline-separated JSON; empty lines are skipped.
///
/// # Errors
/// [`LineError`] for the first line that is no item.
pub fn parse(body: &[u8]) -> Result<Vec<Line>, LineError> {
    let lines = body.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.filter(|(text, _)| !text.trim_ascii().is_empty());
    lines
        .map(|(text, line)| Ok((line, parse_line(line, text)?)))
        .collect()
}

/// Reads one line.
///
/// # Errors
/// [`LineError`] when it is no item.
pub fn parse_line(line: usize, text: &[u8]) -> Result<LoadItem, LineError> {
    serde_json::from_slice(text).map_err(|error| LineError {
        line,
        reason: error.to_string(),
    })
}

/// Where tenants of one spec go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The group, active as of the revision.
    pub group: (GroupId, Revision),
    /// The spec's properties, whole.
    pub properties: TenantProperties,
}

/// Why an item is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

/// An item that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its line, from 1.
    pub line: usize,
    /// Its tenant.
    pub tenant: TenantId,
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people.
    pub detail: String,
}

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tenants that were placed.
    pub created: usize,
    /// Tenants whose properties were changed.
    pub changed: usize,
    /// Tenants that were as asked already.
    pub unchanged: usize,
    /// Tenants that were left as they were.
    pub failed: Vec<Failure>,
    /// In the answer to a repetition: failures that are not remembered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_omitted: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Tally {
    /// As it is remembered with an idempotency key: bounded, without details.
    #[must_use]
    pub fn memo(&self) -> Tally {
        let remembered = self.failed.iter().take(limits::MAX_REMEMBERED_FAILURES);
        Tally {
            failed: remembered
                .map(|failure| Failure {
                    detail: String::new(),
                    ..failure.clone()
                })
                .collect(),
            failed_omitted: self
                .failed
                .len()
                .saturating_sub(limits::MAX_REMEMBERED_FAILURES),
            ..*self
        }
    }
}

/// A load as far as it is decided.
#[derive(Debug, Default)]
pub struct LoadPlan<'a> {
    /// What it comes to.
    pub tally: Tally,
    seen: BTreeMap<&'a TenantId, &'a PlacementSpec>,
    puts: Vec<(&'a Found, Placement)>,
    groups: BTreeMap<GroupId, GroupPart>,
}

/// What a load means for one group.
#[derive(Debug)]
struct GroupPart {
    /// The revision at which it is active.
    at: Revision,
    /// Tenants that it gets.
    created: i64,
}

impl<'a> LoadPlan<'a> {
    /// Decides for one item, given what is known of its tenant and where its spec leads.
    pub fn add(&mut self, line: &'a Line, found: &'a Found, home: &Result<Home, Trouble>) {
        let (number, item) = line;
        let home = match home {
            Ok(home) => home,
            Err(trouble) => {
                return self.fail(*number, &item.tenant, trouble.code, &trouble.detail);
            }
        };
        let (group, at) = home.group;
        let placed = match placed(found, &item.tenant, group, &home.properties) {
            Ok(placed) => placed,
            Err(error) => {
                let (code, detail) = (error.code(), error.to_string());
                return self.fail(*number, &item.tenant, code, &detail);
            }
        };
        match (self.first(item), placed.change) {
            (Some(earlier), _) if *earlier != item.spec => {
                let text = "the tenant is there twice, with different placements";
                return self.fail(*number, &item.tenant, ErrorCode::InvalidRequest, text);
            }
            (Some(_), _) | (None, Change::Unchanged) => {
                self.tally.unchanged += 1;
                return;
            }
            (None, Change::Created) => self.tally.created += 1,
            (None, Change::Changed) => self.tally.changed += 1,
        }
        let part = self
            .groups
            .entry(group)
            .or_insert(GroupPart { at, created: 0 });
        part.created += i64::from(placed.change == Change::Created);
        self.puts.push((found, placed.placement));
    }

    /// What an earlier line said of the tenant; the first one counts.
    fn first(&mut self, item: &'a LoadItem) -> Option<&'a PlacementSpec> {
        let known = self.seen.get(&item.tenant).copied();
        if known.is_none() {
            self.seen.insert(&item.tenant, &item.spec);
        }
        known
    }

    fn fail(&mut self, line: usize, tenant: &TenantId, code: ErrorCode, detail: &str) {
        self.tally.failed.push(Failure {
            line,
            tenant: tenant.clone(),
            code,
            detail: detail.to_owned(),
        });
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    /// What to commit. One event tells of all.
    #[must_use]
    pub fn transaction(&self, id: &str, now_unix_us: u64) -> Transaction {
        let mut transaction = Transaction::new(id, now_unix_us);
        for (group, part) in &self.groups {
            transaction = transaction.when(keyspace::group(*group), Precondition::At(part.at));
            if part.created > 0 {
                transaction = transaction.add(keyspace::refs(*group), part.created);
            }
        }
        for (found, placement) in &self.puts {
            transaction = put_placement(transaction, found, placement);
        }
        if self.is_empty() {
            return transaction;
        }
        let (created, changed) = (self.tally.created, self.tally.changed);
        transaction.event(&Event {
            kind: "placements_loaded".into(),
            at_unix_us: now_unix_us,
            tenant: None,
            group: None,
            detail: format!("{created} created, {changed} changed"),
        })
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod tests;
