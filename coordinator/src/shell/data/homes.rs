//! The homes of tenants as one revision of the metastore has them, so that not every request reads
//! and decodes the placement. Used by [`super::DataService`] alone.
//!
//! Invariant: what is given was read at the newest revision told here, or later. A revision is told after
//! its change is visible and before anybody hears that it was made, so who was answered reads it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maia_common::ids::TenantId;
use maia_common::limits;
use maia_common::position::Revision;
use tokio::sync::watch;

use super::Home;
use crate::shell::placements::Refusal;

/// The homes.
pub(super) struct Homes {
    revisions: watch::Receiver<Revision>,
    known: Mutex<Known>,
}

/// All read at one revision or later.
#[derive(Default)]
struct Known {
    revision: Revision,
    homes: HashMap<TenantId, Arc<Home>>,
}

impl Homes {
    pub(super) fn new(revisions: watch::Receiver<Revision>) -> Self {
        let known = Mutex::default();
        Self { revisions, known }
    }

    /// The tenant's home, from memory or by `read`. Refusals are not kept.
    pub(super) fn get(
        &self,
        tenant: &TenantId,
        read: impl FnOnce() -> Result<Home, Refusal>,
    ) -> Result<Arc<Home>, Refusal> {
        // Before it is read: what changes meanwhile counts as older than it is.
        let revision = *self.revisions.borrow();
        let known = self.at(revision).homes.get(tenant).cloned();
        if let Some(home) = known {
            return Ok(home);
        }
        let home = Arc::new(read()?);
        let mut known = self.at(revision);
        if known.revision == revision {
            if known.homes.len() >= limits::MAX_KNOWN_HOMES {
                known.homes.clear();
            }
            known.homes.insert(tenant.clone(), Arc::clone(&home));
        }
        Ok(home)
    }

    /// What is known of this revision; what is older is forgotten.
    fn at(&self, revision: Revision) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.revision < revision {
            known.revision = revision;
            known.homes.clear();
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use maia_common::ids::GroupId;
    use maia_common::placement::{
        ConflictStrategy, Placement, PlacementState, ShortagePolicy, SyncMode, TenantProperties,
    };
    use maia_common::position::Version;

    use super::*;

    fn home(created: u64) -> Home {
        let properties = TenantProperties {
            sync_mode: SyncMode::Async,
            min_sync_replicas: 0,
            on_too_few: ShortagePolicy::Reject,
            conflict_strategy: ConflictStrategy::LastWriteWins,
            write_routing: None,
        };
        let placement = Placement {
            tenant: TenantId::new("acme").unwrap(),
            group: GroupId::new(1),
            version: Version::new(1),
            state: PlacementState::Active,
            properties,
        };
        let created = Revision::new(created);
        Home { placement, created }
    }

    #[test]
    fn a_home_is_read_once_for_each_revision() {
        let (tell, revisions) = watch::channel(Revision::new(1));
        let homes = Homes::new(revisions);
        let tenant = TenantId::new("acme").unwrap();
        let created = |by: u64| homes.get(&tenant, || Ok(home(by))).unwrap().created.get();
        assert_eq!((created(1), created(2)), (1, 1));
        tell.send_replace(Revision::new(2));
        assert_eq!((created(3), created(4)), (3, 3));
    }

    /// Who began to read before a change must not leave the old home for those who come after it.
    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let (tell, revisions) = watch::channel(Revision::new(1));
        let homes = Homes::new(revisions);
        let tenant = TenantId::new("acme").unwrap();
        let late = homes.get(&tenant, || {
            tell.send_replace(Revision::new(2));
            homes.get(&tenant, || Ok(home(2))).unwrap();
            Ok(home(1))
        });
        assert_eq!(late.unwrap().created.get(), 1);
        let now = homes.get(&tenant, || Ok(home(3))).unwrap();
        assert_eq!(now.created.get(), 2);
    }
}
