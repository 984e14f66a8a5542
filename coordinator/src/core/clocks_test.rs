//! Whose clock is believed, and who may lead.

use proptest::prelude::*;

use super::*;

const BOUND: Duration = Duration::from_millis(500);

#[test]
fn more_than_half_decide_whose_clock_is_off() {
    let cases: [(&[i64], usize, bool); 10] = [
        (&[], 3, true),
        (&[500, -500], 3, true),
        (&[501], 3, true),
        (&[501, -501], 3, false),
        (&[9000, 9000], 3, false),
        (&[], 1, true),
        (&[i64::MIN, i64::MAX, 0, 0], 5, true),
        // A tie: neither side may be shut out by the other.
        (&[501], 2, true),
        (&[501, 501], 4, true),
        (&[501, 501, 501], 4, false),
    ];
    for (offsets, voters, expected) in cases {
        assert_eq!(may_lead(offsets, voters, BOUND), expected, "{offsets:?}");
    }
}

fn look(step_ms: Option<i64>, heard_ms: &[i64]) -> Look<'_> {
    Look {
        step_ms,
        heard_ms,
        is_alone: false,
        doubted_for: Duration::ZERO,
        silent_for: Duration::ZERO,
    }
}

#[test]
fn a_clock_is_followed_when_most_of_those_who_answer_confirm_it() {
    use Belief::{Doubted, Followed};
    let cases: [(Option<i64>, &[i64], Belief); 11] = [
        (Some(-500), &[], Followed),
        (Some(500), &[9000, 9000], Followed),
        (Some(501), &[], Doubted),
        (Some(-9000), &[9000, 9000], Doubted),
        (Some(9000), &[0], Followed),
        (Some(9000), &[0, -9000], Doubted),
        (Some(9000), &[0, 500, -9000], Followed),
        (Some(i64::MIN), &[i64::MIN], Doubted),
        // It has just started.
        (None, &[], Doubted),
        (None, &[9000], Doubted),
        (None, &[-500], Followed),
    ];
    for (step, heard, expected) in cases {
        let found = belief(look(step, heard), BOUND);
        assert_eq!(found, expected, "{step:?} {heard:?}");
    }
    let alone = Look {
        is_alone: true,
        ..look(Some(9000), &[])
    };
    assert_eq!(belief(alone, BOUND), Followed);
}

#[test]
fn doubt_ends_whoever_answers_or_does_not() {
    let just_before = |bound: Duration| bound.checked_sub(Duration::from_millis(1)).unwrap();
    for step_ms in [None, Some(9000)] {
        for heard_ms in [&[][..], &[9000], &[0, 9000]] {
            let after = |doubted_for, silent_for| {
                let look = Look {
                    doubted_for,
                    silent_for,
                    ..look(step_ms, heard_ms)
                };
                belief(look, BOUND)
            };
            let zero = Duration::ZERO;
            assert_eq!(after(just_before(MAX_DOUBT), zero), Belief::Doubted);
            assert_eq!(after(MAX_DOUBT, zero), Belief::SetAside);
            let almost = after(MAX_SILENCE, just_before(MAX_SILENCE));
            assert_eq!(almost, Belief::SetAside);
            // Who is contradicted never follows.
            let expected = if heard_ms.is_empty() {
                Belief::Followed
            } else {
                Belief::SetAside
            };
            assert_eq!(after(MAX_SILENCE, MAX_SILENCE), expected, "{heard_ms:?}");
        }
    }
}

#[test]
fn the_way_of_an_answer_is_no_offset() {
    let took = Duration::from_millis(40);
    for (theirs, expected) in [
        (100, 0),
        (140, 0),
        (141, 1),
        (99, -1),
        (0, -100),
        (9140, 9000),
    ] {
        assert_eq!(offset_ms(100, took, theirs), expected, "{theirs}");
    }
    assert!(offset_ms(0, took, u64::MAX) > 0 && offset_ms(u64::MAX, took, 0) < 0);
}

fn who(voters: usize, witness: Option<u64>, clocks: &[(u64, i64)]) -> Vec<u64> {
    let clocks: Vec<_> = clocks
        .iter()
        .map(|(n, ms)| (NodeId::new(*n), *ms))
        .collect();
    let unfit = unfit(voters, witness.map(NodeId::new), &clocks, BOUND);
    unfit.into_iter().map(NodeId::get).collect()
}

#[test]
fn those_shall_not_lead_whose_clock_is_far_from_most() {
    assert_eq!(who(3, None, &[(1, 0), (2, 9000), (3, 9100)]), [1]);
    // Of one that was not heard nothing is said.
    assert_eq!(who(3, None, &[(1, 0), (3, 9100)]), [0; 0]);
    assert_eq!(who(3, None, &[(1, 0)]), [0; 0]);
    assert_eq!(who(2, None, &[(1, 0), (2, 501)]), [0; 0]);
    let two_and_two = [(1, 0), (2, 0), (3, 9000), (4, 9000)];
    assert_eq!(who(4, None, &two_and_two), [0; 0]);
    assert_eq!(who(0, None, &[]), [0; 0]);
}

#[test]
fn where_no_two_agree_the_median_may_lead() {
    assert_eq!(who(3, None, &[(1, 9000), (2, 0), (3, 20_000)]), [2, 3]);
    // The witness has it, and can't lead: of the others the nearer one, then the lower id.
    let clocks = [(1, 0), (2, 20_000), (3, 9000)];
    assert_eq!(who(3, Some(3), &clocks), [2, 3]);
    let clocks = [(1, 20_000), (2, 0), (3, 10_000)];
    assert_eq!(who(3, Some(3), &clocks), [2, 3]);
}

proptest! {
    /// Whatever the clocks say, somebody of those that are known may lead who can.
    #[test]
    fn somebody_may_always_lead(
        clocks in prop::collection::vec(prop_oneof![Just(0i64), Just(400), -3000i64..3000, any::<i64>()], 1..8),
        has_witness in any::<bool>(),
    ) {
        let known: Vec<(u64, i64)> = (1..).zip(clocks).collect();
        let witness = (has_witness && known.len() > 1).then_some(1);
        let unfit = who(known.len(), witness, &known);
        let is_fit = |(node, _): &(u64, i64)| Some(*node) != witness && !unfit.contains(node);
        prop_assert!(known.iter().any(is_fit), "{known:?} {unfit:?}");
    }
}
