//! Whose turn it is, and when: what can't be served now keeps nothing else from being tried. Plain
//! bookkeeping of the looks, without clock or chance of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, TenantId};
use maia_common::runtime::Backoff;

/// How often to look whether there is something new; and the first wait for what is not settled.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look at entries that wait: their tenant may have been deleted, their position proven.
/// And the longest wait for what is not settled.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Who may be tried in a look, and who was. What waits for one group waits once in a look, not once for each
/// entry; and the next time for another tenant's: one that can never be served is not always the first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By group that did not answer: the tenants that it was tried for since all had their turn.
    tried: BTreeMap<GroupId, BTreeSet<TenantId>>,
    /// Groups that did not answer in this look.
    stuck: BTreeSet<GroupId>,
    /// Of those the ones for which tenants were passed over in this look.
    passed: BTreeSet<GroupId>,
    /// Tenants that can't be served now for reasons of their own.
    held: BTreeSet<TenantId>,
}

impl Turns {
    /// A new look begins.
    pub(super) fn begin(&mut self) {
        let passed = std::mem::take(&mut self.passed);
        self.tried.retain(|group, _| passed.contains(group));
        self.stuck.clear();
        self.held.clear();
    }

    /// Whether an entry of this tenant may be tried now, for which these groups must answer.
    pub(super) fn may_try(&mut self, tenant: &TenantId, needs: &[GroupId]) -> bool {
        let was_tried = |group| self.tried.get(group).is_some_and(|t| t.contains(tenant));
        if self.held.contains(tenant) || needs.iter().any(was_tried) {
            return false;
        }
        let stuck = needs.iter().find(|group| self.stuck.contains(group));
        self.passed.extend(stuck);
        stuck.is_none()
    }

    /// The tenant could not be served: because this group does not answer, or for reasons of its own.
    pub(super) fn hindered(&mut self, tenant: &TenantId, by: Option<GroupId>) {
        match by {
            Some(group) => {
                self.stuck.insert(group);
                self.tried.entry(group).or_default().insert(tenant.clone());
            }
            None => drop(self.held.insert(tenant.clone())),
        }
    }
}

/// When the next look is due: at once when there is something new, ever later while what is there can't
/// be settled.
#[derive(Debug)]
pub(super) struct Pace {
    backoff: Backoff,
    next: Option<Instant>,
    seen: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::new(LOOK_EVERY, LOOK_AGAIN_AFTER),
            next: None,
            seen: 0,
        }
    }

    /// Whether a look is due. `news` changes whenever there is something new to look at.
    pub(super) fn is_due(&mut self, now: Instant, news: u64) -> bool {
        if self.seen != news {
            self.seen = news;
            self.backoff.reset();
            return true;
        }
        self.next.is_none_or(|next| now >= next)
    }

    /// A look has ended. `chance` is in 0.0..1.0.
    pub(super) fn looked(&mut self, now: Instant, changed: bool, unsettled: bool, chance: f64) {
        if changed {
            self.backoff.reset();
        }
        let wait = if unsettled {
            self.backoff.next(chance)
        } else {
            LOOK_AGAIN_AFTER
        };
        self.next = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    const G: GroupId = GroupId::new(1);
    const H: GroupId = GroupId::new(2);

    /// One look over tenants, all of whose entries fail for the reason given; returns who was tried.
    fn look(turns: &mut Turns, tenants: &[(&'static str, GroupId)], by: bool) -> Vec<&'static str> {
        turns.begin();
        let mut tried = Vec::new();
        for (name, group) in tenants {
            if turns.may_try(&tenant(name), &[*group]) {
                turns.hindered(&tenant(name), by.then_some(*group));
                tried.push(*name);
            }
        }
        tried
    }

    #[test]
    fn every_tenant_of_a_group_that_is_stuck_has_its_turn() {
        let mut turns = Turns::default();
        let tenants = [("a", G), ("a", G), ("b", G), ("c", G), ("d", H)];
        let mut rounds = Vec::new();
        for _ in 0..4 {
            rounds.push(look(&mut turns, &tenants, true));
        }
        assert_eq!(rounds[0], ["a", "d"]);
        assert_eq!(rounds[1], ["b", "d"], "another group is not held up");
        assert_eq!(rounds[2], ["c", "d"]);
        assert_eq!(rounds[3], ["a", "d"], "from the beginning again");
    }

    #[test]
    fn a_tenant_that_is_held_keeps_no_other_of_its_group_waiting() {
        let mut turns = Turns::default();
        let tenants = [("a", G), ("a", G), ("b", G)];
        assert_eq!(look(&mut turns, &tenants, false), ["a", "b"]);
        assert_eq!(look(&mut turns, &tenants, false), ["a", "b"], "once a look");
    }

    #[test]
    fn looks_come_ever_later_up_to_a_cap_and_at_once_for_what_is_new() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        assert!(pace.is_due(start, 0), "the first one");
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..8 {
            pace.looked(now, false, true, 1.0);
            let second = (1..=120).find(|s| pace.is_due(now + Duration::from_secs(*s), 0));
            waits.push(second.unwrap());
            now += Duration::from_secs(second.unwrap());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.looked(now, false, true, 0.0);
        assert!(pace.is_due(now + Duration::from_secs(30), 0), "jitter");
        assert!(pace.is_due(now, 1), "something new");
        pace.looked(now, false, true, 1.0);
        assert!(pace.is_due(now + LOOK_EVERY, 1), "and from the first wait");
        pace.looked(now, false, false, 1.0);
        assert!(!pace.is_due(now + Duration::from_secs(59), 1));
        assert!(pace.is_due(now + LOOK_AGAIN_AFTER, 1));
    }
}
