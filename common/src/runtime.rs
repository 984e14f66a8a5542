//! What every long-running process needs: an owner for its tasks, a gate that bounds and drains
//! its requests, a backoff for its retries. The one place that spawns.

pub mod backoff;
pub mod gate;
pub mod tasks;

pub use backoff::Backoff;
pub use gate::{Gate, GateError, Pass};
pub use tasks::Tasks;
