//! The invariants that may never break, as pure predicates: one code for the simulation, the fault
//! tests and production, where a violation is counted (`maia_invariant_violations_total{name}`)
//! and pages. Each stands here from the issue on that first uses it; their statements are in
//! `protocols.md`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::NodeId;
use crate::position::Term;

/// An invariant, by number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: two nodes never acknowledge client writes of one group at one time.
    OneWriter,
    /// I2: an acknowledged write is in the log of every later leader.
    NoAckedLoss,
    /// I4: terms, versions, revisions never go back.
    Monotone,
    /// I13: the same log gives the same state on every replica.
    StateOfLog,
}

impl Invariant {
    /// All of them, for counters and documents.
    pub const ALL: [Invariant; 4] = [
        Invariant::OneWriter,
        Invariant::NoAckedLoss,
        Invariant::Monotone,
        Invariant::StateOfLog,
    ];

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::OneWriter => "one-writer",
            Invariant::NoAckedLoss => "no-acked-loss",
            Invariant::Monotone => "monotone",
            Invariant::StateOfLog => "state-of-log",
        }
    }
}

/// A violation: which invariant, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", invariant.name())]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen, for the log.
    pub what: String,
}

fn demand(
    holds: bool,
    invariant: Invariant,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            invariant,
            what: what(),
        })
    }
}

/// I1: a term of a group has one leader, whoever tells of it.
///
/// # Errors
/// [`Violation`] when the same term is claimed for two nodes.
pub fn one_writer(known: (Term, NodeId), seen: (Term, NodeId)) -> Result<(), Violation> {
    demand(
        known.0 != seen.0 || known.1 == seen.1,
        Invariant::OneWriter,
        || {
            format!(
                "nodes {} and {} both lead at term {}",
                known.1, seen.1, seen.0
            )
        },
    )
}

/// I4: what is seen now is not below what was seen before.
///
/// # Errors
/// [`Violation`] when it went back.
pub fn monotone<T: Ord + fmt::Display>(before: T, now: T) -> Result<(), Violation> {
    demand(now >= before, Invariant::Monotone, || {
        format!("{now} after {before}")
    })
}

/// I2: what was acknowledged is what is found later.
///
/// # Errors
/// [`Violation`] when it is gone or another.
pub fn no_acked_loss(acked: &[u8], found: Option<&[u8]>) -> Result<(), Violation> {
    demand(found == Some(acked), Invariant::NoAckedLoss, || {
        let is = if found.is_some() { "another" } else { "gone" };
        format!(
            "`{}` was acknowledged and is {is}",
            String::from_utf8_lossy(acked)
        )
    })
}

/// I13: two replicas at one position have the same state.
///
/// # Errors
/// [`Violation`] when the other node's digest differs from this one's.
pub fn same_state(other: NodeId, own: &[u8; 32], theirs: &[u8; 32]) -> Result<(), Violation> {
    demand(own == theirs, Invariant::StateOfLog, || {
        format!("node {other} has another state at the same position")
    })
}

/// Counts violations in production.
#[derive(Debug, Default)]
pub struct Violations([AtomicU64; Invariant::ALL.len()]);

impl Violations {
    /// Counts and logs a violation; passes over what held.
    pub fn check(&self, result: Result<(), Violation>) {
        let Err(violation) = result else { return };
        self.0[violation.invariant as usize].fetch_add(1, Ordering::Relaxed);
        tracing::error!(%violation, "an invariant is violated");
    }

    /// Each invariant and how often it was violated.
    pub fn counts(&self) -> impl Iterator<Item = (Invariant, u64)> + '_ {
        let count = |i: Invariant| self.0[i as usize].load(Ordering::Relaxed);
        Invariant::ALL
            .into_iter()
            .map(move |invariant| (invariant, count(invariant)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_predicate_tells_right_from_wrong() {
        let led = |term, node| (Term::new(term), NodeId::new(node));
        assert!(one_writer(led(1, 1), led(1, 1)).is_ok());
        assert!(one_writer(led(1, 1), led(2, 2)).is_ok());
        assert!(one_writer(led(1, 1), led(1, 2)).is_err());
        assert!(monotone(1, 1).is_ok() && monotone(2, 1).is_err());
        assert!(no_acked_loss(b"a", Some(b"a")).is_ok());
        assert!(no_acked_loss(b"a", Some(b"b")).is_err());
        assert!(no_acked_loss(b"a", None).is_err());
        assert!(same_state(NodeId::new(2), &[1; 32], &[1; 32]).is_ok());
        assert!(same_state(NodeId::new(2), &[1; 32], &[2; 32]).is_err());
    }

    #[test]
    fn violations_are_counted_by_name() {
        let violations = Violations::default();
        violations.check(Ok(()));
        violations.check(monotone(2, 1));
        let counts: Vec<_> = violations.counts().map(|(i, n)| (i.name(), n)).collect();
        assert_eq!(
            counts,
            [
                ("one-writer", 0),
                ("no-acked-loss", 0),
                ("monotone", 1),
                ("state-of-log", 0)
            ]
        );
    }
}
