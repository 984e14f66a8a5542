//! The metastore's pure part: compare-and-set transactions over keys and revisions. Called by
//! apply of group 0 on every coordinator, and by the in-memory backend of tests: one code for both.
//! Owns the layout of group 0's state. Never does I/O of its own: it reads a view and returns
//! mutations. Invariants: I4 (revisions grow by one with each transaction that writes), I12 (history
//! and events are capped), I13 (the record alone decides; times come inside it).
//!
//! | family | suffix behind the group's id | value |
//! | --- | --- | --- |
//! | `meta` | the key | a framed `MetaValue` |
//! | `changes` | revision u64 BE | a framed `MetaChange` |
//! | `dedup` | the transaction's id | a framed `Earlier` |
//! | `marks` | `r` | the current revision, u64 BE |
//! | `marks` | `e` | how many events are kept, u64 BE |
//! | `marks` | `h` | the oldest revision in `changes`, and the bytes of all its values, u64 BE each |
//! | `marks` | `i`, revision u64 BE | the id of that revision's transaction, as long as it is in `dedup` |

mod apply;
mod history;
mod layout;
mod transaction;

pub use apply::{Applied, apply, is_understood};
pub use layout::{
    META_VERSION, change_key, current_revision, decode_change, decode_value, earlier, meta_key,
    oldest_change, suffix_of,
};
pub use transaction::{Precondition, Transaction};

#[cfg(test)]
#[path = "metastore_test.rs"]
mod tests;
