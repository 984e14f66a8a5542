//! What a node asks of others about entries of its quarantine: whether a record was committed in a group
//! that this node has left, and to take an entry that this node may not keep.

use std::time::Instant;

use maia_common::ids::NodeId;

use super::{PeerError, Peers, call, left_ms, refusal};
use crate::core::history::Standing;
use crate::core::quarantine::{Entry, EntryId};
use maia_common::wire::peer as wire;

/// The numbers on the wire.
const STANDINGS: [(u32, Standing); 3] = [
    (1, Standing::Applied),
    (2, Standing::NotYet),
    (3, Standing::Diverged),
];

/// The number on the wire of what a group's history says.
pub fn number_of(standing: Standing) -> u32 {
    let mut pairs = STANDINGS.iter();
    let found = pairs.find(|(_, known)| *known == standing);
    found.map_or(0, |(number, _)| *number)
}

impl Peers {
    /// Asks a member what its applied history says of an entry's place.
    ///
    /// # Errors
    /// [`PeerError`], also when it is no member.
    pub async fn standing(
        &self,
        node: NodeId,
        id: EntryId,
        deadline: Instant,
    ) -> Result<Standing, PeerError> {
        let mut client = self.client(node)?;
        let request = wire::StandingRequest {
            group: id.group.get(),
            term: id.position.term.get(),
            index: id.position.index.get(),
        };
        let reply = call(deadline, client.standing(request)).await?;
        refusal(reply.refusal)?;
        let mut pairs = STANDINGS.iter();
        let found = pairs.find(|(number, _)| *number == reply.standing);
        found.map(|(_, known)| *known).ok_or(PeerError::Unreachable)
    }

    /// Hands an entry over: it is durable there when this returns. Safe to repeat.
    ///
    /// # Errors
    /// [`PeerError`]; `unknown_tenant` when the entry's tenant is known to be deleted.
    pub async fn take_quarantined(
        &self,
        node: NodeId,
        entry: &Entry,
        deadline: Instant,
    ) -> Result<(), PeerError> {
        let mut client = self.client(node)?;
        let request = wire::TakeQuarantinedRequest {
            entry: entry.encode(),
            timeout_ms: left_ms(deadline),
        };
        let reply = call(deadline, client.take_quarantined(request)).await?;
        refusal(reply.refusal)
    }
}
