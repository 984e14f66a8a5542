//! `make show-02`: placements at scale.
//!
//! 1. [`scale`]: a million tenants loaded; memory; restarts of coordinator and proxy; a new proxy;
//!    all coordinators killed, a proxy restarted from its snapshot, intact or damaged.
//! 2. [`kills`]: kill -9 of the metastore's leader during a bulk load, twenty times.
//! 3. [`subscribers`]: a thousand proxies on the feed, one of them asleep.
//!
//! `SHOW_TENANTS` and `SHOW_KILLS` make it smaller for a first look; such a run proves nothing.
//! The decision's nanoseconds and the comparison with peers are programs of their own
//! (`make bench`, `make peers`), run by `make show-02` after this.

mod kills;
pub(super) mod process;
mod scale;
mod subscribers;
mod tenants;

use super::Report;

/// Runs all of it.
pub async fn run(report: &mut Report) {
    scale::run(report).await;
    kills::run(report).await;
    subscribers::run(report).await;
}
