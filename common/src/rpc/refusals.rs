//! The log of who was refused: a line for each, but no more than a few a second, whoever knocks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LINES_PER_SECOND: u32 = 10;

/// Whether one more line may be written now.
pub(super) fn may_be_told() -> bool {
    static WINDOW: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
    let mut window = WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let (since, lines) = window.unwrap_or((now, 0));
    if now.duration_since(since) >= Duration::from_secs(1) {
        *window = Some((now, 1));
        return true;
    }
    *window = Some((since, lines.saturating_add(1)));
    lines < LINES_PER_SECOND
}
