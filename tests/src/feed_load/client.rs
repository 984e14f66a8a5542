//! Simulated proxies: each follows one coordinator's feed, acknowledges what it takes, comes back
//! when its stream ends, and notes gaps and steps back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use maia_common::wire::feed::down::Kind;
use maia_common::wire::feed::{self as wire, up};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{Client, unix_us};

/// One change at one client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) committed_unix_us: u64,
    pub(super) latency_us: u32,
}

/// All simulated proxies.
pub(super) struct Crowd {
    /// From now on client 0 reads nothing.
    pub(super) stop_reading: AtomicBool,
    resume: Notify,
    resumed: Mutex<Option<String>>,
    /// The revision that each has; 0: no snapshot yet.
    at: Vec<AtomicU64>,
    samples: Vec<Mutex<Vec<Sample>>>,
    faults: AtomicU64,
    reconnects: AtomicU64,
}

impl Crowd {
    /// Starts the clients.
    pub(super) fn start(connections: &[Client], clients: usize) -> Arc<Crowd> {
        let crowd = Arc::new(Crowd {
            stop_reading: AtomicBool::new(false),
            resume: Notify::new(),
            resumed: Mutex::default(),
            at: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            samples: (0..clients).map(|_| Mutex::default()).collect(),
            faults: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        });
        for n in 0..clients {
            let (crowd, client) = (
                Arc::clone(&crowd),
                connections[n % connections.len()].clone(),
            );
            tokio::spawn(async move { crowd.live(n, client).await });
        }
        crowd
    }

    /// How many have a snapshot.
    pub(super) fn with_snapshot(&self) -> usize {
        self.at.iter().filter(|at| at.load(Relaxed) > 0).count()
    }

    /// How many have not reached the revision; the one that stopped aside.
    pub(super) fn behind(&self, revision: u64) -> usize {
        let reading = self.at.iter().skip(self.stopped());
        reading.filter(|at| at.load(Relaxed) < revision).count()
    }

    /// How many stand still: it is the first that does.
    fn stopped(&self) -> usize {
        usize::from(self.stop_reading.load(Relaxed))
    }

    /// Gaps and steps back, and streams that were opened again.
    pub(super) fn faults(&self) -> (u64, u64) {
        (self.faults.load(Relaxed), self.reconnects.load(Relaxed))
    }

    /// All samples so far; without those of the one that stopped.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let all = self.samples.iter().skip(self.stopped());
        all.flat_map(|of| of.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Lets client 0 read on; returns with what its stream ended, if it did soon.
    pub(super) async fn resume(&self) -> Option<String> {
        self.resume.notify_one();
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
            if resumed.is_some() {
                return resumed.clone();
            }
        }
        None
    }

    async fn live(&self, n: usize, mut client: Client) {
        loop {
            let ended = self.follow(n, &mut client).await;
            if n == 0 && self.stop_reading.load(Relaxed) {
                let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
                *resumed = Some(ended);
                return;
            }
            self.reconnects.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(50..500))).await;
        }
    }

    /// Follows one stream; returns why it ended.
    async fn follow(&self, n: usize, client: &mut Client) -> String {
        let (ups, queue) = mpsc::channel(64);
        let hello = wire::Hello {
            format: 1,
            proxy: super::simulated(n),
            region: "simulated".into(),
            last_revision: self.at[n].load(Relaxed),
            generation: 1,
            topology_only: false,
        };
        say(&ups, up::Kind::Hello(hello));
        let mut stream = match client.subscribe(ReceiverStream::new(queue)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status.to_string(),
        };
        let (mut starting, mut stood_still) = (0, false);
        loop {
            if n == 0 && !stood_still && self.stop_reading.load(Relaxed) {
                self.resume.notified().await;
                stood_still = true;
            }
            let kind = match stream.message().await {
                Ok(Some(down)) => down.kind,
                Ok(None) => return "the end".into(),
                Err(status) => return status.to_string(),
            };
            match kind {
                Some(Kind::SnapshotStart(start)) => starting = start.revision,
                Some(Kind::SnapshotEnd(_)) => self.advance(n, 0, starting, &ups),
                Some(Kind::Delta(delta)) => {
                    let changes = delta.changes.unwrap_or_default();
                    if !changes.tenants.is_empty() {
                        self.sample(n, delta.committed_unix_us);
                    }
                    self.advance(n, delta.from_revision, delta.revision, &ups);
                }
                _ => {}
            }
        }
    }

    fn sample(&self, n: usize, committed_unix_us: u64) {
        let latency_us = unix_us().saturating_sub(committed_unix_us);
        let sample = Sample {
            committed_unix_us,
            latency_us: u32::try_from(latency_us).unwrap_or(u32::MAX),
        };
        let mut samples = self.samples[n]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        samples.push(sample);
    }

    fn advance(&self, n: usize, from: u64, revision: u64, ups: &mpsc::Sender<wire::Up>) {
        let before = self.at[n].swap(revision, Relaxed);
        if from > before || revision < before {
            self.faults.fetch_add(1, Relaxed);
        }
        say(ups, up::Kind::Applied(wire::Applied { revision }));
    }
}

/// Where the queue is full a later acknowledgement says the same and more.
fn say(ups: &mpsc::Sender<wire::Up>, kind: up::Kind) {
    drop(ups.try_send(wire::Up { kind: Some(kind) }));
}
