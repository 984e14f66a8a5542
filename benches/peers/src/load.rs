//! One measurement: wrk against one peer for a while, and what the peer's processor time was.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::stage::Peer;

/// Connections of the load.
const CONNECTIONS: &str = "-c64";

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// GET of a local tenant: proxied to the origin.
    Read,
    /// POST of a misrouted tenant without a body: answered 307.
    Misrouted,
    /// The same with a body, which must be read for the connection to live on (HAProxy closes it).
    MisroutedBody,
}

impl Load {
    /// All.
    pub const ALL: [Load; 3] = [Load::Read, Load::Misrouted, Load::MisroutedBody];

    /// As tables name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Load::Read => "proxied read",
            Load::Misrouted => "307",
            Load::MisroutedBody => "307, 64-byte body",
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Processor time of the peer per request.
    pub cpu_us: f64,
    /// Requests per second.
    pub rate: f64,
    /// Latency as wrk saw it.
    pub p50_us: f64,
    /// Latency as wrk saw it.
    pub p99_us: f64,
}

/// Loads the peer for `time`.
pub fn measure(peer: &Peer, load: Load, time: Duration, script: &Path) -> anyhow::Result<Sample> {
    let (method, first, body_bytes) = match load {
        Load::Read => ("GET", "0", "0"),
        Load::Misrouted => ("POST", "1", "0"),
        Load::MisroutedBody => ("POST", "1", "64"),
    };
    let before = peer.server.cpu();
    let output = Command::new("wrk")
        .args(["-t1", CONNECTIONS, &format!("-d{}s", time.as_secs().max(1))])
        .args(["-s", &script.display().to_string()])
        .arg(format!("http://{}", peer.address))
        .args(["--", method, first, body_bytes])
        .output()
        .context("wrk can't be started")?;
    let spent = peer.server.cpu().saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("peers "));
    let numbers: Vec<f64> = line
        .with_context(|| {
            format!(
                "wrk says: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?
        .split(' ')
        .filter_map(|n| n.parse().ok())
        .collect();
    let [requests, errors, p50_us, p99_us] = numbers[..] else {
        anyhow::bail!("wrk says: {text}");
    };
    let name = peer.kind.as_str();
    ensure!(
        errors == 0.0 && requests > 0.0,
        "{name} failed {errors} of {requests} requests"
    );
    Ok(Sample {
        cpu_us: spent.as_secs_f64() * 1e6 / requests,
        rate: requests / time.as_secs_f64(),
        p50_us,
        p99_us,
    })
}
