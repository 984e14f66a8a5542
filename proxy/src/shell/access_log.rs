//! The access log: one JSON line per request on standard output. Requests append to a bounded
//! buffer and never wait; one thread writes it out. Where the reader of the log is too slow,
//! lines are dropped and counted (I12).

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;

use crate::shell::text::push_decimal;

/// About ten thousand lines; a reader that is this far behind loses lines.
const BUFFER_BYTES: usize = 4 << 20;
/// So much is written out at once, however young it is.
const WRITE_BYTES: usize = 256 << 10;
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
    /// The client's address; empty where it is not known.
    pub client: &'r str,
    /// `X-Request-ID`.
    pub request_id: &'r str,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Vec<u8>>,
    /// Held from taking lines out of the buffer until they are written, so that the end of the log
    /// waits for what is on its way.
    writing: Mutex<()>,
    /// There is enough to write out.
    enough: Condvar,
}

/// Cheap to clone: all clones are one log.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    dropped: IntCounter,
}

impl AccessLog {
    /// A log whose dropped lines are counted there.
    #[must_use]
    pub fn new(dropped: IntCounter) -> Self {
        Self {
            shared: Arc::default(),
            dropped,
        }
    }

    /// Appends a line, or drops it where the buffer is full.
    pub fn append(&self, line: &Line<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut buffer = self.lock();
        let before = buffer.len();
        if before > BUFFER_BYTES {
            drop(buffer);
            self.dropped.inc();
            return;
        }
        write_line(&mut buffer, now.unwrap_or_default(), line);
        let enough = before < WRITE_BYTES && buffer.len() >= WRITE_BYTES;
        drop(buffer);
        if enough {
            self.shared.enough.notify_one();
        }
    }

    /// Writes out what has gathered, at the end.
    pub fn flush(&self) {
        let _writing = self.writing();
        let lines = std::mem::take(&mut *self.lock());
        self.write(&lines);
    }

    /// Writes lines out for as long as the process lives: the work of a thread of its own, since
    /// standard output may block. Two buffers take turns, so that none is made anew.
    pub fn run(&self) -> ! {
        let mut lines = Vec::new();
        loop {
            let few = |buffer: &mut Vec<u8>| buffer.len() < WRITE_BYTES;
            let waited = self
                .shared
                .enough
                .wait_timeout_while(self.lock(), FLUSH_EVERY, few);
            drop(waited);
            let writing = self.writing();
            std::mem::swap(&mut *self.lock(), &mut lines);
            self.write(&lines);
            drop(writing);
            lines.clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        let buffer = self.shared.buffer.lock();
        buffer.unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, ()> {
        let writing = self.shared.writing.lock();
        writing.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut out = std::io::stdout().lock();
        if out.write_all(lines).and_then(|()| out.flush()).is_err() {
            self.dropped.inc_by(line_count(lines));
        }
    }
}

fn line_count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|b| *b == b'\n').count() as u64
}

fn write_line(out: &mut Vec<u8>, now: Duration, line: &Line<'_>) {
    let path = &line.path[..line.path.len().min(MAX_PATH_BYTES)];
    out.extend_from_slice(br#"{"ts_ms":"#);
    push_decimal(out, now.as_millis() as u64);
    for (name, value) in [
        (&br#","method":""#[..], line.method.as_bytes()),
        (br#"","path":""#, path),
        (br#"","tenant":""#, line.tenant.as_bytes()),
        (br#"","class":""#, line.class.as_bytes()),
        (br#"","decision":""#, line.decision.as_bytes()),
        (br#"","reason":""#, line.reason.as_bytes()),
    ] {
        out.extend_from_slice(name);
        escaped(out, value);
    }
    for (name, value) in [
        (&br#"","status":"#[..], u64::from(line.status)),
        (br#","duration_us":"#, line.took.as_micros() as u64),
        (br#","received_bytes":"#, line.received_bytes as u64),
        (br#","sent_bytes":"#, line.sent_bytes as u64),
    ] {
        out.extend_from_slice(name);
        push_decimal(out, value);
    }
    out.extend_from_slice(br#","client":""#);
    escaped(out, line.client.as_bytes());
    out.extend_from_slice(br#"","request_id":""#);
    escaped(out, line.request_id.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Bytes as the inside of a JSON string; what is no printable ASCII as `\u00xx`.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    if bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            other => {
                // Writing to a Vec can't fail.
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
            client: "127.0.0.1:9",
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
        assert!(log.lock().len() < BUFFER_BYTES + 2048);
    }
}
