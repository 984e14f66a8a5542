//! Which tenants are held, and of which the coordinator is yet to hear that their writes are
//! through: `drained(tenant, version)`, the barrier of a migration before it seals. Part of the
//! feed's state; when writes are through, the shell says (`shell/in_flight`).
//!
//! ```text
//! the placement is holding, in force ─▶ marked (writes before this moment count) ─▶ through ─▶ said
//! ```
//! Said again on every new stream, since the word may have been lost; forgotten when the tenant is
//! held no more. Bounded: what is too much is left out, and the coordinator waits for its barrier
//! no longer than it would for a dead proxy.

use std::collections::BTreeMap;

use maia_common::{TenantId, Version, limits};

use crate::core::fingerprint::Fingerprint;

/// A moment among the writes of one bucket of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u32);

#[derive(Debug)]
struct Hold {
    version: Version,
    print: Fingerprint,
    /// Set once the hold is in force.
    mark: Option<Mark>,
    said: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Drains {
    holds: BTreeMap<TenantId, Hold>,
}

impl Drains {
    /// The tenant's placement comes into force: `held` at a version, or not held.
    pub(super) fn take(&mut self, tenant: &TenantId, print: Fingerprint, held: Option<Version>) {
        let Some(version) = held else {
            self.holds.remove(tenant);
            return;
        };
        let known = self.holds.get(tenant).map(|hold| hold.version);
        let room = known.is_some() || self.holds.len() < limits::MAX_FEED_DRAINED;
        if known != Some(version) && room {
            let hold = Hold {
                version,
                print,
                mark: None,
                said: false,
            };
            self.holds.insert(tenant.clone(), hold);
        }
    }

    /// Only what `held` has is held.
    pub(super) fn retain(&mut self, held: &BTreeMap<TenantId, Version>) {
        self.holds
            .retain(|tenant, hold| held.get(tenant) == Some(&hold.version));
    }

    /// Everything is to be said again.
    pub(super) fn say_again(&mut self) {
        for hold in self.holds.values_mut() {
            hold.said = false;
        }
    }

    /// Whether there is anything left to wait for or to say.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.holds.values().any(|hold| !hold.said)
    }

    /// Marks what came into force since the last call.
    pub fn mark(&mut self, mut now: impl FnMut(Fingerprint) -> Mark) {
        for hold in self.holds.values_mut() {
            hold.mark.get_or_insert_with(|| now(hold.print));
        }
    }

    /// Says which tenants' writes are through; `say` tells whether the word went out.
    pub fn say(
        &mut self,
        mut is_through: impl FnMut(Fingerprint, Mark) -> bool,
        mut say: impl FnMut(&TenantId, Version) -> bool,
    ) {
        for (tenant, hold) in self.holds.iter_mut().filter(|(_, hold)| !hold.said) {
            let through = hold.mark.is_some_and(|mark| is_through(hold.print, mark));
            hold.said = through && say(tenant, hold.version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: Fingerprint = Fingerprint { high: 1, low: 2 };

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn said(drains: &mut Drains, through: bool) -> Vec<(String, u64)> {
        let mut said = Vec::new();
        drains.say(
            |_, _| through,
            |tenant, version| {
                said.push((tenant.to_string(), version.get()));
                true
            },
        );
        said
    }

    #[test]
    fn a_hold_is_said_once_its_writes_are_through_and_again_on_a_new_stream() {
        let mut drains = Drains::default();
        drains.take(&tenant("a"), PRINT, Some(Version::new(4)));
        assert!(said(&mut drains, true).is_empty(), "not yet in force");
        drains.mark(|_| Mark(0));
        assert!(said(&mut drains, false).is_empty() && drains.is_waiting());
        assert_eq!(said(&mut drains, true), [("a".to_owned(), 4)]);
        assert!(said(&mut drains, true).is_empty() && !drains.is_waiting());
        drains.say_again();
        assert_eq!(said(&mut drains, true), [("a".to_owned(), 4)]);
        drains.take(&tenant("a"), PRINT, Some(Version::new(6)));
        drains.mark(|_| Mark(0));
        assert_eq!(
            said(&mut drains, true),
            [("a".to_owned(), 6)],
            "another hold"
        );
        drains.take(&tenant("a"), PRINT, None);
        drains.say_again();
        assert!(said(&mut drains, true).is_empty(), "released");
    }

    #[test]
    fn a_word_that_did_not_go_out_is_said_later_and_there_is_a_cap() {
        let mut drains = Drains::default();
        for number in 0..2 * limits::MAX_FEED_DRAINED {
            let name = tenant(&format!("t{number}"));
            drains.take(&name, PRINT, Some(Version::new(1)));
        }
        drains.mark(|_| Mark(0));
        drains.say(|_, _| true, |_, _| false);
        assert_eq!(said(&mut drains, true).len(), limits::MAX_FEED_DRAINED);
    }
}
