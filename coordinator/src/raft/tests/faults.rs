//! A network in memory that loses, delays, doubles and cuts, and power cuts: a node goes on from a
//! copy of its files as they were, without what was not synced.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use maia_common::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::super::transport::inbound::{Inbound, InboundError};
use super::super::transport::{Answer, Route, Transport, TransportError, VoteKind};
use super::super::types::{RaftSnapshot, RaftVote, TypeConfig};

/// How bad the network is for now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// Of 1000 messages (and of 1000 answers), how many are lost.
    pub(super) lost: u32,
    /// Of 1000 messages, how many arrive twice.
    pub(super) doubled: u32,
    /// Messages and answers take up to this long.
    pub(super) delay_max: Duration,
}

/// The network between the nodes of a test.
pub(super) struct Net {
    rng: Mutex<fastrand::Rng>,
    nodes: Mutex<HashMap<NodeId, Inbound>>,
    cut: Mutex<HashSet<(NodeId, NodeId)>>,
    weather: Mutex<Weather>,
    runtime: Handle,
    pub(super) faults: AtomicU64,
}

/// What happens to one message.
struct Fate {
    lost: bool,
    answer_lost: bool,
    doubled: bool,
    delay: Duration,
    answer_delay: Duration,
}

impl Net {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            nodes: Mutex::default(),
            cut: Mutex::default(),
            weather: Mutex::default(),
            runtime: Handle::current(),
            faults: AtomicU64::new(0),
        })
    }

    pub(super) fn plug_in(&self, node: NodeId, inbound: Inbound) {
        self.nodes.lock().unwrap().insert(node, inbound);
    }

    pub(super) fn unplug(&self, node: NodeId) {
        self.nodes.lock().unwrap().remove(&node);
    }

    /// Cuts one direction.
    pub(super) fn cut(&self, from: NodeId, to: NodeId) {
        self.cut.lock().unwrap().insert((from, to));
    }

    pub(super) fn heal(&self) {
        self.cut.lock().unwrap().clear();
        self.set_weather(Weather::default());
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    fn fate(&self, route: Route) -> Fate {
        let weather = *self.weather.lock().unwrap();
        let (there, back) = {
            let cut = self.cut.lock().unwrap();
            (
                cut.contains(&(route.from, route.to)),
                cut.contains(&(route.to, route.from)),
            )
        };
        let mut rng = self.rng.lock().unwrap();
        let mut chance = |of_1000: u32| rng.u32(0..1000) < of_1000;
        let (lost, answer_lost) = (there || chance(weather.lost), back || chance(weather.lost));
        let doubled = chance(weather.doubled);
        let max = u64::try_from(weather.delay_max.as_micros()).unwrap().max(1);
        let delay = Duration::from_micros(rng.u64(0..max));
        let answer_delay = Duration::from_micros(rng.u64(0..max));
        let fate = Fate {
            lost,
            answer_lost,
            doubled,
            delay,
            answer_delay,
        };
        let faults = [fate.lost, fate.answer_lost, fate.doubled];
        let count = faults.iter().filter(|fault| **fault).count() as u64;
        self.faults.fetch_add(count, Ordering::Relaxed);
        fate
    }

    /// Sends a message; what has been sent arrives even if the sender no longer waits.
    async fn send<T, F>(
        self: Arc<Self>,
        route: Route,
        timeout: Duration,
        deliver: impl Fn(Inbound) -> F + Send + 'static,
    ) -> Result<T, TransportError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, InboundError>> + Send,
    {
        let node = route.to;
        let fate = self.fate(route);
        let (answer, answered) = oneshot::channel();
        let net = Arc::clone(&self);
        drop(self.runtime.spawn(async move {
            if fate.lost {
                return std::future::pending::<()>().await;
            }
            tokio::time::sleep(fate.delay).await;
            let inbound = net.nodes.lock().unwrap().get(&node).cloned();
            let Some(inbound) = inbound else {
                let reason = "it is down".to_owned();
                let _ = answer.send(Err(TransportError::Unreachable { node, reason }));
                return;
            };
            let first = deliver(inbound.clone()).await;
            if fate.doubled {
                tokio::time::sleep(fate.answer_delay).await;
                let _ = deliver(inbound).await;
            }
            tokio::time::sleep(fate.answer_delay).await;
            if !fate.answer_lost {
                let refused = |e: InboundError| TransportError::Refused {
                    node,
                    reason: e.to_string(),
                };
                let _ = answer.send(first.map_err(refused));
            }
        }));
        match tokio::time::timeout(timeout.min(Duration::from_secs(2)), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(TransportError::Timeout {
                node,
                waited: timeout,
            }),
        }
    }
}

/// One node's end of the network.
pub(super) struct FaultyTransport(pub(super) Arc<Net>);

impl Transport for FaultyTransport {
    fn append(
        &self,
        route: Route,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, AppendEntriesResponse<TypeConfig>> {
        let deliver = move |inbound: Inbound| {
            let request = request.clone();
            async move { inbound.append(route, request).await }
        };
        Arc::clone(&self.0).send(route, timeout, deliver).boxed()
    }

    fn vote(
        &self,
        route: Route,
        kind: VoteKind,
        request: VoteRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, VoteResponse<TypeConfig>> {
        let deliver = move |inbound: Inbound| {
            let request = request.clone();
            async move { inbound.vote(route, kind, request).await }
        };
        Arc::clone(&self.0).send(route, timeout, deliver).boxed()
    }

    fn transfer(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, TransferLeaderResponse<TypeConfig>> {
        let deliver = move |inbound: Inbound| {
            let request = request.clone();
            async move { inbound.transfer(route, request).await }
        };
        Arc::clone(&self.0).send(route, timeout, deliver).boxed()
    }

    fn snapshot(
        &self,
        route: Route,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        timeout: Duration,
    ) -> Answer<'_, SnapshotResponse<TypeConfig>> {
        let mut bytes =
            vec![0; usize::try_from(snapshot.snapshot.length_bytes().unwrap()).unwrap()];
        snapshot.snapshot.file.read_exact_at(&mut bytes, 0).unwrap();
        let meta = snapshot.meta;
        let deliver = move |inbound: Inbound| {
            let (bytes, meta) = (bytes.clone(), meta.clone());
            async move {
                let file = inbound.snapshot_file(route, bytes.len() as u64)?;
                file.file.write_all_at(&bytes, 0).unwrap();
                inbound.install(route, vote, meta, file).await
            }
        };
        Arc::clone(&self.0).send(route, timeout, deliver).boxed()
    }
}

/// Copies a node's files as they are on disk now: what is only in the process's memory is not in
/// the copy, as after a power cut.
pub(super) fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_files(&path, &target);
        } else if path.exists() {
            // A temporary file may vanish meanwhile.
            let _ = std::fs::copy(&path, &target);
        }
    }
}
