//! The tenants of the shows: a file for `maiactl tenant load`, and what must be there afterwards.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Cluster;

/// Tenants in one page of a list.
const PAGE: usize = 1000;

/// The name of one of the tenants.
pub fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}-{n:07}")
}

/// The region that is home of tenant `n`.
pub fn home(n: usize) -> usize {
    n % 3
}

/// One line for each tenant: the regions in turn, every other tenant with replicas.
pub fn write_file(cluster: &Cluster, dir: &Path, prefix: &str, count: usize) -> PathBuf {
    let path = dir.join(format!("{prefix}.ndjson"));
    let file = std::fs::File::create(&path).expect("the cluster's folder takes files");
    let mut out = BufWriter::new(file);
    let regions: Vec<&str> = (0..3).map(|i| cluster.region(i).name.as_str()).collect();
    for n in 0..count {
        let at = home(n);
        let mut line = json!({"tenant": name(prefix, n), "primary_region": regions[at]});
        if n % 2 == 0 {
            line["replicas"] = json!([regions[(at + 1) % 3], regions[(at + 2) % 3]]);
        }
        writeln!(out, "{line}").expect("the disk has room");
    }
    out.flush().expect("the disk has room");
    path
}

/// What a coordinator lists of the tenants with this prefix.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// How many there are.
    pub tenants: usize,
    /// Those whose version is not the first: something took effect twice.
    pub not_first_version: usize,
}

/// Lists all tenants with this prefix, page by page, as coordinator `at` knows them.
pub async fn list(cluster: &Cluster, at: usize, prefix: &str) -> Listed {
    let mut listed = Listed::default();
    let mut after = prefix.to_owned();
    loop {
        let path = format!("/v1/placements?limit={PAGE}&after={after}");
        let page = cluster.api_get(at, &path).await;
        let rows = page["placements"].as_array().cloned().unwrap_or_default();
        for row in &rows {
            let tenant = row["tenant"].as_str().unwrap_or_default();
            if !tenant.starts_with(prefix) {
                return listed;
            }
            listed.tenants += 1;
            listed.not_first_version += usize::from(row["version"] != json!(1));
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return listed,
        }
    }
}

/// `maiactl tenant load`; its summary.
///
/// # Panics
/// When it does not end well.
pub async fn load(cluster: &Cluster, file: &Path) -> Value {
    let file = file.to_str().expect("a plain path");
    let out = cluster
        .run(&["tenant", "load", file, "--output", "json"])
        .await;
    serde_json::from_str(&out).expect("the summary is JSON")
}
