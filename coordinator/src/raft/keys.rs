//! Keys of both databases. A group's keys begin with its id in every column family, so a group is
//! a key range: that is what snapshots, installs and the purge of a left group work on.
//!
//! | database | family | key | value |
//! | --- | --- | --- | --- |
//! | `raft/` | `log` | group u64 BE, index u64 BE | a framed `maia.raft.v1.LogEntry` |
//! | `raft/` | `hard_state` | group u64 BE, [`HardState`] u8 | by kind |
//! | `raft/` | `hard_state` | [`STARTS_KEY`] | how often the node was started, u64 BE |
//! | `raft/` | `quarantine` | group u64 BE, term u64 BE, index u64 BE | a framed `Quarantined` |
//! | `state/` | `meta`, `changes`, `data`, `dedup` | group u64 BE, the applier's suffix | the applier's |
//! | `state/` | `marks` | group u64 BE, suffix; those that begin with 0 are the engine's, with 1 `core/history`'s | |

use maia_common::GroupId;

/// Bytes of the group's id before every key.
pub const GROUP_PREFIX_BYTES: usize = 8;
/// Key in `hard_state` of how often the node was started; stands behind those of all groups.
pub(crate) const STARTS_KEY: &[u8] = b"\xff\xff\xff\xff\xff\xff\xff\xffstarts";
/// First byte of those suffixes in `marks` that belong to the engine, not to the applier.
pub(crate) const ENGINE_MARK: u8 = 0;
/// Suffix in `marks` under which the applied position and the membership stand.
pub(crate) const APPLIED_MARK: &[u8] = &[ENGINE_MARK, b'a'];
/// Suffix in `marks` that stands while a snapshot is being installed in pieces.
pub(crate) const INSTALLING_MARK: &[u8] = &[ENGINE_MARK, b'i'];

/// Prefix in `marks` of what entries did where their records alone don't tell; the index, u64 BE, follows.
pub(crate) const TRACE_MARK: &[u8] = &[ENGINE_MARK, b't'];
/// Suffix in `marks` of the last position that came with a snapshot, not entry by entry; empty: none did.
pub(crate) const INSTALLED_MARK: &[u8] = &[ENGINE_MARK, b's'];

/// What the `hard_state` family keeps of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HardState {
    /// The vote.
    Vote = 1,
    /// The last committed log id known, written without sync.
    Committed = 2,
    /// The last purged log id.
    Purged = 3,
    /// This node has left the group.
    Left = 4,
}

/// The key in any family of `state/` for this suffix of a group.
#[must_use]
pub fn group_key(group: GroupId, suffix: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(GROUP_PREFIX_BYTES + suffix.len());
    key.extend_from_slice(&group.get().to_be_bytes());
    key.extend_from_slice(suffix);
    key
}

/// The half-open range of all keys of a group.
pub(crate) fn group_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (
        group_key(group, &[]),
        group_key(GroupId::new(group.get() + 1), &[]),
    )
}

/// The key of a log entry.
pub(crate) fn log_key(group: GroupId, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.get().to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The key of the trace of the entry with this index.
pub(crate) fn trace_key(group: GroupId, index: u64) -> Vec<u8> {
    let mut key = group_key(group, TRACE_MARK);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The index in the key of a trace.
pub(crate) fn index_of_trace_key(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

/// The index in a log key.
pub(crate) fn index_of_log_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(8..16)?.try_into().ok()?))
}

/// The key of a group's hard state of this kind.
pub(crate) fn hard_key(group: GroupId, kind: HardState) -> Vec<u8> {
    group_key(group, &[kind as u8])
}

/// The group and the kind in a key of a hard state; none for other keys of the family.
pub(crate) fn hard_state_of(key: &[u8]) -> Option<(GroupId, u8)> {
    let (group, [kind]) = key.split_first_chunk::<GROUP_PREFIX_BYTES>()? else {
        return None;
    };
    Some((GroupId::new(u64::from_be_bytes(*group)), *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_group_then_index_and_a_range_holds_one_group() {
        let (start, end) = group_range(GroupId::new(7));
        for index in [0, 1, 255, 256, u64::MAX] {
            let key = log_key(GroupId::new(7), index);
            assert!(key.as_slice() >= start.as_slice() && key.as_slice() < end.as_slice());
            assert_eq!(index_of_log_key(&key), Some(index));
        }
        assert!(log_key(GroupId::new(8), 0).as_slice() >= end.as_slice());
        assert!(log_key(GroupId::new(7), 255) < log_key(GroupId::new(7), 256));
    }
}
