//! Histories of terms on a state in memory.

use maia_common::position::Term;
use proptest::prelude::*;

use super::*;
use crate::metastore::memory::MemoryState;

const GROUP: GroupId = GroupId::new(3);

fn at(term: u64, index: u64) -> Position {
    Position::new(Term::new(term), Index::new(index))
}

/// The state after entries of these terms, from index 1 on, each with its reading.
fn state(entries: &[(u64, Option<u64>)]) -> MemoryState {
    let mut state = MemoryState::default();
    for (index, (term, hlc)) in (1..).zip(entries) {
        let mut out = Mutations::default();
        let hlc = hlc.map(Hlc::from_raw);
        note(GROUP, at(*term, index), hlc, &state, &mut out).unwrap();
        state.write(out);
    }
    state
}

#[test]
fn a_position_counts_only_in_its_terms_stretch() {
    // Index: 1 to 3 of term 2, 4 and 5 of term 5, 6 of term 6.
    let state = state(&[2, 2, 2, 5, 5, 6].map(|term| (term, None)));
    let applied = at(6, 6);
    let cases = [
        (at(2, 3), Standing::Applied),
        (at(2, 4), Standing::Diverged),
        (at(3, 4), Standing::Diverged),
        (at(5, 3), Standing::Diverged),
        (at(5, 5), Standing::Applied),
        (at(6, 6), Standing::Applied),
        (at(6, 7), Standing::NotYet),
        (at(7, 9), Standing::NotYet),
        (at(5, 7), Standing::Diverged),
        (at(7, 6), Standing::Diverged),
    ];
    for (position, expected) in cases {
        let found = standing(GROUP, position, applied, &state).unwrap();
        assert_eq!(found, expected, "{position}");
    }
}

#[test]
fn the_greatest_reading_outlives_smaller_ones() {
    let state = state(&[(1, Some(7)), (1, None), (2, Some(9)), (2, Some(8))]);
    assert_eq!(greatest_reading(GROUP, &state).unwrap().get(), 9);
    let empty = MemoryState::default();
    assert_eq!(greatest_reading(GROUP, &empty).unwrap(), Hlc::default());
}

#[test]
fn the_oldest_starts_are_dropped_and_not_guessed() {
    let terms: Vec<_> = (1..=MAX_TERM_STARTS + 2).map(|term| (term, None)).collect();
    let state = state(&terms);
    let last = MAX_TERM_STARTS + 2;
    let rows = state
        .scan(StateCf::Marks, &starts_prefix(GROUP), None, usize::MAX)
        .unwrap();
    assert_eq!(rows.len() as u64, MAX_TERM_STARTS);
    let stands = |n| standing(GROUP, at(n, n), at(last, last), &state).unwrap();
    assert_eq!(stands(2), Standing::Diverged, "too old to tell");
    assert_eq!(stands(3), Standing::Applied);
    assert_eq!(stands(last), Standing::Applied);
}

proptest! {
    /// The stretches say what the log itself would say, of every position.
    #[test]
    fn stretches_agree_with_the_log(steps in prop::collection::vec(0u64..3, 1..30)) {
        let mut term = 1;
        let log: Vec<_> = steps.iter().map(|step| { term += step; (term, None) }).collect();
        let state = state(&log);
        let applied = at(term, log.len() as u64);
        for index in 1..=log.len() as u64 {
            for term in 0..=term + 1 {
                let is_in_log = log[index as usize - 1].0 == term;
                let found = standing(GROUP, at(term, index), applied, &state).unwrap();
                prop_assert_eq!(found == Standing::Applied, is_in_log);
                prop_assert!(found != Standing::NotYet);
            }
        }
    }
}
