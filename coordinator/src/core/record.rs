//! The record: what a client write, a metastore transaction or a control step looks like in a
//! group's log, on disk and on the wire. Owns the persisted format and its only encoder; made by
//! proposers, read by apply. Times come inside the record, so apply needs no clock (I13).
//!
//! ```text
//! [version: u8 = 1][crc32c of the rest: u32 LE][protobuf maia.record.v1.Record]
//! ```

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::ids::{IdempotencyKey, RegionName, TenantId};
use maia_common::placement::SyncMode;
use maia_common::position::Revision;
use maia_common::wire::record as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError};

/// The version of the persisted format that this code writes.
pub const RECORD_VERSION: u8 = 1;

/// What a record asks apply to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A metastore transaction (group 0).
    Meta,
    /// Data operations of one tenant.
    Data,
    /// After it the group takes no client write of the tenant (I5).
    Seal,
    /// Ends the seal that it names.
    Unseal,
    /// A piece of a tenant's state from another group.
    Import,
    /// All of a tenant's state is here; client writes may follow.
    ImportComplete,
    /// Deletes a tenant's state.
    Purge,
    /// Drops what is past its lifetime, as of the record's time.
    Expire,
    /// A record that was cut off a log, to be resolved with what is there now.
    Reconcile,
}

impl RecordKind {
    const ALL: [(RecordKind, u32); 9] = [
        (RecordKind::Meta, 1),
        (RecordKind::Data, 2),
        (RecordKind::Seal, 3),
        (RecordKind::Unseal, 4),
        (RecordKind::Import, 5),
        (RecordKind::ImportComplete, 6),
        (RecordKind::Purge, 7),
        (RecordKind::Expire, 8),
        (RecordKind::Reconcile, 9),
    ];

    fn code(self) -> u32 {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or(0, |(_, code)| *code)
    }

    fn from_code(code: u32) -> Result<Self, RecordError> {
        let known = Self::ALL.iter().find(|(_, c)| *c == code);
        known
            .map(|(kind, _)| *kind)
            .ok_or(RecordError::UnknownKind { code })
    }
}

/// A hybrid logical clock's reading: physical milliseconds since 1970 and a logical counter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Hlc(u64);

impl Hlc {
    /// The reading with these parts; the logical part has 16 bits.
    #[must_use]
    pub const fn new(physical_ms: u64, logical: u16) -> Self {
        Self(physical_ms << 16 | logical as u64)
    }

    /// The reading as one number: `physical_ms << 16 | logical`.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The reading that this number stands for.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn physical_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// What makes a retry recognizable as the same write (I8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key.
    pub key: IdempotencyKey,
    /// A hash of the body: the same key with another body is refused.
    pub body_hash: [u8; 32],
}

/// Which try of which migration a control record belongs to; apply ignores older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MigrationStep {
    /// The revision that created the migration.
    pub revision: Revision,
    /// Grows with each return to catch-up.
    pub attempt: u32,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFields {
    /// What apply is to do.
    pub kind: RecordKind,
    /// The tenant concerned, if one is.
    pub tenant: Option<TenantId>,
    /// The tenant's sync mode when it was proposed; none for metastore and control records.
    pub sync_mode: Option<SyncMode>,
    /// When it was proposed, by the hybrid clock of the group's leader.
    pub hlc: Hlc,
    /// The region where the write entered; kept for ever for conflict resolution.
    pub origin: Option<RegionName>,
    /// The client's idempotency key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// Data: the revision that created the tenant's placement; purge: the one that ended it. Apply
    /// refuses data of a placement that has ended in this group. 0: none.
    pub placement: Revision,
    /// The migration that a control record belongs to.
    pub migration: Option<MigrationStep>,
    /// By kind: an encoded transaction, data operations, and so on.
    pub body: Bytes,
}

impl RecordFields {
    fn encode(&self) -> Bytes {
        let idempotency = self.idempotency.as_ref();
        frame::encode(
            RECORD_VERSION,
            &wire::Record {
                kind: self.kind.code(),
                tenant: self
                    .tenant
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
                sync_mode: sync_mode_code(self.sync_mode),
                hlc: self.hlc.get(),
                origin_region: self
                    .origin
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
                idempotency_key: idempotency.map_or_else(String::new, |i| i.key.to_string()),
                body_hash: idempotency
                    .map_or_else(Bytes::new, |i| Bytes::copy_from_slice(&i.body_hash)),
                migration_revision: self.migration.map_or(0, |m| m.revision.get()),
                migration_attempt: self.migration.map_or(0, |m| m.attempt),
                placement_revision: self.placement.get(),
                body: self.body.clone(),
            },
        )
    }
}

/// A record: immutable and cheap to clone; all clones share one persisted form.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<Inner>);

