//! The feed's order: what is taken, what is refused, and that nothing goes back (I4).

use bytes::Bytes;
use proptest::prelude::*;
use wire::down::Kind;

use super::*;
use maia_common::topology::RegionState;

fn down(kind: Kind) -> wire::Down {
    wire::Down { kind: Some(kind) }
}

fn region(name: &str) -> wire::Region {
    wire::Region {
        name: name.into(),
        public_url: format!("http://{name}.example/"),
        priority: 1,
        state: "active".into(),
    }
}

fn group(id: u64, leader: Option<(u64, &str)>) -> wire::Group {
    wire::Group {
        group: id,
        home_region: "a".into(),
        regions: vec!["a".into(), "b".into()],
        mode: "replicated".into(),
        leader: leader.map(|(term, region)| wire::Leader {
            term,
            node: 1,
            region: region.into(),
        }),
    }
}

fn tenant(name: &str, group: u64) -> wire::Tenant {
    wire::Tenant {
        tenant: name.into(),
        group,
        version: 1,
        holding: false,
        write_routing: String::new(),
    }
}

fn first() -> wire::Changes {
    wire::Changes {
        regions: vec![region("a"), region("b")],
        groups: vec![group(1, Some((3, "a")))],
        tenants: vec![tenant("acme", 1)],
        ..Default::default()
    }
}

fn snapshot(generation: u64, revision: u64, changes: &wire::Changes) -> [wire::Down; 3] {
    let encoded = Bytes::from(changes.encode_to_vec());
    [
        down(Kind::SnapshotStart(wire::SnapshotStart {
            generation,
            revision,
            tenants: changes.tenants.len() as u64,
        })),
        down(Kind::SnapshotChunk(wire::SnapshotChunk {
            sequence: 0,
            crc32c: crc32c::crc32c(&encoded),
            changes: encoded,
        })),
        down(Kind::SnapshotEnd(wire::SnapshotEnd {
            chunks: 1,
            tenants: changes.tenants.len() as u64,
        })),
    ]
}

fn delta(from: u64, to: u64, changes: wire::Changes) -> wire::Down {
    down(Kind::Delta(wire::Delta {
        from_revision: from,
        revision: to,
        committed_unix_us: 1,
        changes: Some(changes),
    }))
}

fn hint(group: u64, term: u64, region: &str, leaderless: bool) -> wire::Down {
    down(Kind::Hint(wire::Hint {
        generation: 1,
        group,
        term,
        node: 2,
        region: region.into(),
        leaderless,
    }))
}

fn nothing() -> FeedState {
    FeedState::new(FingerprintKey::new(&[5; 16]))
}

fn synced(revision: u64) -> FeedState {
    let mut state = nothing();
    state.begin_stream();
    for message in snapshot(1, revision, &first()) {
        state.take(message).unwrap();
    }
    state
}

fn leader(state: &FeedState) -> Option<(u64, String)> {
    let group = &state.topology.groups[&GroupId::new(1)];
    group
        .live_leader()
        .map(|l| (l.term.get(), l.region.to_string()))
}

#[test]
fn a_snapshot_comes_into_force_as_one_at_its_end() {
    let mut state = nothing();
    let [start, chunk, end] = snapshot(1, 5, &first());
    assert!(matches!(state.take(start), Ok(Step::Nothing)));
    assert!(matches!(state.take(chunk), Ok(Step::Nothing)));
    assert_eq!(state.in_force().1.get(), 0);
    let Ok(Step::Snapshot { topology, tenants }) = state.take(end) else {
        panic!("a snapshot");
    };
    assert_eq!((topology.revision.get(), tenants.len()), (5, 1));
    let a = RegionName::new("a").unwrap();
    assert_eq!(
        topology.regions[&a].public_url, "http://a.example",
        "no trailing slash"
    );
}

#[test]
fn a_damaged_or_incomplete_snapshot_is_refused_whole() {
    for damage in 0..4 {
        let mut state = synced(5);
        let [start, mut chunk, mut end] = snapshot(1, 9, &first());
        match (damage, chunk.kind.as_mut(), end.kind.as_mut()) {
            (0, Some(Kind::SnapshotChunk(c)), _) => c.crc32c ^= 1,
            (1, Some(Kind::SnapshotChunk(c)), _) => c.sequence = 1,
            (2, _, Some(Kind::SnapshotEnd(e))) => e.chunks = 2,
            (3, _, Some(Kind::SnapshotEnd(e))) => e.tenants = 2,
            _ => unreachable!(),
        }
        state.take(start).unwrap();
        let error = state
            .take(chunk)
            .and_then(|_| state.take(end))
            .err()
            .unwrap();
        assert!(error.needs_resync(), "{error}");
        assert_eq!(state.in_force().1.get(), 5);
    }
}

