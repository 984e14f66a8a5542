//! Who this node is, for ever: a file in its folder says which node id and which disk this is. A
//! disk that was wiped, or belongs to another node, is refused before anything is opened: a node
//! that forgot its votes must not vote again under its old id (I1). So is a folder that this software can't
//! read (`format`).

mod format;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use maia_common::ids::NodeId;
use maia_common::limits::DATA_FORMAT;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
const MARK: &str = "DISK_ID";
/// The folders of the engine's databases.
const DATABASES: [&str; 2] = ["raft", "state"];

/// Which node and disk this folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// The node's id.
    pub node: NodeId,
    /// The disk's mark, drawn when the folder was first used.
    pub disk_id: String,
    /// Whether this disk took part before: it may vote without asking anyone.
    pub joined: bool,
    /// Whether the node was removed from the cluster: it never takes part again.
    #[serde(default)]
    pub removed: bool,
}

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// What was used.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("{path}: not an identity file: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The folder is not in the format that this software reads.
    #[error(
        "{path}: the data in this folder {found}, and this software reads and writes format {expected} \
         only; nothing was changed. Start the software that wrote it, or see \
         docs/operations.md, \"The data folder\", for how to begin anew"
    )]
    Format {
        /// The folder.
        path: String,
        /// What it says.
        found: String,
        /// What it should say.
        expected: u32,
    },
    /// The folder belongs to another node.
    #[error("{path}: belongs to node {found}, this is node {expected}")]
    OtherNode {
        /// The folder.
        path: String,
        /// As in the file.
        found: NodeId,
        /// As configured.
        expected: NodeId,
    },
    /// A database is gone, or was taken from another disk.
    #[error(
        "{path}: is not the database that node {node} had here; a node that lost its disk must not \
         vote again under its id: remove it and add a new node with an id that was never used"
    )]
    Gone {
        /// The database's folder.
        path: String,
        /// The node.
        node: NodeId,
    },
    /// Another process has it open.
    #[error("{path}: in use by another process")]
    InUse {
        /// The folder.
        path: String,
    },
}

/// Keeps other processes out of the folder while it lives.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held for its lock")] File);

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.display().to_string();
    move |source| IdentityError::Io { path, source }
}

/// Takes the folder for this process and reads or makes its identity.
///
/// # Errors
/// [`IdentityError`]; nothing that was in the folder is changed then, and of one that is of another format
/// nothing at all.
pub fn take(dir: &Path, node: NodeId) -> Result<(FolderLock, Identity), IdentityError> {
    format::check(dir)?;
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    // Tenants' data is in here: for this user alone.
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io(dir))?;
    let path = dir.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(io(&path))?;
    lock.try_lock().map_err(|_| IdentityError::InUse {
        path: dir.display().to_string(),
    })?;
    let path = dir.join(FILE);
    let identity = match File::open(&path) {
        Ok(file) => read(&path, file)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mark = (fastrand::u64(..), fastrand::u64(..));
            let disk_id = format!("{:016x}{:016x}", mark.0, mark.1);
            let fresh = Identity {
                format: DATA_FORMAT,
                node,
                disk_id,
                joined: false,
                removed: false,
            };
            write(dir, &fresh)?;
            fresh
        }
        Err(error) => return Err(io(&path)(error)),
    };
    if identity.node != node {
        let (found, expected) = (identity.node, node);
        return Err(IdentityError::OtherNode {
            path: dir.display().to_string(),
            found,
            expected,
        });
    }
    if identity.joined {
        check_databases(dir, &identity)?;
    }
    Ok((FolderLock(lock), identity))
}

/// The databases carry the disk's mark too: one that was wiped alone is noticed.
fn check_databases(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    for database in DATABASES {
        let folder = dir.join(database);
        let mark = std::fs::read_to_string(folder.join(MARK)).unwrap_or_default();
        if mark != identity.disk_id {
            return Err(IdentityError::Gone {
                path: folder.display().to_string(),
                node: identity.node,
            });
        }
    }
    Ok(())
}

fn read(path: &Path, mut file: File) -> Result<Identity, IdentityError> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io(path))?;
    let corrupt = |reason| IdentityError::Corrupt {
        path: path.display().to_string(),
        reason,
    };
    serde_json::from_str(&text).map_err(|e| corrupt(e.to_string()))
}

fn write(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let json = serde_json::to_vec_pretty(identity).expect("plain data");
    write_durably(dir, FILE, &json)
}

/// A new file, fsync, rename, fsync of the folder.
fn write_durably(dir: &Path, name: &str, content: &[u8]) -> Result<(), IdentityError> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.new")));
    let mut file = File::create(&temporary).map_err(io(&temporary))?;
    file.write_all(content).map_err(io(&temporary))?;
    file.sync_all().map_err(io(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(io(&path))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(io(dir))
}

/// Notes that this disk takes part from now on: marks the databases first, which exist by now.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn mark_joined(dir: &Path, identity: &mut Identity) -> Result<(), IdentityError> {
    for database in DATABASES {
        write_durably(&dir.join(database), MARK, identity.disk_id.as_bytes())?;
    }
    identity.joined = true;
    write(dir, identity)
}

/// Notes that the node was removed from the cluster, for ever.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn mark_removed(dir: &Path, identity: &mut Identity) -> Result<(), IdentityError> {
    // The node may have joined since the caller read it.
    let path = dir.join(FILE);
    let mut newest = read(&path, File::open(&path).map_err(io(&path))?)?;
    newest.removed = true;
    write(dir, &newest)?;
    *identity = newest;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_node_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, first) = take(dir.path(), NodeId::new(1)).unwrap();
        let in_use = take(dir.path(), NodeId::new(1)).unwrap_err();
        assert!(matches!(in_use, IdentityError::InUse { .. }), "{in_use}");
        drop(lock);
        let (lock, again) = take(dir.path(), NodeId::new(1)).unwrap();
        assert_eq!(first, again);
        drop(lock);
        let other = take(dir.path(), NodeId::new(2)).unwrap_err().to_string();
        assert!(other.contains("belongs to node 1"), "{other}");
        let (lock, mut identity) = take(dir.path(), NodeId::new(1)).unwrap();
        for database in DATABASES {
            std::fs::create_dir(dir.path().join(database)).unwrap();
        }
        mark_joined(dir.path(), &mut identity).unwrap();
        drop(lock);
        drop(take(dir.path(), NodeId::new(1)).unwrap());
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        let gone = take(dir.path(), NodeId::new(1)).unwrap_err();
        assert!(matches!(gone, IdentityError::Gone { .. }), "{gone}");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(
            take(dir.path(), NodeId::new(1)),
            Err(IdentityError::Corrupt { .. })
        ));
    }
}
