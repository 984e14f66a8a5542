//! The one value that every request reads and one writer replaces: topology and table as a whole.
//! A serving thread keeps the view that it saw last and looks, at each request, only whether it is
//! still the newest: one plain load, no atomic write, nothing shared between threads but the
//! pointer. (A plain `ArcSwap::load` costs two locked instructions, which also keep the processor
//! from fetching one request's slot while it works on another's.)
//!
//! A view that was replaced lives until every thread has seen a newer one; [`Published::refresh`]
//! is called now and then on each serving thread, so that an idle one holds no old view for long.
//! It is freed by the writer, never by a thread that serves: a whole table takes milliseconds.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Cache};
use maia_common::topology::Topology;

use crate::core::table::Table;

/// What is in force at one moment: an entry always finds its group.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// `None` until there is any.
    pub topology: Option<Arc<Topology>>,
    /// All tenants.
    pub table: Table,
}

/// A view that a thread saw, and where a newer one would be.
type Seen = Cache<Arc<ArcSwap<View>>, Arc<View>>;

thread_local! {
    static SEEN: Cell<Option<Seen>> = const { Cell::new(None) };
}

/// See the module.
#[derive(Default)]
pub struct Published {
    now: Arc<ArcSwap<View>>,
    /// Replaced, and perhaps still read. At most one for each thread.
    retired: Mutex<Vec<Arc<View>>>,
}

impl Published {
    /// Hands the newest view to `then`, which must not wait. For threads that serve, and
    /// [`Published::refresh`].
    #[inline]
    pub fn read<R>(&self, then: impl FnOnce(&View) -> R) -> R {
        let seen = SEEN.take();
        let mut seen = seen
            .filter(|seen| std::ptr::eq(seen.arc_swap(), Arc::as_ptr(&self.now)))
            .unwrap_or_else(|| Cache::new(Arc::clone(&self.now)));
        let result = then(seen.load());
        SEEN.set(Some(seen));
        result
    }

    /// The newest view, to keep for a while. For everyone else.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.now.load_full()
    }

    /// Lets go of an old view that this thread still holds.
    pub fn refresh(&self) {
        self.read(|_| ());
    }

    /// Puts another view in force. For the one writer only.
    pub fn publish(&self, view: View) {
        let old = self.now.swap(Arc::new(view));
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(old);
        drop(retired);
        self.sweep();
    }

    /// Frees the views that nobody reads any more. Never called by a thread that serves.
    pub fn sweep(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        // Replaced already: where this is the only one left, nobody can get another.
        retired.retain(|view| Arc::strong_count(view) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use maia_common::Revision;

    use super::*;

    fn view(revision: u64) -> View {
        let topology = Topology {
            revision: Revision::new(revision),
            ..Topology::default()
        };
        View {
            topology: Some(Arc::new(topology)),
            table: Table::default(),
        }
    }

    fn revision(view: &View) -> u64 {
        view.topology.as_ref().map_or(0, |t| t.revision.get())
    }

    #[test]
    fn every_thread_sees_the_newest_and_none_goes_back() {
        let published = Published::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < 500 {
                        let seen = published.read(revision);
                        assert!(seen >= last, "back from {last} to {seen}");
                        last = seen;
                    }
                });
            }
            for number in 1..=500 {
                published.publish(view(number));
            }
        });
    }

    #[test]
    fn two_of_them_on_one_thread_are_kept_apart_even_within_each_other() {
        let (one, two) = (Published::default(), Published::default());
        one.publish(view(1));
        two.publish(view(2));
        let both = one.read(|outer| (revision(outer), two.read(revision)));
        assert_eq!(both, (1, 2));
        assert_eq!((one.read(revision), two.read(revision)), (1, 2));
    }

    #[test]
    fn an_old_view_is_freed_once_every_thread_has_seen_a_newer_one() {
        let published = Published::default();
        let (read, refreshed) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                published.refresh();
                read.wait();
                read.wait(); // until a newer one is there
                published.refresh();
                refreshed.wait();
            });
            read.wait();
            published.publish(view(1));
            let held = || published.retired.lock().unwrap().len();
            assert_eq!(held(), 1, "the other thread holds it");
            read.wait();
            refreshed.wait();
            published.sweep();
            assert_eq!(held(), 0);
        });
    }
}
