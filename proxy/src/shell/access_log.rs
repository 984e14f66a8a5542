//! The access log: one JSON line per request on standard output. Requests append to a bounded
//! buffer and never wait; one thread writes it out. Where the reader of the log is too slow,
//! lines are dropped and counted (I12).

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;

/// About two thousand lines; a reader that is this far behind loses lines.
const BUFFER_BYTES: usize = 1 << 20;
/// How long a line may wait in the buffer.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Paths are cut here: a line must stay a line.
const MAX_PATH_BYTES: usize = 512;

/// What a line tells.
#[derive(Debug)]
pub struct Line<'r> {
    /// As the client sent it.
    pub method: &'r str,
    /// Without the query, which may carry secrets.
    pub path: &'r [u8],
    /// Empty where none was taken.
    pub tenant: &'r str,
    /// read, write, preflight.
    pub class: &'static str,
    /// local, redirect, hold, reject.
    pub decision: &'static str,
    /// Why.
    pub reason: &'static str,
    /// 0: nothing was answered.
    pub status: u16,
    /// From header to end of response.
    pub took: Duration,
    /// Of the request's body.
    pub received_bytes: usize,
    /// Of the response's body.
    pub sent_bytes: usize,
    /// The client's address, where it is known.
    pub client: Option<SocketAddr>,
    /// `X-Request-ID`.
    pub request_id: &'r str,
}

/// Cheap to clone: all clones are one log.
#[derive(Clone)]
pub struct AccessLog {
    buffer: Arc<Mutex<Vec<u8>>>,
    dropped: IntCounter,
}

impl AccessLog {
    /// A log whose dropped lines are counted there.
    #[must_use]
    pub fn new(dropped: IntCounter) -> Self {
        Self {
            buffer: Arc::default(),
            dropped,
        }
    }

    /// Appends a line, or drops it where the buffer is full.
    pub fn append(&self, line: &Line<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() > BUFFER_BYTES {
            drop(buffer);
            self.dropped.inc();
            return;
        }
        write_line(&mut buffer, now.unwrap_or_default(), line);
    }

    /// Writes out what has gathered. Called by [`AccessLog::run`], and once more at the end.
    pub fn flush(&self) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut *buffer);
        buffer.reserve(lines.len());
        drop(buffer);
        let mut out = std::io::stdout().lock();
        if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
            self.dropped.inc_by(line_count(&lines));
        }
    }

    /// Writes lines out for as long as the process lives: the work of a thread of its own, since
    /// standard output may block.
    pub fn run(&self) -> ! {
        loop {
            std::thread::sleep(FLUSH_EVERY);
            self.flush();
        }
    }
}

fn line_count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|b| *b == b'\n').count() as u64
}

fn write_line(out: &mut Vec<u8>, now: Duration, line: &Line<'_>) {
    let path = &line.path[..line.path.len().min(MAX_PATH_BYTES)];
    // Writing to a Vec can't fail.
    let _ = write!(out, r#"{{"ts_ms":{},"method":""#, now.as_millis());
    escaped(out, line.method.as_bytes());
    out.extend_from_slice(br#"","path":""#);
    escaped(out, path);
    out.extend_from_slice(br#"","tenant":""#);
    escaped(out, line.tenant.as_bytes());
    let _ = write!(
        out,
        r#"","class":"{}","decision":"{}","reason":"{}","status":{},"duration_us":{},"received_bytes":{},"sent_bytes":{},"client":""#,
        line.class,
        line.decision,
        line.reason,
        line.status,
        line.took.as_micros(),
        line.received_bytes,
        line.sent_bytes,
    );
    if let Some(client) = line.client {
        let _ = write!(out, "{client}");
    }
    out.extend_from_slice(br#"","request_id":""#);
    escaped(out, line.request_id.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Bytes as the inside of a JSON string; what is no printable ASCII as `\u00xx`.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            other => {
                let _ = write!(out, "\\u00{other:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &[u8]) -> Line<'_> {
        Line {
            method: "GET",
            path,
            tenant: "acme",
            class: "read",
            decision: "local",
            reason: "local-replica",
            status: 200,
            took: Duration::from_micros(1234),
            received_bytes: 1,
            sent_bytes: 2,
            client: "127.0.0.1:9".parse().ok(),
            request_id: "r1",
        }
    }

    #[test]
    fn every_line_is_json_whatever_the_path() {
        let mut out = Vec::new();
        write_line(
            &mut out,
            Duration::from_secs(1),
            &line(b"/a\"b\\c\n\x00\xff"),
        );
        assert_eq!(line_count(&out), 1);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["path"], "/a\"b\\c\n\u{0}\u{ff}");
        assert_eq!(
            (json["duration_us"].as_u64(), json["ts_ms"].as_u64()),
            (Some(1234), Some(1000))
        );
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let log = AccessLog::new(IntCounter::new("x", "x").unwrap());
        let long = vec![b'a'; MAX_PATH_BYTES];
        while log.dropped.get() == 0 {
            log.append(&line(&long));
        }
        assert!(log.buffer.lock().unwrap().len() < BUFFER_BYTES + 2048);
    }
}
