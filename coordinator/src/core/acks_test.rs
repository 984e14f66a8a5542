//! The rule of acknowledgements, as a table and as properties.

use bytes::Bytes;
use maia_common::ids::{IdempotencyKey, TenantId};
use maia_common::position::Revision;
use maia_common::wire::record::data_operation::What as Op;
use proptest::prelude::*;

use super::*;
use crate::core::record::{Hlc, Idempotency, RecordFields};

fn rule(mode: SyncMode, min: u32, on_too_few: ShortagePolicy) -> AckRule {
    AckRule {
        mode,
        min_sync_replicas: min,
        on_too_few,
    }
}

fn replicas(data: usize, witnesses: usize, reachable: usize) -> Replicas {
    Replicas {
        data_members: data,
        voters: data + witnesses,
        witnesses,
        is_joint: false,
        reachable,
    }
}

fn on(data_copies: usize) -> Progress {
    Progress {
        data_copies,
        still_leads: true,
    }
}

const DONE: Verdict = Verdict::Acknowledge { degraded: false };
const DEGRADED: Verdict = Verdict::Acknowledge { degraded: true };

#[test]
fn what_is_asked_for_is_told_before_anything_is_proposed() {
    use ShortagePolicy::{Degrade, Reject};
    use SyncMode::{Async, SemiSync, Sync};
    let refused = |wanted, reachable| Err(Shortage { wanted, reachable });
    let cases = [
        (rule(Async, 1, Reject), replicas(3, 0, 1), Ok(())),
        (rule(SemiSync, 1, Reject), replicas(3, 0, 2), Ok(())),
        (rule(SemiSync, 1, Reject), replicas(3, 0, 1), refused(2, 1)),
        (rule(SemiSync, 1, Reject), replicas(2, 1, 1), refused(2, 1)),
        (rule(SemiSync, 1, Degrade), replicas(2, 1, 1), Ok(())),
        (rule(SemiSync, 0, Reject), replicas(1, 0, 1), Ok(())),
        (rule(Sync, 1, Reject), replicas(3, 0, 2), refused(3, 2)),
        (rule(Sync, 1, Reject), replicas(3, 0, 3), Ok(())),
        (rule(Sync, 0, Reject), replicas(1, 0, 1), refused(2, 1)),
        (rule(Sync, 0, Degrade), replicas(1, 0, 1), Ok(())),
    ];
    for (rule, replicas, expected) in cases {
        assert_eq!(rule.admit(&replicas), expected, "{rule:?} {replicas:?}");
    }
}

#[test]
fn an_answer_waits_for_the_copies_that_the_mode_asks_for() {
    use ShortagePolicy::{Degrade, Reject};
    use SyncMode::{Async, SemiSync, Sync};
    let cases = [
        (rule(Async, 1, Reject), replicas(3, 0, 3), on(1), DONE),
        // Commit on two of three says it, even where only one has been heard.
        (rule(SemiSync, 1, Reject), replicas(3, 0, 3), on(1), DONE),
        // Commit with a witness says nothing of the data follower.
        (
            rule(SemiSync, 1, Reject),
            replicas(2, 1, 2),
            on(1),
            Verdict::Wait,
        ),
        (rule(SemiSync, 1, Reject), replicas(2, 1, 2), on(2), DONE),
        (
            rule(SemiSync, 1, Degrade),
            replicas(2, 1, 2),
            on(1),
            Verdict::Wait,
        ),
        (
            rule(SemiSync, 1, Degrade),
            replicas(2, 1, 1),
            on(1),
            DEGRADED,
        ),
        (
            rule(SemiSync, 2, Reject),
            replicas(3, 0, 3),
            on(2),
            Verdict::Wait,
        ),
        (
            rule(Sync, 1, Reject),
            replicas(3, 0, 3),
            on(2),
            Verdict::Wait,
        ),
        (rule(Sync, 1, Reject), replicas(3, 0, 3), on(3), DONE),
        (rule(Sync, 1, Degrade), replicas(3, 0, 2), on(2), DEGRADED),
        (rule(Sync, 0, Degrade), replicas(1, 0, 1), on(1), DEGRADED),
    ];
    for (rule, replicas, progress, expected) in cases {
        let verdict = rule.judge(&replicas, progress);
        assert_eq!(verdict, expected, "{rule:?} {replicas:?} {progress:?}");
    }
}

#[test]
fn one_that_was_deposed_does_not_wait_for_what_it_will_not_hear() {
    let gone = Progress {
        data_copies: 1,
        still_leads: false,
    };
    let with_witness = replicas(2, 1, 2);
    let strict = rule(SyncMode::SemiSync, 1, ShortagePolicy::Reject);
    assert_eq!(strict.judge(&with_witness, gone), Verdict::Unknown);
    let lenient = rule(SyncMode::SemiSync, 1, ShortagePolicy::Degrade);
    assert_eq!(lenient.judge(&with_witness, gone), DEGRADED);
    assert_eq!(strict.judge(&replicas(3, 0, 1), gone), DONE);
}

