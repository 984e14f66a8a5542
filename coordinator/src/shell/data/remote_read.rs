//! A read that is passed to another coordinator, as it goes over the wire: the only place that knows
//! its form. Used by `shell/peers` (asking) and `shell/peer_service` (answering).

use std::time::Duration;

use bytes::Bytes;
use maia_common::ids::{GroupId, NameError, ResourceId, ResourceType, TenantId};
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::wire::peer as wire;
use prost::Message;

use super::{Page, Query, Resource, Served, Which};

/// The request for a read at a position.
#[must_use]
pub fn request(
    group: GroupId,
    query: &Query,
    position: Option<Position>,
    timeout_ms: u32,
) -> wire::ReadRequest {
    let at = position.unwrap_or_default();
    let base = wire::ReadRequest {
        group: group.get(),
        tenant: query.tenant.to_string(),
        resource_type: query.kind.to_string(),
        term: at.term.get(),
        index: at.index.get(),
        positioned: position.is_some(),
        timeout_ms,
        ..wire::ReadRequest::default()
    };
    match &query.which {
        Which::One(id) => wire::ReadRequest {
            resource_id: id.to_string(),
            ..base
        },
        Which::Page {
            prefix,
            after,
            limit,
        } => wire::ReadRequest {
            prefix: prefix.clone(),
            after: after.as_ref().map_or_else(String::new, ToString::to_string),
            limit: u32::try_from(*limit).unwrap_or(u32::MAX),
            ..base
        },
    }
}

/// What is asked: the group, what to read, and the position that the state must have.
///
/// # Errors
/// [`NameError`] when a name is illegal.
pub fn asked(request: wire::ReadRequest) -> Result<(GroupId, Query, Option<Position>), NameError> {
    let id = |text: String| {
        (!text.is_empty())
            .then(|| ResourceId::new(text))
            .transpose()
    };
    let which = match id(request.resource_id)? {
        Some(id) => Which::One(id),
        None => Which::Page {
            prefix: request.prefix,
            after: id(request.after)?,
            limit: (request.limit as usize).min(limits::MAX_PAGE),
        },
    };
    let query = Query {
        tenant: TenantId::new(request.tenant)?,
        kind: ResourceType::new(request.resource_type)?,
        which,
    };
    let position = Position::new(Term::new(request.term), Index::new(request.index));
    let position = request.positioned.then_some(position);
    Ok((GroupId::new(request.group), query, position))
}

/// The answer.
#[must_use]
pub fn reply(served: Served) -> wire::ReadReply {
    let item = |(id, resource): (ResourceId, Resource)| wire::ReadItem {
        id: id.to_string(),
        resource: Bytes::from(resource.encode_to_vec()),
    };
    let lag_ms = |lag: Duration| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
    wire::ReadReply {
        items: served.page.items.into_iter().map(item).collect(),
        next: served
            .page
            .next
            .map_or_else(String::new, |id| id.to_string()),
        lag_ms: served.lag.map_or(0, lag_ms),
        lag_known: served.lag.is_some(),
        refusal: None,
    }
}

/// What an answer says; none: it can't be read.
#[must_use]
pub fn served(reply: wire::ReadReply) -> Option<Served> {
    let item = |item: wire::ReadItem| {
        let id = ResourceId::new(item.id).ok()?;
        Some((id, Resource::decode(item.resource).ok()?))
    };
    let next = (!reply.next.is_empty()).then(|| ResourceId::new(reply.next));
    Some(Served {
        page: Page {
            items: reply.items.into_iter().map(item).collect::<Option<_>>()?,
            next: next.transpose().ok()?,
        },
        lag: reply.lag_known.then(|| Duration::from_millis(reply.lag_ms)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(which: Which) -> Query {
        Query {
            tenant: TenantId::new("acme").unwrap(),
            kind: ResourceType::new("notes").unwrap(),
            which,
        }
    }

    #[test]
    fn what_is_asked_arrives() {
        let page = Which::Page {
            prefix: "a".to_owned(),
            after: Some(ResourceId::new("ab").unwrap()),
            limit: 7,
        };
        let one = Which::One(ResourceId::new("x").unwrap());
        let at = Position::new(Term::new(2), Index::new(0));
        for (which, position) in [(page, None), (one, Some(at))] {
            let sent = query(which);
            let (group, got, at) = asked(request(GroupId::new(3), &sent, position, 9)).unwrap();
            assert_eq!((group, at), (GroupId::new(3), position));
            assert_eq!(format!("{got:?}"), format!("{sent:?}"));
        }
    }

    #[test]
    fn what_is_answered_arrives() {
        let resource = Resource {
            content_type: "text/plain".to_owned(),
            ..Resource::default()
        };
        let id = ResourceId::new("x").unwrap();
        let sent = Served {
            page: Page {
                items: vec![(id.clone(), resource.clone())],
                next: Some(id.clone()),
            },
            lag: Some(Duration::from_millis(5)),
        };
        let got = served(reply(sent)).unwrap();
        assert_eq!(got.page.items, [(id.clone(), resource)]);
        assert_eq!(
            (got.page.next, got.lag),
            (Some(id), Some(Duration::from_millis(5)))
        );
    }
}
