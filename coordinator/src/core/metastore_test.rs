//! Transactions on a state in memory: what the conformance suite can't see from outside.

use maia_common::limits;
use maia_common::position::Revision;
use proptest::prelude::*;

use super::*;
use crate::metastore::memory::MemoryState;
use crate::raft::{Mutations, StateCf, StateView};

fn run(state: &mut MemoryState, transaction: &Transaction) -> Applied {
    let mut out = Mutations::default();
    let applied = apply(&transaction.encode(), &*state, &mut out).unwrap();
    state.write(out);
    applied
}

fn transaction(id: impl Into<String>) -> Transaction {
    Transaction::new(id, 7)
}

#[test]
fn revisions_are_dense_and_a_failed_comparison_changes_nothing() {
    let mut state = MemoryState::default();
    assert_eq!(
        run(&mut state, &transaction("1").put("a", "x"))
            .outcome
            .revision,
        1
    );
    let before = state.rows().clone();
    let failed = transaction("2")
        .when("a", Precondition::Absent)
        .put("a", "y");
    let failed = run(&mut state, &failed);
    assert!(!failed.outcome.succeeded && failed.change.is_none());
    assert_eq!(*state.rows(), before);
    let at = transaction("3")
        .when("a", Precondition::At(Revision::new(1)))
        .put("b", "z");
    assert_eq!(run(&mut state, &at).outcome.revision, 2);
}

#[test]
fn a_retry_takes_effect_once_and_gets_the_same_answer() {
    let mut state = MemoryState::default();
    let create = transaction("same")
        .when("a", Precondition::Absent)
        .put("a", "x");
    let first = run(&mut state, &create);
    let before = state.rows().clone();
    let second = run(&mut state, &create);
    assert_eq!(first.outcome, second.outcome);
    assert_eq!(second.change, None);
    assert_eq!(*state.rows(), before);
}

#[test]
fn a_number_is_added_to_and_is_absent_at_zero() {
    let mut state = MemoryState::default();
    let text = |state: &MemoryState| {
        let stored = state.get(StateCf::Meta, &meta_key("n")).unwrap();
        stored.map(|bytes| decode_value(bytes).unwrap().value)
    };
    for (id, delta, expected) in [("1", 2, Some("2")), ("2", 5, Some("7")), ("3", -7, None)] {
        let applied = run(&mut state, &transaction(id).add("n", delta));
        assert!(applied.outcome.succeeded);
        assert_eq!(text(&state), expected.map(Into::into));
        let change = applied.change.unwrap();
        assert_eq!(change.keys[0].deleted, expected.is_none());
    }
    // Below zero it stays absent: the next one counts from 0.
    run(&mut state, &transaction("4").add("n", -1));
    run(&mut state, &transaction("5").add("n", 1));
    assert_eq!(text(&state), Some("1".into()));
    let is_zero = transaction("6")
        .when("n", Precondition::Absent)
        .put("closed", "");
    assert!(!run(&mut state, &is_zero).outcome.succeeded);
    // A retry counts once; one key twice in a transaction is illegal.
    run(&mut state, &transaction("5").add("n", 1));
    assert_eq!(text(&state), Some("1".into()));
    let twice = run(&mut state, &transaction("7").add("n", 1).put("n", "x"));
    assert!(!twice.outcome.refused.is_empty());
}

#[test]
fn history_and_its_retry_ids_are_compacted_together() {
    let mut state = MemoryState::default();
    for n in 0..=limits::WATCH_HISTORY_REVISIONS {
        run(
            &mut state,
            &transaction(n.to_string()).put("a", n.to_string()),
        );
    }
    let count = |cf| {
        state
            .rows()
            .keys()
            .filter(|(in_cf, _)| *in_cf == cf)
            .count() as u64
    };
    assert_eq!(count(StateCf::Changes), limits::WATCH_HISTORY_REVISIONS);
    assert_eq!(count(StateCf::Dedup), limits::WATCH_HISTORY_REVISIONS);
}

