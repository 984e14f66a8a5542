//! The place of one resource as an operation meets it: what is there, or what is remembered of it.

use std::collections::BTreeSet;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{ResourceId, ResourceType};
use maia_common::position::Index;
use maia_common::wire::record as wire;

use super::apply::{Context, DATA_VERSION, Fault, decode_resource, refuse};
use super::keys;
use super::tombstones::{self, Graves};
use crate::core::conflict::Stamp;
use crate::core::frame;
use crate::raft::{Mutations, StateCf};

pub(super) struct Slot {
    key: Vec<u8>,
    /// Type and id, as tombstones name it.
    name: String,
    pub(super) resource: Option<wire::Resource>,
    grave: Option<(Stamp, Index)>,
}

impl Slot {
    /// Where the operation wants to write; no resource twice in one record: `seen` has the others.
    pub(super) fn open(
        context: &Context<'_>,
        operation: &wire::DataOperation,
        seen: &mut BTreeSet<Vec<u8>>,
    ) -> Result<Self, Fault> {
        let (Ok(kind), Ok(id)) = (
            ResourceType::new(operation.resource_type.as_str()),
            ResourceId::new(operation.resource_id.as_str()),
        ) else {
            return refuse(ErrorCode::InvalidRequest, "an illegal resource type or id");
        };
        let key = keys::resource_key(context.group, context.tenant, &kind, &id);
        if !seen.insert(key.clone()) {
            return refuse(ErrorCode::InvalidRequest, "one resource twice in one write");
        }
        let stored = context.view.get(StateCf::Data, &key)?;
        let resource = stored.map(decode_resource).transpose()?;
        let name = keys::resource_suffix(&kind, &id);
        let grave = match resource {
            Some(_) => None,
            None => tombstones::find(context, &name)?,
        };
        Ok(Self {
            key,
            name,
            resource,
            grave,
        })
    }

    /// When and where it was deleted, if it was and that is remembered.
    pub(super) fn grave(&self) -> Option<&Stamp> {
        self.grave.as_ref().map(|(stamp, _)| stamp)
    }

    pub(super) fn put(self, resource: &wire::Resource, graves: &mut Graves, out: &mut Mutations) {
        out.put(
            StateCf::Data,
            self.key,
            frame::encode(DATA_VERSION, resource),
        );
        if let Some((_, laid_by)) = self.grave {
            graves.lift(self.name, laid_by);
        }
    }

    pub(super) fn bury(self, stamp: Stamp, graves: &mut Graves, out: &mut Mutations) {
        out.delete(StateCf::Data, self.key);
        if let Some((_, laid_by)) = self.grave {
            graves.lift(self.name.clone(), laid_by);
        }
        graves.lay(self.name, stamp);
    }
}
