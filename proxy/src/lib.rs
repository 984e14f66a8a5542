//! maia-proxy, the front door of a region: for every request tenant → placement → decision, from
//! memory, without asking anyone; then passed to the local origin, redirected, held, or refused.
//!
//! [`core`] decides and is pure. [`shell`] executes: pingora's phases, the feed client, the hold
//! queue, the admin listener. [`config`] is read and checked whole before any port opens. Begin
//! with [`core::decide`], then [`shell::service`].
//!
//! Not yet, each with its issue: forwarding to other regions' proxies, TLS, further tenant rules and
//! route rules, consistency tokens.

#![warn(missing_docs)]

pub mod config;
pub mod core;
pub mod shell;