struct Inner {
    fields: RecordFields,
    /// Of a record that is complete: the log and every follower get the same bytes.
    encoded: Option<Bytes>,
}

impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Inner {}

impl Record {
    /// The record with this content.
    #[must_use]
    pub fn new(fields: RecordFields) -> Self {
        let encoded = None;
        Self(Arc::new(Inner { fields, encoded }))
    }

    /// One that is proposed as it is.
    fn complete(fields: RecordFields) -> Self {
        let encoded = Some(fields.encode());
        Self(Arc::new(Inner { fields, encoded }))
    }

    /// A record of group 0: a metastore transaction.
    #[must_use]
    pub fn meta(hlc: Hlc, body: Bytes) -> Self {
        Self::complete(RecordFields {
            kind: RecordKind::Meta,
            tenant: None,
            sync_mode: None,
            hlc,
            origin: None,
            idempotency: None,
            placement: Revision::default(),
            migration: None,
            body,
        })
    }

    /// The same record with this reading: who leads the group stamps what it proposes.
    #[must_use]
    pub fn stamped(&self, hlc: Hlc) -> Self {
        let mut fields = self.0.fields.clone();
        fields.hlc = hlc;
        Self::complete(fields)
    }

    /// Tells this record from all others that are in memory: clones are the same one.
    #[must_use]
    pub fn identity(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// The persisted form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Inner { fields, encoded } = &*self.0;
        encoded.clone().unwrap_or_else(|| fields.encode())
    }

    /// Reads the persisted form.
    ///
    /// # Errors
    /// [`RecordError`] on any byte that an encoder of this version would not have written; never
    /// panics, whatever the bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let body = frame::open(RECORD_VERSION, bytes.clone())?;
        let message = wire::Record::decode(body).map_err(FrameError::Message)?;
        let idempotency = decode_idempotency(&message)?;
        let migration = (message.migration_revision != 0).then(|| MigrationStep {
            revision: Revision::new(message.migration_revision),
            attempt: message.migration_attempt,
        });
        let fields = RecordFields {
            kind: RecordKind::from_code(message.kind)?,
            tenant: optional_name(message.tenant, TenantId::new)?,
            sync_mode: decode_sync_mode(message.sync_mode)?,
            hlc: Hlc::from_raw(message.hlc),
            origin: optional_name(message.origin_region, RegionName::new)?,
            idempotency,
            placement: Revision::new(message.placement_revision),
            migration,
            body: message.body,
        };
        let encoded = Some(bytes);
        Ok(Self(Arc::new(Inner { fields, encoded })))
    }
}

fn optional_name<N, E: fmt::Display>(
    text: String,
    make: impl FnOnce(String) -> Result<N, E>,
) -> Result<Option<N>, RecordError> {
    if text.is_empty() {
        return Ok(None);
    }
    make(text).map(Some).map_err(|e| RecordError::IllegalField {
        reason: e.to_string(),
    })
}

fn decode_idempotency(message: &wire::Record) -> Result<Option<Idempotency>, RecordError> {
    let Some(key) = optional_name(message.idempotency_key.clone(), IdempotencyKey::new)? else {
        return Ok(None);
    };
    let body_hash = <[u8; 32]>::try_from(message.body_hash.as_ref()).map_err(|_| {
        RecordError::IllegalField {
            reason: "a body hash that is not 32 bytes".to_owned(),
        }
    })?;
    Ok(Some(Idempotency { key, body_hash }))
}

fn sync_mode_code(mode: Option<SyncMode>) -> u32 {
    match mode {
        None => 0,
        Some(SyncMode::Async) => 1,
        Some(SyncMode::SemiSync) => 2,
        Some(SyncMode::Sync) => 3,
    }
}

fn decode_sync_mode(code: u32) -> Result<Option<SyncMode>, RecordError> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(SyncMode::Async)),
        2 => Ok(Some(SyncMode::SemiSync)),
        3 => Ok(Some(SyncMode::Sync)),
        code => Err(RecordError::IllegalField {
            reason: format!("sync mode {code}"),
        }),
    }
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The frame around it is broken.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A kind that this version does not know: written by a newer one.
    #[error("record kind {code} is not known to this version")]
    UnknownKind {
        /// The kind's number.
        code: u32,
    },
    /// A field breaks its own rule.
    #[error("illegal field in a record: {reason}")]
    IllegalField {
        /// Which, and how.
        reason: String,
    },
}

impl Deref for Record {
    type Target = RecordFields;

    fn deref(&self) -> &RecordFields {
        &self.0.fields
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} record, {} bytes", self.kind, self.body.len())
    }
}

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Record::decode(Bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// What apply made of a record, encoded by the applier; empty for blank and membership entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome(pub Bytes);

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
