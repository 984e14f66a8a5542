//! Asks the coordinator that is followed about one tenant: the `Lookup` of the feed's protocol. For
//! proxies that don't hold all tenants, and to place a tenant at its first write.
//!
//! Placings have a rate of their own and a gate of their own: whoever makes names up creates tenants
//! no faster, and keeps nobody from being looked up.
//!
//! A lookup ends: with an answer from a state no older than what is in force here (I4), by its
//! deadline, or at once where no coordinator is followed or too many are under way (I12). Whether a
//! tenant was placed by one whose answer was lost does not matter: the next one finds it placed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use maia_common::rpc::RpcChannel;
use maia_common::runtime::{Gate, GateError};
use maia_common::wire::feed::{self as wire, feed_client::FeedClient};
use maia_common::{Generation, Revision, limits};
use tonic::Code;

use crate::core::feed::{Unreadable, tenant_of};
use crate::core::fingerprint::Fingerprint;
use crate::core::table::Entry;
use crate::core::token_bucket::TokenBucket;
use crate::shell::flights::{Flights, Passenger};
use crate::shell::metrics::{Metrics, Placing};

/// The coordinator's end of the feed's protocol.
pub type Client = FeedClient<RpcChannel>;

/// Why there is no answer. Nothing was written in any case.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No coordinator is followed now.
    #[error("no coordinator is followed")]
    NoCoordinator,
    /// Too many are under way.
    #[error("too many lookups: {0}")]
    TooMany(#[from] GateError),
    /// Tenants are placed faster than they may be.
    #[error("too many new tenants are placed")]
    Limited,
    /// The coordinator did not answer in time.
    #[error("no answer in time")]
    TooSlow,
    /// The coordinator's reason.
    #[error("refused: {0}")]
    Refused(#[from] tonic::Status),
    /// An answer that can't be taken.
    #[error("the answer is of generation {0}, or older than what is in force")]
    Old(Generation),
    /// An answer that can't be read.
    #[error("the answer can't be read")]
    Malformed,
}

impl LookupError {
    /// Whether the coordinator refuses for good: what is asked for can't be.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let LookupError::Refused(status) = self else {
            return false;
        };
        matches!(status.code(), Code::InvalidArgument | Code::NotFound)
    }
}

/// What a coordinator knows of one tenant.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Of the state that was read.
    pub revision: Revision,
    /// `None`: it has no placement at that revision.
    pub entry: Option<Entry>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// A legal name.
    pub tenant: &'q str,
    /// In force here when it is asked.
    pub in_force: (Generation, Revision),
    /// A placement as JSON, by which an unplaced tenant is placed.
    pub create_under: Option<&'q str>,
}

/// See the module.
pub struct Lookups {
    proxy: String,
    client: ArcSwapOption<Client>,
    gate: Gate,
    placings: Gate,
    /// Placings of the same tenant, where its answer is not kept.
    flights: Flights,
    rate: Mutex<TokenBucket>,
    /// Of lines in the log about refusals: clients bring them about.
    warnings: Mutex<TokenBucket>,
    started: Instant,
    metrics: Arc<Metrics>,
}

/// So many seconds' worth of placings may come at once.
const BURST_S: f64 = 10.0;
/// Lines about refusals in a second.
const WARNINGS_PER_SECOND: f64 = 0.1;

impl Lookups {
    /// By the proxy of this id, which places so many tenants in a second; no coordinator is followed
    /// yet.
    #[must_use]
    pub fn new(proxy: String, placings_per_second: u32, metrics: Arc<Metrics>) -> Self {
        let rate = f64::from(placings_per_second);
        Self {
            proxy,
            client: ArcSwapOption::empty(),
            gate: Gate::new(limits::MAX_PROXY_LOOKUPS),
            placings: Gate::new(limits::MAX_PROXY_PLACINGS),
            flights: Flights::default(),
            rate: Mutex::new(TokenBucket::new(rate, rate * BURST_S)),
            warnings: Mutex::new(TokenBucket::new(WARNINGS_PER_SECOND, 1.0)),
            started: Instant::now(),
            metrics,
        }
    }

    /// Lookups go there from now on; `None`: nowhere.
    pub fn follow(&self, client: Option<Client>) {
        self.client.store(client.map(Arc::new));
    }

    /// Asks. Takes `limits::LOOKUP_DEADLINE` at most.
    ///
    /// # Errors
    /// [`LookupError`]
    pub async fn ask(&self, question: Question<'_>) -> Result<Answer, LookupError> {
        let placing = question.create_under.is_some();
        let result = self.try_ask(question).await;
        if placing {
            self.metrics.placing(match &result {
                Ok(_) => Placing::Placed,
                Err(LookupError::Limited | LookupError::TooMany(_)) => Placing::Limited,
                Err(_) => Placing::Failed,
            });
        } else {
            self.metrics.lookup(result.is_ok());
        }
        if let Err(error @ LookupError::Refused(_)) = &result
            && self.take(&self.warnings)
        {
            tracing::warn!(%error, placing, "a coordinator refuses to answer for a tenant");
        }
        result
    }

    /// Joins those who have the same tenant placed.
    ///
    /// # Errors
    /// [`LookupError::TooMany`]
    pub fn board(&self, print: Fingerprint) -> Result<Passenger<'_>, LookupError> {
        self.flights.board(print, None)
    }

    fn take(&self, bucket: &Mutex<TokenBucket>) -> bool {
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.started.elapsed())
    }

    async fn try_ask(&self, question: Question<'_>) -> Result<Answer, LookupError> {
        let placing = question.create_under.is_some();
        let gate = if placing { &self.placings } else { &self.gate };
        let _pass = gate.enter()?;
        if placing && !self.take(&self.rate) {
            return Err(LookupError::Limited);
        }
        let client = self.client.load_full();
        let mut client = Client::clone(&*client.ok_or(LookupError::NoCoordinator)?);
        let (generation, at_least) = question.in_force;
        let request = wire::LookupRequest {
            proxy: self.proxy.clone(),
            tenant: question.tenant.to_owned(),
            generation: generation.get(),
            at_least_revision: at_least.get(),
            create_under: question.create_under.unwrap_or_default().to_owned(),
        };
        // A little longer than the coordinator itself takes: its word says more.
        let deadline = limits::LOOKUP_DEADLINE + Duration::from_millis(500);
        let asked = tokio::time::timeout(deadline, client.lookup(request));
        let answer = asked.await.map_err(|_| LookupError::TooSlow)??.into_inner();
        let revision = Revision::new(answer.revision);
        if Generation::new(answer.generation) != generation || revision < at_least {
            return Err(LookupError::Old(Generation::new(answer.generation)));
        }
        let mut unreadable = Unreadable::default();
        let entry = match &answer.tenant {
            None => None,
            Some(tenant) => {
                let read = tenant_of(tenant, &mut unreadable);
                Some(read.ok_or(LookupError::Malformed)?.1)
            }
        };
        self.metrics.unreadable.inc_by(unreadable.0);
        Ok(Answer { revision, entry })
    }
}
