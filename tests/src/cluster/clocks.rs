//! Wrong wall clocks: libfaketime is loaded into the coordinators, and reads how far each one's clock is off
//! from a file beside its configuration at every look at it. So a clock jumps while the process runs.
//!
//! ```text
//! maiactl ── MAIA_BIN_DIR ──▶ our `maia-coordinator` (sh): sets LD_PRELOAD ── exec ──▶ the real one
//! ```
//! Only the wall clock: what measures how long something takes goes on as it is. A look at it takes
//! 7 µs instead of 0.1.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The one for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// In the folder of a coordinator's configuration.
const FILE: &str = "clock";

/// A folder of binaries whose coordinators' clocks can be set. Gone when dropped.
#[derive(Debug)]
pub struct Clocks(tempfile::TempDir);

impl Clocks {
    /// None: this machine has no libfaketime (`scripts/setup.sh` installs it).
    ///
    /// # Panics
    /// When not even a temporary folder can be made.
    #[must_use]
    pub fn prepare() -> Option<Self> {
        let library = library()?;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        symlink(super::binary("maia-proxy"), path("maia-proxy")).expect("a link");
        // The configuration is the last argument, as maiactl starts it.
        let script = format!(
            "#!/bin/sh\n\
             for config; do :; done\n\
             clock=\"${{config%/*}}/{FILE}\"\n\
             [ -e \"$clock\" ] || echo '+0' >\"$clock\"\n\
             export LD_PRELOAD='{}' FAKETIME_TIMESTAMP_FILE=\"$clock\" FAKETIME_NO_CACHE=1\n\
             export FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n\
             exec '{}' \"$@\"\n",
            library.display(),
            super::binary("maia-coordinator").display(),
        );
        std::fs::write(path("maia-coordinator"), script).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path("maia-coordinator"), mode).expect("it may run");
        Some(Self(dir))
    }

    /// Where maiactl finds the binaries.
    #[must_use]
    pub fn bin(&self) -> &Path {
        self.0.path()
    }
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut places = folders.map(|folder| folder.path().join(LIBRARY));
    places.find(|place| place.is_file())
}

/// From now on the clock of the coordinator whose files are in `dir` is this far ahead of what is right.
pub fn set(dir: &Path, ahead_ms: i64) {
    let sign = if ahead_ms < 0 { '-' } else { '+' };
    let (seconds, rest) = (
        ahead_ms.unsigned_abs() / 1000,
        ahead_ms.unsigned_abs() % 1000,
    );
    // Replaced as a whole: the process may be reading it.
    let new = dir.join("clock.new");
    std::fs::write(&new, format!("{sign}{seconds}.{rest:03}\n")).expect("a file of the cluster");
    std::fs::rename(new, dir.join(FILE)).expect("a file of the cluster");
}
