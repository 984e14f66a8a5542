//! What a record did to resources, where the record alone does not tell: that it was refused or came
//! too late, what a patch made of a resource, what a record of another kind changed. Who follows the log gets results,
//! so it needs neither the conditions nor the state from before.

use bytes::Bytes;
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use prost::Message;

use super::apply::{DATA_VERSION, decode_resource};
use crate::core::frame;
use crate::core::record::{Record, RecordKind};
use crate::raft::keys::GROUP_PREFIX_BYTES;
use crate::raft::{Mutations, StateCf, StateError};

/// The trace of a record that has just been applied, given all that it changed, and nothing else; none: it
/// did what it says.
#[must_use]
pub fn trace(record: &Record, out: &Mutations) -> Option<Bytes> {
    if out.is_empty() {
        return Some(trace_of_nothing());
    }
    let is_control = matches!(
        record.kind,
        RecordKind::Meta
            | RecordKind::Purge
            | RecordKind::Seal
            | RecordKind::Unseal
            | RecordKind::ImportComplete
            | RecordKind::Expire
    );
    if is_control {
        return None;
    }
    let resources: Vec<wire::TracedResource> = out
        .writes
        .iter()
        .filter(|write| write.cf == StateCf::Data)
        .filter_map(|write| traced(&write.key, write.value.as_deref()))
        .collect();
    if record.kind == RecordKind::Data && !resources.is_empty() && is_plain(record) {
        return None;
    }
    Some(frame::encode(DATA_VERSION, &wire::Trace { resources }))
}

/// The trace of a record that changed nothing.
#[must_use]
pub fn trace_of_nothing() -> Bytes {
    frame::encode(DATA_VERSION, &wire::Trace::default())
}

/// Whether what each operation leaves stands in the operation.
fn is_plain(record: &Record) -> bool {
    let Ok(body) = wire::DataOperations::decode(record.body.clone()) else {
        return false;
    };
    let mut operations = body.operations.iter();
    operations.all(|operation| matches!(operation.what, Some(What::Put(_) | What::Delete(_))))
}

fn traced(key: &[u8], value: Option<&[u8]>) -> Option<wire::TracedResource> {
    let suffix = std::str::from_utf8(key.get(GROUP_PREFIX_BYTES..)?).ok()?;
    let mut parts = suffix.splitn(3, '\0').skip(1);
    let (resource_type, resource_id) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let now = match value {
        Some(value) => Some(decode_resource(value.to_vec()).ok()?),
        None => None,
    };
    Some(wire::TracedResource {
        resource_type,
        resource_id,
        now,
    })
}

/// Reads what [`trace`] made.
///
/// # Errors
/// [`StateError`] when the bytes have rotted.
pub fn decode_trace(bytes: Bytes) -> Result<wire::Trace, StateError> {
    frame::decode(DATA_VERSION, bytes).map_err(|error| StateError {
        reason: format!("a trace: {error}"),
    })
}
