//! What can't be decided yet: the tenant must be looked up, or is to be placed at its first write.
//! Both wait for a coordinator, within their deadlines and among those that are held; then it is
//! decided anew.

use std::time::Instant;

use maia_common::{ErrorCode, limits};
use pingora::proxy::Session;

use super::Proxy;
use super::admit::{Verdict, expired};
use super::request::{Ctx, facts_of, tenant_of};
use crate::shell::lookups::{LookupError, Question};
use crate::shell::response::Answer;

/// How often one request may be looked up: as unknown, to be placed, and again where it was driven
/// out of the cache, or a snapshot came, meanwhile.
const MAX_LOOKUPS: usize = 8;

const NOT_LOOKED_UP: Answer = Answer::problem(
    ErrorCode::Unavailable,
    "the tenant's placement can't be had from a coordinator now; definitely not written",
);
const TOO_MANY_NEW: Answer = Answer::problem(
    ErrorCode::Unavailable,
    "too many new tenants are being placed; definitely not written",
);
const NOT_PLACED: Answer = Answer::problem(
    ErrorCode::PlacementConflict,
    "new tenants can't be placed as this proxy is configured to; definitely not written",
);

impl Proxy {
    /// Asks a coordinator, and decides anew. All that a request waits for lookups ends a lookup's
    /// deadline after it first had to wait, and for placings with its hold budget.
    pub(super) async fn settle(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        placing: bool,
    ) -> Verdict {
        ctx.write = None; // nothing of it is on its way now
        ctx.lookups += 1;
        if ctx.lookups > MAX_LOOKUPS {
            return Verdict::Answer(NOT_LOOKED_UP);
        }
        let Some(_waiting) = self.holds.wait() else {
            return Verdict::Answer(expired(ErrorCode::HoldQueueFull));
        };
        let request = session.req_header();
        let Ok(tenant) = tenant_of(request) else {
            return Verdict::Answer(NOT_LOOKED_UP); // looked at before: never
        };
        let since = *ctx.waits_since.get_or_insert_with(Instant::now);
        let deadline = if placing {
            since + self.config.proxy.hold_budget
        } else {
            since + limits::LOOKUP_DEADLINE
        };
        let asked = tokio::time::timeout_at(deadline.into(), self.look_up(tenant, placing)).await;
        match asked.unwrap_or(Err(LookupError::TooSlow)) {
            Ok(()) => self.verdict(tenant, &facts_of(request, ctx.class), request.raw_path()),
            Err(error) => {
                tracing::debug!(%error, placing, "a tenant can't be looked up");
                Verdict::Answer(match error {
                    LookupError::Limited => TOO_MANY_NEW,
                    error if placing && error.is_permanent() => NOT_PLACED,
                    _ => NOT_LOOKED_UP,
                })
            }
        }
    }

    /// Returns when the answer is in force here.
    async fn look_up(&self, tenant: &str, placing: bool) -> Result<(), LookupError> {
        let (placements, lookups) = (&self.placements, &self.lookups);
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
        if let Some(cache) = placements.on_demand() {
            let answer = cache.look_up(print, placing, ask).await?;
            placements.reach(answer.revision).await;
        } else {
            let passenger = lookups.board(print)?;
            let answer = passenger.ask_once(ask).await?;
            placements.reach(answer.revision).await;
        }
        Ok(())
    }
}
