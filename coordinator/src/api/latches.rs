//! Readiness: a set of named latches, each of which opens once, and may close for good; and the one
//! way in which a node says that it can't go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The latches, and whether they are open from the start: `registered` opens when the node takes part,
/// `member` closes when it was removed.
const LATCHES: &[(&str, bool)] = &[("registered", false), ("member", true)];

/// Cheap to clone: all clones are one set.
#[derive(Debug, Clone)]
pub struct Latches {
    open: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    failure: Arc<watch::Sender<Option<String>>>,
}

impl Default for Latches {
    fn default() -> Self {
        let open = LATCHES.iter().copied().collect();
        Self {
            open: Arc::new(Mutex::new(open)),
            failure: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Latches {
    /// Opens a latch.
    pub fn open(&self, name: &'static str) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, true);
    }

    /// Closes a latch: the node is not ready any more, and won't be.
    pub fn close(&self, name: &'static str) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, false);
    }

    /// Whether the latch is open.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        let latches = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        latches.get(name).copied().unwrap_or_default()
    }

    /// All latches and whether they are open.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, bool> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The node can't go on; `reason` is for the operator.
    pub fn fail(&self, reason: String) {
        self.failure.send_replace(Some(reason));
    }

    /// Whether [`Latches::fail`] was called.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Ends when the node can't go on, with the reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}
