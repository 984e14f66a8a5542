//! The invariants that may never break, as pure predicates: one code for the simulation, the fault
//! tests and production, where a violation is counted (`maia_invariant_violations_total{name}`)
//! and pages. Each stands here from the issue on that first uses it; their statements are in
//! `protocols.md`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::NodeId;
use crate::position::{Position, Term};

/// An invariant, by number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: two nodes never acknowledge client writes of one group at one time.
    OneWriter,
    /// I2: an acknowledged write is in the log of every later leader.
    NoAckedLoss,
    /// I4: terms, versions, revisions never go back.
    Monotone,
    /// I3: a write acknowledged in async mode is in the log or in quarantine.
    AsyncAccounted,
    /// I5: no client write of a tenant takes effect while it is sealed.
    Sealed,
    /// I7: no payload of a tenant is stored outside its placement.
    Locality,
    /// I8: one key and one body have one effect and one answer.
    ExactlyOnce,
    /// I9: a read that presents a token sees that write, or is told why not.
    ReadYourWrites,
    /// I12: everything has a cap.
    Bounded,
    /// I13: the state is a function of the log.
    StateOfLog,
}

impl Invariant {
    /// All of them, for counters and documents.
    pub const ALL: [Invariant; 10] = [
        Invariant::OneWriter,
        Invariant::NoAckedLoss,
        Invariant::Monotone,
        Invariant::AsyncAccounted,
        Invariant::Sealed,
        Invariant::Locality,
        Invariant::ExactlyOnce,
        Invariant::ReadYourWrites,
        Invariant::Bounded,
        Invariant::StateOfLog,
    ];

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::OneWriter => "one-writer",
            Invariant::NoAckedLoss => "no-acked-loss",
            Invariant::Monotone => "monotone",
            Invariant::AsyncAccounted => "async-accounted",
            Invariant::Sealed => "sealed",
            Invariant::Locality => "locality",
            Invariant::ExactlyOnce => "exactly-once",
            Invariant::ReadYourWrites => "read-your-writes",
            Invariant::Bounded => "bounded",
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

/// I1: an acknowledgement before commit comes from the newest term in which anything was
/// acknowledged.
///
/// # Errors
/// [`Violation`] when a later leader has already acknowledged something.
pub fn one_at_a_time(newest: Term, own: Term) -> Result<(), Violation> {
    demand(own >= newest, Invariant::OneWriter, || {
        format!("an early acknowledgement in term {own}, after one in term {newest}")
    })
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

/// I2: what is acknowledged stands on as many disks of data members as the answer says.
///
/// # Errors
/// [`Violation`] when copies are missing.
pub fn copies(wanted: usize, found: usize) -> Result<(), Violation> {
    demand(found >= wanted, Invariant::NoAckedLoss, || {
        format!("acknowledged on {found} copies, {wanted} were promised")
    })
}

/// I2: while the data follower answers, the witness is not ahead of it: it could not elect it.
///
/// # Errors
/// [`Violation`] when it is.
pub fn witness_behind(
    witness: Position,
    follower: Position,
    runs_free: bool,
) -> Result<(), Violation> {
    demand(
        runs_free || witness <= follower,
        Invariant::NoAckedLoss,
        || format!("the witness is at {witness}, the data follower at {follower}"),
    )
}

/// I3: an early acknowledged write is somewhere.
///
/// # Errors
/// [`Violation`] when it is nowhere.
pub fn accounted(what: &str, in_log: bool, in_quarantine: bool) -> Result<(), Violation> {
    demand(in_log || in_quarantine, Invariant::AsyncAccounted, || {
        format!("{what} was acknowledged early, and is neither in the log nor in quarantine")
    })
}

/// I3: an early acknowledged write that is in the log took effect.
///
/// # Errors
/// [`Violation`] when apply refused it.
pub fn early_takes_effect(what: &str, took_effect: bool) -> Result<(), Violation> {
    demand(took_effect, Invariant::AsyncAccounted, || {
        format!("{what} was acknowledged early, and apply refused it")
    })
}

/// I3: what was made of a record that was cut off is what its tenant's conflict strategy calls for.
///
/// # Errors
/// [`Violation`] when it is something else.
pub fn explained<T: PartialEq + fmt::Debug>(
    record: &impl fmt::Display,
    expected: &T,
    found: &T,
) -> Result<(), Violation> {
    demand(expected == found, Invariant::AsyncAccounted, || {
        format!("record {record} was cut off and became {found:?}, not {expected:?}")
    })
}

/// I3: what is in quarantine is resolved, or waits for the operator.
///
/// # Errors
/// [`Violation`] when nobody does anything about it.
pub fn settles(entry: impl fmt::Display, is_over: bool) -> Result<(), Violation> {
    demand(is_over, Invariant::AsyncAccounted, || {
        format!("entry {entry} lies in quarantine, and nobody does anything about it")
    })
}

/// I5: a client write that took effect found its tenant open.
///
/// # Errors
/// [`Violation`] when the tenant was sealed.
pub fn sealed(is_sealed: bool, took_effect: bool) -> Result<(), Violation> {
    demand(!(is_sealed && took_effect), Invariant::Sealed, || {
        "a client write took effect behind a seal".to_owned()
    })
}

/// I7: who may not hold payloads holds none.
///
/// # Errors
/// [`Violation`] when one is there.
pub fn locality(may_hold: bool, payloads: usize) -> Result<(), Violation> {
    demand(may_hold || payloads == 0, Invariant::Locality, || {
        format!("{payloads} payloads where none may be")
    })
}

/// I8: the answer under a key is the one that its first use, or its misuse, calls for.
///
/// # Errors
/// [`Violation`] when it is another.
pub fn exactly_once<T: PartialEq + fmt::Debug>(expected: &T, found: &T) -> Result<(), Violation> {
    demand(expected == found, Invariant::ExactlyOnce, || {
        format!("under an idempotency key {found:?} was answered, not {expected:?}")
    })
}

/// I9: the state that a read with a token was served from has the token's record: at its index
/// stands a record of its term.
///
/// # Errors
/// [`Violation`] when it has not.
pub fn read_your_writes(token: Position, found: Option<Term>) -> Result<(), Violation> {
    demand(found == Some(token.term), Invariant::ReadYourWrites, || {
        format!("a read was served to a token at {token}, where the state has term {found:?}")
    })
}

/// I12: what is counted is within its cap.
///
/// # Errors
/// [`Violation`] when it is not.
pub fn bounded(what: &str, count: usize, cap: usize) -> Result<(), Violation> {
    demand(count <= cap, Invariant::Bounded, || {
        format!("{count} {what}, the cap is {cap}")
    })
}

/// I13: two replicas made the same of the same log.
///
/// # Errors
/// [`Violation`] when they did not.
pub fn state_of_log<T: PartialEq>(
    expected: &T,
    found: &T,
    what: impl FnOnce() -> String,
) -> Result<(), Violation> {
    demand(expected == found, Invariant::StateOfLog, what)
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
        assert!(one_at_a_time(Term::new(1), Term::new(1)).is_ok());
        assert!(one_at_a_time(Term::new(2), Term::new(1)).is_err());
        assert!(monotone(1, 1).is_ok() && monotone(2, 1).is_err());
        assert!(no_acked_loss(b"a", Some(b"a")).is_ok());
        assert!(no_acked_loss(b"a", Some(b"b")).is_err());
        assert!(no_acked_loss(b"a", None).is_err());
        assert!(copies(2, 2).is_ok() && copies(2, 1).is_err());
        let at = |index| Position::new(Term::new(1), crate::position::Index::new(index));
        assert!(witness_behind(at(1), at(1), false).is_ok());
        assert!(witness_behind(at(2), at(1), false).is_err());
        assert!(witness_behind(at(2), at(1), true).is_ok());
        assert!(accounted("w", true, false).is_ok() && accounted("w", false, true).is_ok());
        assert!(accounted("w", false, false).is_err());
        assert!(early_takes_effect("w", true).is_ok() && early_takes_effect("w", false).is_err());
        assert!(sealed(true, false).is_ok() && sealed(false, true).is_ok());
        assert!(sealed(true, true).is_err());
        assert!(locality(true, 1).is_ok() && locality(false, 0).is_ok());
        assert!(locality(false, 1).is_err());
        assert!(exactly_once(&1, &1).is_ok() && exactly_once(&1, &2).is_err());
        assert!(read_your_writes(at(1), Some(Term::new(1))).is_ok());
        assert!(read_your_writes(at(1), Some(Term::new(2))).is_err());
        assert!(read_your_writes(at(1), None).is_err());
        assert!(bounded("things", 2, 2).is_ok() && bounded("things", 3, 2).is_err());
        assert!(state_of_log(&1, &1, String::new).is_ok());
        assert!(state_of_log(&1, &2, String::new).is_err());
    }

    #[test]
    fn violations_are_counted_by_name() {
        let violations = Violations::default();
        violations.check(Ok(()));
        violations.check(monotone(2, 1));
        violations.check(bounded("things", 3, 2));
        let counted = violations.counts().filter(|(_, n)| *n > 0);
        let counts: Vec<_> = counted.map(|(i, n)| (i.name(), n)).collect();
        assert_eq!(counts, [("monotone", 1), ("bounded", 1)]);
    }
}
