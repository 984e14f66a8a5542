//! Orders: term, index, position of a group's log, and the versions and revisions of the
//! metastore. None of them ever goes back (I4); a cluster generation precedes revisions across a
//! disaster recovery. Source: Raft, §5; the design's vocabulary.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, number};

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

/// A position together with the group whose log it is in: where a reader of entries stands.
/// Text form: `group/term/index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupPosition {
    /// The group.
    pub group: GroupId,
    /// The place in its log.
    pub at: Position,
}

/// The text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is three numbers: group/term/index")]
pub struct PositionError;

impl fmt::Display for GroupPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.at)
    }
}

impl FromStr for GroupPosition {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let mut parts = text.split('/').map(str::parse::<u64>);
        let mut next = || parts.next().and_then(Result::ok).ok_or(PositionError);
        let (group, term, index) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(PositionError);
        }
        Ok(Self {
            group: GroupId::new(group),
            at: Position::new(Term::new(term), Index::new(index)),
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position = "3/2/17".parse::<GroupPosition>().unwrap();
        assert_eq!((position.group.get(), position.at.index.get()), (3, 17));
        assert_eq!(position.to_string(), "3/2/17");
        for bad in ["", "3/2", "3/2/17/1", "3//17", "a/2/3", "-1/2/3", "3/2/17 "] {
            assert_eq!(bad.parse::<GroupPosition>(), Err(PositionError), "{bad}");
        }
    }
}