#[test]
fn the_history_is_bounded_by_bytes_and_ids_outlive_it() {
    let mut state = MemoryState::default();
    let large = vec![7u8; limits::MAX_META_VALUE_BYTES];
    let small = 3;
    for n in 0..small {
        run(&mut state, &transaction(format!("small-{n}")).put("a", "x"));
    }
    let rows = |state: &MemoryState| {
        let of_changes = |((cf, _), value): (&(StateCf, Vec<u8>), &Vec<u8>)| {
            (*cf == StateCf::Changes).then_some(value.len() as u64)
        };
        state
            .rows()
            .iter()
            .filter_map(of_changes)
            .collect::<Vec<u64>>()
    };
    let room = limits::WATCH_HISTORY_BYTES / large.len() as u64;
    let mut revision = 0;
    for n in 0..room * 2 {
        let put = transaction(format!("large-{n}")).put("b", large.clone());
        revision = run(&mut state, &put).outcome.revision;
        assert!(rows(&state).iter().sum::<u64>() <= limits::WATCH_HISTORY_BYTES);
    }
    let kept = rows(&state).len() as u64;
    assert!(kept >= room - 2, "{kept} of {room} that have room");
    let oldest = state
        .scan(StateCf::Changes, &meta_key(""), None, 1)
        .unwrap()
        .remove(0);
    assert_eq!(
        oldest.0,
        change_key(Revision::new(revision - kept + 1)),
        "no holes"
    );
    for n in 0..small {
        let again = transaction(format!("small-{n}")).put("a", "x");
        let applied = run(&mut state, &again);
        assert_eq!(applied.outcome.revision, n + 1, "its id is known still");
        assert_eq!(applied.change, None);
    }
}

#[test]
fn an_id_that_another_request_took_is_refused() {
    let mut state = MemoryState::default();
    let signed = |digest: u8| {
        transaction("key")
            .put("a", "x")
            .carries_out([digest; 32], "memo")
    };
    let first = run(&mut state, &signed(1));
    assert!(first.outcome.succeeded);
    let before = state.rows().clone();
    assert_eq!(run(&mut state, &signed(1)).outcome, first.outcome);
    let other = run(&mut state, &signed(2)).outcome;
    assert!(other.other_digest && !other.succeeded, "{other:?}");
    assert_eq!(*state.rows(), before);
    let known = earlier(&state, "key").unwrap().unwrap();
    assert_eq!((known.revision, &known.memo[..]), (1, &b"memo"[..]));
    // A request that finds nothing to change is remembered as well.
    let nothing = Transaction::new("nothing", 7).carries_out([3; 32], "m");
    assert_eq!(run(&mut state, &nothing).outcome.revision, 2);
    assert!(earlier(&state, "nothing").unwrap().is_some());
}

#[test]
fn events_are_capped() {
    let mut state = MemoryState::default();
    for n in 0..limits::MAX_EVENTS + 5 {
        run(&mut state, &transaction(n.to_string()).event(&n));
    }
    let events = state
        .scan(StateCf::Meta, &meta_key("event/"), None, usize::MAX)
        .unwrap();
    assert_eq!(events.len() as u64, limits::MAX_EVENTS);
    assert_eq!(suffix_of(&events[0].0), Some("event/00000000000000000006"));
}

#[test]
fn what_is_illegal_is_refused_and_changes_nothing() {
    let mut state = MemoryState::default();
    let cases = [
        transaction("").put("a", "x"),
        transaction("1").put("", "x"),
        transaction("2").put("a\n", "x"),
        transaction("3").put("a", "x").put("a", "y"),
        transaction("4").put("a", vec![0; limits::MAX_META_VALUE_BYTES + 1]),
        transaction("5").event(&1).event(&2),
    ];
    for case in cases {
        let applied = run(&mut state, &case);
        assert!(!applied.outcome.refused.is_empty(), "{case:?}");
    }
    let applied = apply(&vec![0xff; 9].into(), &state, &mut Mutations::default()).unwrap();
    assert!(!applied.outcome.refused.is_empty());
    assert!(state.rows().is_empty());
}

proptest! {
    /// I13: the same log gives the same state, byte by byte, in however many pieces it is applied.
    #[test]
    fn replaying_gives_the_same_state(
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..3), 0..40)
    ) {
        let log: Vec<Transaction> = steps.iter().enumerate().map(|(n, (key, what, must))| {
            let key = format!("k{key}");
            let id = format!("t{}", n / 2 * 2);
            let t = transaction(if *must == 2 { id } else { n.to_string() });
            let t = match must { 0 => t.when(&key, Precondition::Present), _ => t };
            match what { 0 => t.delete(key), 1 => t.event(&n), _ => t.put(key, n.to_string()) }
        }).collect();
        let (mut one, mut two) = (MemoryState::default(), MemoryState::default());
        let mut revision = 0;
        for t in &log {
            let applied = run(&mut one, t);
            if let Some(change) = applied.change {
                revision += 1;
                prop_assert_eq!(change.revision, revision, "revisions are dense");
            }
        }
        for t in &log {
            run(&mut two, t);
        }
        prop_assert_eq!(one.rows(), two.rows());
    }
}
