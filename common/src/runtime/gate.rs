//! A gate: bounds how much is inside at once, and at shutdown closes and waits until all are out.
//! Admission before work (I12).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Why nothing more gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// As many are inside as may be.
    #[error("too many requests in flight")]
    Full,
    /// The process is stopping.
    #[error("shutting down")]
    Closed,
}

/// Leave to be inside; dropped on the way out.
#[derive(Debug)]
pub struct Pass(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Cheap to clone: all clones are one gate.
#[derive(Debug, Clone)]
pub struct Gate {
    permits: Arc<Semaphore>,
    capacity: u32,
}

impl Gate {
    /// A gate that lets `capacity` inside at once.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
        }
    }

    /// Goes in at once or not at all.
    ///
    /// # Errors
    /// [`GateError::Full`] or [`GateError::Closed`].
    pub fn enter(&self) -> Result<Pass, GateError> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Ok(Pass(permit)),
            Err(TryAcquireError::NoPermits) => Err(GateError::Full),
            Err(TryAcquireError::Closed) => Err(GateError::Closed),
        }
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.capacity as usize - self.permits.available_permits()
    }

    /// Lets nobody in any more and waits until all are out. False: some are left at the deadline.
    pub async fn close(&self, deadline: Duration) -> bool {
        let all = tokio::time::timeout(deadline, self.permits.acquire_many(self.capacity)).await;
        self.permits.close();
        all.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_bounds_and_drains() {
        let gate = Gate::new(1);
        let pass = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), GateError::Full);
        assert!(!gate.close(Duration::from_millis(1)).await);
        assert_eq!(gate.enter().unwrap_err(), GateError::Closed);
        drop(pass);
        assert_eq!(gate.inside(), 0);
    }
}
