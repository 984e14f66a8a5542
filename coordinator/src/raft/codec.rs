//! Between openraft's types and the messages of `maia.raft.v1`, for disk and wire alike: an entry
//! is encoded in one way only. Decoders return errors and never panic, whatever the bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use maia_common::wire::raft as wire;
use openraft::EntryPayload;

use super::types::{
    RaftEntry, RaftLogId, RaftMembership, RaftSnapshotMeta, RaftStoredMembership, RaftVote, log_id,
    term_of,
};
use crate::core::frame::{self, FrameError};
use crate::core::record::{Record, RecordError};

/// The version of every message that the engine persists.
pub(crate) const FORMAT_VERSION: u8 = 1;

/// Why bytes or a message are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The frame is broken.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The record in an entry is broken.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A field that must be there is not.
    #[error("a message without its {0}")]
    Missing(&'static str),
    /// A membership that Raft does not allow.
    #[error("illegal membership: {0}")]
    Membership(String),
}

pub(crate) fn encode_entry(entry: &RaftEntry) -> Bytes {
    use wire::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(wire::Done {}),
        EntryPayload::Normal(record) => Payload::Record(record.encode()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_wire(membership)),
    };
    frame::encode(
        FORMAT_VERSION,
        &wire::LogEntry {
            id: Some(log_id_to_wire(&entry.log_id)),
            payload: Some(payload),
        },
    )
}

pub(crate) fn decode_entry(bytes: Bytes) -> Result<RaftEntry, CodecError> {
    use wire::log_entry::Payload;
    let message: wire::LogEntry = frame::decode(FORMAT_VERSION, bytes)?;
    let id = message.id.ok_or(CodecError::Missing("log id"))?;
    let payload = match message.payload.ok_or(CodecError::Missing("payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Record(bytes) => EntryPayload::Normal(Record::decode(bytes)?),
        Payload::Membership(m) => EntryPayload::Membership(membership_from_wire(m)?),
    };
    Ok(RaftEntry {
        log_id: log_id(id.term, id.index),
        payload,
    })
}

pub(crate) fn log_id_to_wire(id: &RaftLogId) -> wire::LogId {
    wire::LogId {
        term: term_of(id),
        index: id.index(),
    }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> RaftLogId {
    log_id(id.term, id.index)
}

pub(crate) fn vote_to_wire(vote: &RaftVote) -> wire::Ballot {
    wire::Ballot {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(ballot: wire::Ballot) -> RaftVote {
    if ballot.committed {
        RaftVote::new_committed(ballot.term, ballot.node)
    } else {
        RaftVote::new(ballot.term, ballot.node)
    }
}

pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    frame::encode(FORMAT_VERSION, &vote_to_wire(vote))
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<RaftVote, CodecError> {
    Ok(vote_from_wire(frame::decode(FORMAT_VERSION, bytes)?))
}

pub(crate) fn encode_log_id(id: &RaftLogId) -> Bytes {
    frame::encode(FORMAT_VERSION, &log_id_to_wire(id))
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<RaftLogId, CodecError> {
    Ok(log_id_from_wire(frame::decode(FORMAT_VERSION, bytes)?))
}

fn membership_to_wire(membership: &RaftMembership) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    wire::Membership {
        configs: configs
            .map(|nodes| wire::NodeSet {
                nodes: nodes.iter().copied().collect(),
            })
            .collect(),
        nodes: membership.nodes().map(|(id, _)| *id).collect(),
    }
}

fn membership_from_wire(message: wire::Membership) -> Result<RaftMembership, CodecError> {
    let configs: Vec<BTreeSet<u64>> = message
        .configs
        .into_iter()
        .map(|set| set.nodes.into_iter().collect())
        .collect();
    let nodes: BTreeSet<u64> = message.nodes.into_iter().collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|e| CodecError::Membership(e.to_string()))
}

fn stored_to_wire(stored: &RaftStoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

fn stored_from_wire(
    message: Option<wire::StoredMembership>,
) -> Result<RaftStoredMembership, CodecError> {
    let message = message.ok_or(CodecError::Missing("stored membership"))?;
    let membership = message
        .membership
        .ok_or(CodecError::Missing("membership"))?;
    Ok(RaftStoredMembership::new(
        message.log_id.map(log_id_from_wire),
        membership_from_wire(membership)?,
    ))
}

pub(crate) fn encode_applied(last: Option<&RaftLogId>, membership: &RaftStoredMembership) -> Bytes {
    frame::encode(
        FORMAT_VERSION,
        &wire::Applied {
            last: last.map(log_id_to_wire),
            membership: Some(stored_to_wire(membership)),
        },
    )
}

pub(crate) fn decode_applied(
    bytes: Bytes,
) -> Result<(Option<RaftLogId>, RaftStoredMembership), CodecError> {
    let message: wire::Applied = frame::decode(FORMAT_VERSION, bytes)?;
    Ok((
        message.last.map(log_id_from_wire),
        stored_from_wire(message.membership)?,
    ))
}

pub(crate) fn snapshot_meta_to_wire(group: u64, meta: &RaftSnapshotMeta) -> wire::SnapshotMeta {
    wire::SnapshotMeta {
        group,
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_to_wire(&meta.last_membership)),
    }
}

pub(crate) fn snapshot_meta_from_wire(
    message: wire::SnapshotMeta,
) -> Result<RaftSnapshotMeta, CodecError> {
    Ok(RaftSnapshotMeta {
        last_log_id: message.last.map(log_id_from_wire),
        last_membership: stored_from_wire(message.membership)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::record::Hlc;

    fn any_entry() -> impl Strategy<Value = RaftEntry> {
        let payload = prop_oneof![
            Just(EntryPayload::Blank),
            (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
                |(hlc, body)| {
                    EntryPayload::Normal(Record::meta(Hlc::from_raw(hlc), body.into()))
                }
            ),
            proptest::collection::btree_set(1..9u64, 1..5).prop_map(|nodes| {
                EntryPayload::Membership(RaftMembership::new(vec![nodes.clone()], nodes).unwrap())
            }),
        ];
        (any::<u64>(), any::<u64>(), payload).prop_map(|(term, index, payload)| RaftEntry {
            log_id: log_id(term, index),
            payload,
        })
    }

    proptest! {
        #[test]
        fn entries_come_back(entry in any_entry()) {
            prop_assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
        }

        #[test]
        fn a_flipped_bit_is_an_error(entry in any_entry(), at in any::<prop::sample::Index>()) {
            let mut bytes = encode_entry(&entry).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert!(decode_entry(bytes.into()).is_err());
        }

        #[test]
        fn votes_come_back(term in any::<u64>(), node in any::<u64>(), committed in any::<bool>()) {
            let vote = vote_from_wire(wire::Ballot { term, node, committed });
            prop_assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        }
    }
}
