//! The way from a tenant's name to a decision allocates nothing: counted by an allocator of this
//! test's own, the one place with `unsafe`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use maia_benches::names::name;
use maia_benches::world::placements;
use maia_proxy::core::classify::Class;
use maia_proxy::core::decide::{Decision, Facts};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(
    unsafe_code,
    reason = "an allocator can't be written otherwise; it only passes on"
)]
// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(of: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    of();
    ALLOCATIONS.get() - before
}

#[test]
fn a_decision_allocates_nothing() {
    assert_eq!(allocations(|| drop(vec![1u8])), 1, "the counter counts");
    let placements = placements(10_000);
    let names: Vec<String> = (0..20_000).map(name).collect();
    let decide = || {
        let mut redirected = 0;
        for (number, name) in names.iter().enumerate() {
            let class = [Class::Read, Class::Write][number % 2];
            let facts = Facts {
                class,
                preferred: Some("a"),
            };
            redirected += placements.route(name, &facts, |decision, _| {
                usize::from(matches!(decision, Some(Decision::Redirect { .. })))
            });
        }
        assert_eq!(redirected, 10_000, "the known ones");
    };
    decide(); // arc-swap sets a thread up at its first read
    assert_eq!(allocations(decide), 0);
}
