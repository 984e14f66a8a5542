//! Where a tenant's bytes are: what it writes carries a mark that occurs nowhere else, and the raw
//! files of every region are searched for it, with compression off (I7).
//!
//! A search that finds nothing proves something only if it would have found it: the same search must
//! find the mark in the tenant's own region, in the log and in the state, and the mark of a tenant with
//! copies everywhere in every region.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::Method;
use serde_json::json;

use crate::client::Request;
use crate::cluster::SOON;
use crate::{Cluster, Options, wait_until, wait_value};

const WRITES: usize = 600;
/// Small, so that snapshots are taken and logs purged meanwhile.
const RETAINED: &str = "replication.retention_bytes=1000000";

/// How often a mark was found in each region's files: by the kind of file.
pub type Hits = BTreeMap<String, usize>;

/// What the search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The tenant of region 0 alone, region by region.
    pub single: Vec<Hits>,
    /// A tenant of all regions.
    pub everywhere: Vec<Hits>,
    /// A tenant of regions 0 and 1.
    pub two: Vec<Hits>,
    pub files: usize,
    pub bytes: u64,
}

impl Found {
    /// None of the tenants' bytes is outside its placement, and the search finds those within it.
    #[must_use]
    pub fn holds(&self) -> bool {
        let within = |hits: &Hits| {
            ["raft", "state"]
                .iter()
                .all(|kind| hits.contains_key(*kind))
        };
        within(&self.single[0])
            && self.single[1..].iter().all(BTreeMap::is_empty)
            && self.everywhere.iter().all(within)
            && self.two[..2].iter().all(within)
            && self.two[2].is_empty()
    }

    /// In a line.
    #[must_use]
    pub fn told(&self) -> String {
        let sums = |regions: &[Hits]| {
            let each = regions.iter().map(|hits| hits.values().sum::<usize>());
            each.map(|sum| sum.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        format!(
            "in the files of regions A, B, C (hits): placed in A {}; in A and B {}; in all {}; {} files, {} MB searched",
            sums(&self.single),
            sums(&self.two),
            sums(&self.everywhere),
            self.files,
            self.bytes >> 20
        )
    }
}

/// Writes, moves everything through snapshots and restarts, and searches.
pub async fn search() -> Found {
    let options = Options::default()
        .set("storage.compression=none")
        .set(RETAINED);
    let cluster = Cluster::start_with(options).await;
    let tenants: [(&str, &[usize]); 3] = [("single", &[0]), ("two", &[0, 1]), ("all", &[0, 1, 2])];
    let marks: Vec<String> = tenants
        .iter()
        .map(|(name, _)| format!("mark-of-{name}-{:016x}", fastrand::u64(..)))
        .collect();
    for (name, members) in tenants {
        place(&cluster, name, members).await;
    }
    let mut last = Found::default();
    for half in 0..2 {
        for ((name, _), mark) in tenants.iter().zip(&marks) {
            write(&cluster, name, mark, half).await;
        }
        let mut found = Found::default();
        for i in 0..3 {
            // Memory goes to files, and the others take over meanwhile.
            cluster.restart_coordinator(i).await;
        }
        for (name, members) in tenants {
            takes_writes(&cluster, name, members[0]).await;
        }
        look(&cluster, &marks, &mut found);
        if !found.holds() {
            return found;
        }
        last = found;
    }
    last
}

async fn place(cluster: &Cluster, name: &str, members: &[usize]) {
    let region = |i: &usize| cluster.region(*i).name.as_str();
    let replicas: Vec<&str> = members[1..].iter().map(region).collect();
    let spec = json!({
        "primary_region": region(&members[0]),
        "replicas": replicas,
        "mode": if members.len() == 1 { "single" } else { "replicated" },
        // So that other regions' proxies have the bytes in their hands too.
        "write_routing": "forward",
    });
    let placed = wait_value(SOON, "a placement is accepted", || async {
        let answer = cluster.put_placement(0, name, &spec).await;
        (answer.status != 503).then(|| answer.expect_success("placement").json())
    })
    .await;
    cluster.in_force(name, &placed["version"]).await;
    takes_writes(cluster, name, members[0]).await;
}

async fn takes_writes(cluster: &Cluster, name: &str, at: usize) {
    let probe = cluster.through(at, name, Method::PUT, "/v1/data/probe/0");
    let probe = probe.body("0");
    wait_until(SOON, "the tenant takes writes", || async {
        let answer = cluster.client.try_follow(&probe).await;
        answer.is_ok_and(|answer| answer.is_success())
    })
    .await;
}

/// By every proxy and every coordinator in turn.
async fn write(cluster: &Cluster, name: &str, mark: &str, half: usize) {
    for n in 0..WRITES / 2 {
        let path = format!("/v1/data/notes/{half}-{n}");
        let at = n % 3;
        let request = if n % 2 == 0 {
            cluster.through(at, name, Method::PUT, &path)
        } else {
            let request: Request = cluster.api(at, Method::PUT, &path);
            request.header("x-maia-tenant-id", name)
        };
        let request = request.body(format!("{mark}/{half}/{n}/{}", "x".repeat(n % 500)));
        let answer = cluster.client.follow(&request).await;
        answer.expect_success("a write from anywhere");
    }
}

fn look(cluster: &Cluster, marks: &[String], found: &mut Found) {
    let mut hits = vec![vec![Hits::default(); 3]; marks.len()];
    for (i, region) in cluster.regions().iter().enumerate() {
        // The proxy's files too.
        let all = region.dir.parent().expect("a region has a folder");
        let mut files = Vec::new();
        walk(all, &mut files);
        for path in files {
            // A file that is gone by now was not kept.
            let Ok(bytes) = std::fs::read(&path) else {
                continue;
            };
            found.files += 1;
            found.bytes += bytes.len() as u64;
            for (mark, hits) in marks.iter().zip(&mut hits) {
                let count = count(&bytes, mark.as_bytes());
                if count > 0 {
                    *hits[i].entry(kind(&path)).or_default() += count;
                }
            }
        }
    }
    let mut hits = hits.into_iter();
    found.single = hits.next().unwrap_or_default();
    found.two = hits.next().unwrap_or_default();
    found.everywhere = hits.next().unwrap_or_default();
}

fn walk(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The part of the node that the file belongs to.
fn kind(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name);
    folder.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn count(bytes: &[u8], mark: &[u8]) -> usize {
    let first = mark[0];
    let places = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
    places
        .filter(|(place, _)| bytes[*place..].starts_with(mark))
        .count()
}
