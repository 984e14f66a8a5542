//! What is saved is loaded; what is not as it was saved is refused and set aside.

use std::os::unix::fs::PermissionsExt;

use maia_common::placement::{Mode, WriteRouting};
use maia_common::topology::{GroupView, Leader, Region, RegionState};
use maia_common::{Generation, GroupId, NodeId, RegionName, Revision, Term, Version};

use super::*;
use crate::core::table::Entry;

const CLUSTER: [u8; 32] = [9; 32];

fn key() -> FingerprintKey {
    FingerprintKey::new(&[4; 16])
}

fn topology() -> Topology {
    let a = RegionName::new("a").unwrap();
    let mut topology = Topology {
        generation: Generation::new(3),
        revision: Revision::new(77),
        ..Topology::default()
    };
    let region = Region {
        name: a.clone(),
        public_url: "http://a.example".into(),
        priority: 2,
        state: RegionState::Draining,
    };
    topology.regions.insert(a.clone(), region);
    let group = GroupView {
        home_region: a.clone(),
        mode: Mode::Single,
        regions: vec![a.clone()],
        leader: Some(Leader {
            term: Term::new(5),
            node: NodeId::new(6),
            region: a,
        }),
        leaderless_since: None,
    };
    topology.groups.insert(GroupId::new(1), group);
    topology
}

fn entries(count: u64) -> impl Iterator<Item = (String, Entry)> {
    (0..count).map(|n| {
        let entry = Entry {
            // One that does not fit a slot of the table.
            group: GroupId::new(if n == 1 { u64::MAX } else { n }),
            version: Version::new(n + 1),
            holding: n % 2 == 1,
            write_routing: [
                None,
                Some(WriteRouting::Redirect),
                Some(WriteRouting::Forward),
            ][n as usize % 3],
        };
        (format!("t{n}"), entry)
    })
}

fn table(count: u64) -> Table {
    let mut builder = Builder::new(0);
    for (name, entry) in entries(count) {
        builder.insert(key().of(&name), &entry);
    }
    builder.build()
}

fn saved(count: u64) -> (tempfile::TempDir, DiskSnapshot) {
    let dir = tempfile::tempdir().unwrap();
    let disk = DiskSnapshot::new(&dir.path().join("proxy"), CLUSTER, true);
    disk.save(&key(), &topology(), &table(count)).unwrap();
    (dir, disk)
}

fn temporaries(disk: &DiskSnapshot) -> usize {
    let entries = std::fs::read_dir(&disk.folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(TEMPORARY)).count()
}

#[test]
fn what_is_saved_is_loaded() {
    let (_dir, disk) = saved(5000);
    let loaded = disk.load().unwrap();
    assert_eq!(loaded.topology, topology());
    assert_eq!(loaded.tenants.len(), 5000);
    for (name, entry) in entries(5000) {
        assert_eq!(loaded.tenants.lookup(loaded.key.of(&name)), Some(entry));
    }
    assert!(loaded.saved.elapsed().unwrap() < Duration::from_secs(60));
    let mode = std::fs::metadata(disk.folder.join(NAME))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "it holds the key");
    assert_eq!(temporaries(&disk), 0);
    disk.save(&key(), &topology(), &table(1)).unwrap();
    assert_eq!(disk.load().unwrap().tenants.len(), 1, "the newest");
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let (_dir, disk) = saved(3);
    let path = disk.folder.join(NAME);
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        assert!(disk.load().is_none(), "{what}");
        // Another magic or format is somebody else's file, not a damaged one.
        let ours = bytes.len() < HEADER_BYTES || bytes[..12] == good[..12];
        assert_eq!(path.exists(), !ours, "{what}: set aside");
        if ours {
            assert_eq!(std::fs::read(disk.folder.join(ASIDE)).unwrap(), bytes);
        }
    };
    for length in 0..good.len() {
        refused(&good[..length], &format!("cut to {length}"));
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refused(&bytes, &format!("bit {bit}"));
    }
    refused(&[&good[..], b"x"].concat(), "something behind it");
    std::fs::write(&path, &good).unwrap();
    assert!(disk.load().is_some(), "the good one is taken");
}

#[test]
fn another_clusters_is_refused_and_none_is_none() {
    let (_dir, disk) = saved(3);
    let other = DiskSnapshot::new(&disk.folder, [8; 32], true);
    assert!(other.load().is_none());
    assert!(!disk.folder.join(ASIDE).exists());
    let tenants = disk.load().map(|loaded| loaded.tenants.len());
    assert_eq!(tenants, Some(3), "good again with the right cluster key");
    std::fs::remove_file(disk.folder.join(NAME)).unwrap();
    assert!(disk.load().is_none());
}

/// Without tenants it would make a proxy that holds all of them believe that there are none.
#[test]
fn one_without_tenants_is_not_taken_for_a_whole_one() {
    let (_dir, disk) = saved(3);
    let on_demand = DiskSnapshot::new(&disk.folder, CLUSTER, false);
    assert!(on_demand.load().is_none());
    assert!(disk.load().is_some(), "left where it is");
    on_demand.save(&key(), &topology(), &table(0)).unwrap();
    assert_eq!(on_demand.load().unwrap().topology, topology());
    assert!(disk.load().is_none());
}

/// A leftover of a crash while writing neither hinders nor is taken, nor lends its rights.
#[test]
fn a_half_written_file_is_removed_at_the_next_start() {
    let (_dir, disk) = saved(3);
    std::fs::write(disk.folder.join(TEMPORARY), vec![0; 100_000]).unwrap();
    std::fs::write(disk.folder.join(format!("{TEMPORARY}.1.2")), b"x").unwrap();
    assert_eq!(disk.load().unwrap().tenants.len(), 3);
    disk.save(&key(), &topology(), &table(4)).unwrap();
    assert_eq!(disk.load().unwrap().tenants.len(), 4);
    let mode = std::fs::metadata(disk.folder.join(NAME))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "it holds the key");
    let _lock = disk.lock().unwrap();
    assert_eq!(temporaries(&disk), 0);
}

#[test]
fn writers_at_once_never_mix_what_they_write() {
    let (_dir, disk) = saved(3);
    let sizes = [5000, 20, 3000, 1];
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for size in sizes {
                let disk = &disk;
                scope.spawn(move || disk.save(&key(), &topology(), &table(size)).unwrap());
            }
        });
        let tenants = disk.load().expect("one of them, whole").tenants.len();
        assert!(sizes.contains(&(tenants as u64)));
    }
}

#[test]
fn a_save_that_fails_leaves_nothing_behind() {
    let (_dir, disk) = saved(3);
    std::fs::remove_file(disk.folder.join(NAME)).unwrap();
    std::fs::create_dir_all(disk.folder.join(NAME).join("in the way")).unwrap();
    assert!(disk.save(&key(), &topology(), &table(9)).is_err());
    assert_eq!(temporaries(&disk), 0);
}

#[test]
fn a_folder_is_for_one_process() {
    let (_dir, disk) = saved(1);
    let lock = disk.lock().unwrap();
    assert!(matches!(disk.lock(), Err(TryLockError::WouldBlock)));
    drop(lock);
    assert!(disk.lock().is_ok());
}
