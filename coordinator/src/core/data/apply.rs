//! What a data record does: the idempotency key first, then every condition, then all writes or
//! none. The order is part of the format (I13).

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, IdempotencyKey, ResourceId, ResourceType, TenantId};
use maia_common::limits;
use maia_common::position::Position;
use maia_common::wire::record as wire;
use prost::Message;

use super::{keys, patch, purge, seal};
use crate::core::frame;
use crate::core::record::{Record, RecordKind};
use crate::raft::{Mutations, StateCf, StateError, StateView};

/// The version of the persisted values.
pub const DATA_VERSION: u8 = 1;

/// How long a key makes a retry recognizable, by the records' own clocks.
const KEY_LIFETIME_MS: u64 = 24 * 3_600_000;

/// Where and what: the same for all operations of one record.
struct Context<'a> {
    group: GroupId,
    position: Position,
    record: &'a Record,
    tenant: &'a TenantId,
    view: &'a dyn StateView,
}

/// A refusal that apply decides: the client's answer.
struct Refused(ErrorCode, String);

/// Why an operation did not go through.
enum Fault {
    Refused(Refused),
    State(StateError),
}

impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        Fault::State(error)
    }
}

fn refuse<T>(code: ErrorCode, detail: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(Refused(code, detail.into())))
}

/// Applies a data record and returns its outcome, encoded.
///
/// # Errors
/// [`StateError`] when the view fails; a refused write is an outcome.
pub fn apply(
    group: GroupId,
    position: Position,
    record: &Record,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Bytes, StateError> {
    let Some(tenant) = &record.tenant else {
        let refused = Refused(
            ErrorCode::TenantRequired,
            "a data record without tenant".into(),
        );
        return Ok(outcome_of(Err(refused)).encode_to_vec().into());
    };
    if record.kind == RecordKind::Purge {
        return purge::apply(group, tenant, record.placement, view, out);
    }
    if matches!(record.kind, RecordKind::Seal | RecordKind::Unseal) {
        return seal::apply((group, position), tenant, record, view, out);
    }
    if record.placement < purge::ended_at(group, tenant, view)? {
        let text = "the tenant's placement in this group has ended".to_owned();
        let refused = Refused(ErrorCode::StalePlacement, text);
        return Ok(outcome_of(Err(refused)).encode_to_vec().into());
    }
    let context = Context {
        group,
        position,
        record,
        tenant,
        view,
    };
    if let Some(known) = known_outcome(&context)? {
        return Ok(known.encode_to_vec().into());
    }
    if seal::is_sealed(group, tenant, view)? {
        // Not kept under the key: the same write succeeds in the tenant's next home, or here.
        let text = "the tenant is sealed in this group".to_owned();
        let refused = Refused(ErrorCode::TenantHeld, text);
        return Ok(outcome_of(Err(refused)).encode_to_vec().into());
    }
    let mut writes = Mutations::default();
    let outcome = match write_all(&context, &mut writes) {
        Ok(written) => {
            out.append(writes);
            outcome_of(Ok(written))
        }
        Err(Fault::Refused(refused)) => outcome_of(Err(refused)),
        Err(Fault::State(error)) => return Err(error),
    };
    register(&context, &outcome, out)?;
    Ok(outcome.encode_to_vec().into())
}

fn outcome_of(result: Result<wire::Written, Refused>) -> wire::DataOutcome {
    use wire::data_outcome::What;
    let what = match result {
        Ok(written) => What::Written(written),
        Err(Refused(code, detail)) => What::Refused(wire::Refused {
            code: code.to_string(),
            detail,
        }),
    };
    wire::DataOutcome { what: Some(what) }
}

/// The stored outcome, when the record's idempotency key was used before.
fn known_outcome(context: &Context<'_>) -> Result<Option<wire::DataOutcome>, StateError> {
    let Some(idempotency) = &context.record.idempotency else {
        return Ok(None);
    };
    let key = keys::dedup_key(context.group, context.tenant, &idempotency.key);
    let Some(bytes) = context.view.get(StateCf::Dedup, &key)? else {
        return Ok(None);
    };
    let known: wire::Dedup = decode(bytes)?;
    if known.body_hash.as_ref() != idempotency.body_hash.as_slice() {
        let detail = "the idempotency key was used with another request".to_owned();
        return Ok(Some(outcome_of(Err(Refused(
            ErrorCode::IdempotencyConflict,
            detail,
        )))));
    }
    let mut outcome = known.outcome.unwrap_or_default();
    if let Some(wire::data_outcome::What::Written(written)) = &mut outcome.what {
        written.replayed = true;
    }
    Ok(Some(outcome))
}

fn write_all(context: &Context<'_>, out: &mut Mutations) -> Result<wire::Written, Fault> {
    let Ok(body) = wire::DataOperations::decode(context.record.body.clone()) else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the record's body is not data operations",
        );
    };
    let version = wire::Version {
        group: context.group.get(),
        term: context.position.term.get(),
        index: context.position.index.get(),
    };
    let mut written = wire::Written {
        version: Some(version),
        ..wire::Written::default()
    };
    let mut seen = std::collections::BTreeSet::new();
    for operation in &body.operations {
        let (Ok(kind), Ok(id)) = (
            ResourceType::new(operation.resource_type.as_str()),
            ResourceId::new(operation.resource_id.as_str()),
        ) else {
            return refuse(ErrorCode::InvalidRequest, "an illegal resource type or id");
        };
        let key = keys::resource_key(context.group, context.tenant, &kind, &id);
        if !seen.insert(key.clone()) {
            return refuse(ErrorCode::InvalidRequest, "one resource twice in one write");
        }
        let current = match context.view.get(StateCf::Data, &key)? {
            Some(bytes) => Some(decode_resource(bytes)?),
            None => None,
        };
        check_condition(operation.condition.as_ref(), current.as_ref())?;
        written.created.push(current.is_none());
        match changed(context, operation, current, version)? {
            Some(resource) => {
                if matches!(
                    operation.what,
                    Some(wire::data_operation::What::MergePatch(_))
                ) {
                    written.data = resource.data.clone();
                }
                out.put(StateCf::Data, key, frame::encode(DATA_VERSION, &resource));
            }
            None => out.delete(StateCf::Data, key),
        }
    }
    Ok(written)
}

