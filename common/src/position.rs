//! Orders: term, index, position of a group's log, and the versions and revisions of the
//! metastore. None of them ever goes back (I4); a cluster generation precedes revisions across a
//! disaster recovery. Source: Raft, §5; the design's vocabulary.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::number;

number!(
    /// A Raft term: at most one leader each; a placement group's term is the fencing token.
    Term
);
number!(
    /// The index of a record in a group's log; the first record has index 0 or 1 as Raft gives it.
    Index
);
number!(
    /// The version of one tenant's placement; the first is 1.
    Version
);
number!(
    /// The revision of the metastore: grows by exactly one with every transaction that writes.
    Revision
);
number!(
    /// The cluster's generation, raised by each disaster recovery; precedes revisions in order.
    Generation
);

/// A place in a group's log. Ordered by term, then index, as Raft orders logs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// The term in which the record was proposed.
    pub term: Term,
    /// The record's index in the log.
    pub index: Index,
}

impl Position {
    /// The position of the record with this term and index.
    #[must_use]
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}
