//! Records: what is encoded is decoded again; version 1 stays readable (golden file).

use proptest::prelude::*;

use super::*;

fn sample() -> Record {
    Record::new(RecordFields {
        kind: RecordKind::Data,
        tenant: Some(TenantId::new("acme").unwrap()),
        sync_mode: Some(SyncMode::SemiSync),
        hlc: Hlc::new(1_700_000_000_000, 7),
        origin: Some(RegionName::new("us-west-1").unwrap()),
        idempotency: Some(Idempotency {
            key: IdempotencyKey::new("k-1").unwrap(),
            body_hash: [9; 32],
        }),
        placement: Revision::default(),
        migration: Some(MigrationStep {
            revision: Revision::new(12),
            attempt: 3,
        }),
        body: Bytes::from_static(b"body"),
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let names = (
        proptest::option::of("[a-z][a-z0-9]{0,20}"),
        proptest::option::of("[a-z][a-z0-9]{0,20}"),
        proptest::option::of(("[a-z0-9]{1,64}", any::<[u8; 32]>())),
    );
    let numbers = (
        0..RecordKind::ALL.len(),
        0..4u32,
        any::<u64>(),
        0..u64::MAX,
        any::<u32>(),
    );
    (
        names,
        numbers,
        proptest::collection::vec(any::<u8>(), 0..512),
    )
        .prop_map(
            |((tenant, origin, key), (kind, mode, hlc, revision, attempt), body)| {
                Record::new(RecordFields {
                    kind: RecordKind::ALL[kind].0,
                    tenant: tenant.map(|t| TenantId::new(t).unwrap()),
                    sync_mode: decode_sync_mode(mode).unwrap(),
                    hlc: Hlc::from_raw(hlc),
                    origin: origin.map(|o| RegionName::new(o).unwrap()),
                    idempotency: key.map(|(key, body_hash)| Idempotency {
                        key: IdempotencyKey::new(key).unwrap(),
                        body_hash,
                    }),
                    placement: Revision::new(hlc / 3),
                    migration: (revision != 0).then(|| MigrationStep {
                        revision: Revision::new(revision),
                        attempt,
                    }),
                    body: body.into(),
                })
            },
        )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(record in any_record()) {
        prop_assert_eq!(Record::decode(record.encode()).unwrap(), record);
    }

    #[test]
    fn any_flipped_bit_is_an_error(record in any_record(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = record.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Record::decode(bytes.into()).is_err());
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Record::decode(bytes.into());
    }
}

/// Stands for ever: version 1 must stay readable and be written byte for byte alike.
#[test]
fn version_1_is_as_in_the_golden_file() {
    let golden = include_str!("../../tests/golden/record_v1.hex");
    let golden: Vec<u8> = golden
        .split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect();
    let encoded = sample().encode();
    let hex: Vec<String> = encoded.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(encoded, golden, "now encoded as: {}", hex.join(" "));
    assert_eq!(Record::decode(golden.into()).unwrap(), sample());
}
