//! Where group 0 keeps what, and in which form.

use bytes::Bytes;
use maia_common::ids::GroupId;
use maia_common::position::Revision;
use maia_common::wire::record as wire;

use crate::core::frame;
use crate::raft::{StateCf, StateError, StateView, group_key};

/// The version of the persisted values.
pub const META_VERSION: u8 = 1;

const ROOT: GroupId = GroupId::METASTORE;

/// The whole key of a metastore key, in `meta`.
#[must_use]
pub fn meta_key(key: &str) -> Vec<u8> {
    group_key(ROOT, key.as_bytes())
}

/// The metastore key within a whole key of `meta`.
#[must_use]
pub fn suffix_of(whole: &[u8]) -> Option<&str> {
    std::str::from_utf8(whole.get(group_key(ROOT, b"").len()..)?).ok()
}

/// The whole key of a revision's change, in `changes`.
#[must_use]
pub fn change_key(revision: Revision) -> Vec<u8> {
    group_key(ROOT, &revision.get().to_be_bytes())
}

pub(super) fn dedup_key(id: impl AsRef<[u8]>) -> Vec<u8> {
    group_key(ROOT, id.as_ref())
}

/// The mark that names a revision's transaction.
pub(super) fn id_mark(revision: Revision) -> Vec<u8> {
    let mut suffix = b"i".to_vec();
    suffix.extend(revision.get().to_be_bytes());
    group_key(ROOT, &suffix)
}

/// The mark of the history's oldest revision and size.
pub(super) fn history_mark() -> Vec<u8> {
    group_key(ROOT, b"h")
}

pub(super) fn revision_mark() -> Vec<u8> {
    group_key(ROOT, b"r")
}

pub(super) fn events_mark() -> Vec<u8> {
    group_key(ROOT, b"e")
}

/// The oldest change of the history; 0 when nothing was ever written.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn oldest_change(view: &dyn StateView) -> Result<Revision, StateError> {
    let mark = number_pair(view, StateCf::Marks, &history_mark())?;
    Ok(Revision::new(mark.map_or(0, |(oldest, _)| oldest)))
}

/// The revision that the state is at; 0 when nothing was ever written.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn current_revision(view: &dyn StateView) -> Result<Revision, StateError> {
    Ok(Revision::new(number(
        view,
        StateCf::Marks,
        &revision_mark(),
    )?))
}

/// What is known of the transaction with this id, for as many revisions as the caps say.
///
/// # Errors
/// [`StateError`] when the view fails, or the bytes have rotted.
pub fn earlier(view: &dyn StateView, id: &str) -> Result<Option<wire::Earlier>, StateError> {
    let stored = view.get(StateCf::Dedup, &dedup_key(id))?;
    stored.map(decode).transpose()
}

pub(super) fn number(view: &dyn StateView, cf: StateCf, key: &[u8]) -> Result<u64, StateError> {
    let Some(bytes) = view.get(cf, key)? else {
        return Ok(0);
    };
    let bytes: [u8; 8] = bytes.as_slice().try_into().map_err(|_| StateError {
        reason: format!("a number of {} bytes", bytes.len()),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn number_pair(
    view: &dyn StateView,
    cf: StateCf,
    key: &[u8],
) -> Result<Option<(u64, u64)>, StateError> {
    let Some(bytes) = view.get(cf, key)? else {
        return Ok(None);
    };
    let bytes: [u8; 16] = bytes.as_slice().try_into().map_err(|_| StateError {
        reason: format!("two numbers of {} bytes", bytes.len()),
    })?;
    let both = u128::from_be_bytes(bytes);
    Ok(Some(((both >> 64) as u64, both as u64)))
}

/// Reads a value of `meta`.
///
/// # Errors
/// [`StateError`] when the bytes have rotted.
pub fn decode_value(bytes: Vec<u8>) -> Result<wire::MetaValue, StateError> {
    decode(bytes)
}

/// Reads a value of `changes`.
///
/// # Errors
/// [`StateError`] when the bytes have rotted.
pub fn decode_change(bytes: Vec<u8>) -> Result<wire::MetaChange, StateError> {
    decode(bytes)
}

fn decode<M: prost::Message + Default>(bytes: Vec<u8>) -> Result<M, StateError> {
    frame::decode(META_VERSION, Bytes::from(bytes)).map_err(|error| StateError {
        reason: format!("a metastore value: {error}"),
    })
}
