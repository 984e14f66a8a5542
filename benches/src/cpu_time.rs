//! What benches measure: the time that the thread was on a processor, not the time that passed. On
//! an idle machine both are the same; beside builds and tests only the first is about the code (what
//! remains of the others is that they take cache and memory). For work of one thread that never
//! blocks.

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// Nanoseconds of this thread on a processor; see the module.
pub struct CpuTime(WallTime);

/// Criterion, measuring with it.
#[must_use]
pub fn criterion() -> Criterion<CpuTime> {
    Criterion::default().with_measurement(CpuTime(WallTime))
}

/// So long this thread has been on a processor.
fn used_ns() -> u64 {
    // The kernel counts when a thread yields, and else only with its clock, every few milliseconds.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    let used = text.split(' ').next().and_then(|first| first.parse().ok());
    used.expect("its first number is nanoseconds on a processor")
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        used_ns()
    }

    fn end(&self, started: u64) -> u64 {
        used_ns() - started
    }

    fn add(&self, one: &u64, other: &u64) -> u64 {
        one + other
    }

    fn zero(&self) -> u64 {
        0
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "benches are shorter than a month"
    )]
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}
