//! Asks the coordinator that is followed about one tenant: the `Lookup` of the feed's protocol. For
//! proxies that don't hold all tenants, and to place a tenant at its first write.
//!
//! A lookup ends: with an answer from a state no older than what is in force here (I4), by its
//! deadline, or at once where no coordinator is followed or too many are under way (I12). Whether a
//! tenant was placed by one whose answer was lost does not matter: the next one finds it placed.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use maia_common::cluster_key::ClusterInterceptor;
use maia_common::runtime::{Gate, GateError};
use maia_common::wire::feed::{self as wire, feed_client::FeedClient};
use maia_common::{Generation, Revision, limits};
use std::sync::Arc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::core::feed::{FeedError, tenant_of};
use crate::core::table::Entry;
use crate::shell::metrics::Metrics;

/// The coordinator's end of the feed's protocol.
pub type Client = FeedClient<InterceptedService<Channel, ClusterInterceptor>>;

/// Why there is no answer. Nothing was written in any case.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No coordinator is followed now.
    #[error("no coordinator is followed")]
    NoCoordinator,
    /// Too many are under way.
    #[error("too many lookups: {0}")]
    TooMany(#[from] GateError),
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
    #[error(transparent)]
    Malformed(#[from] FeedError),
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
    metrics: Arc<Metrics>,
}

impl Lookups {
    /// By the proxy of this id; no coordinator is followed yet.
    #[must_use]
    pub fn new(proxy: String, metrics: Arc<Metrics>) -> Self {
        Self {
            proxy,
            client: ArcSwapOption::empty(),
            gate: Gate::new(limits::MAX_PROXY_LOOKUPS),
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
        let result = self.try_ask(question).await;
        self.metrics.lookup(result.is_ok());
        result
    }

    async fn try_ask(&self, question: Question<'_>) -> Result<Answer, LookupError> {
        let _pass = self.gate.enter()?;
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
        let entry = answer.tenant.as_ref().map(tenant_of).transpose()?;
        Ok(Answer {
            revision,
            entry: entry.map(|(_, entry)| entry),
        })
    }
}
