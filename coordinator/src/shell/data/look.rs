//! What a read finds in the state that is applied here: one resource or a page, all of it from one
//! view, and only from one that is whole and has what the client must see (I9).

use maia_common::ids::{GroupId, ResourceId, ResourceType, TenantId};
use maia_common::position::Position;

use super::{DataService, Resource};
use crate::core::data as core;
use crate::core::history::Standing;
use crate::raft::{StateCf, StateError, StateSnapshot, StateView};

/// After this many bytes a page ends: what is listed is in memory at once, and with one resource more
/// it must fit a message between coordinators (`limits::MAX_RPC_BYTES`).
const PAGE_BYTES: usize = 4 << 20;
/// Rows that are read at once; each may be as large as a resource.
const PAGE_STEP: usize = 16;

/// What to read.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whose resources.
    pub tenant: TenantId,
    /// Of which type.
    pub kind: ResourceType,
    /// Which of them.
    pub which: Which,
}

/// Which resources of a type.
#[derive(Debug, Clone)]
pub enum Which {
    /// This one.
    One(ResourceId),
    /// A page of them.
    Page {
        /// Of ids that begin so.
        prefix: String,
        /// That follow this one.
        after: Option<ResourceId>,
        /// So many at most, fewer when they are large.
        limit: usize,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of ids; of one resource none or one.
    pub items: Vec<(ResourceId, Resource)>,
    /// Where the next page begins, if there may be one.
    pub next: Option<ResourceId>,
}

/// What a look at the applied state shows.
pub(super) enum Look {
    /// What was asked for.
    Found(Page),
    /// The state does not have the position yet, or is not whole just now.
    NotYet,
    /// The position is not in the group's history.
    Diverged,
}

impl DataService {
    /// Looks once; with a position, in a state that has it.
    pub(super) fn look(
        &self,
        group: GroupId,
        query: &Query,
        position: Option<Position>,
    ) -> Result<Look, StateError> {
        let state = self.0.engine.state();
        let view = state.snapshot();
        if view.check_complete(group).is_err() {
            return Ok(Look::NotYet);
        }
        match position.map(|at| view.standing(group, at)).transpose()? {
            Some(Standing::NotYet) => return Ok(Look::NotYet),
            Some(Standing::Diverged) => return Ok(Look::Diverged),
            Some(Standing::Applied) | None => {}
        }
        let Query { tenant, kind, .. } = query;
        let page = match &query.which {
            Which::One(id) => {
                let key = core::resource_key(group, tenant, kind, id);
                let found = view.get(StateCf::Data, &key)?;
                let found = found.map(core::decode_resource).transpose()?;
                Page {
                    items: found
                        .map(|resource| (id.clone(), resource))
                        .into_iter()
                        .collect(),
                    next: None,
                }
            }
            Which::Page {
                prefix,
                after,
                limit,
            } => {
                let whole = core::type_prefix(group, tenant, kind);
                let after = after
                    .as_ref()
                    .map(|id| core::resource_key(group, tenant, kind, id));
                page_of(&view, &whole, prefix, after, *limit)?
            }
        };
        Ok(Look::Found(page))
    }
}

/// A page of the rows under `whole` whose ids begin with `prefix`, after the key `after`.
fn page_of(
    view: &StateSnapshot<'_>,
    whole: &[u8],
    prefix: &str,
    mut after: Option<Vec<u8>>,
    limit: usize,
) -> Result<Page, StateError> {
    let mut start = whole.to_vec();
    start.extend_from_slice(prefix.as_bytes());
    let mut page = Page::default();
    let mut bytes = 0;
    while page.items.len() < limit && bytes < PAGE_BYTES {
        let step = PAGE_STEP.min(limit - page.items.len());
        let rows = view.scan(StateCf::Data, &start, after.as_deref(), step)?;
        let is_last = rows.len() < step;
        let found = rows.len();
        let mut taken = 0;
        for (key, value) in rows {
            if bytes >= PAGE_BYTES {
                break;
            }
            bytes += value.len();
            taken += 1;
            let resource = core::decode_resource(value)?;
            page.items
                .extend(core::resource_id_of(&key, whole).map(|id| (id, resource)));
            after = Some(key);
        }
        if is_last && taken == found {
            return Ok(page);
        }
    }
    page.next = page.items.last().map(|(id, _)| id.clone());
    Ok(page)
}
