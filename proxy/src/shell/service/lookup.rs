//! What can't be decided yet: the tenant must be looked up, or is to be placed at its first write.
//! Both wait for a coordinator, within their deadlines; then it is decided anew.

use maia_common::{ErrorCode, limits};
use pingora::http::RequestHeader;

use super::Proxy;
use super::admit::Verdict;
use super::request::{facts_of, tenant_of};
use crate::core::classify::Class;
use crate::shell::lookups::{LookupError, Question};
use crate::shell::response::Answer;

/// How often one request may be looked up: as unknown, to be placed, and once more where it was
/// driven out of the cache meanwhile.
const MAX_LOOKUPS: usize = 3;

const NOT_LOOKED_UP: Answer = Answer::problem(
    ErrorCode::Unavailable,
    "the tenant's placement can't be had from a coordinator now; definitely not written",
);

impl Proxy {
    /// The verdict, or where it is to be looked up: what it is then.
    pub(super) async fn settle(
        &self,
        request: &RequestHeader,
        class: Class,
        mut verdict: Verdict,
    ) -> Verdict {
        let Ok(tenant) = tenant_of(request) else {
            return verdict;
        };
        for _ in 0..MAX_LOOKUPS {
            let placing = match verdict {
                Verdict::Missing => false,
                Verdict::Unplaced => true,
                settled => return settled,
            };
            if let Err(error) = self.look_up(tenant, placing).await {
                tracing::debug!(%error, placing, "a tenant can't be looked up");
                return Verdict::Answer(NOT_LOOKED_UP);
            }
            let facts = facts_of(request, class);
            verdict = self.verdict(tenant, &facts, request.raw_path());
        }
        Verdict::Answer(NOT_LOOKED_UP)
    }

    /// Returns when the answer is in force here.
    async fn look_up(&self, tenant: &str, placing: bool) -> Result<(), LookupError> {
        let (placements, lookups) = (&self.placements, &self.lookups);
        let deadline = if placing {
            self.config.proxy.hold_budget
        } else {
            limits::LOOKUP_DEADLINE
        };
        let create_under = self.config.proxy.unknown_tenant.placement();
        let ask = async {
            let question = Question {
                tenant,
                in_force: placements.in_force(), // read when it is asked: see `on_demand`
                create_under: create_under.filter(|_| placing),
            };
            lookups.ask(question).await
        };
        let print = placements.key().of(tenant);
        let work = async {
            let answer = match placements.on_demand() {
                Some(cache) => cache.look_up(print, placing, ask).await?,
                None => ask.await?,
            };
            placements.reach(answer.revision).await;
            Ok(())
        };
        let worked = tokio::time::timeout(deadline, work).await;
        worked.unwrap_or(Err(LookupError::TooSlow))
    }
}
