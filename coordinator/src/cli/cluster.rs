//! `maiactl cluster …`: several regions on this machine, for trying things out and for tests.
//!
//! A cluster is a folder. `cluster.json` names its processes, their URLs and the admin token
//! (so it is readable by its owner alone); each region has a folder for its coordinator and one
//! for its proxy, with configuration, log and data. What runs is found by the recorded pid, and
//! a process is signalled only after its command line proved that it is the recorded one.
//!
//! ```text
//! D/cluster.json  D/cluster.key  D/tls/{ca.pem, ca.key, node-….pem, …}
//! D/<region>/coordinator/{coordinator.toml, coordinator.log, data/}
//! D/<region>/proxy/{proxy.toml, proxy.log}
//! ```

mod file;
mod layout;
mod lifecycle;
mod ports;
mod process;
mod ready;
mod up;

use std::path::{Path, PathBuf};

pub use file::{ClusterFile, RegionEntry};
pub use lifecycle::{go_on, kill, pause, restart, stop_all};
pub use up::up;

use super::Usage;
use super::args::{ClusterVerb, Global};

/// Carries out a `cluster` verb.
///
/// # Errors
/// A sentence that says what could not be done, and what to look at.
pub async fn run(global: &Global, verb: ClusterVerb) -> anyhow::Result<()> {
    let Some(dir) = global.dir.clone() else {
        return Err(Usage("which cluster? give --dir".to_owned()).into());
    };
    match verb {
        ClusterVerb::Up(options) => {
            let cluster = up(&dir, &options).await?;
            lifecycle::introduce(global.output, &dir, &cluster);
            Ok(())
        }
        ClusterVerb::Status => lifecycle::status(global.output, &ClusterFile::read(&dir)?).await,
        ClusterVerb::Down => {
            let _lock = file::lock(&dir).await?;
            stop_all(&ClusterFile::read(&dir)?).await
        }
        ClusterVerb::Kill(target) => kill(&ClusterFile::read(&dir)?, &target.node).await,
        ClusterVerb::Stop(target) => {
            lifecycle::pause(&ClusterFile::read(&dir)?, &target.node).await
        }
        ClusterVerb::Cont(target) => lifecycle::go_on(&ClusterFile::read(&dir)?, &target.node),
        ClusterVerb::Restart { target, no_wait } => {
            lifecycle::restart(&dir, &target.node, !no_wait).await
        }
    }
}

/// Removes the files of a stopped cluster, and nothing else that may be in the folder.
///
/// # Errors
/// I/O.
pub fn remove_files(dir: &Path) -> anyhow::Result<()> {
    let cluster = ClusterFile::read(dir)?;
    for region in &cluster.regions {
        std::fs::remove_dir_all(dir.join(region.name.as_str()))?;
    }
    let tls = super::cert::tls_folder(dir);
    if tls.exists() {
        std::fs::remove_dir_all(tls)?;
    }
    for name in ["cluster.json", "cluster.key", ".lock"] {
        std::fs::remove_file(dir.join(name))?;
    }
    Ok(())
}

/// Where the binaries are: beside maiactl's own, or where `MAIA_BIN_DIR` says.
fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let dir = match std::env::var_os("MAIA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            own.parent().map(Path::to_path_buf).unwrap_or_default()
        }
    };
    let path = dir.join(name);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: build the workspace, or say where it is with MAIA_BIN_DIR",
        path.display()
    );
    Ok(path)
}
