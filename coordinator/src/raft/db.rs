//! The two databases of a node and their options: `raft/` (logs and hard state, synced by the
//! flusher) and `state/` (what apply made of the logs, not synced: it is rebuilt from the log, and
//! a log is purged only up to what a sync of `state/` covers). Memory is bounded here (I12).
//!
//! A missing or corrupt file is a clear error at start, with what to do about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Options,
};
use serde::{Deserialize, Serialize};

/// The log of every group.
pub(crate) const CF_LOG: &str = "log";
/// Votes, committed, purged and tombstones of every group.
pub(crate) const CF_HARD_STATE: &str = "hard_state";
/// Records that left a log before they were known to be committed.
pub(crate) const CF_QUARANTINE: &str = "quarantine";
/// All of `raft/`.
pub(crate) const RAFT_FAMILIES: [&str; 3] = [CF_LOG, CF_HARD_STATE, CF_QUARANTINE];

/// A column family of `state/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateCf {
    /// Keys of the metastore.
    Meta,
    /// What each revision of the metastore changed.
    Changes,
    /// Resources of tenants.
    Data,
    /// Outcomes by idempotency key.
    Dedup,
    /// Applied positions, seals, and other marks.
    Marks,
}

impl StateCf {
    /// Every family, in the order of their numbers in snapshots.
    pub const ALL: [StateCf; 5] = [
        StateCf::Meta,
        StateCf::Changes,
        StateCf::Data,
        StateCf::Dedup,
        StateCf::Marks,
    ];

    /// The family's name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StateCf::Meta => "meta",
            StateCf::Changes => "changes",
            StateCf::Data => "data",
            StateCf::Dedup => "dedup",
            StateCf::Marks => "marks",
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database in {} cannot be opened: {reason}. If its files are damaged, move the folder \
     aside and let this node join again under a new node id; its groups' other members have the data",
    path.display()
)]
pub struct DbOpenError {
    /// The database's folder.
    pub path: PathBuf,
    /// What RocksDB says.
    pub reason: String,
}

/// How the databases' files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Cheap, and half the size for JSON.
    #[default]
    Lz4,
    /// What was written can be searched for in the files.
    None,
}

/// How much memory the databases may use, and how they are stored.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// Shared by both databases for blocks that were read.
    pub block_cache_bytes: usize,
    /// Of `raft/`, over all its families.
    pub raft_write_buffer_bytes: usize,
    /// Of `state/`, over all its families.
    pub state_write_buffer_bytes: usize,
    /// Of files that are written from now on.
    pub compression: Compression,
}

impl Default for DbOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 64 << 20,
            raft_write_buffer_bytes: 64 << 20,
            state_write_buffer_bytes: 64 << 20,
            compression: Compression::default(),
        }
    }
}

/// Opens `raft/` under the node's folder.
pub(crate) fn open_raft(
    dir: &Path,
    wanted: &DbOptions,
    cache: &Cache,
) -> Result<Arc<DB>, DbOpenError> {
    let mut options = base_options(wanted.raft_write_buffer_bytes);
    options.set_max_total_wal_size(wanted.raft_write_buffer_bytes as u64);
    // What was synced was promised to others. The default mode would silently forget all that
    // follows a damaged record; this one forgets only a last record that was never finished.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    let path = dir.join("raft");
    open(path, &options, (wanted.compression, cache), &RAFT_FAMILIES)
}

/// Opens `state/` under the node's folder. What is lost of it with the power is applied again from the log.
pub(crate) fn open_state(
    dir: &Path,
    wanted: &DbOptions,
    cache: &Cache,
) -> Result<Arc<DB>, DbOpenError> {
    let mut options = base_options(wanted.state_write_buffer_bytes);
    options.set_max_total_wal_size(wanted.state_write_buffer_bytes as u64);
    // A batch is in several families. After a failed write RocksDB makes good again by writing out what is in
    // memory, one family after the other otherwise: a crash in between would leave half batches. (A log kept in
    // memory, `manual_wal_flush`, is lost with a failed write of it: RocksDB then takes no write until it is opened
    // anew, and one moment without room on disk ended all of a node's groups.)
    options.set_atomic_flush(true);
    // Apply asks for many keys that are not there: new resources, tombstones, outcomes.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
    open(
        dir.join("state"),
        &options,
        (wanted.compression, cache),
        &StateCf::ALL.map(StateCf::name),
    )
}

fn base_options(write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(write_buffer_bytes);
    options.set_write_buffer_size((write_buffer_bytes / 2).max(1 << 20));
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_max_background_jobs(2);
    options.set_paranoid_checks(true);
    options
}

fn open(
    path: PathBuf,
    options: &Options,
    (compression, cache): (Compression, &Cache),
    families: &[&str],
) -> Result<Arc<DB>, DbOpenError> {
    let failed = |reason: String| DbOpenError {
        path: path.clone(),
        reason,
    };
    std::fs::create_dir_all(&path).map_err(|e| failed(e.to_string()))?;
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    let descriptors = families.iter().map(|name| {
        let mut cf = options.clone();
        cf.set_compression_type(match compression {
            Compression::Lz4 => DBCompressionType::Lz4,
            Compression::None => DBCompressionType::None,
        });
        cf.set_block_based_table_factory(&table);
        ColumnFamilyDescriptor::new(*name, cf)
    });
    DB::open_cf_descriptors(options, &path, descriptors)
        .map(Arc::new)
        .map_err(|e| failed(e.into_string()))
}

/// The handle of a family that `open` created.
pub(crate) fn family<'a>(db: &'a DB, name: &str) -> &'a rocksdb::ColumnFamily {
    db.cf_handle(name)
        .expect("every family is created when the database is opened")
}

/// A RocksDB error as an I/O error; of kind `InvalidData` when what it read is damaged.
pub(crate) fn io_error(error: rocksdb::Error) -> std::io::Error {
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => std::io::ErrorKind::InvalidData,
        _ => std::io::ErrorKind::Other,
    };
    std::io::Error::new(kind, error.into_string())
}
