//! What apply makes of the logs: the `state/` database, the view that an applier reads, and the
//! state machine of a group. State is a function of the log alone (I13).

pub mod applier;
pub(crate) mod db;
pub mod digest;
pub(crate) mod incarnation;
pub(crate) mod machine;
pub mod reader;
pub(crate) mod view;