fn check_condition(
    condition: Option<&wire::Condition>,
    current: Option<&wire::Resource>,
) -> Result<(), Fault> {
    use wire::condition::Must;
    let holds = match (condition.and_then(|c| c.must.as_ref()), current) {
        (None, _) => true,
        (Some(Must::BeAbsent(_)), current) => current.is_none(),
        (Some(Must::BePresent(_)), current) => current.is_some(),
        (Some(Must::BeAt(version)), Some(current)) => current.version.as_ref() == Some(version),
        (Some(Must::BeAt(_)), None) => false,
    };
    if holds {
        return Ok(());
    }
    refuse(
        ErrorCode::PreconditionFailed,
        match current {
            None => "the resource does not exist",
            Some(_) => "the resource was changed since, or exists already",
        },
    )
}

/// The resource after the operation; none: it is gone.
fn changed(
    context: &Context<'_>,
    operation: &wire::DataOperation,
    current: Option<wire::Resource>,
    version: wire::Version,
) -> Result<Option<wire::Resource>, Fault> {
    use wire::data_operation::What;
    let (data, content_type) = match &operation.what {
        Some(What::Put(data)) => (data.clone(), operation.content_type.clone()),
        Some(What::MergePatch(patch)) => (
            patched(current.as_ref(), patch)?,
            "application/json".to_owned(),
        ),
        Some(What::Delete(_)) if current.is_none() => {
            return refuse(ErrorCode::NotFound, "the resource does not exist");
        }
        Some(What::Delete(_)) => return Ok(None),
        None => return refuse(ErrorCode::InvalidRequest, "an operation of an unknown kind"),
    };
    Ok(Some(wire::Resource {
        created: current.and_then(|c| c.created).or(Some(version)),
        version: Some(version),
        hlc: context.record.hlc.get(),
        origin_region: context
            .record
            .origin
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        content_type,
        tombstone: false,
        data,
    }))
}

