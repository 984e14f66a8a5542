//! Histories for the checkers' tests: made by a register that is what it should be, or broken by hand.

use proptest::prelude::*;

use super::register::step;
use super::{Event, Expect, Nanos, Operation, Outcome, Value};

/// What one client of the made history does, and when it takes effect.
#[derive(Debug, Clone)]
pub struct Plan {
    kind: u8,
    call: Nanos,
    effect_after: Nanos,
    answer_after: Nanos,
    /// 0: no answer, and no effect; 1: no answer; else answered.
    fate: u8,
    guess: usize,
}

/// Plans of so many operations that overlap a good deal.
pub fn plans(most: usize) -> impl Strategy<Value = Vec<Plan>> {
    let plan = (0..6u8, 0..60u64, 0..12u64, 0..12u64, 0..8u8, 0..8usize);
    let plan = plan.prop_map(
        |(kind, call, effect_after, answer_after, fate, guess)| Plan {
            kind,
            call,
            effect_after,
            answer_after,
            fate,
            guess,
        },
    );
    prop::collection::vec(plan, 1..=most)
}

fn operation(plan: &Plan, id: usize) -> Operation {
    let own = Some(Value(id as u64));
    let write = |expect, leaves| Operation::Write { expect, leaves };
    match plan.kind {
        0 | 1 => write(Expect::Anything, own),
        2 => write(Expect::Exactly(Value(plan.guess as u64)), own),
        3 => write(Expect::Absent, own),
        4 => write(Expect::Present, None),
        _ => Operation::Read,
    }
}

/// The history of these plans on a register that works.
#[must_use]
pub fn history(plans: &[Plan]) -> Vec<Event> {
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|id| (plans[*id].call + plans[*id].effect_after, *id));
    let mut state = None;
    let mut events: Vec<(usize, Event)> = Vec::new();
    for id in order {
        let plan = &plans[id];
        let operation = operation(plan, id);
        let candidates = [Outcome::Done, Outcome::Unmet, Outcome::Saw(state)];
        let fitting = candidates
            .iter()
            .find_map(|outcome| Some((*outcome, step(state, &operation, outcome).ok()?)));
        let (outcome, after) = fitting.expect("one of them fits");
        if plan.fate > 0 {
            state = after;
        }
        let answered = plan.fate > 1;
        let event = Event {
            operation,
            outcome: if answered { outcome } else { Outcome::Unknown },
            call: plan.call,
            answer: answered.then_some(plan.call + plan.effect_after + plan.answer_after),
            tag: None,
            by: String::new(),
        };
        events.push((id, event));
    }
    events.sort_by_key(|(id, _)| *id);
    events.into_iter().map(|(_, event)| event).collect()
}

/// One answered operation from `call` to `answer`.
#[must_use]
pub fn event(operation: Operation, outcome: Outcome, call: Nanos, answer: Nanos) -> Event {
    let answer = (outcome != Outcome::Unknown).then_some(answer);
    Event {
        operation,
        outcome,
        call,
        answer,
        tag: None,
        by: String::new(),
    }
}

/// A put without a condition.
#[must_use]
pub fn put(value: u64) -> Operation {
    Operation::Write {
        expect: Expect::Anything,
        leaves: Some(Value(value)),
    }
}
