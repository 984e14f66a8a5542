//! Entries: their form, and what is to be done with them.

use maia_common::ids::TenantId;
use maia_common::placement::SyncMode;
use proptest::prelude::*;

use super::*;
use crate::core::custody;

fn record(mode: SyncMode, operations: Vec<wire::DataOperation>) -> Record {
    record_of(RecordKind::Data, mode, operations)
}

fn record_of(kind: RecordKind, mode: SyncMode, operations: Vec<wire::DataOperation>) -> Record {
    let body = wire::DataOperations {
        operations,
        by_field: false,
    };
    Record::new(RecordFields {
        kind,
        tenant: Some(TenantId::new("t").unwrap()),
        sync_mode: Some(mode),
        hlc: Hlc::new(1000, 0),
        origin: Some(RegionName::new("a").unwrap()),
        idempotency: None,
        placement: Revision::new(7),
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

fn put() -> wire::DataOperation {
    wire::DataOperation {
        resource_type: "k".to_owned(),
        resource_id: "i".to_owned(),
        what: Some(wire::data_operation::What::Put(Bytes::from_static(b"1"))),
        content_type: String::new(),
        condition: None,
    }
}

fn entry() -> Entry {
    let id = EntryId::new(3, 2, 9);
    let record = record(SyncMode::Async, vec![put()]);
    leaving(id, &record, false, 5, Why::Truncated).unwrap()
}

fn placed(strategy: ConflictStrategy) -> Home {
    Home::Placed(Revision::new(7), strategy)
}

const LWW: ConflictStrategy = ConflictStrategy::LastWriteWins;
const DIVERGED: Option<Standing> = Some(Standing::Diverged);

proptest! {
    #[test]
    fn entries_come_back(
        (group, term, index) in any::<(u64, u64, u64)>(), at_unix_ms in any::<u64>(),
        acknowledged in 1..4u32, why in 1..4u32, waiting in 0..8u32
    ) {
        let entry = Entry {
            id: EntryId::new(group, term, index),
            record: record(SyncMode::Sync, vec![put()]),
            acknowledged: Acknowledged::from_number(acknowledged).unwrap(),
            at_unix_ms,
            why: Why::from_number(why).unwrap(),
            waiting: Waiting::from_number(waiting),
        };
        prop_assert_eq!(Entry::decode(entry.encode()).unwrap(), entry.clone());
        prop_assert_eq!(EntryId::from_key(&entry.id.key()), Some(entry.id));
        prop_assert_eq!(entry.id.to_string().parse(), Ok(entry.id));
        let mut rotten = entry.encode().to_vec();
        let at = usize::try_from(index % rotten.len() as u64).unwrap();
        rotten[at] ^= 1;
        prop_assert!(Entry::decode(rotten.into()).is_err());
    }
}

/// Stands for ever: version 1 must stay readable and be written byte for byte alike.
#[test]
fn version_1_is_as_in_the_golden_file() {
    let golden = include_str!("../../tests/golden/quarantine_v1.hex");
    let golden: Vec<u8> = golden
        .split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect();
    let encoded = entry().encode();
    let hex: Vec<String> = encoded.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(encoded, golden, "now encoded as: {}", hex.join(" "));
    assert_eq!(Entry::decode(golden.into()).unwrap(), entry());
}

#[test]
fn ids_are_read_as_written_only() {
    for bad in ["", "1", "1-2", "1-2-3-4", "a-b-c", "1--2-3"] {
        assert_eq!(bad.parse::<EntryId>(), Err(EntryIdError), "{bad}");
    }
    assert_eq!(EntryId::from_key(&[0; 25]), None);
}

#[test]
fn data_records_are_kept_and_control_records_are_not() {
    let id = EntryId::new(3, 2, 9);
    let keep = |kind| {
        let record = record_of(kind, SyncMode::SemiSync, vec![put()]);
        leaving(id, &record, false, 5, Why::UnderSnapshot).is_some()
    };
    assert!(keep(RecordKind::Data));
    assert!(!keep(RecordKind::Seal) && !keep(RecordKind::Purge));
    assert!(
        !keep(RecordKind::Reconcile),
        "its entry is still where it was"
    );
}

#[test]
fn who_may_have_been_acknowledged() {
    let id = EntryId::new(3, 2, 9);
    let of = |mode, operation, noted| {
        let record = record(mode, vec![operation]);
        let entry = leaving(id, &record, noted, 5, Why::Truncated);
        entry.unwrap().acknowledged
    };
    let what = |what| wire::DataOperation {
        what: Some(what),
        ..put()
    };
    let delete = what(wire::data_operation::What::Delete(true));
    assert_eq!(of(SyncMode::Async, put(), false), Acknowledged::Perhaps);
    assert_eq!(of(SyncMode::Async, put(), true), Acknowledged::Yes);
    assert_eq!(of(SyncMode::SemiSync, put(), false), Acknowledged::No);
    assert_eq!(of(SyncMode::Async, delete, false), Acknowledged::Perhaps);
}

#[test]
fn a_committed_entry_is_dropped_whatever_else_is_so() {
    let mut entry = entry();
    for waiting in [None, Some(Waiting::TooOld)] {
        entry.waiting = waiting;
        for home in [
            Home::Unknown,
            Home::Deleted,
            placed(ConflictStrategy::Reject),
        ] {
            let step = next_step(&entry, Some(Standing::Applied), home, at(1000));
            assert_eq!(step, Step::DropCommitted);
        }
    }
}

fn at(unix_ms: u64) -> Now {
    Now {
        unix_ms,
        max_clock_offset: Duration::from_millis(500),
        group: Hlc::default(),
    }
}

#[test]
fn what_is_of_a_time_to_come_waits_for_it() {
    let mut entry = entry();
    let made_ms = 1_000_000;
    let mut fields = (*entry.record).clone();
    fields.hlc = Hlc::new(made_ms, 0);
    entry.record = Record::new(fields);
    let step = |entry: &Entry, now_ms| next_step(entry, DIVERGED, placed(LWW), at(now_ms));
    let resolve = Step::Resolve(Resolution::LastWriteWins);
    assert_eq!(step(&entry, made_ms - 1001), Step::Wait(Waiting::Ahead));
    assert_eq!(step(&entry, made_ms - 1000), resolve);
    // What the group has come up to wins over nothing there.
    let step_at = |ms| {
        let now = Now {
            group: Hlc::new(ms, 0),
            ..at(1000)
        };
        next_step(&entry, DIVERGED, placed(LWW), now)
    };
    assert_eq!(step_at(made_ms), resolve);
    assert_eq!(step_at(made_ms - 1), Step::Wait(Waiting::Ahead));
    entry.waiting = Some(Waiting::Ahead);
    assert_eq!(step(&entry, made_ms), resolve, "its time has come");
}

#[test]
fn the_acknowledged_are_resolved_by_the_strategy() {
    let entry = entry();
    let step = |strategy| next_step(&entry, DIVERGED, placed(strategy), at(1000));
    assert_eq!(step(LWW), Step::Resolve(Resolution::LastWriteWins));
    assert_eq!(
        step(ConflictStrategy::Merge),
        Step::Resolve(Resolution::Merge)
    );
    assert_eq!(
        step(ConflictStrategy::Reject),
        Step::Wait(Waiting::Rejected)
    );
    let left = next_step(&entry, None, placed(LWW), at(1000));
    assert_eq!(
        left,
        Step::Resolve(Resolution::LastWriteWins),
        "apply looks"
    );
}

#[test]
fn the_others_wait() {
    let mut entry = entry();
    let too_late = 1000 + u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    let late = next_step(&entry, DIVERGED, placed(LWW), at(too_late));
    assert_eq!(late, Step::Wait(Waiting::TooOld));
    entry.waiting = Some(Waiting::TooOld);
    let set_right = next_step(&entry, DIVERGED, placed(LWW), at(1000));
    assert_eq!(
        set_right,
        Step::Resolve(Resolution::LastWriteWins),
        "the clock had jumped"
    );
    for waiting in [Waiting::Rejected, Waiting::Refused, Waiting::Forgotten] {
        entry.waiting = Some(waiting);
        let step = next_step(&entry, DIVERGED, placed(LWW), at(1000));
        assert_eq!(step, Step::Wait(waiting));
    }
}

/// Whatever a removed node says of it, nothing comes of its entry by itself.
#[test]
fn the_operator_decides_what_a_removed_node_hands_over() {
    let step = |entry: &Entry, now_ms| next_step(entry, DIVERGED, placed(LWW), at(now_ms));
    for waiting in [None, Some(Waiting::TooOld), Some(Waiting::Rejected)] {
        let theirs = Entry { waiting, ..entry() };
        let kept = theirs.of_a_removed_node();
        assert_eq!(step(&kept, 1000), Step::Wait(Waiting::RemovedNode));
    }
    let unheard = Entry {
        acknowledged: Acknowledged::No,
        ..entry()
    };
    let kept = unheard.of_a_removed_node();
    assert_eq!(step(&kept, 1000), Step::Wait(Waiting::NotAcknowledged));
    assert_eq!(step(&kept, u64::MAX), Step::Expire);
}

#[test]
fn what_nobody_was_told_is_safe_waits_for_its_lifetime() {
    let mut entry = Entry {
        acknowledged: Acknowledged::No,
        at_unix_ms: 5000,
        ..entry()
    };
    let lifetime_ms = u64::try_from(limits::UNACKNOWLEDGED_LIFETIME.as_millis()).unwrap();
    for waiting in [None, Some(Waiting::NotAcknowledged)] {
        entry.waiting = waiting;
        let step = |now_ms| next_step(&entry, DIVERGED, placed(LWW), at(now_ms));
        let waits = Step::Wait(Waiting::NotAcknowledged);
        assert_eq!(step(1000), waits, "a clock that was set back");
        assert_eq!(step(4999 + lifetime_ms), waits);
        assert_eq!(step(5000 + lifetime_ms), Step::Expire);
    }
    entry.acknowledged = Acknowledged::Yes;
    entry.waiting = Some(Waiting::Rejected);
    let step = next_step(&entry, DIVERGED, placed(LWW), at(u64::MAX));
    assert_eq!(step, Step::Wait(Waiting::Rejected), "never, of these");
}

#[test]
fn what_is_not_known_is_not_decided() {
    let entry = entry();
    let step = |standing, home| next_step(&entry, standing, home, at(1000));
    assert_eq!(step(DIVERGED, Home::Unknown), Step::Later);
    assert_eq!(step(Some(Standing::NotYet), placed(LWW)), Step::Later);
}

#[test]
fn a_tenant_that_was_deleted_takes_its_entries_along() {
    let again = Home::Placed(Revision::new(8), LWW);
    for home in [Home::Deleted, again] {
        assert_eq!(
            next_step(&entry(), DIVERGED, home, at(1000)),
            Step::DropDeleted
        );
    }
}

#[test]
fn an_entry_has_one_key_whoever_resolves_it() {
    let of = |ms, how| {
        let origin = RegionName::new("b").unwrap();
        resolution(&entry(), how, Revision::new(7), (Hlc::new(ms, 0), origin))
    };
    let (one, other) = (of(1, Resolution::Merge), of(2, Resolution::LastWriteWins));
    assert_eq!(one.idempotency, other.idempotency);
    let decided = of(3, Resolution::Overwrite);
    assert_ne!(
        one.idempotency, decided.idempotency,
        "an operator's decision"
    );
    assert_eq!(
        decided.idempotency,
        of(4, Resolution::Overwrite).idempotency
    );
    let key = &one.idempotency.as_ref().unwrap().key;
    assert_eq!(key.as_str(), "reconcile/3/2/9");
}

#[test]
fn a_removed_nodes_word_is_for_the_operator_alone() {
    let with = |acknowledged, waiting| Entry {
        acknowledged,
        waiting,
        ..entry()
    };
    let (yes, no) = (Acknowledged::Yes, Acknowledged::No);
    let (removed, unsaid) = (Some(Waiting::RemovedNode), Some(Waiting::NotAcknowledged));
    let cases = [
        // Known here, theirs, whether they are trusted, what is kept.
        (with(yes, None), with(no, unsaid), false, with(yes, None)),
        (with(yes, None), with(yes, removed), false, with(yes, None)),
        (
            with(no, unsaid),
            with(yes, removed),
            false,
            with(yes, removed),
        ),
        (with(yes, removed), with(no, None), true, with(yes, removed)),
        (with(yes, removed), with(yes, None), true, with(yes, None)),
        (with(yes, None), with(no, None), true, with(yes, None)),
        (with(no, None), with(yes, None), true, with(yes, None)),
    ];
    for (known, theirs, is_trusted, kept) in cases {
        let told = format!("{known:?} {theirs:?} {is_trusted}");
        assert_eq!(
            custody::met(known, theirs, is_trusted),
            Some(kept),
            "{told}"
        );
    }
}