#[test]
fn a_coordinator_that_is_behind_is_left() {
    let mut state = synced(5);
    let [start, ..] = snapshot(1, 4, &first());
    let error = state.take(start).err().unwrap();
    assert!(matches!(error, FeedError::Behind { .. }) && !error.needs_resync());
    let [start, ..] = snapshot(2, 1, &first());
    assert!(
        state.take(start).is_ok(),
        "a later generation precedes revisions"
    );
}

#[test]
fn a_gap_is_seen_and_an_alive_on_the_way_is_not_one() {
    let mut state = synced(5);
    assert!(matches!(
        state.take(delta(7, 8, first())),
        Err(FeedError::Gap { .. })
    ));
    state
        .take(down(Kind::Alive(wire::Alive {
            revision: 7,
            ..Default::default()
        })))
        .unwrap();
    assert_eq!(
        state.in_force().1.get(),
        5,
        "an alive puts nothing in force"
    );
    assert!(state.take(delta(7, 8, first())).is_ok());
    assert_eq!(state.in_force().1.get(), 8);
    assert!(matches!(
        state.take(delta(5, 7, first())),
        Err(FeedError::Behind { .. })
    ));
}

#[test]
fn a_delta_before_the_first_snapshot_is_refused() {
    let mut state = nothing();
    assert!(matches!(
        state.take(delta(0, 1, first())),
        Err(FeedError::Order(_))
    ));
}

#[test]
fn groups_go_with_the_tenants_that_named_them() {
    let mut state = synced(5);
    let changes = wire::Changes {
        removed_groups: vec![1],
        removed_tenants: vec!["acme".into()],
        ..Default::default()
    };
    let Ok(Step::Delta {
        topology, tenants, ..
    }) = state.take(delta(5, 6, changes))
    else {
        panic!("a delta");
    };
    assert!(tenants.iter().all(|(_, entry)| entry.is_none()));
    assert!(topology.groups.is_empty());
}

#[test]
fn the_highest_term_wins_wherever_it_comes_from() {
    let mut state = synced(5);
    state.take(hint(1, 5, "b", false)).unwrap();
    assert_eq!(leader(&state), Some((5, "b".into())));
    let older = wire::Changes {
        groups: vec![group(1, Some((4, "a")))],
        ..Default::default()
    };
    state.take(delta(5, 6, older)).unwrap();
    assert_eq!(leader(&state), Some((5, "b".into())));
    for message in snapshot(1, 7, &first()) {
        state.take(message).unwrap();
    }
    assert_eq!(
        leader(&state),
        Some((5, "b".into())),
        "a snapshot does not undo a hint"
    );
    assert!(
        matches!(state.take(hint(1, 5, "b", false)), Ok(Step::Nothing)),
        "no news"
    );
}

#[test]
fn a_lost_leader_returns_by_a_hint_of_its_term_or_a_higher_one_or_a_new_stream() {
    let mut state = synced(5);
    state.take(hint(1, 3, "", true)).unwrap();
    assert_eq!(leader(&state), None);
    state.take(hint(1, 3, "a", false)).unwrap();
    assert_eq!(leader(&state), Some((3, "a".into())));
    state.take(hint(1, 3, "", true)).unwrap();
    state.take(hint(1, 4, "b", false)).unwrap();
    assert_eq!(leader(&state), Some((4, "b".into())));
    state.take(hint(1, 4, "", true)).unwrap();
    state.take(hint(1, 3, "", true)).unwrap();
    assert_eq!(
        leader(&state),
        None,
        "an older loss does not hide a newer one"
    );
    state.begin_stream();
    assert_eq!(leader(&state), Some((4, "b".into())));
}

