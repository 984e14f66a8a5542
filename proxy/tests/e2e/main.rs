//! The real proxy, driven from outside: a fake coordinator's feed, a fake origin, raw sockets.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be"
)]

mod admin;
mod bodies;
mod disk;
mod drains;
mod feed;
mod h2;
mod headers;
mod holds;
mod lifecycle;
mod on_demand;
mod origin;
mod routing;
mod scale;
mod support;
mod unknown_tenant;
