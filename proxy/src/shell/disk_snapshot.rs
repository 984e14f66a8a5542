//! The snapshot on disk: written beside the requests, read once at the start. Its format is
//! `core/disk_snapshot`'s.
//!
//! Written to a temporary file, synced, renamed over the old one, and the folder synced: a crash at
//! any moment leaves the old file or the new one. A file that is refused is set aside under
//! another name for a person to look at, and the feed brings everything anew.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
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
/// Where it is written before it takes the name.
const TEMPORARY: &str = "placements.snapshot.tmp";
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

    /// What was saved last; `None` where there is nothing, or nothing that can be trusted. The
    /// latter is set aside, and said in the log.
    #[must_use]
    pub fn load(&self) -> Option<Loaded> {
        let path = self.folder.join(NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "the snapshot on disk can't be opened");
                return None;
            }
        };
        match self.read(file) {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                let aside = self.folder.join(ASIDE);
                let kept = std::fs::rename(&path, &aside);
                tracing::warn!(
                    path = %path.display(),
                    aside = %aside.display(),
                    kept = kept.is_ok(),
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
        std::fs::create_dir_all(&self.folder)?;
        let temporary = self.folder.join(TEMPORARY);
        // It holds the fingerprints' key: for the owner alone.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
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
        std::fs::rename(&temporary, self.folder.join(NAME))?;
        File::open(&self.folder)?.sync_all()?;
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
