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
//! | `marks` | `d` tenant | how many keys the tenant has registered, u64 BE |
//!
//! A deletion removes the row; tombstones come with conflict resolution.

mod apply;
mod etag;
mod keys;
mod patch;

pub use apply::{DATA_VERSION, apply, decode_outcome, decode_resource};
pub use etag::{etag, parse_etag};
pub use keys::{resource_id_of, resource_key, type_prefix};

#[cfg(test)]
#[path = "data_test.rs"]
mod tests;
