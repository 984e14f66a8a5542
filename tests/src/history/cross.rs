//! The same question asked of a checker that others wrote: stateright's `LinearizabilityTester`,
//! which tries orders without remembering them. For histories of a dozen operations.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::register::step;
use super::{Event, Nanos, Operation, Outcome, Value, Verdict};

#[derive(Debug, Clone, Default)]
struct Register(Option<Value>);

impl SequentialSpec for Register {
    type Op = Operation;
    type Ret = Outcome;

    fn invoke(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Read => Outcome::Saw(self.0),
            Operation::Write { expect, leaves } if expect.holds(self.0) => {
                self.0 = *leaves;
                Outcome::Done
            }
            Operation::Write { .. } => Outcome::Unmet,
        }
    }

    fn is_valid_step(&mut self, operation: &Operation, outcome: &Outcome) -> bool {
        let after = step(self.0, operation, outcome);
        self.0 = after.unwrap_or(self.0);
        after.is_ok()
    }
}

/// Whether some order explains every answer, beginning with the resource absent. Never undecided,
/// but without an end in sight for more than a few dozen operations.
///
/// # Panics
/// When it refuses the history: each operation is a thread of its own here, so it can't.
#[must_use]
pub fn check(events: &[Event]) -> Verdict {
    let calls = events.iter().enumerate().map(|(id, e)| (e.call, 0, id));
    let answers = events
        .iter()
        .enumerate()
        .filter_map(|(id, e)| Some((e.answer?, 1, id)));
    // At one moment calls come first: such operations overlap.
    let mut moments: Vec<(Nanos, u8, usize)> = calls.chain(answers).collect();
    moments.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register::default());
    for (_, kind, id) in moments {
        let event = &events[id];
        let taken = if kind == 0 {
            tester.on_invoke(id, event.operation)
        } else {
            tester.on_return(id, event.outcome)
        };
        taken.expect("each operation is called once and answered once");
    }
    if tester.is_consistent() {
        Verdict::Linearizable
    } else {
        Verdict::Impossible
    }
}
