//! Tenant names for benches, without a million strings: all of one length, one after the other in
//! one text.

use std::fmt::Write as _;

/// Bytes of one name.
const LENGTH: usize = 15;

/// Names in an order of their own.
pub struct Names {
    text: String,
    next: usize,
}

/// The name of the tenant of this number.
#[must_use]
pub fn name(number: usize) -> String {
    format!("tenant-{number:08}")
}

impl Names {
    /// `count` names, each of a random one of `tenants` tenants. The same on each run.
    #[must_use]
    pub fn random(count: usize, tenants: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let mut text = String::with_capacity(count * LENGTH);
        for _ in 0..count {
            let number = random.usize(..tenants);
            let _infallible = write!(text, "tenant-{number:08}");
        }
        Self { text, next: 0 }
    }

    /// The next name, and after the last one the first.
    pub fn pick(&mut self) -> &str {
        if self.next >= self.text.len() {
            self.next = 0;
        }
        self.next += LENGTH;
        &self.text[self.next - LENGTH..self.next]
    }
}
