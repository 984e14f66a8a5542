//! Logs: JSON lines on standard error, filtered by `MAIA_LOG` (default `info`, without what
//! pingora logs by itself (it calls a client's broken connection an error; the proxy logs once) and
//! openraft's own account of every election (without a quorum that is hundreds of lines a second)).

use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "info,openraft=error,pingora_proxy=off,pingora_core=off";

/// Starts logging for this process. Called once, by `main`; a second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("MAIA_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let _already_started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
