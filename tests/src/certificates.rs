//! Certificates as an operator makes them, with `maiactl cert`, and what a client speaks with that has
//! one: for tests that call gRPC themselves, and for further coordinators.

use std::path::{Path, PathBuf};
use std::process::Command;

use maia_common::cluster_key::ClusterKey;
use maia_common::rpc::{Credentials, Party, Rpc, TlsFiles};

use crate::cluster::{Cluster, binary};

/// Runs `maiactl cert …` on the CA of a folder.
///
/// # Panics
/// When it does not succeed; with what it said.
pub fn cert(ca: &Path, arguments: &[&str]) {
    let output = Command::new(binary("maiactl"))
        .arg("cert")
        .args(arguments)
        .arg("--ca")
        .arg(ca)
        .output()
        .expect("maiactl starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cert {arguments:?}: {complaint}");
}

/// Has the CA of a folder make a certificate, for all parties together; they are of one kind.
///
/// # Panics
/// When it is not made.
#[must_use]
pub fn issue(ca: &Path, parties: &[Party], out: &Path, days: u32) -> TlsFiles {
    let (days, out_text) = (days.to_string(), out.display().to_string());
    let mut arguments = vec!["--days".to_owned(), days, "--out".to_owned(), out_text];
    for party in parties {
        let id = match party {
            Party::Node(id) => id.to_string(),
            Party::Proxy(id) => id.to_string(),
        };
        arguments.extend(["--id".to_owned(), id]);
    }
    let (kind, name) = match &parties[0] {
        Party::Node(id) => ("node", format!("node-{id}")),
        Party::Proxy(id) => ("proxy", format!("proxy-{id}")),
    };
    arguments.insert(0, kind.to_owned());
    cert(
        ca,
        &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    TlsFiles {
        ca: ca.join("ca.pem"),
        certificate: out.join(format!("{name}.pem")),
        key: out.join(format!("{name}.key")),
    }
}

/// A client that is these parties, by the CA of a folder.
///
/// # Panics
/// When it can't be one.
#[must_use]
pub fn client(ca: &Path, parties: &[Party], days: u32) -> Rpc {
    let out = tempfile::tempdir().expect("a temporary folder");
    let files = issue(ca, parties, out.path(), days);
    let credentials = Credentials::load(files, parties[0].clone());
    Rpc::tls(credentials.expect("what was just made can be used"))
}

impl Cluster {
    /// Where its CA is.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir().join("tls")
    }

    /// A client that is these parties, as the cluster speaks.
    ///
    /// # Panics
    /// When it can't be one.
    #[must_use]
    pub fn rpc(&self, parties: &[Party]) -> Rpc {
        if self.ca().exists() {
            return client(&self.ca(), parties, 1);
        }
        let key = std::fs::read_to_string(self.dir().join("cluster.key")).expect("the key");
        Rpc::plaintext(&ClusterKey::from_secret(&key))
    }
}
