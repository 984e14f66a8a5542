//! The snapshot on disk: written beside the requests, read once at the start. Its format is
//! `core/disk_snapshot`'s.
//!
//! Written to a temporary file of a name of its own, synced, renamed over the old one, and the
//! folder synced: a crash at any moment leaves the old file or the new one. What a crash left of a
//! temporary one goes at the next start. A file that is damaged is set aside under another name for
//! a person to look at; one that only does not fit (another cluster key, another `proxy.table`,
//! another format) stays until the next save, since the configuration may be what is wrong. The
//! feed brings everything anew in either case. One process uses a folder: see
//! [`DiskSnapshot::lock`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maia_common::topology::Topology;

use crate::core::disk_snapshot::{
    CRC_BYTES, HEADER_BYTES, Header, LENGTH_BYTES, MAX_SECTION_BYTES, Refused, TRAILER_BYTES,
    check_trailer, decode_section, decode_shard, decode_topology, encode_section, encode_shard,
    encode_topology, encode_trailer,
};
use crate::core::fingerprint::FingerprintKey;
use crate::core::table::{Builder, Table};

/// Within the proxy's folder.
const NAME: &str = "placements.snapshot";
/// How the names begin under which it is written before it takes its own.
const TEMPORARY: &str = "placements.snapshot.tmp";
/// Held by the process that uses the folder.
const LOCK: &str = "proxy.lock";
/// Where a refused one goes.
const ASIDE: &str = "placements.snapshot.refused";

/// Why a snapshot was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read, or ends too early.
    #[error("can't be read: {0}")]
    Read(#[from] std::io::Error),
    /// Its content.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl LoadError {
    /// Whether the file is not what was once written: no configuration will make it good again.
    fn is_damage(&self) -> bool {
        match self {
            LoadError::Read(error) => error.kind() == ErrorKind::UnexpectedEof,
            LoadError::Refused(refused) => !matches!(refused, Refused::NotOurs(_)),
        }
    }
}

/// What a snapshot on disk held.
pub struct Loaded {
    /// The fingerprints' key.
    pub key: FingerprintKey,
    /// As it was when it was saved.
    pub topology: Topology,
    /// As they were when it was saved.
    pub tenants: Table,
    /// When it was saved.
    pub saved: SystemTime,
}

/// Where a proxy keeps its snapshot, and of which cluster it must be.
#[derive(Debug, Clone)]
pub struct DiskSnapshot {
    folder: PathBuf,
    cluster: [u8; 32],
    whole: bool,
}

