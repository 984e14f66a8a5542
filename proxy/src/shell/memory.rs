//! Gives memory back to the system after something large was freed. mimalloc keeps freed pages for
//! a second in case they are needed again, and looks at them only when the next page is freed: a
//! proxy that has just loaded a million tenants and is at rest would keep the memory of loading
//! for ever. Its own call for this is no safe code; freeing one page is.

use std::time::Duration;

/// When to call [`give_back`] after a table was replaced: the feed's next message frees the old one,
/// and mimalloc keeps its pages for one more second (its `purge_delay`).
pub const GIVE_BACK_AFTER: Duration = Duration::from_secs(4);

/// Larger than any block that shares its page with others. Never touched, so it costs no memory.
const PAGE_OF_ITS_OWN: usize = 32 << 20;

/// Makes the allocator return what has been free for a while.
pub fn give_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(
        PAGE_OF_ITS_OWN,
    )));
}
