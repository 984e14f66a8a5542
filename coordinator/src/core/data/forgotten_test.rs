//! Tombstones that are forgotten, and what comes of writes as old as they.

use super::*;

#[test]
fn tombstones_go_also_when_no_new_ones_come() {
    let mut log = Log::new();
    let lifetime = u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    for id in ["r", "s", "t"] {
        log.append(&put(10, id, &json!(1)));
        log.append(&delete(10, id));
    }
    log.append(&put(20, "s", &json!(1)));
    let rows = |log: &Log| {
        let rows = log.state.rows();
        rows.keys().filter(|(cf, _)| *cf == StateCf::Dedup).count()
    };
    assert_eq!(rows(&log), 4);
    for _ in 0..16 {
        log.append(&put(10 + 2 * lifetime, "u", &json!(1)));
    }
    assert_eq!(rows(&log), 0);
    let late = log.resolve(&put(9, "r", &json!(2)), LWW);
    assert_eq!(refused(late), "precondition_failed", "they were forgotten");
}

/// A field of a time of which it is not known whether the resource was deleted since is not brought back.
#[test]
fn what_was_forgotten_is_a_floor_for_fields_too() {
    let mut log = Log::new();
    let lifetime = u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    let later = 10 + 2 * lifetime;
    log.append(&put(1, "r", &json!({"a": 1})));
    log.append(&put(1, "old", &json!({"a": 1})));
    log.append(&delete(10, "r"));
    log.append(&put(later, "s", &json!(1)));
    log.append(&delete(later, "s"));
    log.append(&put(later, "r", &json!({"b": 1})));
    let resolve =
        |log: &mut Log, id: &str| log.resolve(&put(9, id, &json!({"a": 9})), Resolution::Merge);
    assert_eq!(refused(resolve(&mut log, "r")), "precondition_failed");
    assert_eq!(log.value("r"), Some(json!({"b": 1})));
    // This one has been there since before.
    resolve(&mut log, "old");
    assert_eq!(log.value("old"), Some(json!({"a": 9})));
}
