//! A rate with a burst: so much at once, then no faster than the tokens come back. Pure: the caller
//! brings the time. Bounds what clients can make this proxy do at the coordinators (I12).

use std::time::Duration;

/// Full at the start.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl TokenBucket {
    /// `burst` at once, then `per_second`.
    #[must_use]
    pub const fn new(per_second: f64, burst: f64) -> Self {
        Self {
            per_second,
            burst,
            tokens: burst,
            at: Duration::ZERO,
        }
    }

    /// Takes a token, if there is one. `now` is since any fixed moment; going back counts as now.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        let there = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(there));
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(2.0, 3.0);
        let mut taken = |ms, tries| {
            let now = Duration::from_millis(ms);
            (0..tries).filter(|_| bucket.take(now)).count()
        };
        assert_eq!(taken(0, 5), 3);
        assert_eq!(taken(400, 5), 0);
        assert_eq!(taken(500, 5), 1);
        assert_eq!(taken(100, 5), 0, "back in time gives nothing");
        assert_eq!(taken(60_000, 9), 3, "no more than the burst");
    }
}
