//! The feed client: follows one coordinator after the other, puts what it hears in force, and
//! acknowledges it. What a message means is `core::feed`'s; this brings messages and time.
//!
//! ```text
//! connect ─ Hello{last revision} ─▶ snapshot or deltas ─ Applied(revision) ─▶ …
//!    ▲                                   │ error, or 3 s of silence (Alive comes each second)
//!    └── the next coordinator ◀──────────┘ after all have failed: backoff with jitter
//! ```
//! Without a feed the proxy goes on with what it knows (perhaps from disk), and says how old that
//! is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::cluster_key::ClusterInterceptor;
use maia_common::limits;
use maia_common::runtime::Backoff;
use maia_common::topology::Topology;
use maia_common::wire::feed::{
    self as wire, down::Kind as Down, drained::What as Drained, feed_client::FeedClient, up::Kind,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::core::feed::{FeedError, FeedState, Step};
use crate::shell::lookups::Lookups;
use crate::shell::memory;
use crate::shell::metrics::Metrics;
use crate::shell::placements::Placements;

/// The version of the protocol that is spoken.
const FORMAT: u32 = 1;
/// A coordinator says something at least each second.
const SILENCE: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether the writes before a hold are through, while one waits.
const DRAIN_POLL: Duration = Duration::from_millis(2);
/// Acknowledgements on their way up; more are left out, since the newest one stands for all.
const ACK_QUEUE: usize = 64;

/// Why a coordinator is left.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("not connected: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("refused: {0}")]
    Refused(#[from] tonic::Status),
    #[error("the stream ended")]
    Ended,
    #[error("nothing heard for {SILENCE:?}")]
    Silent,
    #[error(transparent)]
    Feed(#[from] FeedError),
}

/// The feed client.
pub struct Follower {
    /// The stable id of this proxy.
    pub proxy: String,
    /// Its region.
    pub region: String,
    /// `host:port` of coordinators.
    pub coordinators: Vec<String>,
    /// Proves membership of the cluster.
    pub key: ClusterInterceptor,
    /// Where what is heard comes into force.
    pub placements: Arc<Placements>,
    /// Where single tenants are asked for.
    pub lookups: Arc<Lookups>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether a stream is open now, for `/readyz`.
    pub connected: Arc<AtomicBool>,
}

impl Follower {
    /// Follows until it is dropped.
    pub async fn run(self) {
        let mut state = self.begin();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut resync = false;
        let mut failures_in_a_row = 0;
        for coordinator in self.coordinators.iter().cycle() {
            let mut heard = false;
            let lost = self
                .follow(coordinator, &mut state, resync, &mut heard)
                .await;
            self.connected.store(false, Ordering::Relaxed);
            self.lookups.follow(None);
            if heard || failures_in_a_row == 0 {
                tracing::warn!(coordinator, reason = %lost, "the feed of a coordinator is lost");
            } else {
                tracing::debug!(coordinator, reason = %lost, "no feed from a coordinator");
            }
            resync = matches!(&lost, Lost::Feed(e) if e.needs_resync());
            if heard && !resync {
                backoff.reset();
                failures_in_a_row = 0;
                continue; // it was well a moment ago: the next one at once
            }
            failures_in_a_row += 1;
            if failures_in_a_row >= self.coordinators.len() || resync {
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }

    /// Nothing heard yet, or as it was saved.
    fn begin(&self) -> FeedState {
        let key = self.placements.key().clone();
        match self.placements.topology() {
            Some(topology) => FeedState::restored(key, Topology::clone(&topology)),
            None => FeedState::new(key),
        }
    }

    /// Follows one coordinator until it is lost. `heard`: it sent anything at all.
    async fn follow(
        &self,
        coordinator: &str,
        state: &mut FeedState,
        resync: bool,
        heard: &mut bool,
    ) -> Lost {
        match self.subscribe(coordinator, state, resync, heard).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    async fn subscribe(
        &self,
        coordinator: &str,
        state: &mut FeedState,
        resync: bool,
        heard: &mut bool,
    ) -> Result<std::convert::Infallible, Lost> {
        let channel = Endpoint::from_shared(format!("http://{coordinator}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect()
            .await?;
        let mut client = FeedClient::with_interceptor(channel, self.key.clone())
            .max_decoding_message_size(limits::MAX_RPC_BYTES);
        let (up, queue) = mpsc::channel(ACK_QUEUE);
        send(&up, Kind::Hello(self.hello(state, resync)));
        let subscribed = client.subscribe(ReceiverStream::new(queue));
        let subscribed = tokio::time::timeout(SILENCE, subscribed).await;
        let mut stream = subscribed.map_err(|_| Lost::Silent)??.into_inner();
        tracing::info!(coordinator, "following the feed of a coordinator");
        let mut begun = false;
        let mut loaded: Option<Instant> = None;
        let mut silent_at = tokio::time::Instant::now() + SILENCE;
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout_at(silent_at, stream.message()) => message,
                () = tokio::time::sleep(DRAIN_POLL), if state.drains().is_waiting() => {
                    self.say_drained(state, &up);
                    continue;
                }
            };
            let message = message.map_err(|_| Lost::Silent)??.ok_or(Lost::Ended)?;
            silent_at = tokio::time::Instant::now() + SILENCE;
            self.placements.heard();
            *heard = true;
            if !begun {
                begun = true;
                self.connected.store(true, Ordering::Relaxed);
                self.lookups.follow(Some(client.clone()));
                self.placements.put(state.begin_stream()).await;
            }
            if self.take(state, message, &up).await? {
                loaded = Some(Instant::now());
            }
            if loaded.is_some_and(|at| at.elapsed() > memory::GIVE_BACK_AFTER) {
                loaded = None;
                memory::give_back();
            }
        }
    }

    fn say_drained(&self, state: &mut FeedState, up: &mpsc::Sender<wire::Up>) {
        let in_flight = self.placements.in_flight();
        state.drains().say(
            |print, mark| in_flight.is_through(print, mark),
            |tenant, version| {
                let what = Some(Drained::Tenant(tenant.to_string()));
                let version = version.get();
                send(up, Kind::Drained(wire::Drained { what, version }))
            },
        );
    }

    fn hello(&self, state: &FeedState, resync: bool) -> wire::Hello {
        let (generation, revision) = state.in_force();
        wire::Hello {
            format: FORMAT,
            proxy: self.proxy.clone(),
            region: self.region.clone(),
            last_revision: if resync { 0 } else { revision.get() },
            generation: generation.get(),
            topology_only: self.placements.on_demand().is_some(),
        }
    }

    /// True: a whole snapshot came into force.
    async fn take(
        &self,
        state: &mut FeedState,
        message: wire::Down,
        up: &mpsc::Sender<wire::Up>,
    ) -> Result<bool, FeedError> {
        let before = state.in_force();
        let current = matches!(message.kind, Some(Down::Delta(_) | Down::SnapshotEnd(_)))
            || matches!(&message.kind, Some(Down::Alive(a)) if a.revision == before.1.get());
        let step = state.take(message)?;
        let committed_unix_us = match &step {
            Step::Delta {
                tenants,
                committed_unix_us,
                ..
            } if !tenants.is_empty() => Some(*committed_unix_us),
            _ => None,
        };
        let whole = matches!(step, Step::Snapshot { .. });
        self.placements.put(step).await;
        let in_flight = self.placements.in_flight();
        state.drains().mark(|print| in_flight.mark(print));
        self.say_drained(state, up);
        if current && !state.is_loading() {
            self.placements.vouched();
        }
        if let Some(committed) = committed_unix_us.filter(|us| *us > 0) {
            self.metrics.apply_seconds.observe(seconds_since(committed));
        }
        // A snapshot may be of the very revision that is in force: it is answered, too.
        if whole || state.in_force() != before {
            let revision = state.in_force().1.get();
            send(up, Kind::Applied(wire::Applied { revision }));
        }
        Ok(whole)
    }
}

/// Queues a message up; false: the queue is full. Of `applied` a later one says the same and more.
fn send(up: &mpsc::Sender<wire::Up>, kind: Kind) -> bool {
    up.try_send(wire::Up { kind: Some(kind) }).is_ok()
}

/// 0 where the clocks disagree.
fn seconds_since(unix_us: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_us = now.map_or(0, |d| d.as_micros() as u64);
    Duration::from_micros(now_us.saturating_sub(unix_us)).as_secs_f64()
}
