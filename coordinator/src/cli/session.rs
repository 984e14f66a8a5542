//! Which cluster a command means: `--api` and `--token`, or the cluster.json of `--dir` or of
//! the current folder.

use std::path::{Path, PathBuf};

use super::Usage;
use super::api::Api;
use super::args::{Global, Output};
use super::cluster::ClusterFile;

/// A cluster to talk to, and how to print what it says.
#[derive(Debug)]
pub struct Session {
    pub api: Api,
    /// Known when the cluster is a local one.
    pub cluster: Option<ClusterFile>,
    pub output: Output,
}

impl Session {
    /// Finds the cluster.
    ///
    /// # Errors
    /// [`Usage`] when the options name none; a cluster.json that can't be read.
    pub fn open(global: &Global) -> anyhow::Result<Self> {
        let cluster = local(global)?;
        let urls = match &cluster {
            _ if !global.api.is_empty() => global.api.clone(),
            Some(cluster) => cluster.regions.iter().map(|r| r.api_url.clone()).collect(),
            None => {
                let text = "which cluster? give --api URL (or MAIA_API), or --dir of a local one";
                return Err(Usage(text.to_owned()).into());
            }
        };
        let token = global.token.clone();
        let token = token.or_else(|| cluster.as_ref().map(|c| c.admin_token.clone()));
        Ok(Self {
            api: Api::new(urls, token)?,
            cluster,
            output: global.output,
        })
    }
}

/// The local cluster that the options mean, if any.
fn local(global: &Global) -> anyhow::Result<Option<ClusterFile>> {
    let dir = match &global.dir {
        Some(dir) => dir.clone(),
        None if global.api.is_empty() && Path::new("cluster.json").exists() => PathBuf::from("."),
        None => return Ok(None),
    };
    ClusterFile::read(&dir).map(Some)
}
