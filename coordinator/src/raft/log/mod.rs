//! The log store: the logs and hard state of all groups in one database behind one flusher.
//!
//! ```text
//!  group's core ──append──▶ tail (readable at once) ──▶ queue ─┐
//!  group's core ──vote────────────────────────────────▶ queue ─┤ one order for all
//!                                                              ▼
//!                 flusher thread: gather all → one WriteBatch → one sync → callbacks
//! ```
//! Invariants: a vote is durable before `save_vote` returns, and votes and entries of a group reach
//! the disk in the order in which they were given; entries are readable when `append` returns and
//! durable when their callback fires; the last purged id is stored with the deletion; a data record that
//! is not known to be committed goes to quarantine in the batch that removes it.

mod early;
pub(crate) mod flusher;
mod leaving;
pub(crate) mod ledger;
pub(crate) mod reader;
pub(crate) mod recovery;
mod salvage;
pub(crate) mod store;
pub(crate) mod tail;
pub(crate) mod work;
