//! The real proxy, driven from outside: a fake coordinator's feed, a fake origin, raw sockets.

mod bodies;
mod feed;
mod holds;
mod lifecycle;
mod origin;
mod routing;
mod support;
