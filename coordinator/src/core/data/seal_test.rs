//! Seals and unseals among data records, on a state in memory.

use maia_common::ids::{GroupId, IdempotencyKey, TenantId};
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_outcome::What;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::core::record::{Hlc, Idempotency, MigrationStep, Record, RecordFields, RecordKind};
use crate::metastore::memory::MemoryState;
use crate::raft::Mutations;

const GROUP: GroupId = GroupId::new(1);

#[derive(Default)]
struct Log {
    state: MemoryState,
    index: u64,
    placement: u64,
}

impl Log {
    fn append(&mut self, kind: RecordKind, step: Option<(u64, u32)>, key: Option<u8>) -> What {
        self.index += 1;
        let operation = wire::DataOperation {
            resource_type: "k".into(),
            resource_id: "a".into(),
            what: Some(wire::data_operation::What::Put("1".into())),
            ..wire::DataOperation::default()
        };
        let body = wire::DataOperations {
            operations: vec![operation],
            by_field: false,
        };
        let record = Record::new(RecordFields {
            kind,
            tenant: Some(TenantId::new("t").unwrap()),
            sync_mode: None,
            hlc: Hlc::new(self.index, 0),
            origin: None,
            idempotency: key.map(|key| Idempotency {
                key: IdempotencyKey::new(format!("k{key}")).unwrap(),
                body_hash: [1; 32],
            }),
            placement: Revision::new(self.placement),
            migration: step.map(|(revision, attempt)| MigrationStep {
                revision: Revision::new(revision),
                attempt,
            }),
            body: body.encode_to_vec().into(),
        });
        let position = Position::new(Term::new(1), Index::new(self.index));
        let mut out = Mutations::default();
        let outcome = apply(GROUP, position, &record, &self.state, &mut out).unwrap();
        self.state.write(out);
        decode_outcome(&outcome).unwrap()
    }

    fn seal(&mut self, revision: u64, attempt: u32) -> bool {
        took_effect(self.append(RecordKind::Seal, Some((revision, attempt)), None))
    }

    fn unseal(&mut self, revision: u64, attempt: u32) -> bool {
        took_effect(self.append(RecordKind::Unseal, Some((revision, attempt)), None))
    }

    fn is_taken(&mut self, key: Option<u8>) -> bool {
        match self.append(RecordKind::Data, None, key) {
            What::Written(_) => true,
            What::Refused(refused) => {
                assert_eq!(refused.code, "tenant_held");
                false
            }
            other => panic!("{other:?}"),
        }
    }
}

fn took_effect(what: What) -> bool {
    match what {
        What::Marked(marked) => marked.took_effect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sealed_tenant_takes_nothing_until_its_seal_is_named() {
    let mut log = Log::default();
    assert!(log.is_taken(None));
    assert!(log.seal(5, 1));
    assert!(!log.is_taken(None));
    assert!(!log.unseal(5, 2), "another attempt's");
    assert!(!log.unseal(4, 1), "another migration's");
    assert!(!log.seal(5, 1), "once is enough");
    assert!(!log.is_taken(None));
    assert!(log.unseal(5, 1));
    assert!(log.is_taken(None));
}

#[test]
fn what_comes_late_is_ignored() {
    let mut log = Log::default();
    assert!(log.seal(5, 1) && log.unseal(5, 1));
    assert!(!log.seal(5, 1), "a copy of a seal that has ended");
    assert!(!log.seal(4, 9));
    assert!(log.is_taken(None));
    assert!(log.seal(5, 2) && log.seal(6, 1));
    assert!(!log.unseal(5, 2), "another seal is in force");
    assert!(!log.is_taken(None));
    assert!(!log.unseal(7, 1) && log.unseal(6, 1));
    assert!(log.unseal(8, 1), "before its seal has come");
    assert!(!log.seal(8, 1) && log.is_taken(None));
    let no_step = log.append(RecordKind::Seal, None, None);
    assert!(!took_effect(no_step), "a seal without a name");
}

#[test]
fn a_seal_ends_with_its_tenant() {
    let mut log = Log::default();
    log.placement = 4;
    assert!(log.seal(5, 1));
    log.placement = 6;
    log.append(RecordKind::Purge, None, None);
    log.placement = 9;
    assert!(log.is_taken(None), "a tenant of that name, placed anew");
    assert!(
        !log.seal(5, 1) && !log.seal(5, 2),
        "the old one's come late"
    );
    assert!(!log.unseal(5, 1) && log.is_taken(None));
    assert!(log.seal(10, 1) && !log.is_taken(None), "its own");
}

#[test]
fn a_refused_write_leaves_its_key_free_and_a_known_one_is_answered() {
    let mut log = Log::default();
    assert!(log.is_taken(Some(1)));
    log.seal(5, 1);
    assert!(!log.is_taken(Some(2)));
    assert!(log.is_taken(Some(1)), "the stored answer");
    log.unseal(5, 1);
    assert!(log.is_taken(Some(2)), "not refused for ever");
}

proptest! {
    /// I5, by a model of one line: sealed from a seal on until the unseal that names it.
    #[test]
    fn sealed_means_sealed(steps in prop::collection::vec((0u8..3, 1u64..3, 1u32..3), 0..40)) {
        let mut log = Log::default();
        let (mut newest, mut is_sealed) = ((0, 0), false);
        for (what, revision, attempt) in steps {
            let step = (revision, attempt);
            match what {
                0 => {
                    let expected = step > newest;
                    prop_assert_eq!(log.seal(revision, attempt), expected);
                    if expected {
                        (newest, is_sealed) = (step, true);
                    }
                }
                1 => {
                    let expected = if is_sealed { step == newest } else { step > newest };
                    prop_assert_eq!(log.unseal(revision, attempt), expected);
                    if expected {
                        (newest, is_sealed) = (step, false);
                    }
                }
                _ => prop_assert_eq!(log.is_taken(None), !is_sealed),
            }
            let tenant = TenantId::new("t").unwrap();
            let open = is_open(GROUP, &tenant, Revision::new(1), &log.state).unwrap();
            prop_assert_eq!(open, !is_sealed);
        }
    }
}
