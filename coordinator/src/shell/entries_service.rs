//! Answers another coordinator that asks for entries of a group whose data is here. Never asks
//! further: see `peer_service`.

use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::wire::peer as wire;

use super::data::{DataService, EntriesQuery};
use super::placements::Refusal;

/// The entries that are asked for; with a limit of 0 only how far the group is applied.
pub async fn read(
    data: &DataService,
    request: wire::EntriesRequest,
) -> Result<wire::EntriesReply, Refusal> {
    let group = GroupId::new(request.group);
    if !data.has_entries(group) {
        let text = format!("no copy of group {group} is kept here");
        return Err(Refusal::new(ErrorCode::StalePlacement, text));
    }
    if request.limit == 0 {
        return reach(data, group);
    }
    let tenant = (!request.tenant.is_empty()).then(|| TenantId::new(request.tenant));
    let tenant = tenant
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::InvalidTenant, error.to_string()))?;
    let (term, index) = (request.after_term, request.after_index);
    let after = Position::new(Term::new(term), Index::new(index));
    let query = EntriesQuery {
        tenant,
        after: request.has_after.then_some(after),
        limit: (request.limit as usize).min(limits::MAX_PAGE),
        wait: Duration::from_millis(request.wait_ms.into()),
    };
    let patience = Duration::from_millis(request.timeout_ms.into()).min(limits::API_DEADLINE);
    let page = data
        .entries_here(group, &query, Instant::now() + patience)
        .await?;
    let mut reply = wire::EntriesReply {
        has_upto: page.upto.is_some(),
        upto_term: page.upto.map_or(0, |at| at.term.get()),
        upto_index: page.upto.map_or(0, |at| at.index.get()),
        more: page.more,
        ..wire::EntriesReply::default()
    };
    for (at, entry) in page.entries {
        reply.terms.push(at.term.get());
        reply.indexes.push(at.index.get());
        reply.entries.push(entry);
    }
    Ok(reply)
}

fn reach(data: &DataService, group: GroupId) -> Result<wire::EntriesReply, Refusal> {
    let reach = data.reach_here(group)?;
    Ok(wire::EntriesReply {
        has_upto: reach.applied.is_some(),
        upto_term: reach.applied.map_or(0, |at| at.term.get()),
        upto_index: reach.applied.map_or(0, |at| at.index.get()),
        has_oldest: reach.oldest.is_some(),
        oldest_term: reach.oldest.map_or(0, |at| at.term.get()),
        oldest_index: reach.oldest.map_or(0, |at| at.index.get()),
        ..wire::EntriesReply::default()
    })
}
