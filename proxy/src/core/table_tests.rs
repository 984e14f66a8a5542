//! The table is a map, whatever its shards do; and readers see whole entries while it changes.

use std::collections::BTreeMap;

use maia_common::{GroupId, Version};
use proptest::prelude::*;

use super::*;
use crate::core::fingerprint::FingerprintKey;

fn entry(group: u64) -> Entry {
    Entry {
        group: GroupId::new(group),
        version: Version::new(group),
        holding: false,
        write_routing: None,
    }
}

fn print(number: u64) -> Fingerprint {
    FingerprintKey::new(&[3; 16]).of(&format!("t{number}"))
}

fn of(numbers: std::ops::Range<u64>) -> Table {
    let mut builder = Builder::new(0);
    for number in numbers {
        builder.insert(print(number), &entry(number));
    }
    let table = Table::default();
    table.replace(builder.build());
    table
}

#[test]
fn a_snapshot_replaces_everything() {
    let table = of(1..2);
    let mut snapshot = Builder::new(9);
    snapshot.insert(print(2), &entry(2));
    table.replace(snapshot.build());
    assert_eq!(table.lookup(print(1)), None);
    assert_eq!(table.lookup(print(2)), Some(entry(2)));
    assert_eq!(table.len(), 1);
}

#[test]
fn of_two_entries_for_one_tenant_the_higher_version_counts() {
    let mut snapshot = Builder::new(0);
    for group in [4, 7, 5] {
        snapshot.insert(print(1), &entry(group));
    }
    let built = snapshot.build();
    assert_eq!(built.len(), 1);
    let table = Table::default();
    table.replace(built);
    assert_eq!(table.lookup(print(1)), Some(entry(7)));
}

#[test]
fn a_table_of_many_shards_finds_all_and_nothing_else() {
    let table = of(0..20_000);
    assert!(table.shards().len() >= 16);
    for number in 0..20_000 {
        assert_eq!(table.lookup(print(number)), Some(entry(number)), "{number}");
    }
    for number in 20_000..40_000 {
        assert_eq!(table.lookup(print(number)), None, "{number}");
    }
}

#[test]
fn a_table_that_grows_by_changes_is_split() {
    let table = Table::default();
    for batch in 0..20 {
        let numbers = batch * 500..(batch + 1) * 500;
        table.apply(numbers.map(|n| (print(n), Some(entry(n)))).collect());
    }
    let largest = table.shards().iter().map(|s| s.len()).max();
    assert!(largest < Some(2 * MAX_SHARD_TENANTS), "{largest:?}");
    for number in 0..10_000 {
        assert_eq!(table.lookup(print(number)), Some(entry(number)));
    }
    assert_eq!(table.len(), 10_000);
}

#[test]
fn half_a_fingerprint_is_not_enough() {
    let table = of(1..2);
    let known = print(1);
    for (high, low) in [(known.high, known.low ^ 1), (known.high ^ 1, known.low)] {
        assert_eq!(table.lookup(Fingerprint { high, low }), None);
    }
    let twin = Fingerprint {
        high: known.high,
        low: known.low.wrapping_add(1),
    };
    table.apply(vec![(twin, Some(entry(9)))]);
    assert_eq!(table.lookup(twin), Some(entry(9)));
    assert_eq!(table.lookup(known), Some(entry(1)));
}

#[test]
fn a_reader_sees_the_old_entry_or_the_new_one() {
    let table = of(0..3000);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut newest = 0;
            while newest < 200 {
                let seen = table.lookup(print(7)).expect("never absent").group.get();
                assert!(seen >= newest, "back from {newest} to {seen}");
                newest = seen;
            }
        });
        for group in 7..=200 {
            let changes = (0..50).map(|n| (print(n), Some(entry(group))));
            table.apply(changes.collect());
        }
        reader.join().unwrap();
    });
}

proptest! {
    #[test]
    fn it_is_a_map(
        batches in proptest::collection::vec(
            proptest::collection::vec(
                (any::<u8>(), proptest::option::of(prop_oneof![0u64..9, any::<u64>()])),
                0..40,
            ),
            0..10,
        )
    ) {
        let table = Table::default();
        let mut model = BTreeMap::new();
        for batch in batches {
            let changes = batch.iter().map(|(t, group)| (print(u64::from(*t)), group.map(entry)));
            table.apply(changes.collect());
            for (t, group) in batch {
                match group {
                    Some(group) => model.insert(t, group),
                    None => model.remove(&t),
                };
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.shards().iter().map(|s| s.iter().count()).sum::<usize>(), model.len());
            for t in 0..=255 {
                let found = table.lookup(print(u64::from(t)));
                prop_assert_eq!(found, model.get(&t).copied().map(entry));
            }
        }
    }
}