fn patched(current: Option<&wire::Resource>, patch: &Bytes) -> Result<Bytes, Fault> {
    let Some(current) = current else {
        return refuse(ErrorCode::NotFound, "the resource does not exist");
    };
    let Ok(mut target) = serde_json::from_slice(&current.data) else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the resource is not JSON: PUT it as a whole",
        );
    };
    let Ok(patch) = serde_json::from_slice(patch) else {
        return refuse(ErrorCode::InvalidRequest, "the patch is not JSON");
    };
    patch::merge(&mut target, &patch);
    let data = serde_json::to_vec(&target).unwrap_or_default();
    if data.len() > limits::MAX_RESOURCE_BYTES {
        return refuse(
            ErrorCode::BodyTooLarge,
            "the resource would become too large",
        );
    }
    Ok(data.into())
}

/// Keeps the outcome under the record's idempotency key, and drops keys past cap or lifetime: at
/// most two for each one added, so that the work of one record is bounded.
fn register(
    context: &Context<'_>,
    outcome: &wire::DataOutcome,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let Some(idempotency) = &context.record.idempotency else {
        return Ok(());
    };
    let Context {
        group,
        position,
        record,
        tenant,
        view,
    } = *context;
    let dedup = wire::Dedup {
        body_hash: Bytes::copy_from_slice(&idempotency.body_hash),
        term: position.term.get(),
        index: position.index.get(),
        outcome: Some(outcome.clone()),
        hlc: record.hlc.get(),
    };
    let key = keys::dedup_key(group, tenant, &idempotency.key);
    out.put(StateCf::Dedup, key, frame::encode(DATA_VERSION, &dedup));
    let order = keys::dedup_order_key(group, tenant, position.index);
    out.put(StateCf::Dedup, order, idempotency.key.as_str());
    let mark = keys::dedup_count_mark(group, tenant);
    let mut count = view
        .get(StateCf::Marks, &mark)?
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes)
        + 1;
    let prefix = keys::dedup_order_prefix(group, tenant);
    for (order, name) in view.scan(StateCf::Dedup, &prefix, None, 2)? {
        let name = String::from_utf8(name)
            .ok()
            .and_then(|n| IdempotencyKey::new(n).ok());
        let Some(name) = name else { continue };
        let old = keys::dedup_key(group, tenant, &name);
        let born_ms = match view.get(StateCf::Dedup, &old)? {
            Some(bytes) => decode::<wire::Dedup>(bytes)?.hlc >> 16,
            None => 0,
        };
        let expired = born_ms.saturating_add(KEY_LIFETIME_MS) < record.hlc.physical_ms();
        if expired || count > limits::MAX_IDEMPOTENCY_KEYS_PER_TENANT {
            out.delete(StateCf::Dedup, old);
            out.delete(StateCf::Dedup, order);
            count -= 1;
        }
    }
    out.put(StateCf::Marks, mark, count.to_be_bytes());
    Ok(())
}

pub(super) fn decode<M: Message + Default>(bytes: Vec<u8>) -> Result<M, StateError> {
    frame::decode(DATA_VERSION, bytes.into()).map_err(|error| StateError {
        reason: format!("a stored value: {error}"),
    })
}

/// Reads a stored resource.
///
/// # Errors
/// [`StateError`] when the bytes have rotted.
pub fn decode_resource(bytes: Vec<u8>) -> Result<wire::Resource, StateError> {
    decode(bytes)
}

/// Reads what [`apply`] returned.
#[must_use]
pub fn decode_outcome(bytes: &Bytes) -> Option<wire::data_outcome::What> {
    wire::DataOutcome::decode(bytes.clone()).ok()?.what
}
