//! The feed client: follows one coordinator after the other, puts what it hears in force, and
//! acknowledges it. What a message means is `core::feed`'s; this brings messages and time.
//!
//! ```text
//! connect ─ Hello{last revision} ─▶ snapshot or deltas ─ Applied(revision) ─▶ …
//!    ▲                                   │ error, or 3 s of silence (Alive comes each second)
//!    └── the next coordinator ◀──────────┘ after all have failed: backoff with jitter
//! ```
//! A stream counts as a failure too unless it lived some seconds and its coordinator vouched for
//! what is in force. What was loaded from disk comes into force once a coordinator has brought it
//! up to date, or every one has failed, or none has said anything within a second.
//!
//! Without a feed the proxy goes on with what it knows (perhaps from disk), and says how old that
//! is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::limits;
use maia_common::rpc::{Rpc, Target};
use maia_common::runtime::Backoff;
use maia_common::topology::Topology;
use maia_common::wire::feed::{
    self as wire, drained::What as Drained, feed_client::FeedClient, up::Kind,
};
use tokio::runtime::Handle;
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
/// How long what was loaded from disk waits for a coordinator's first message, from the start.
const FIRST_MESSAGE: Duration = Duration::from_secs(1);
/// How long it waits after that for one that has said something to bring what it has: 3 s in all.
const CAUGHT_UP: Duration = Duration::from_secs(2);
/// A stream that lived so long and vouched for what is in force is worth another at once.
const WELL_AFTER: Duration = Duration::from_secs(5);
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
    /// How it speaks with them.
    pub rpc: Rpc,
    /// Where what is heard comes into force.
    pub placements: Arc<Placements>,
    /// Where single tenants are asked for.
    pub lookups: Arc<Lookups>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether a stream is open now, for `/readyz`.
    pub connected: Arc<AtomicBool>,
}

/// What is carried from one stream to the next.
struct Course {
    /// Where connections live.
    network: Handle,
    state: FeedState,
    /// The next subscription asks for a snapshot.
    resync: bool,
    /// When a snapshot came into force whose memory is yet to be given back.
    loaded: Option<Instant>,
    /// When the stream of now began, and whether its coordinator vouched for what is in force.
    begun: Option<Instant>,
    vouched: bool,
}

impl Course {
    /// A stream that did what it is for. One that was only just there is no better than none:
    /// whoever ended it (another proxy of this id, a proxy too slow for its snapshot) does so again.
    fn was_well(&self) -> bool {
        self.vouched && self.begun.is_some_and(|at| at.elapsed() >= WELL_AFTER)
    }
}

impl Follower {
    /// Follows until it is dropped. Connections live on the runtime `network`: look-ups of requests go
    /// over them too, and must not wait while this one makes a table.
    pub async fn run(self, network: Handle) {
        tokio::join!(self.follow_all(network), self.wait_no_longer());
    }

    /// What was loaded from disk comes into force, whatever coordinators do.
    async fn wait_no_longer(&self) {
        tokio::time::sleep(FIRST_MESSAGE).await;
        if self.connected.load(Ordering::Relaxed) {
            tokio::time::sleep(CAUGHT_UP).await;
        }
        self.enforce("no coordinator has brought anything newer in time");
    }

    fn enforce(&self, why: &'static str) {
        if self.placements.enforce() {
            let (generation, revision) = self.placements.in_force();
            let age_ms = self
                .placements
                .saved_age()
                .map(|age| age.as_millis() as u64);
            tracing::info!(%generation, %revision, age_ms, why, "placements from disk are in force");
        }
    }

    async fn follow_all(&self, network: Handle) {
        let mut course = Course {
            network,
            state: self.begin(),
            resync: false,
            loaded: None,
            begun: None,
            vouched: false,
        };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        // A snapshot for each: what breaks it does so again, at a thousand proxies at once.
        let mut resyncs = Backoff::new(Duration::from_millis(50), Duration::from_secs(120));
        let (mut failures_in_a_row, mut lost_in_all) = (0, 0);
        for coordinator in self.coordinators.iter().cycle() {
            (course.begun, course.vouched) = (None, false);
            let lost = match self.subscribe(coordinator, &mut course).await {
                Ok(never) => match never {},
                Err(lost) => lost,
            };
            self.connected.store(false, Ordering::Relaxed);
            self.placements.set_leaderless(false);
            self.lookups.follow(None);
            if course.begun.is_some() || failures_in_a_row == 0 {
                tracing::warn!(coordinator, reason = %lost, "the feed of a coordinator is lost");
            } else {
                tracing::debug!(coordinator, reason = %lost, "no feed from a coordinator");
            }
            lost_in_all += 1;
            if lost_in_all == self.coordinators.len() {
                self.enforce("every coordinator has failed");
            }
            course.resync = matches!(&lost, Lost::Feed(e) if e.needs_resync());
            let well = course.was_well();
            if well {
                backoff.reset();
                resyncs.reset();
                failures_in_a_row = 0;
            } else {
                failures_in_a_row += 1;
            }
            let wait = if course.resync {
                resyncs.next(fastrand::f64())
            } else if failures_in_a_row >= self.coordinators.len() {
                backoff.next(fastrand::f64())
            } else {
                Duration::ZERO // the next one at once
            };
            self.tidy(&mut course);
            tokio::time::sleep(wait).await;
        }
    }

