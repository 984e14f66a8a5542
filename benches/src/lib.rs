//! What the benches share. Run them with `make bench`.

pub mod candidates;
pub mod cpu_time;
pub mod log;
pub mod names;
pub mod stored;
pub mod world;