#[test]
fn hints_of_other_histories_and_groups_change_nothing() {
    let mut state = synced(5);
    let mut other = hint(1, 9, "b", false);
    if let Some(Kind::Hint(h)) = other.kind.as_mut() {
        h.generation = 2;
    }
    assert!(matches!(state.take(other), Ok(Step::Nothing)));
    assert!(matches!(
        state.take(hint(8, 9, "b", false)),
        Ok(Step::Nothing)
    ));
    assert_eq!(leader(&state), Some((3, "a".into())));
}

fn alive(revision: u64, leaderless: bool) -> wire::Down {
    down(Kind::Alive(wire::Alive {
        revision,
        leaderless,
    }))
}

#[test]
fn what_is_in_force_is_current_only_where_the_coordinator_says_so() {
    let mut state = FeedState::restored(FingerprintKey::new(&[5; 16]), synced(5).topology);
    state.begin_stream();
    let now = |state: &FeedState| (state.is_current(), state.is_caught_up());
    state.take(delta(5, 7, first())).unwrap();
    assert_eq!(now(&state), (false, false), "one of many that catch up");
    state.take(alive(9, false)).unwrap();
    assert_eq!(now(&state), (false, false), "it has more");
    state.take(delta(7, 8, first())).unwrap();
    assert_eq!(now(&state), (false, false));
    state.take(delta(8, 9, first())).unwrap();
    assert_eq!(now(&state), (true, true));
    state.take(alive(9, true)).unwrap();
    assert_eq!((state.is_current(), state.is_leaderless()), (false, true));
    state.take(alive(9, false)).unwrap();
    assert!(state.is_current() && !state.is_leaderless());
    state.begin_stream();
    assert_eq!(now(&state), (false, false), "another coordinator");
    state.take(hint(1, 9, "b", false)).unwrap();
    assert_eq!(now(&state), (false, true), "leaders come after all else");
}

#[test]
fn what_cannot_be_read_is_unusable_for_itself_alone() {
    let mut changes = first();
    changes.regions[1].state = "resting".into();
    let mut unknown_mode = group(2, None);
    unknown_mode.mode = "erasure-coded".into();
    changes.groups.push(unknown_mode);
    let mut routed = tenant("routed", 1);
    routed.write_routing = "teleport".into();
    changes.tenants.extend([routed, tenant("No Name!", 1)]);
    let mut state = nothing();
    let [start, chunk, end] = snapshot(1, 5, &changes);
    for message in [start, chunk] {
        state.take(message).unwrap();
    }
    let Ok(Step::Snapshot { topology, tenants }) = state.take(end) else {
        panic!("a snapshot");
    };
    let b = RegionName::new("b").unwrap();
    assert_eq!(topology.regions[&b].state, RegionState::Down);
    assert!(!topology.groups.contains_key(&GroupId::new(2)));
    let routed = tenants.lookup(state.key.of("routed")).unwrap();
    assert_eq!((tenants.len(), routed.write_routing), (2, None));
    assert_eq!((state.unreadable(), state.unreadable()), (4, 0));
    let mut later = group(1, None);
    later.mode = "erasure-coded".into();
    let changes = wire::Changes {
        groups: vec![later],
        ..Default::default()
    };
    state.take(delta(5, 6, changes)).unwrap();
    assert!(state.topology.groups.is_empty(), "not as it was before");
    assert_eq!(state.in_force().1.get(), 6);
}

proptest! {
    /// I4: whatever arrives in whatever order, revision and terms never go back.
    #[test]
    fn nothing_goes_back(
        messages in proptest::collection::vec((0u8..4, 0u64..6, 0u64..10, any::<bool>()), 0..40)
    ) {
        let mut state = synced(3);
        let (mut revision, mut term) = (3, 3);
        for (kind, a, b, flag) in messages {
            let batch = match kind {
                0 => vec![delta(a, b, wire::Changes {
                    groups: vec![group(1, Some((a, "b")))],
                    ..Default::default()
                })],
                1 => vec![hint(1, a, "b", flag)],
                2 => vec![down(Kind::Alive(wire::Alive { revision: b, ..Default::default() }))],
                _ => snapshot(1, b, &first()).to_vec(),
            };
            for message in batch {
                if state.take(message).is_err() {
                    state.begin_stream();
                }
            }
            let known = state.topology.groups[&GroupId::new(1)].leader.as_ref().unwrap().term.get();
            prop_assert!(known >= term && state.in_force().1.get() >= revision);
            (term, revision) = (known, state.in_force().1.get());
        }
    }
}
