//! A stop in the middle of a save: what is newest then is on disk in the end, whole.

use maia_common::RegionName;
use maia_common::placement::WriteRouting;
use maia_common::topology::Topology;

use super::*;
use crate::core::decide::Rules;
use crate::core::feed::Step;
use crate::core::fingerprint::{Fingerprint, FingerprintKey};
use crate::core::table::{Builder, Entry, Table};

fn tenants(count: u64) -> Table {
    let mut builder = Builder::new(count as usize);
    for low in 0..count {
        let entry = Entry {
            group: maia_common::GroupId::new(1),
            version: maia_common::Version::new(1),
            holding: false,
            write_routing: None,
        };
        let spread = low.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        builder.insert(Fingerprint { high: spread, low }, &entry);
    }
    builder.build()
}

fn snapshot(revision: u64, count: u64) -> Step {
    Step::Snapshot {
        topology: Topology {
            generation: Generation::new(1),
            revision: Revision::new(revision),
            ..Topology::default()
        },
        tenants: tenants(count),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_it_saves_ends_with_the_newest_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskSnapshot::new(dir.path(), [1; 32], true);
    let rules = Rules {
        local_region: RegionName::new("a").unwrap(),
        write_routing: WriteRouting::Redirect,
    };
    let key = FingerprintKey::new(&[4; 16]);
    let placements = Arc::new(Placements::new(rules, key, None));
    placements.put(snapshot(1, 300_000)).await;
    let metrics = Arc::new(Metrics::new(crate::shell::metrics::plaintext()).unwrap());
    let every = Duration::from_secs(3600);
    let saver = Saver::new(
        Arc::clone(&placements),
        Arc::clone(&metrics),
        disk.clone(),
        every,
    );
    // As if nothing had been loaded: what is in force must be saved.
    let saver = Saver {
        saved: None,
        ..saver
    };
    let owner = Tasks::new();
    owner.spawn("snapshot", saver.run(owner.clone()));
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    while entries() == 0 {
        tokio::task::yield_now().await; // until it writes
    }
    placements.put(snapshot(2, 10)).await;
    assert!(owner.shutdown(Duration::from_secs(30)).await.is_empty());
    assert_eq!(entries(), 1, "no writer is left, nor what it wrote");
    let loaded = disk.load().unwrap();
    let newest = (loaded.topology.revision.get(), loaded.tenants.len());
    assert_eq!(newest, (2, 10));
    assert_eq!(metrics.snapshot_errors.get(), 0);
}
