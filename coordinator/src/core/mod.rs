//! The pure part of the coordinator: no tokio, no I/O, no clock, no randomness, no locks. Data
//! comes in as arguments and goes out as values; the shell executes them.

pub mod frame;
pub mod record;
