//! Notices an older copy of `raft/`, such as a restored backup: it has forgotten votes and records
//! that were promised to others (I2), and nothing in it says so.
//!
//! Each start is counted twice, first in `raft/`, then in the file `STARTS` beside it:
//! ```text
//! raft/   n ──▶ n+1 (synced) ──────────────────────▶ goes on
//! STARTS  n ─────────────────▶ n+1 (synced, renamed)
//! ```
//! So `raft/` is never behind the file, wherever the node dies, and however often; when it is, it
//! is not the `raft/` of this node's last start. That the whole folder is an older copy cannot be
//! noticed in it. Called by the engine when it opens, before anything else is written.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rocksdb::{DB, WriteOptions};

use super::db::{CF_HARD_STATE, family, io_error};
use super::errors::EngineOpenError;
use super::keys::STARTS_KEY;

const FILE: &str = "STARTS";

/// Compares the counts and counts this start.
///
/// # Errors
/// [`EngineOpenError::OlderCopy`]; [`EngineOpenError::Io`] when a count cannot be read. One that
/// cannot be written, as on a full disk, is not counted: the node goes on.
pub(crate) fn count(dir: &Path, db: &DB) -> Result<(), EngineOpenError> {
    let io = |source| EngineOpenError::Io {
        dir: dir.to_owned(),
        source,
    };
    let counted = in_database(db).map_err(io)?;
    let seen = in_file(&dir.join(FILE)).map_err(io)?;
    if counted < seen {
        return Err(EngineOpenError::OlderCopy {
            path: dir.join("raft"),
            counted,
            seen,
        });
    }
    if let Err(error) = add(dir, db, counted + 1) {
        tracing::warn!(%error, "this start could not be counted");
    }
    Ok(())
}

fn add(dir: &Path, db: &DB, starts: u64) -> io::Result<()> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    let cf = family(db, CF_HARD_STATE);
    db.put_cf_opt(cf, STARTS_KEY, starts.to_be_bytes(), &options)
        .map_err(io_error)?;
    let temporary = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&temporary)?;
    writeln!(file, "{starts}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

fn in_database(db: &DB) -> io::Result<u64> {
    let cf = family(db, CF_HARD_STATE);
    let Some(bytes) = db.get_cf(cf, STARTS_KEY).map_err(io_error)? else {
        return Ok(0);
    };
    let bytes = <[u8; 8]>::try_from(bytes);
    let bytes = bytes.map_err(|_| damaged("the count of starts in raft/ is damaged"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn in_file(path: &Path) -> io::Result<u64> {
    match std::fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| damaged(&format!("{} holds no number", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
