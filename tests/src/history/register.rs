//! The thing whose histories are checked: one resource, which is absent or holds a value, with
//! conditions on writes. A client knows values; the ETag of a condition stands for the value it was
//! seen with.

use std::fmt;

/// What a resource holds. Each is written by one operation only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u64);

/// What a write demands of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    Anything,
    Absent,
    Present,
    Exactly(Value),
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A put (leaves a value) or a delete (leaves none).
    Write {
        expect: Expect,
        leaves: Option<Value>,
    },
    /// A strong read.
    Read,
}

/// What its answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The write took effect.
    Done,
    /// What it demands did not hold: no effect.
    Unmet,
    /// The read saw this.
    Saw(Option<Value>),
    /// It may have taken effect, may yet, or never will.
    Unknown,
}

impl Expect {
    /// Whether the state is as demanded.
    #[must_use]
    pub fn holds(self, state: Option<Value>) -> bool {
        match self {
            Expect::Anything => true,
            Expect::Absent => state.is_none(),
            Expect::Present => state.is_some(),
            Expect::Exactly(value) => state == Some(value),
        }
    }
}

/// An operation can't have been answered so in this state; or, without an answer, has no effect in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction;

/// The state after an operation that found `state` and was answered so; of unknown outcome, after its
/// effect.
///
/// # Errors
/// [`Contradiction`].
pub fn step(
    state: Option<Value>,
    operation: &Operation,
    outcome: &Outcome,
) -> Result<Option<Value>, Contradiction> {
    let (fits, after) = match (operation, outcome) {
        (Operation::Read, Outcome::Saw(seen)) => (*seen == state, state),
        (Operation::Write { expect, leaves }, Outcome::Done | Outcome::Unknown) => {
            (expect.holds(state), *leaves)
        }
        (Operation::Write { expect, .. }, Outcome::Unmet) => (!expect.holds(state), state),
        (Operation::Read, _) | (Operation::Write { .. }, Outcome::Saw(_)) => (false, state),
    };
    if fits { Ok(after) } else { Err(Contradiction) }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

fn shown(value: Option<Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation::Write { expect, leaves } = self else {
            return f.write_str("read");
        };
        match leaves {
            Some(value) => write!(f, "put {value}")?,
            None => f.write_str("delete")?,
        }
        match expect {
            Expect::Anything => Ok(()),
            Expect::Absent => f.write_str(" if absent"),
            Expect::Present => f.write_str(" if present"),
            Expect::Exactly(value) => write!(f, " if {value}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => f.write_str("done"),
            Outcome::Unmet => f.write_str("unmet"),
            Outcome::Saw(value) => write!(f, "saw {}", shown(*value)),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}
