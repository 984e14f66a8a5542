//! Logs: JSON lines on standard error, filtered by `MAIA_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

/// Starts logging for this process. Called once, by `main`; a second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("MAIA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _already_started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