impl DiskSnapshot {
    /// In this folder, of the cluster with this mark; `whole`: with all tenants, else with none.
    #[must_use]
    pub fn new(folder: &Path, cluster: [u8; 32], whole: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            cluster,
            whole,
        }
    }

    /// Takes the folder for this process until the file that is returned is dropped; makes it where
    /// it is not there yet. Two processes would overwrite each other's snapshot, under different
    /// keys.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`]: another process has it. Else what the file system says.
    pub fn lock(&self) -> Result<File, TryLockError> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let lock = std::fs::create_dir_all(&self.folder)
            .and_then(|()| options.mode(0o600).open(self.folder.join(LOCK)))
            .map_err(TryLockError::Error)?;
        lock.try_lock()?;
        self.tidy();
        Ok(lock)
    }

    /// Removes what crashes left.
    fn tidy(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let _kept = std::fs::remove_file(entry.path());
            }
        }
    }

    /// What was saved last; `None` where there is nothing, or nothing that can be trusted. The
    /// latter is said in the log, and what is damaged is set aside.
    #[must_use]
    pub fn load(&self) -> Option<Loaded> {
        let path = self.folder.join(NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the snapshot on disk can't be opened");
                return None;
            }
        };
        match self.read(file) {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                let aside = self.folder.join(ASIDE);
                let damaged = error.is_damage();
                let set_aside = damaged && std::fs::rename(&path, &aside).is_ok();
                tracing::warn!(
                    path = %path.display(),
                    aside = %aside.display(),
                    set_aside,
                    %error,
                    "the snapshot on disk is refused: placements will come from the feed"
                );
                None
            }
        }
    }

    fn read(&self, file: File) -> Result<Loaded, LoadError> {
        let mut file = Checked {
            file: BufReader::with_capacity(1 << 20, file),
            crc: 0,
        };
        let mut header = [0; HEADER_BYTES];
        file.fill(&mut header)?;
        let header = Header::decode(&header)?;
        if header.cluster != self.cluster {
            return Err(Refused::NotOurs("of another cluster, or of another cluster key").into());
        }
        if header.whole != self.whole {
            return Err(Refused::NotOurs("of another `proxy.table`").into());
        }
        let mut section = Vec::new();
        let topology = decode_topology(file.section(&mut section)?, &header)?;
        let mut builder = Builder::new(header.tenants as usize);
        let mut tenants = 0;
        for _ in 0..header.shards {
            tenants += decode_shard(file.section(&mut section)?, &mut builder)?;
        }
        let crc = file.crc;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        file.file
            .take(TRAILER_BYTES as u64 + 1)
            .read_to_end(&mut trailer)?;
        check_trailer(&trailer, crc)?;
        let built = builder.build();
        if tenants != header.tenants || built.len() as u64 != tenants {
            return Err(Refused::Length("not as many tenants as it says").into());
        }
        Ok(Loaded {
            key: FingerprintKey::new(&header.key),
            topology,
            tenants: built,
            saved: UNIX_EPOCH + Duration::from_millis(header.saved_unix_ms),
        })
    }

    /// Writes this in place of what was saved before; returns when it is on the disk.
    ///
    /// # Errors
    /// What the file system says; the old file is still there then.
    pub fn save(
        &self,
        key: &FingerprintKey,
        topology: &Topology,
        tenants: &Table,
    ) -> std::io::Result<SystemTime> {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(&self.folder)?;
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{TEMPORARY}.{}.{attempt}", std::process::id());
        let temporary = self.folder.join(temporary);
        // It holds the fingerprints' key: for the owner alone, so nobody else may have made it.
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        let file = file.open(&temporary)?;
        let written = self.write(file, key, topology, tenants);
        let saved = written.and_then(|saved| {
            std::fs::rename(&temporary, self.folder.join(NAME))?;
            Ok(saved)
        });
        if saved.is_err() {
            // A disk that is full would stay so.
            let _left = std::fs::remove_file(&temporary);
        }
        let saved = saved?;
        File::open(&self.folder)?.sync_all()?;
        Ok(saved)
    }

    /// Writes and syncs; returns when it was.
    fn write(
        &self,
        file: File,
        key: &FingerprintKey,
        topology: &Topology,
        tenants: &Table,
    ) -> std::io::Result<SystemTime> {
        let mut file = Checked {
            file: BufWriter::with_capacity(1 << 20, file),
            crc: 0,
        };
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH);
        let header = Header {
            generation: topology.generation,
            revision: topology.revision,
            saved_unix_ms: since.map_or(0, |d| d.as_millis() as u64),
            whole: self.whole,
            tenants: tenants.len() as u64,
            shards: tenants.shards().len() as u32,
            key: key.secret(),
            cluster: self.cluster,
        };
        file.put(&header.encode())?;
        let mut section = Vec::new();
        encode_section(&mut section, |out| encode_topology(out, topology));
        file.put(&section)?;
        for shard in tenants.shards() {
            encode_section(&mut section, |out| encode_shard(out, shard));
            file.put(&section)?;
        }
        let trailer = encode_trailer(file.crc);
        file.put(&trailer)?;
        let file = file.file.into_inner().map_err(std::io::Error::from)?;
        file.sync_all()?;
        Ok(now)
    }
}

/// Keeps the checksum of all that went through it.
struct Checked<F> {
    file: F,
    crc: u32,
}

impl<F: Read> Checked<F> {
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }

    /// The payload of the next section.
    fn section<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], LoadError> {
        let mut length = [0; LENGTH_BYTES];
        self.fill(&mut length)?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > MAX_SECTION_BYTES {
            return Err(Refused::Length("a section is larger than any can be").into());
        }
        buffer.resize(bytes + CRC_BYTES, 0);
        self.fill(buffer)?;
        Ok(decode_section(length, buffer)?)
    }
}

impl<F: Write> Checked<F> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.file.write_all(bytes)
    }
}

#[cfg(test)]
#[path = "disk_snapshot_tests.rs"]
mod tests;