#[test]
fn a_change_of_members_under_way_takes_no_copy_for_granted() {
    let joint = Replicas {
        is_joint: true,
        ..replicas(4, 0, 4)
    };
    let rule = rule(SyncMode::SemiSync, 1, ShortagePolicy::Reject);
    assert_eq!(rule.judge(&joint, on(1)), Verdict::Wait);
    assert_eq!(rule.judge(&joint, on(2)), DONE);
}

fn put(condition: Option<wire::Condition>) -> wire::DataOperation {
    wire::DataOperation {
        resource_type: "k".into(),
        resource_id: "a".into(),
        what: Some(Op::Put(Bytes::from_static(b"1"))),
        content_type: "text/plain".into(),
        condition,
    }
}

fn record(operations: Vec<wire::DataOperation>, mode: SyncMode, keyed: bool) -> Record {
    Record::new(RecordFields {
        kind: RecordKind::Data,
        tenant: Some(TenantId::new("t").unwrap()),
        sync_mode: Some(mode),
        hlc: Hlc::new(1, 0),
        origin: None,
        idempotency: keyed.then(|| Idempotency {
            key: IdempotencyKey::new("k").unwrap(),
            body_hash: [1; 32],
        }),
        placement: Revision::new(1),
        migration: None,
        body: wire::DataOperations {
            operations,
            by_field: false,
        }
        .encode_to_vec()
        .into(),
    })
}

fn good() -> EarlyFacts {
    EarlyFacts {
        quorum_ack_age: Some(Duration::from_millis(239)),
        lease: Duration::from_millis(300),
        is_transferring: false,
        has_applied_term_start: true,
        is_tenant_open: true,
        has_control_ahead: false,
        has_room_aside: true,
    }
}

#[test]
fn an_early_answer_needs_every_condition() {
    let plain = record(vec![put(None)], SyncMode::Async, false);
    assert!(may_answer_early(&plain, good()));
    let spoilt: [fn(&mut EarlyFacts); 8] = [
        |f| f.quorum_ack_age = None,
        |f| f.quorum_ack_age = Some(Duration::from_millis(240)),
        |f| f.lease = Duration::from_millis(298),
        |f| f.is_transferring = true,
        |f| f.has_applied_term_start = false,
        |f| f.is_tenant_open = false,
        |f| f.has_control_ahead = true,
        |f| f.has_room_aside = false,
    ];
    for spoil in spoilt {
        let mut facts = good();
        spoil(&mut facts);
        assert!(!may_answer_early(&plain, facts), "{facts:?}");
    }
}

#[test]
fn what_apply_could_refuse_is_not_answered_early() {
    let at_most_once = wire::Condition {
        must: Some(wire::condition::Must::BeAbsent(true)),
    };
    let delete = wire::DataOperation {
        what: Some(Op::Delete(true)),
        ..put(None)
    };
    let patch = wire::DataOperation {
        what: Some(Op::MergePatch(Bytes::from_static(b"{}"))),
        ..put(None)
    };
    let plain_delete = record(vec![delete.clone()], SyncMode::Async, false);
    assert!(may_answer_early(&plain_delete, good()));
    let refused = [
        record(vec![put(Some(at_most_once))], SyncMode::Async, false),
        record(vec![delete], SyncMode::SemiSync, false),
        record(vec![patch], SyncMode::Async, false),
        record(vec![put(None), put(None)], SyncMode::Async, false),
        record(vec![put(None)], SyncMode::Async, true),
        record(vec![put(None)], SyncMode::SemiSync, false),
        record(vec![put(None)], SyncMode::Sync, false),
    ];
    for record in refused {
        assert!(!may_answer_early(&record, good()), "{record:?}");
    }
}

proptest! {
    /// I2: an acknowledgement that does not say "degraded" stands on the copies asked for; with
    /// `reject` no other is ever given, and more copies never take an acknowledgement back.
    #[test]
    fn no_copy_is_made_up(
        mode in prop::sample::select(vec![SyncMode::Async, SyncMode::SemiSync, SyncMode::Sync]),
        min in 0u32..4,
        rejects: bool,
        (data, witnesses, reachable) in (1usize..6, 0usize..2, 1usize..6),
        copies in 1usize..6,
        still_leads: bool,
    ) {
        let policy = if rejects { ShortagePolicy::Reject } else { ShortagePolicy::Degrade };
        let rule = rule(mode, min, policy);
        let replicas = replicas(data, witnesses, reachable.min(data));
        let progress = Progress { data_copies: copies.min(data), still_leads };
        let verdict = rule.judge(&replicas, progress);
        let majority = replicas.voters / 2 + 1;
        let sure = progress.data_copies.max(majority.saturating_sub(witnesses));
        match verdict {
            DONE => prop_assert!(sure >= rule.wanted_copies(&replicas)),
            DEGRADED => prop_assert!(!rejects),
            _ => {}
        }
        if matches!(verdict, Verdict::Acknowledge { .. }) {
            let more = Progress { data_copies: data, ..progress };
            let is_kept = matches!(rule.judge(&replicas, more), Verdict::Acknowledge { .. });
            prop_assert!(is_kept);
        }
    }
}
