//! Is a history linearizable? A depth-first search over orders (Wing and Gong 1993) that remembers
//! which sets of operations with which state led nowhere (Lowe 2017). Two things keep it small: an
//! answer that changes nothing and fits the state is taken at once, since taking it never rules
//! another order out; and the operations of a state's future are those whose call is no later than
//! the earliest answer still to be explained.

use std::collections::HashSet;

use super::register::{Contradiction, step};
use super::{Event, Nanos, Operation, Outcome, Value, Verdict};

/// Searches end here: some 200 MB of remembered sets of a hundred operations.
const MAX_REMEMBERED: usize = 2_000_000;

/// A set of operations, by their places in the order of calls.
type Set = Box<[u64]>;

struct Search<'a> {
    /// By call.
    events: Vec<&'a Event>,
    taken: Set,
    /// Answered operations that are not taken.
    left: usize,
    state: Option<Value>,
    /// What was taken, with the state before it and the candidate to try after it.
    path: Vec<(usize, Option<Value>)>,
    remembered: HashSet<(Set, Option<Value>)>,
}

/// Whether some order explains every answer, beginning with the resource absent.
#[must_use]
pub fn check(events: &[Event]) -> Verdict {
    let mut search = Search::new(events);
    // The next candidate at this depth.
    let mut next = 0;
    loop {
        if search.left == 0 {
            return Verdict::Linearizable;
        }
        if search.remembered.len() >= MAX_REMEMBERED {
            return Verdict::Undecided;
        }
        if let Some(place) = search.candidate(next) {
            next = if search.take(place) { 0 } else { place + 1 };
            continue;
        }
        match search.back() {
            Some(place) => next = place + 1,
            None => return Verdict::Impossible,
        }
    }
}

impl<'a> Search<'a> {
    fn new(events: &'a [Event]) -> Self {
        // What was not answered and changes nothing explains nothing.
        let open_read =
            |e: &&Event| e.outcome == Outcome::Unknown && e.operation == Operation::Read;
        let mut events: Vec<&Event> = events.iter().filter(|e| !open_read(e)).collect();
        events.sort_by_key(|event| event.call);
        let left = events.iter().filter(|e| e.answer.is_some()).count();
        Self {
            taken: vec![0; events.len().div_ceil(64)].into_boxed_slice(),
            events,
            left,
            state: None,
            path: Vec::new(),
            remembered: HashSet::new(),
        }
    }

    /// What may come next, in the order of calls: what is not taken and was called before any of
    /// them was over.
    fn within(&self) -> Vec<usize> {
        let mut earliest_answer = Nanos::MAX;
        let mut within = Vec::new();
        for (word, taken) in self.taken.iter().enumerate() {
            let mut open = !taken;
            while open != 0 {
                let place = word * 64 + open.trailing_zeros() as usize;
                open &= open - 1;
                let Some(event) = self.events.get(place) else {
                    return within;
                };
                if event.call > earliest_answer {
                    return within;
                }
                earliest_answer = earliest_answer.min(event.end());
                within.push(place);
            }
        }
        within
    }

    fn after(&self, place: usize) -> Result<Option<Value>, Contradiction> {
        let event = self.events[place];
        step(self.state, &event.operation, &event.outcome)
    }

    /// The first place from `from` on that may come next and fits the state.
    fn candidate(&self, from: usize) -> Option<usize> {
        let mut within = self.within();
        within.retain(|place| self.after(*place).is_ok());
        let changes_nothing = |place: &usize| {
            matches!(
                self.events[*place].outcome,
                Outcome::Saw(_) | Outcome::Unmet
            )
        };
        match within.iter().find(|place| changes_nothing(place)) {
            // Alone: with it taken or not, the same orders of the others are left.
            Some(place) => (from == 0).then_some(*place),
            None => within.into_iter().find(|place| *place >= from),
        }
    }

    /// Takes it; false when that was seen to lead nowhere.
    fn take(&mut self, place: usize) -> bool {
        let Ok(state) = self.after(place) else {
            return false;
        };
        self.taken[place / 64] |= 1 << (place % 64);
        if !self.remembered.insert((self.taken.clone(), state)) {
            self.taken[place / 64] &= !(1 << (place % 64));
            return false;
        }
        self.path.push((place, self.state));
        self.left -= usize::from(self.events[place].answer.is_some());
        self.state = state;
        true
    }

    /// Undoes the last step; returns its place.
    fn back(&mut self) -> Option<usize> {
        let (place, state) = self.path.pop()?;
        self.taken[place / 64] &= !(1 << (place % 64));
        self.left += usize::from(self.events[place].answer.is_some());
        self.state = state;
        Some(place)
    }
}
