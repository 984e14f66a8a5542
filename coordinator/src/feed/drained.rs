//! What a proxy said it has drained: no request of that tenant or group is in flight there that was
//! admitted under a placement older than the version. Pure and bounded: what is forgotten counts as
//! not drained, and whoever waits for it waits only so long.

use std::collections::VecDeque;

use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::Version;

/// What can be drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drainable {
    /// Writes of one tenant.
    Tenant(TenantId),
    /// Writes of all tenants of a group.
    Group(GroupId),
}

/// One proxy's acknowledgements, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Drained(VecDeque<(Drainable, Version)>);

impl Drained {
    /// Takes an acknowledgement; one of a lower version than is known changes nothing (I4).
    pub(super) fn note(&mut self, what: Drainable, version: Version) {
        let known = self.0.iter().position(|(known, _)| *known == what);
        let before = known.and_then(|at| self.0.remove(at)).map(|(_, v)| v);
        if self.0.len() >= limits::MAX_FEED_DRAINED {
            self.0.pop_front();
        }
        self.0
            .push_back((what, version.max(before.unwrap_or_default())));
    }

    /// Whether it was drained at this version or a later one.
    pub(super) fn has(&self, what: &Drainable, version: Version) -> bool {
        let mut known = self.0.iter();
        known.any(|(known, at)| known == what && *at >= version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Drainable {
        Drainable::Tenant(TenantId::new(name).unwrap())
    }

    #[test]
    fn the_newest_version_counts_and_the_oldest_word_is_forgotten_first() {
        let mut drained = Drained::default();
        drained.note(tenant("t"), Version::new(5));
        drained.note(tenant("t"), Version::new(4));
        assert!(drained.has(&tenant("t"), Version::new(5)));
        assert!(!drained.has(&tenant("t"), Version::new(6)));
        assert!(!drained.has(&Drainable::Group(GroupId::new(1)), Version::new(1)));
        for n in 1..limits::MAX_FEED_DRAINED {
            drained.note(tenant(&format!("n{n}")), Version::new(1));
        }
        assert!(drained.has(&tenant("t"), Version::new(5)), "there is room");
        drained.note(tenant("one-more"), Version::new(1));
        assert!(!drained.has(&tenant("t"), Version::new(5)));
        assert!(drained.has(&tenant("one-more"), Version::new(1)));
    }
}
