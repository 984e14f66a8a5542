//! A small load that remembers what was acknowledged: one writer, each write to a resource of its
//! own, so that a write without an answer is allowed either way and an acknowledged one must be
//! found later.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::Method;

use crate::client::{Client, Request};
use crate::cluster::Cluster;

/// How long one attempt may take before the next one is made.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How far a follower may be behind when it is read.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Between two writes: a small load.
const PAUSE: Duration = Duration::from_millis(2);

/// A write that was acknowledged.
#[derive(Debug, Clone)]
pub struct Acked {
    pub id: String,
    pub started: Instant,
    pub answered: Instant,
}

/// What a writer has done so far.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    urls: Vec<String>,
    tenant: String,
    prefix: String,
    acked: Mutex<Vec<Acked>>,
    refused: Mutex<Vec<String>>,
}

impl Writer {
    /// A writer of this tenant that enters through the proxies of these regions in turn whenever
    /// one fails it. `prefix` sets its resources apart from other writers'.
    #[must_use]
    pub fn new(cluster: &Cluster, tenant: &str, through: &[usize], prefix: &str) -> Self {
        Self {
            client: Client::new(ATTEMPT_TIMEOUT),
            urls: through
                .iter()
                .map(|i| cluster.region(*i).proxy_url.clone())
                .collect(),
            tenant: tenant.to_owned(),
            prefix: prefix.to_owned(),
            acked: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Writes until dropped.
    pub async fn run(&self) {
        let mut entry = 0;
        for n in 0u64.. {
            let id = format!("{}-{n}", self.prefix);
            let url = format!("{}/v1/data/load/{id}", self.urls[entry % self.urls.len()]);
            let request = Request::new(Method::PUT, url)
                .header("x-maia-tenant-id", &self.tenant)
                .body(id.clone());
            let started = Instant::now();
            match self.client.try_follow(&request).await {
                Ok(answer) if answer.is_success() => {
                    let acked = Acked {
                        id,
                        started,
                        answered: Instant::now(),
                    };
                    self.acked.lock().expect("no writer panicked").push(acked);
                }
                other => {
                    let text = other.map_or_else(|error| error.to_string(), |a| a.text());
                    self.refused.lock().expect("no writer panicked").push(text);
                    entry += 1;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// All acknowledged writes so far.
    #[must_use]
    pub fn acked(&self) -> Vec<Acked> {
        self.acked.lock().expect("no writer panicked").clone()
    }

    /// What the other writes got in place of an acknowledgement.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().expect("no writer panicked").clone()
    }

    /// The first acknowledged write that began after `moment`.
    #[must_use]
    pub fn first_begun_after(&self, moment: Instant) -> Option<Acked> {
        self.acked()
            .into_iter()
            .find(|write| write.started >= moment)
    }

    /// Those of the acknowledged writes that a read in region `at` does not find.
    pub async fn missing(&self, cluster: &Cluster, at: usize) -> Vec<String> {
        let mut missing = Vec::new();
        for write in self.acked() {
            let path = format!("/v1/data/load/{}", write.id);
            let request = cluster.through(at, &self.tenant, Method::GET, &path);
            // A follower may be a moment behind; what is lost stays away.
            let end = Instant::now() + CATCH_UP;
            loop {
                let answer = cluster.client.follow(&request).await;
                if answer.status == 200 && answer.body == write.id.as_bytes() {
                    break;
                }
                if Instant::now() >= end {
                    missing.push(format!("{}: {}", write.id, answer.text()));
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        missing
    }
}
