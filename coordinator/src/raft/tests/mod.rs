//! Tests of the engine as a whole: openraft's own storage suite, nodes over gRPC on loopback, and
//! the torture.

mod catch_up;
mod cluster;
mod damage;
mod denial;
mod digests;
mod early;
mod entries;
mod faults;
mod field;
mod harness;
mod install;
mod lease;
mod load;
mod quarantine;
mod retention;
mod scale;
mod solo;
mod store;
mod store_suite;
mod torture;
mod witness;
