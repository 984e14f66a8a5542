//! Who this node is, for ever: a file in its folder says which node id and which disk this is. A
//! disk that was wiped, or belongs to another node, is refused before anything is opened: a node
//! that forgot its votes must not vote again under its old id (I1).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use maia_common::ids::NodeId;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;

/// Which node and disk this folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// The node's id.
    pub node: NodeId,
    /// The disk's mark, drawn when the folder was first used.
    pub disk_id: String,
    /// Whether this disk is known to the cluster: it took part before.
    pub joined: bool,
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
/// [`IdentityError`]; nothing in the folder was changed then.
pub fn take(dir: &Path, node: NodeId) -> Result<(FolderLock, Identity), IdentityError> {
    std::fs::create_dir_all(dir).map_err(io(dir))?;
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
                format: FORMAT,
                node,
                disk_id,
                joined: false,
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
    Ok((FolderLock(lock), identity))
}

fn read(path: &Path, mut file: File) -> Result<Identity, IdentityError> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io(path))?;
    let corrupt = |reason| IdentityError::Corrupt {
        path: path.display().to_string(),
        reason,
    };
    let identity: Identity = serde_json::from_str(&text).map_err(|e| corrupt(e.to_string()))?;
    if identity.format == FORMAT {
        Ok(identity)
    } else {
        Err(corrupt(format!(
            "format {}, this software reads {FORMAT}",
            identity.format
        )))
    }
}

/// Writes the file durably: a new file, fsync, rename, fsync of the folder.
fn write(dir: &Path, identity: &Identity) -> Result<(), IdentityError> {
    let (path, temporary) = (dir.join(FILE), dir.join("identity.json.new"));
    let json = serde_json::to_vec_pretty(identity).expect("plain data");
    let mut file = File::create(&temporary).map_err(io(&temporary))?;
    file.write_all(&json).map_err(io(&temporary))?;
    file.sync_all().map_err(io(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(io(&path))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(io(dir))
}

/// Notes that the cluster knows this disk.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn mark_joined(dir: &Path, identity: &mut Identity) -> Result<(), IdentityError> {
    identity.joined = true;
    write(dir, identity)
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
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(
            take(dir.path(), NodeId::new(1)),
            Err(IdentityError::Corrupt { .. })
        ));
    }
}
