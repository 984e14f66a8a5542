//! What a data record does: the idempotency key first, then every condition, then all writes or
//! none. The order is part of the format (I13).

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::Position;
use maia_common::wire::record as wire;
use prost::Message;

use super::order::{self, Order};
use super::slot::Slot;
use super::tombstones::Graves;
use super::{keys, purge, reconcile, seal, stamps};
use crate::core::acks;
use crate::core::conflict::{Content, Stamp};
use crate::core::frame;
use crate::core::json::Json;
use crate::core::record::{Idempotency, Record, RecordKind};
use crate::raft::{Mutations, StateCf, StateError, StateView};

/// The version of the persisted values.
pub const DATA_VERSION: u8 = 1;

/// Where and what: the same for all operations of one record.
pub(super) struct Context<'a> {
    pub(super) group: GroupId,
    pub(super) position: Position,
    pub(super) record: &'a Record,
    pub(super) tenant: &'a TenantId,
    pub(super) view: &'a dyn StateView,
}

impl Context<'_> {
    /// The version of what the record writes.
    pub(super) fn version(&self) -> wire::Version {
        version(self.group, self.position)
    }
}

fn version(group: GroupId, position: Position) -> wire::Version {
    wire::Version {
        group: group.get(),
        term: position.term.get(),
        index: position.index.get(),
    }
}

/// A refusal that apply decides: the client's answer.
pub(super) struct Refused(ErrorCode, String);

/// Why an operation did not go through.
pub(super) enum Fault {
    Refused(Refused),
    State(StateError),
}

impl From<StateError> for Fault {
    fn from(error: StateError) -> Self {
        Fault::State(error)
    }
}

pub(super) fn refuse<T>(code: ErrorCode, detail: impl Into<String>) -> Result<T, Fault> {
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
    let own_key = record.idempotency.as_ref().map(|own| Registered {
        name: keys::dedup_name(record.kind, &own.key),
        body_hash: own.body_hash,
        outcome: wire::DataOutcome::default(),
    });
    let mut registered = Vec::with_capacity(2);
    let outcome = match carry_out(&context, &mut writes) {
        Ok((outcome, other_key)) => {
            out.append(writes);
            registered.extend(own_key.map(|key| key.with(&outcome)));
            registered.extend(other_key);
            outcome
        }
        Err(Fault::Refused(refused)) => {
            let outcome = outcome_of(Err(refused));
            // A resolution that was refused did nothing, and may be proposed again, in another way too.
            let is_kept = record.kind != RecordKind::Reconcile;
            let key = own_key.filter(|_| is_kept);
            registered.extend(key.map(|key| key.with(&outcome)));
            outcome
        }
        Err(Fault::State(error)) => return Err(error),
    };
    register(&context, registered, out)?;
    Ok(outcome.encode_to_vec().into())
}

/// An idempotency key, by its name in the state, and the outcome to be stored under it.
struct Registered {
    name: String,
    body_hash: [u8; 32],
    outcome: wire::DataOutcome,
}

impl Registered {
    fn with(self, outcome: &wire::DataOutcome) -> Self {
        let outcome = outcome.clone();
        Self { outcome, ..self }
    }
}

/// The record's outcome; of a resolution also that of the record which it is about.
fn carry_out(
    context: &Context<'_>,
    out: &mut Mutations,
) -> Result<(wire::DataOutcome, Option<Registered>), Fault> {
    if context.record.kind != RecordKind::Reconcile {
        return Ok((outcome_of(Ok(write_all(context, out)?)), None));
    }
    let (done, other) = reconcile::write_all(context, out)?;
    let what = wire::data_outcome::What::Reconciled(done);
    let other = other.map(|(client, written)| Registered {
        name: keys::dedup_name(RecordKind::Data, &client.key),
        body_hash: client.body_hash,
        outcome: outcome_of(Ok(written)),
    });
    Ok((wire::DataOutcome { what: Some(what) }, other))
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
    let name = keys::dedup_name(context.record.kind, &idempotency.key);
    let key = keys::dedup_key(context.group, context.tenant, &name);
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

/// Whether a client's key was used before, with whatever request.
pub(super) fn is_known(
    context: &Context<'_>,
    idempotency: &Idempotency,
) -> Result<bool, StateError> {
    let name = keys::dedup_name(RecordKind::Data, &idempotency.key);
    let key = keys::dedup_key(context.group, context.tenant, &name);
    Ok(context.view.get(StateCf::Dedup, &key)?.is_some())
}

fn write_all(context: &Context<'_>, out: &mut Mutations) -> Result<wire::Written, Fault> {
    let Ok(body) = wire::DataOperations::decode(context.record.body.clone()) else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the record's body is not data operations",
        );
    };
    let mut written = wire::Written {
        version: Some(context.version()),
        ..wire::Written::default()
    };
    let (mut seen, mut graves) = (std::collections::BTreeSet::new(), Graves::default());
    for operation in &body.operations {
        let slot = Slot::open(context, operation, &mut seen)?;
        check_condition(operation.condition.as_ref(), slot.resource.as_ref())?;
        let is_delete = matches!(operation.what, Some(wire::data_operation::What::Delete(_)));
        written.created.push(slot.resource.is_none() && !is_delete);
        match changed(context, operation, &slot, body.by_field)? {
            Some(resource) => {
                if matches!(
                    operation.what,
                    Some(wire::data_operation::What::MergePatch(_))
                ) {
                    written.data = resource.data.clone();
                }
                slot.put(&resource, &mut graves, out);
            }
            None => {
                let newest = slot.resource.as_ref().map(stamps::of);
                let newest = newest.or_else(|| slot.grave().cloned());
                let stamp = Stamp::of(context.record).above(newest.as_ref());
                slot.bury(stamp, &mut graves, out);
            }
        }
    }
    graves.carry_out(context, out)?;
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

