//! Keys of a placement group's state. Names can't contain NUL, so a NUL parts them, and a scan of
//! a prefix finds one tenant's, or one type's, and nothing else.

use maia_common::ids::{GroupId, IdempotencyKey, ResourceId, ResourceType, TenantId};
use maia_common::position::Index;

use crate::core::record::RecordKind;
use crate::raft::group_key;

/// The prefix of all that a tenant has in `data` and `dedup`.
pub(super) fn tenant_prefix(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("{tenant}\0").as_bytes())
}

/// Where it stands that a tenant's placement in this group has ended.
pub(super) fn ended_mark(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("s{tenant}").as_bytes())
}

/// Where it stands whether the tenant is sealed in this group.
pub(super) fn seal_mark(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("m{tenant}").as_bytes())
}

/// The prefix of all resources of a type.
#[must_use]
pub fn type_prefix(group: GroupId, tenant: &TenantId, kind: &ResourceType) -> Vec<u8> {
    group_key(group, format!("{tenant}\0{kind}\0").as_bytes())
}

/// The key of a resource.
#[must_use]
pub fn resource_key(
    group: GroupId,
    tenant: &TenantId,
    kind: &ResourceType,
    id: &ResourceId,
) -> Vec<u8> {
    let mut key = type_prefix(group, tenant, kind);
    key.extend_from_slice(id.as_str().as_bytes());
    key
}

/// The id within a resource's key, given the prefix of its type.
#[must_use]
pub fn resource_id_of(key: &[u8], prefix: &[u8]) -> Option<ResourceId> {
    let id = key.strip_prefix(prefix)?;
    ResourceId::new(std::str::from_utf8(id).ok()?).ok()
}

/// The name under which a key's outcome is kept. Resolutions' begin with a space, which no key that a
/// client may send has in it.
pub(super) fn dedup_name(kind: RecordKind, key: &IdempotencyKey) -> String {
    match kind {
        RecordKind::Reconcile => format!(" {key}"),
        _ => key.to_string(),
    }
}

/// By [`dedup_name`].
pub(super) fn dedup_key(group: GroupId, tenant: &TenantId, key: &str) -> Vec<u8> {
    group_key(group, format!("{tenant}\0k{key}").as_bytes())
}

pub(super) fn dedup_order_prefix(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("{tenant}\0p").as_bytes())
}

/// Of the key that is a record's `nth` one; only resolutions have a second.
pub(super) fn dedup_order_key(
    group: GroupId,
    tenant: &TenantId,
    index: Index,
    nth: usize,
) -> Vec<u8> {
    let mut key = dedup_order_prefix(group, tenant);
    key.extend_from_slice(&index.get().to_be_bytes());
    key.extend(std::iter::repeat_n(1, nth));
    key
}

pub(super) fn dedup_count_mark(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("d{tenant}").as_bytes())
}

/// What names a resource within its tenant.
pub(super) fn resource_suffix(kind: &ResourceType, id: &ResourceId) -> String {
    format!("{kind}\0{id}")
}

pub(super) fn tombstone_key(group: GroupId, tenant: &TenantId, resource: &str) -> Vec<u8> {
    group_key(group, format!("{tenant}\0t{resource}").as_bytes())
}

pub(super) fn tombstone_order_prefix(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("{tenant}\0o").as_bytes())
}

pub(super) fn tombstone_order_key(
    group: GroupId,
    tenant: &TenantId,
    index: Index,
    resource: &str,
) -> Vec<u8> {
    let mut key = tombstone_order_prefix(group, tenant);
    key.extend_from_slice(&index.get().to_be_bytes());
    key.extend_from_slice(resource.as_bytes());
    key
}

/// The resource in a tombstone's order key, given the prefix of all.
pub(super) fn tombstone_resource<'a>(order: &'a [u8], prefix: &[u8]) -> Option<&'a str> {
    std::str::from_utf8(order.strip_prefix(prefix)?.get(8..)?).ok()
}

pub(super) fn tombstone_count_mark(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("b{tenant}").as_bytes())
}

pub(super) fn forgotten_mark(group: GroupId, tenant: &TenantId) -> Vec<u8> {
    group_key(group, format!("f{tenant}").as_bytes())
}
