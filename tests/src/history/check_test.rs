//! Both checkers find what is planted, accept what a working register did, and agree.

use proptest::prelude::*;

use super::made::{event, history, plans, put};
use super::{
    Event, Expect, Operation, Outcome, Value, Verdict, cross, effects_that_differ, lost_behind, wgl,
};

fn saw(value: u64) -> Outcome {
    Outcome::Saw(Some(Value(value)))
}

fn both(events: &[Event]) -> Verdict {
    let verdict = wgl::check(events);
    assert_eq!(verdict, cross::check(events), "{}", super::told(events));
    verdict
}

#[test]
fn a_stale_read_is_found() {
    let mut events = vec![
        event(put(1), Outcome::Done, 0, 1),
        event(put(2), Outcome::Done, 2, 3),
        event(Operation::Read, saw(1), 4, 5),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
    events[2].call = 2;
    assert_eq!(both(&events), Verdict::Linearizable, "they overlap");
}

#[test]
fn a_lost_write_is_found() {
    let events = [
        event(put(1), Outcome::Done, 0, 1),
        event(Operation::Read, Outcome::Saw(None), 2, 3),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
    assert_eq!(lost_behind(&events, None), events[..1]);
    assert!(lost_behind(&events, Some(Value(1))).is_empty());
    // Overwritten by something older.
    let events = [
        event(put(1), Outcome::Done, 0, 1),
        event(put(2), Outcome::Done, 2, 3),
        event(Operation::Read, saw(1), 4, 5),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
    assert_eq!(lost_behind(&events, Some(Value(1))), events[1..2]);
}

#[test]
fn a_value_that_was_never_written_is_found() {
    let events = [
        event(put(1), Outcome::Done, 0, 1),
        event(Operation::Read, saw(7), 2, 3),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
}

#[test]
fn a_double_effect_is_found() {
    let mut events = vec![
        event(put(1), Outcome::Done, 0, 1),
        event(put(2), Outcome::Done, 2, 3),
        event(Operation::Read, saw(2), 4, 5),
        event(Operation::Read, saw(1), 6, 7),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
    // Where the reads alone would explain it, the versions do not.
    events.truncate(1);
    events.push(event(Operation::Read, saw(1), 2, 3));
    for (event, tag) in events.iter_mut().zip(["\"1-1-5\"", "\"1-1-6\""]) {
        event.tag = Some(tag.to_owned());
    }
    assert_eq!(both(&events), Verdict::Linearizable);
    assert_eq!(effects_that_differ(&events).len(), 1);
}

#[test]
fn two_that_both_won_one_version_are_found() {
    let change = |to| Operation::Write {
        expect: Expect::Exactly(Value(1)),
        leaves: Some(Value(to)),
    };
    let mut events = vec![
        event(put(1), Outcome::Done, 0, 1),
        event(change(2), Outcome::Done, 2, 9),
        event(change(3), Outcome::Done, 2, 9),
    ];
    assert_eq!(both(&events), Verdict::Impossible);
    events[2].outcome = Outcome::Unmet;
    assert_eq!(both(&events), Verdict::Linearizable);
}

#[test]
fn what_is_unknown_may_take_effect_late_or_never_but_not_both() {
    let unknown = event(put(1), Outcome::Unknown, 0, 0);
    let reads = |seen: &[Option<u64>]| -> Vec<Event> {
        let reads = seen.iter().zip(1..).map(|(value, at)| {
            let seen = Outcome::Saw(value.map(Value));
            event(Operation::Read, seen, at * 10, at * 10 + 1)
        });
        std::iter::once(unknown.clone()).chain(reads).collect()
    };
    assert_eq!(both(&reads(&[None, None])), Verdict::Linearizable);
    assert_eq!(both(&reads(&[None, Some(1)])), Verdict::Linearizable);
    assert_eq!(both(&reads(&[Some(1), None])), Verdict::Impossible);
    assert!(lost_behind(&reads(&[None]), None).is_empty());
}

/// Writes one after the other, seven at a time under way, one in 25 of unknown outcome.
fn many(count: u64) -> Vec<Event> {
    let writes = (0..count).map(|n| {
        let outcome = if n % 25 == 0 {
            Outcome::Unknown
        } else {
            Outcome::Done
        };
        event(put(n), outcome, n * 3, n * 3 + 20)
    });
    writes.collect()
}

#[test]
fn hundreds_of_operations_are_decided() {
    let mut events = many(400);
    events.push(event(Operation::Read, saw(399), 5000, 5001));
    assert_eq!(wgl::check(&events), Verdict::Linearizable);
    let mut events = many(60);
    events.push(event(Operation::Read, saw(10), 150, 151));
    assert_eq!(wgl::check(&events), Verdict::Impossible);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_a_register_did_is_linearizable(plans in plans(8)) {
        prop_assert_eq!(both(&history(&plans)), Verdict::Linearizable);
    }

    #[test]
    fn long_ones_too(plans in plans(30)) {
        prop_assert_eq!(wgl::check(&history(&plans)), Verdict::Linearizable);
    }

    /// Whatever one answer is changed to, they say the same.
    #[test]
    fn they_agree(plans in plans(7), which in 0..7usize, seen in 0..9u64, flip: bool) {
        let mut events = history(&plans);
        let at = which % events.len();
        let answer = match (&events[at].operation, flip) {
            (Operation::Read, true) => Outcome::Saw(None),
            (Operation::Read, false) => saw(seen),
            (_, true) => Outcome::Done,
            (_, false) => Outcome::Unmet,
        };
        events[at].outcome = answer;
        events[at].answer.get_or_insert(70);
        both(&events);
    }

    /// What is lost by the times alone has no order either.
    #[test]
    fn what_is_lost_is_impossible(plans in plans(7), last in prop::option::of(0..7u64)) {
        let mut events = history(&plans);
        let last = last.map(Value);
        let lost = !lost_behind(&events, last).is_empty();
        events.push(event(Operation::Read, Outcome::Saw(last), 1000, 1001));
        prop_assert!(!lost || wgl::check(&events) == Verdict::Impossible);
    }
}
