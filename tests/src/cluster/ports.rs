//! Ports for a cluster of up to five regions that no other test has: a file lock keeps tests of
//! other processes away, a bind check everybody else. Below the range from which the kernel
//! takes ports for outgoing connections.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;
const EACH: u16 = 50;

/// Ports that are ours while this lives.
#[derive(Debug)]
pub struct Claim {
    pub base: u16,
    _lock: File,
}

/// Finds free ports.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn claim() -> Claim {
    let dir = std::env::temp_dir().join("maia-test-ports");
    std::fs::create_dir_all(&dir).expect("a folder for locks");
    let blocks = (LAST - FIRST) / EACH;
    let first = fastrand::u16(0..blocks);
    for i in 0..blocks {
        let base = FIRST + (first + i) % blocks * EACH;
        let lock = File::create(dir.join(base.to_string())).expect("a lock file");
        if lock.try_lock().is_ok() && (base..base + EACH).all(is_free) {
            return Claim { base, _lock: lock };
        }
    }
    panic!("no free ports between {FIRST} and {LAST}");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
