//! Histories of one resource: operations with the time of their call and of their answer, open where
//! no answer says what became of them; and whether some order of them explains every answer.
//!
//! ```text
//! put a   |-----------|                 done
//! read              |------|            saw a        linearizable: a before the read
//! put b       |---------------- …       unknown      may have taken effect at any moment, or never
//! ```
//!
//! [`wgl`] decides histories of hundreds of operations; [`cross`] asks a checker that shares no code
//! with it, for small ones. Pure but for [`Clock`]. Written by the fault runs, one history for each
//! resource: a resource's operations concern no other one, so each is decided by itself.

pub mod cross;
#[cfg(test)]
mod made;
mod register;
pub mod wgl;

#[cfg(test)]
mod check_test;

use std::collections::BTreeMap;
use std::time::Instant;

pub use register::{Expect, Operation, Outcome, Value};

/// Nanoseconds since a run began.
pub type Nanos = u64;

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub operation: Operation,
    pub outcome: Outcome,
    pub call: Nanos,
    /// None: no answer that says what became of it.
    pub answer: Option<Nanos>,
    /// The ETag of the answer.
    pub tag: Option<String>,
    /// Where it was sent, for people.
    pub by: String,
}

/// What a checker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Some order explains every answer.
    Linearizable,
    /// None does.
    Impossible,
    /// The search was given up.
    Undecided,
}

/// Times of one run.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Event {
    /// When it was over at the latest.
    #[must_use]
    pub fn end(&self) -> Nanos {
        self.answer.unwrap_or(Nanos::MAX)
    }

    /// Whether it is a write that was acknowledged.
    #[must_use]
    pub fn is_acknowledged_write(&self) -> bool {
        matches!(self.operation, Operation::Write { .. }) && self.outcome == Outcome::Done
    }

    fn value(&self) -> Option<Value> {
        match (&self.operation, &self.outcome) {
            (Operation::Write { leaves, .. }, Outcome::Done) => *leaves,
            (_, Outcome::Saw(value)) => *value,
            _ => None,
        }
    }
}

/// Each value is written by one operation, so it has one ETag for ever: a second one means that a
/// write took effect twice. Returns what contradicts that.
#[must_use]
pub fn effects_that_differ(events: &[Event]) -> Vec<String> {
    let mut tags: BTreeMap<Value, &str> = BTreeMap::new();
    let mut values: BTreeMap<&str, Value> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        let (Some(value), Some(tag)) = (event.value(), event.tag.as_deref()) else {
            continue;
        };
        let first = *tags.entry(value).or_insert(tag);
        if first != tag {
            found.push(format!("{value} has the ETags {first} and {tag}"));
        }
        let first = *values.entry(tag).or_insert(value);
        if first != value {
            found.push(format!("{tag} is the ETag of {first} and {value}"));
        }
    }
    found
}

/// Acknowledged writes that are neither `last`, the value that stands there at the end, nor may have
/// been overwritten by it: they began after whoever wrote it had its answer. Needs no order, so it
/// holds for asynchronous writes too, as long as their nodes' clocks agree.
#[must_use]
pub fn lost_behind(events: &[Event], last: Option<Value>) -> Vec<Event> {
    let writers = || events.iter().filter(|e| e.outcome != Outcome::Unmet);
    let leaves = |event: &Event, value: Option<Value>| matches!(event.operation, Operation::Write { leaves, .. } if leaves == value);
    let end = writers()
        .filter(|event| leaves(event, last))
        .map(Event::end)
        .max();
    let acknowledged = events.iter().filter(|e| e.is_acknowledged_write());
    acknowledged
        .filter(|event| end.is_none_or(|end| event.call > end))
        .cloned()
        .collect()
}

/// A history as a person reads it.
#[must_use]
pub fn told(events: &[Event]) -> String {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.call);
    let ms = |nanos: Nanos| nanos as f64 / 1e6;
    let lines = events.iter().map(|event| {
        let answer = event
            .answer
            .map_or_else(|| "…".to_owned(), |at| format!("{:.3}", ms(at)));
        let tag = event.tag.as_deref().unwrap_or("");
        format!(
            "  {:>12.3} – {answer:<12} {} → {} {tag} {}",
            ms(event.call),
            event.operation,
            event.outcome,
            event.by
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
