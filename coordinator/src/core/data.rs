//! The built-in origin's pure part: what a data record does to a tenant's resources. Called by
//! apply of placement groups on every data member. Owns the layout of their state. Decides from
//! the record and the state alone (I13): conditions, create-only, idempotency keys (I8); the
//! placement was checked by the leader before it proposed.
//!
//! | family | suffix behind the group's id | value |
//! | --- | --- | --- |
//! | `data` | tenant NUL type NUL id | a framed `Resource` |
//! | `dedup` | tenant NUL `k` key | a framed `Dedup` |
//! | `dedup` | tenant NUL `p` index u64 BE | the key that was registered there |
//! | `marks` | `d` tenant | how many keys the tenant has registered, and the lowest index of one, u64 BE each |
//! | `dedup` | tenant NUL `t` type NUL id | a framed `Tombstone` |
//! | `dedup` | tenant NUL `o` index u64 BE type NUL id | nothing: tombstones in the order of their records |
//! | `marks` | `b` tenant | how many tombstones the tenant has, and the lowest index of one, u64 BE each |
//! | `marks` | `f` tenant | the newest stamp of a tombstone that was forgotten: a framed `Stamp` |
//! | `marks` | `m` tenant | a framed `TenantMark`: whether the tenant is sealed here |
//! | `marks` | `s` tenant | the revision that ended the tenant's placement here, u64 BE |
//!
//! The deletion of a resource moves it from `data` to a tombstone. A purge ends
//! a tenant's placement in this group: whatever was proposed under it and is applied later is
//! refused, also when the proposer did not know (I5, I6). The mark outlives the purge.

mod apply;
mod etag;
mod keys;
mod order;
mod purge;
mod reconcile;
mod seal;
mod slot;
mod stamps;
mod tombstones;
mod trace;

pub use apply::{DATA_VERSION, apply, decode_outcome, decode_resource, early_outcome};
pub use etag::{etag, parse_etag};
pub use keys::{resource_id_of, resource_key, type_prefix};
pub use seal::is_open;
pub use trace::{decode_trace, trace, trace_of_nothing};

#[cfg(test)]
#[path = "data_test.rs"]
mod tests;

#[cfg(test)]
#[path = "data/seal_test.rs"]
mod seal_tests;
