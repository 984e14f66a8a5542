//! Whether this software can read a node's folder: its identity file says in which format all of the folder
//! is, from the file's first write on. A folder of another format, or with data and no format, is refused
//! before anything in it is touched, its lock included: applied state that two builds read in two ways would
//! differ between replicas (I13), and nobody would notice before it matters. Called when the folder is taken.
//!
//! The number goes up with every change of what is on disk that older or newer software would misread: keys
//! and values of `raft/` and `state/`, snapshots, the identity itself.

use std::path::Path;

use maia_common::limits::DATA_FORMAT;
use serde::Deserialize;

use super::{DATABASES, FILE, IdentityError, io};

/// What is sure to stand in an identity file of any format.
#[derive(Deserialize)]
struct Stamp {
    format: Option<u32>,
}

/// Refuses a folder that this software can't read. Changes nothing.
///
/// # Errors
/// [`IdentityError::Format`] for another format, or data without any; [`IdentityError::Io`];
/// [`IdentityError::Corrupt`] for a file that is no JSON.
pub(super) fn check(dir: &Path) -> Result<(), IdentityError> {
    let path = dir.join(FILE);
    let found = match std::fs::read(&path) {
        Ok(text) => {
            let stamp = serde_json::from_slice::<Stamp>(&text);
            let stamp = stamp.map_err(|error| IdentityError::Corrupt {
                path: path.display().to_string(),
                reason: error.to_string(),
            })?;
            stamp.format
        }
        // The identity is written first: a folder without one that has databases was not made by this software.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let has_data = DATABASES.iter().any(|name| dir.join(name).exists());
            if !has_data {
                return Ok(());
            }
            None
        }
        Err(error) => return Err(io(&path)(error)),
    };
    if found == Some(DATA_FORMAT) {
        return Ok(());
    }
    Err(IdentityError::Format {
        path: dir.display().to_string(),
        found: found.map_or_else(
            || "names no format".to_owned(),
            |n| format!("is of format {n}"),
        ),
        expected: DATA_FORMAT,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use maia_common::ids::NodeId;

    use super::super::take;
    use super::*;

    /// Every file of the folder with its content.
    fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.path().is_file());
        let named = files.map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        });
        named.collect()
    }

    fn refused(dir: &Path) -> String {
        let before = files(dir);
        let refused = take(dir, NodeId::new(1)).unwrap_err();
        assert!(matches!(refused, IdentityError::Format { .. }), "{refused}");
        assert_eq!(files(dir), before, "nothing was written");
        refused.to_string()
    }

    #[test]
    fn a_new_folder_gets_the_format_and_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(take(dir.path(), NodeId::new(1)).unwrap());
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(
            text.contains(&format!("\"format\": {DATA_FORMAT}")),
            "{text}"
        );
        std::fs::create_dir(dir.path().join("raft")).unwrap();
        drop(take(dir.path(), NodeId::new(1)).unwrap());
    }

    #[test]
    fn a_folder_of_another_format_is_refused_as_it_is() {
        for other in [DATA_FORMAT - 1, DATA_FORMAT + 1] {
            let dir = tempfile::tempdir().unwrap();
            // Nothing but the format needs to be as this software knows it.
            let text = format!("{{\"format\": {other}, \"whatever\": []}}");
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let refused = refused(dir.path());
            for part in [&format!("is of format {other}"), "docs/operations.md"] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    }

    #[test]
    fn data_without_a_format_is_refused_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{\"node\": 1}").unwrap();
        assert!(refused(dir.path()).contains("names no format"));
        for database in DATABASES {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(database)).unwrap();
            assert!(refused(dir.path()).contains("names no format"));
        }
    }
}