    /// Nothing heard yet, or as it was saved.
    fn begin(&self) -> FeedState {
        let key = self.placements.key().clone();
        match self.placements.known() {
            Some(topology) => FeedState::restored(key, Topology::clone(&topology)),
            None => FeedState::new(key),
        }
    }

    /// Frees what was replaced, with or without a feed.
    fn tidy(&self, course: &mut Course) {
        self.placements.sweep();
        let given_back = |at: &mut Instant| at.elapsed() > memory::GIVE_BACK_AFTER;
        if course.loaded.take_if(given_back).is_some() {
            memory::give_back();
        }
    }

    async fn subscribe(
        &self,
        coordinator: &str,
        course: &mut Course,
    ) -> Result<std::convert::Infallible, Lost> {
        let endpoint = Endpoint::from_shared(format!("http://{coordinator}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let rpc = self.rpc.clone();
        let connecting = course
            .network
            .spawn(async move { rpc.connect(&endpoint, Target::AnyNode).await });
        let channel = connecting.await.map_err(|_| Lost::Ended)??;
        let mut client = FeedClient::new(channel).max_decoding_message_size(limits::MAX_RPC_BYTES);
        let (up, queue) = mpsc::channel(ACK_QUEUE);
        send(&up, Kind::Hello(self.hello(course)));
        let subscribed = client.subscribe(ReceiverStream::new(queue));
        let subscribed = tokio::time::timeout(SILENCE, subscribed).await;
        let mut stream = subscribed.map_err(|_| Lost::Silent)??.into_inner();
        tracing::info!(coordinator, "following the feed of a coordinator");
        let mut silent_at = tokio::time::Instant::now() + SILENCE;
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout_at(silent_at, stream.message()) => message,
                () = tokio::time::sleep(DRAIN_POLL), if course.state.drains().is_waiting() => {
                    self.say_drained(&mut course.state, &up);
                    continue;
                }
            };
            let message = message.map_err(|_| Lost::Silent)??.ok_or(Lost::Ended)?;
            if course.begun.is_none() {
                course.begun = Some(Instant::now());
                self.connected.store(true, Ordering::Relaxed);
                self.placements.met();
                self.lookups.follow(Some(client.clone()));
                self.placements.put(course.state.begin_stream()).await;
                say_applied(&course.state, &up);
            }
            self.take(course, message, &up).await?;
            // What it took to take it in was not the coordinator's silence.
            silent_at = tokio::time::Instant::now() + SILENCE;
            self.tidy(course);
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

    fn hello(&self, course: &Course) -> wire::Hello {
        let (generation, revision) = course.state.in_force();
        wire::Hello {
            format: FORMAT,
            proxy: self.proxy.clone(),
            region: self.region.clone(),
            last_revision: if course.resync { 0 } else { revision.get() },
            generation: generation.get(),
            topology_only: self.placements.on_demand().is_some(),
        }
    }

    async fn take(
        &self,
        course: &mut Course,
        message: wire::Down,
        up: &mpsc::Sender<wire::Up>,
    ) -> Result<(), FeedError> {
        let state = &mut course.state;
        let before = state.in_force();
        let step = state.take(message);
        self.count_unreadable(state.unreadable());
        let step = step?;
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
        if whole {
            course.loaded = Some(Instant::now());
        } else if committed_unix_us.is_some() {
            course.loaded.get_or_insert_with(Instant::now);
        }
        let in_flight = self.placements.in_flight();
        state.drains().mark(|print| in_flight.mark(print));
        self.say_drained(state, up);
        self.judge(state);
        course.vouched |= state.is_current();
        if let Some(committed) = committed_unix_us.filter(|us| *us > 0) {
            self.metrics.apply_seconds.observe(seconds_since(committed));
        }
        if state.in_force() != before || whole {
            say_applied(state, up);
        }
        Ok(())
    }

    /// How old what is in force may be, after a message.
    fn judge(&self, state: &FeedState) {
        self.placements.set_leaderless(state.is_leaderless());
        if !state.is_leaderless() {
            self.placements.heard();
        }
        if state.is_caught_up() {
            self.enforce("a coordinator brought what it has");
        }
        if state.is_current() {
            self.placements.vouched();
        }
    }

    fn count_unreadable(&self, count: u64) {
        if count > 0 {
            self.metrics.unreadable.inc_by(count);
            tracing::warn!(
                count,
                "parts of the feed can't be read: they count as unusable"
            );
        }
    }
}

/// Says what is in force, or will be before anything else is.
fn say_applied(state: &FeedState, up: &mpsc::Sender<wire::Up>) {
    let revision = state.in_force().1.get();
    if revision > 0 {
        send(up, Kind::Applied(wire::Applied { revision }));
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
