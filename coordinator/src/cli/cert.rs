//! `maiactl cert …`: the cluster's CA, and certificates for its nodes and proxies. Works on files alone
//! and asks no cluster; a local cluster's CA is in `D/tls`, where its processes find what they need.
//!
//! To replace a CA: `cert ca --next` (both are known from then on), a certificate for each process,
//! `cert ca --drop-old`. Each step may take as long as it takes to reach every machine.

mod authority;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use maia_common::ids::{ClusterName, NodeId, ProxyId};
use maia_common::rpc::{Party, inspect};
use serde_json::json;

use super::Usage;
use super::args::Global;
use super::print;

pub use authority::{Authority, CA_DAYS, DAYS};

#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Makes the CA of a cluster: ca.pem, which every process needs, and ca.key, which only this
    /// command does. Keep ca.key off the machines of the cluster.
    Ca {
        #[command(flatten)]
        place: Place,
        /// The cluster's name: in every certificate, and the same for ever.
        #[arg(long, value_name = "NAME", required_unless_present_any = ["next", "drop_old"])]
        cluster: Option<ClusterName>,
        /// Adds another CA to the one that is there: ca.pem then has both, ca.key the new one's key.
        #[arg(long, conflicts_with_all = ["cluster", "drop_old"])]
        next: bool,
        /// Leaves only the newest CA in ca.pem.
        #[arg(long, conflicts_with = "cluster")]
        drop_old: bool,
        /// How long it is good for.
        #[arg(long, value_name = "N", default_value_t = CA_DAYS)]
        days: u32,
    },
    /// Makes a coordinator's certificate and key: node-ID.pem and node-ID.key.
    Node {
        #[command(flatten)]
        place: Place,
        /// As in the node's configuration.
        #[arg(long, value_name = "ID")]
        id: u64,
        #[command(flatten)]
        result: Outcome,
    },
    /// Makes a proxy's certificate and key: proxy-ID.pem and proxy-ID.key.
    Proxy {
        #[command(flatten)]
        place: Place,
        /// As in the proxy's configuration; repeatable: proxies of one machine may share one.
        #[arg(long, value_name = "ID", required = true)]
        id: Vec<ProxyId>,
        #[command(flatten)]
        result: Outcome,
    },
    /// Shows what certificates say.
    Show {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct Place {
    /// The folder with ca.pem and ca.key. [default: tls in --dir]
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Outcome {
    /// The folder for the result. [default: the CA's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long it is good for; 0: not at all.
    #[arg(long, value_name = "N", default_value_t = DAYS)]
    days: u32,
}

impl Place {
    fn folder(self, global: &Global) -> anyhow::Result<PathBuf> {
        let folder = self.ca.or_else(|| Some(tls_folder(global.dir.as_deref()?)));
        let folder = folder.ok_or_else(|| Usage("where is the CA? give --ca or --dir".into()))?;
        Ok(folder)
    }
}

/// Where a local cluster's CA and certificates are.
pub fn tls_folder(dir: &Path) -> PathBuf {
    dir.join("tls")
}

/// Carries out a `cert` verb.
///
/// # Errors
/// A sentence with the file.
pub fn run(global: &Global, verb: CertVerb) -> anyhow::Result<()> {
    match verb {
        CertVerb::Ca {
            place,
            cluster,
            next,
            drop_old,
            days,
        } => {
            let folder = place.folder(global)?;
            match cluster {
                Some(cluster) => drop(Authority::create(&folder, &cluster, days)?),
                None if next => drop(Authority::next(&folder, days)?),
                None => {
                    debug_assert!(drop_old, "clap demands one of the three");
                    Authority::drop_old(&folder)?;
                }
            }
            show(global, &[folder.join("ca.pem")])
        }
        CertVerb::Node { place, id, result } => {
            issue(global, place, vec![Party::Node(NodeId::new(id))], result)
        }
        CertVerb::Proxy { place, id, result } => {
            let parties = id.into_iter().map(Party::Proxy).collect();
            issue(global, place, parties, result)
        }
        CertVerb::Show { files } => show(global, &files),
    }
}

fn issue(
    global: &Global,
    place: Place,
    parties: Vec<Party>,
    result: Outcome,
) -> anyhow::Result<()> {
    let folder = place.folder(global)?;
    let out = result.out.unwrap_or_else(|| folder.clone());
    let issued = Authority::open(&folder)?.issue(&parties, &out, result.days)?;
    show(global, &[issued.certificate])
}

fn show(global: &Global, files: &[PathBuf]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for file in files {
        let place = || file.display().to_string();
        let pem = std::fs::read(file).with_context(place)?;
        for found in inspect(&pem)
            .map_err(anyhow::Error::msg)
            .with_context(place)?
        {
            rows.push(json!({
                "file": file,
                "subject": found.common_name,
                "issuer": found.issuer,
                "names": found.uris.join(" "),
                "not_after_unix_s": found.not_after_unix_s,
                "days_left": (found.not_after_unix_s - authority::now_unix_s()).div_euclid(86_400),
            }));
        }
    }
    let columns = [
        ("FILE", "file"),
        ("SUBJECT", "subject"),
        ("ISSUER", "issuer"),
        ("NAMES", "names"),
        ("DAYS LEFT", "days_left"),
    ];
    print::objects(
        global.output,
        &json!({"certificates": rows}),
        "certificates",
        &columns,
    );
    Ok(())
}
