//! Joins of random writes: the order of arrival never matters.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn stamp(ms: u64, region: &str) -> Stamp {
    Stamp {
        hlc: Hlc::new(ms, 0),
        region: region.to_owned(),
    }
}

fn content(value: &Value) -> Content {
    Content {
        data: value.to_string().into(),
        content_type: "application/json".to_owned(),
    }
}

fn seen(register: &Register) -> Option<Value> {
    let content = register.content()?;
    Some(serde_json::from_slice(&content.data).unwrap())
}

/// One write that nobody else knew of.
fn any_write(by_field: bool) -> impl Strategy<Value = Register> {
    let value = prop_oneof![
        Just(None),
        (0..4i32).prop_map(|n| Some(json!(n))),
        prop::collection::btree_map("[a-c]", 0..3i32, 0..3).prop_map(|m| Some(json!(m))),
    ];
    (0..6u64, "[xy]", value).prop_map(move |(ms, region, value)| {
        let stamp = stamp(ms, &region);
        match value {
            Some(value) if by_field => Register::by_field(stamp, content(&value)),
            value => Register::replaced(stamp, value.as_ref().map(content)),
        }
    })
}

fn any_writes() -> impl Strategy<Value = Vec<Register>> {
    any::<bool>().prop_flat_map(|by_field| {
        // A tenant's strategy may have been changed between two writes.
        let mixed = prop_oneof![4 => any_write(by_field), 1 => any_write(!by_field)];
        prop::collection::vec(mixed, 1..7)
    })
}

fn joined(writes: impl IntoIterator<Item = Register>) -> Register {
    writes.into_iter().fold(Register::default(), Register::join)
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        writes in any_writes().prop_flat_map(|w| (Just(w.clone()), Just(w).prop_shuffle()))
    ) {
        let (one, other) = writes;
        prop_assert_eq!(joined(one), joined(other));
    }

    #[test]
    fn nor_does_who_met_whom_first(a in any_writes(), b in any_writes()) {
        let all = joined(a.iter().chain(&b).cloned());
        prop_assert_eq!(joined(a).join(joined(b)), all);
    }

    #[test]
    fn nor_how_often_one_arrives(writes in any_writes()) {
        let once = joined(writes.clone());
        for write in writes {
            let (again, fate) = resolve(once.clone(), write);
            prop_assert_eq!((&again, fate), (&once, Fate::Lost));
        }
    }

    /// Of writes that replace all the newest is what is seen.
    #[test]
    fn the_last_write_wins(writes in prop::collection::vec(any_write(false), 1..7)) {
        let newest = writes.iter().filter_map(|w| w.whole.clone()).max().unwrap();
        prop_assert_eq!(joined(writes).content(), newest.1);
    }

    /// A write that knew what it wrote over is what is seen, whatever its clock said.
    #[test]
    fn a_write_in_the_log_is_seen(before in any_writes(), ms in 0..6u64, fields in
        prop::collection::btree_map("[a-c]", 0..3i32, 0..3))
    {
        let value = json!(fields);
        let after = joined(before).written(stamp(ms, "x"), content(&value));
        prop_assert_eq!(seen(&after), Some(value));
    }
}

#[test]
fn fields_are_merged() {
    let base = Register::by_field(stamp(1, "x"), content(&json!({"a": 1, "b": 1})));
    let here = base
        .clone()
        .written(stamp(9, "x"), content(&json!({"a": 2, "b": 1})));
    let there = Register::by_field(stamp(5, "y"), content(&json!({"a": 7, "b": 3, "c": 4})));
    let (both, fate) = resolve(here, there);
    assert_eq!(fate, Fate::Merged);
    assert_eq!(
        seen(&both),
        Some(json!({"a": 2, "b": 3, "c": 4})),
        "the newer one had left `b` as it was"
    );
}

#[test]
fn a_deletion_takes_what_is_older() {
    let gone = Register::replaced(stamp(5, "x"), None);
    let older = Register::by_field(stamp(4, "y"), content(&json!({"a": 1})));
    assert_eq!(resolve(gone.clone(), older), (gone.clone(), Fate::Lost));
    let newer = Register::by_field(stamp(6, "y"), content(&json!({"a": 1})));
    let (now, fate) = resolve(gone, newer);
    assert_eq!((seen(&now), fate), (Some(json!({"a": 1})), Fate::Won));
}

#[test]
fn a_removed_field_does_not_come_back() {
    let base = Register::by_field(stamp(1, "x"), content(&json!({"a": 1, "b": 1})));
    let here = base.written(stamp(9, "x"), content(&json!({"a": 1})));
    let there = Register::by_field(stamp(5, "y"), content(&json!({"a": 1, "b": 2})));
    assert_eq!(seen(&resolve(here, there).0), Some(json!({"a": 1})));
}

#[test]
fn an_object_with_very_many_fields_is_one_thing() {
    let many: Map<String, Value> = (0..=limits::MAX_MERGED_FIELDS)
        .map(|n| (n.to_string(), json!(n)))
        .collect();
    let register = Register::by_field(stamp(1, "x"), content(&Value::Object(many)));
    assert!(register.fields.is_empty() && register.whole.is_some());
}

#[test]
fn of_one_time_the_greater_region_wins() {
    let x = Register::replaced(stamp(1, "x"), Some(content(&json!("x"))));
    let y = Register::replaced(stamp(1, "y"), Some(content(&json!("y"))));
    assert_eq!(seen(&x.clone().join(y.clone())), Some(json!("y")));
    assert_eq!(seen(&y.join(x)), Some(json!("y")));
}

/// A write of one field with a name that is so many bytes long.
fn long_named(nth: u64, bytes: usize) -> Content {
    let name = format!("{nth}{}", "n".repeat(bytes));
    content(&json!({ name: 1 }))
}

fn bytes_of_names(register: &Register) -> usize {
    register.fields.keys().map(String::len).sum()
}

#[test]
fn removed_fields_do_not_pile_up() {
    let mut register = Register::default();
    for nth in 0..200 {
        let written = long_named(nth, 100_000);
        register = register.written(stamp(nth + 1, "x"), written.clone());
        let seen: Option<Value> = seen(&register);
        assert_eq!(seen, serde_json::from_slice(&written.data).ok());
        let kept = bytes_of_names(&register);
        assert!(kept <= limits::MAX_FIELD_STAMPS_BYTES, "{kept} bytes");
    }
    let huge = register.written(stamp(900, "x"), long_named(900, 4_000_000));
    assert_eq!(bytes_of_names(&huge), 0, "one whole");
}

#[test]
fn nor_do_those_that_arrive() {
    let mut register = Register::default();
    for nth in 0..10 {
        let arrived = Register::by_field(stamp(nth + 1, "y"), long_named(nth, 100_000));
        let (now, fate) = resolve(register, arrived.clone());
        assert_ne!(fate, Fate::Lost);
        let kept = bytes_of_names(&now);
        assert!(kept <= limits::MAX_FIELD_STAMPS_BYTES, "{kept} bytes");
        assert_eq!(resolve(now.clone(), arrived), (now.clone(), Fate::Lost));
        register = now;
    }
    let fields = seen(&register).and_then(|seen| Some(seen.as_object()?.len()));
    assert_eq!(fields, Some(10), "what was written is all there");
}
