//! The engine's own two runtimes: one for cores, heartbeats and control connections, one for bulk
//! connections. Ended together, by whoever can wait.

use std::io;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

/// The engine's runtimes.
pub(crate) struct Runtimes {
    control: Runtime,
    bulk: Runtime,
}

impl Runtimes {
    pub(crate) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // More threads than cores would only wake each other. Two at least: a long apply holds one.
        Ok(Self {
            control: runtime("raft", cores.clamp(2, 4))?,
            bulk: runtime("raft-bulk", (cores / 2).clamp(1, 2))?,
        })
    }

    pub(crate) fn control(&self) -> Handle {
        self.control.handle().clone()
    }

    pub(crate) fn bulk(&self) -> Handle {
        self.bulk.handle().clone()
    }

    /// Ends both and waits until their threads have let go of all that they held, each for at most
    /// so long: a database that is closed while the process is already ending aborts it, for
    /// RocksDB's statics are gone by then. Blocks; never called on a runtime's own thread.
    pub(crate) fn end(self, patience: Duration) {
        self.control.shutdown_timeout(patience);
        self.bulk.shutdown_timeout(patience);
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}
