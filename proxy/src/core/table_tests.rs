//! The table is a map, whatever its shards do.

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
    builder.build()
}

#[test]
fn of_two_entries_for_one_tenant_the_higher_version_counts() {
    let mut snapshot = Builder::new(0);
    for group in [4, 7, 5] {
        snapshot.insert(print(1), &entry(group));
    }
    let table = snapshot.build();
    assert_eq!(table.len(), 1);
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
    let mut table = Table::default();
    for batch in 0..20 {
        let numbers = batch * 500..(batch + 1) * 500;
        table = table.with(numbers.map(|n| (print(n), Some(entry(n)))).collect());
    }
    let largest = table.shards().map(Shard::len).max();
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
    let table = table.with(vec![(twin, Some(entry(9)))]);
    assert_eq!(table.lookup(twin), Some(entry(9)));
    assert_eq!(table.lookup(known), Some(entry(1)));
}

#[test]
fn a_change_leaves_the_old_table_as_it_was_and_shares_the_rest() {
    let old = of(0..200_000);
    let new = old.with(vec![(print(7), None), (print(200_000), Some(entry(1)))]);
    assert_eq!(old.lookup(print(7)), Some(entry(7)));
    assert_eq!(old.lookup(print(200_000)), None);
    assert_eq!(new.lookup(print(7)), None);
    assert_eq!(new.lookup(print(200_000)), Some(entry(1)));
    let pairs = old.shards().zip(new.shards());
    let copied = pairs.filter(|(old, new)| !old.is_same(new)).count();
    assert!(copied <= 2, "{copied}");
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
        let mut table = Table::default();
        let mut model = BTreeMap::new();
        for batch in batches {
            let changes = batch.iter().map(|(t, group)| (print(u64::from(*t)), group.map(entry)));
            table = table.with(changes.collect());
            for (t, group) in batch {
                match group {
                    Some(group) => model.insert(t, group),
                    None => model.remove(&t),
                };
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.shards().flat_map(Shard::iter).count(), model.len());
            for t in 0..=255 {
                let found = table.lookup(print(u64::from(t)));
                prop_assert_eq!(found, model.get(&t).copied().map(entry));
            }
        }
    }
}
