//! The pure half of the proxy: plain data in, plain data out. No async, no clock, no randomness,
//! no lock; the shell brings `now`, seeds and bytes, and executes what is decided here.
//!
//! ```text
//! header ─alias─▶ none that passes for ours
//! header ─tenant─▶ tenant ─fingerprint─table─▶ Entry ┐
//! method ─classify─────────────────────────▶ Class ──┼─decide─▶ Decision ─redirect─▶ Location
//! feed message ─feed─▶ Step ─────────────▶ Topology ─┘
//! ```

pub mod alias;
pub mod classify;
pub mod decide;
pub mod disk_snapshot;
pub mod feed;
pub mod fingerprint;
pub mod redirect;
pub mod table;
pub mod tenant;
pub mod token_bucket;