/// The resource after the operation; none: it is gone. With `by_field` it keeps the stamps of its
/// fields.
pub(super) fn changed(
    context: &Context<'_>,
    operation: &wire::DataOperation,
    slot: &Slot,
    by_field: bool,
) -> Result<Option<wire::Resource>, Fault> {
    use wire::data_operation::What;
    let current = slot.resource.as_ref();
    let (data, content_type) = match &operation.what {
        Some(What::Put(data)) => (data.clone(), operation.content_type.clone()),
        Some(What::MergePatch(patch)) => (patched(current, patch)?, "application/json".to_owned()),
        // One that may have been answered already is kept as a tombstone: it wins over older writes.
        Some(What::Delete(_)) if current.is_none() && !acks::may_be_early(context.record) => {
            return refuse(ErrorCode::NotFound, "the resource does not exist");
        }
        Some(What::Delete(_)) => return Ok(None),
        None => return refuse(ErrorCode::InvalidRequest, "an operation of an unknown kind"),
    };
    // A resolution may have left a stamp that is ahead of this log's clock.
    let newest = current.map(stamps::of).or_else(|| slot.grave().cloned());
    let stamp = Stamp::of(context.record).above(newest.as_ref());
    let fields = by_field.then(|| {
        let content = Content {
            data: data.clone(),
            content_type: content_type.clone(),
        };
        let before = stamps::by_field(current, slot.grave());
        stamps::stored(&before.written(stamp.clone(), content))
    });
    let version = context.version();
    Ok(Some(wire::Resource {
        created: current.and_then(|c| c.created).or(Some(version)),
        version: Some(version),
        hlc: stamp.hlc.get(),
        origin_region: stamp.region,
        content_type,
        tombstone: false,
        data,
        fields,
    }))
}

fn patched(current: Option<&wire::Resource>, patch: &Bytes) -> Result<Bytes, Fault> {
    let Some(current) = current else {
        return refuse(ErrorCode::NotFound, "the resource does not exist");
    };
    let Some(target) = Json::parse(&current.data) else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the resource is not JSON: PUT it as a whole",
        );
    };
    let Some(patch) = Json::parse(patch) else {
        return refuse(ErrorCode::InvalidRequest, "the patch is not JSON");
    };
    let data = target.patched(patch).to_string();
    if data.len() > limits::MAX_RESOURCE_BYTES {
        return refuse(
            ErrorCode::BodyTooLarge,
            "the resource would become too large",
        );
    }
    Ok(data.into())
}

/// Keeps each outcome under its idempotency key, and drops keys past cap or lifetime: a bounded number, see
/// `order`.
fn register(
    context: &Context<'_>,
    registered: Vec<Registered>,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let most = order::looks_at(context.position.index, registered.len());
    if most == 0 {
        return Ok(());
    }
    let Context {
        group,
        position,
        record,
        tenant,
        view,
    } = *context;
    let mark = keys::dedup_count_mark(group, tenant);
    let before = Order::read(&mark, view)?;
    let prefix = keys::dedup_order_prefix(group, tenant);
    let oldest = before.oldest(&prefix, most, view)?;
    let mut kept = before;
    kept.count += registered.len() as u64;
    for (nth, one) in registered.into_iter().enumerate() {
        let dedup = wire::Dedup {
            body_hash: Bytes::copy_from_slice(&one.body_hash),
            term: position.term.get(),
            index: position.index.get(),
            outcome: Some(one.outcome),
            hlc: record.hlc.get(),
        };
        let key = keys::dedup_key(group, tenant, &one.name);
        out.put(StateCf::Dedup, key, frame::encode(DATA_VERSION, &dedup));
        let order = keys::dedup_order_key(group, tenant, position.index, nth);
        out.put(StateCf::Dedup, order, one.name);
    }
    let mut gone = 0;
    for (order, name) in &oldest {
        let Ok(name) = std::str::from_utf8(name) else {
            break;
        };
        let old = keys::dedup_key(group, tenant, name);
        let born_ms = match view.get(StateCf::Dedup, &old)? {
            Some(bytes) => decode::<wire::Dedup>(bytes)?.hlc >> 16,
            None => 0,
        };
        let age_ms = record.hlc.physical_ms().saturating_sub(born_ms);
        let expired = u128::from(age_ms) > limits::IDEMPOTENCY_KEY_LIFETIME.as_millis();
        // They are in the order of the log, and so of their readings.
        if !expired && kept.count <= limits::MAX_IDEMPOTENCY_KEYS_PER_TENANT {
            break;
        }
        out.delete(StateCf::Dedup, old);
        out.delete(StateCf::Dedup, order.clone());
        (kept.count, gone) = (kept.count - 1, gone + 1);
    }
    kept.looked(&prefix, &oldest, (most, gone), position.index);
    if kept != before {
        kept.write(mark, out);
    }
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

/// The outcome of a put that is answered before it is applied: where it stands, but not whether it
/// creates its resource.
#[must_use]
pub fn early_outcome(group: GroupId, position: Position) -> Bytes {
    let written = wire::Written {
        version: Some(version(group, position)),
        ..wire::Written::default()
    };
    outcome_of(Ok(written)).encode_to_vec().into()
}

/// Reads what [`apply`] returned.
#[must_use]
pub fn decode_outcome(bytes: &Bytes) -> Option<wire::data_outcome::What> {
    wire::DataOutcome::decode(bytes.clone()).ok()?.what
}
