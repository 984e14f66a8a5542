//! The decision's table of cases, and its properties: fail closed (I10), agreement with a model
//! that is written the other way around.

use std::collections::BTreeMap;

use maia_common::placement::Mode;
use maia_common::topology::Leader;
use maia_common::{Generation, NodeId, Revision};
use proptest::prelude::*;

use super::*;

const STATES: [RegionState; 3] = [
    RegionState::Active,
    RegionState::Draining,
    RegionState::Down,
];

fn name(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn topology(states: &[(&str, RegionState)], groups: Vec<(u64, GroupView)>) -> Topology {
    let region = |(text, state): &(&str, RegionState)| {
        let region = Region {
            name: name(text),
            public_url: format!("http://{text}.example"),
            priority: 1,
            state: *state,
        };
        (name(text), region)
    };
    Topology {
        generation: Generation::new(1),
        revision: Revision::new(1),
        regions: states.iter().map(region).collect::<BTreeMap<_, _>>(),
        groups: groups
            .into_iter()
            .map(|(id, g)| (GroupId::new(id), g))
            .collect(),
    }
}

fn group(
    regions: &[&str],
    leader: Option<(&str, u64)>,
    leaderless_since: Option<u64>,
) -> GroupView {
    GroupView {
        home_region: name(regions[0]),
        mode: Mode::Replicated,
        regions: regions.iter().map(|r| name(r)).collect(),
        leader: leader.map(|(region, term)| Leader {
            term: Term::new(term),
            node: NodeId::new(1),
            region: name(region),
        }),
        leaderless_since: leaderless_since.map(Term::new),
    }
}

fn entry(group: u64, holding: bool) -> Entry {
    Entry {
        group: GroupId::new(group),
        version: Version::new(7),
        holding,
        write_routing: None,
    }
}

fn rules() -> Rules {
    Rules {
        local_region: name("a"),
        write_routing: WriteRouting::Redirect,
    }
}

/// `local`, `redirect b write-to-primary`, `hold tenant_held`, `reject unknown_tenant`.
fn told(class: Class, preferred: Option<&str>, entry: Option<Entry>, t: &Topology) -> String {
    let decision = decide(&Facts { class, preferred }, entry.as_ref(), t, &rules());
    match decision {
        Decision::Local { .. } => format!("local {}", decision.reason()),
        Decision::Redirect { to, reason, .. } => {
            format!("redirect {} {}", to.name, reason.as_str())
        }
        Decision::Hold(_) | Decision::Reject(_) => {
            format!("{} {}", decision.as_str(), decision.reason())
        }
    }
}

#[test]
fn the_table_of_cases() {
    use Class::{Read, Write};
    let all = [("a", STATES[0]), ("b", STATES[0]), ("c", STATES[0])];
    let led = |regions: &[&str], leader| topology(&all, vec![(1, group(regions, leader, None))]);
    let ab_b = led(&["a", "b"], Some(("b", 3)));
    let ab_a = led(&["a", "b"], Some(("a", 3)));
    let bc_b = led(&["b", "c"], Some(("b", 3)));
    let bc_c = led(&["b", "c"], Some(("c", 3)));
    let bc_none = led(&["b", "c"], None);
    let outside = led(&["a", "b"], Some(("c", 3)));
    let one = Some(entry(1, false));
    let cases = [
        (Write, None, one, &ab_a, "local primary-is-local"),
        (Write, None, one, &ab_b, "redirect b write-to-primary"),
        (Write, Some("a"), one, &ab_b, "redirect b write-to-primary"),
        (Write, None, one, &bc_none, "hold group_leaderless"),
        (Write, None, Some(entry(1, true)), &ab_a, "hold tenant_held"),
        (Write, None, one, &outside, "reject region_unavailable"),
        (Write, None, None, &ab_a, "reject unknown_tenant"),
        (
            Write,
            None,
            Some(entry(9, false)),
            &ab_a,
            "reject region_unavailable",
        ),
        (Read, None, one, &ab_b, "local local-replica"),
        (
            Read,
            None,
            Some(entry(1, true)),
            &ab_b,
            "local local-replica",
        ),
        (Read, Some("b"), one, &ab_b, "redirect b preferred-region"),
        (
            Read,
            Some("a"),
            one,
            &ab_b,
            "local preferred-region-is-local",
        ),
        (Read, Some("c"), one, &ab_b, "local local-replica"),
        (Read, Some("nowhere"), one, &ab_b, "local local-replica"),
        (Read, Some("\u{0}ä"), one, &ab_b, "local local-replica"),
        (Read, None, one, &bc_b, "redirect b no-local-replica"),
        (Read, None, one, &bc_c, "redirect c no-local-replica"),
        (Read, None, one, &bc_none, "redirect b no-local-replica"),
        (Read, None, None, &ab_a, "reject unknown_tenant"),
        (
            Read,
            None,
            Some(entry(9, false)),
            &ab_a,
            "reject region_unavailable",
        ),
    ];
    for (class, preferred, entry, t, expected) in cases {
        assert_eq!(
            told(class, preferred, entry, t),
            expected,
            "{class:?} {preferred:?} {entry:?}"
        );
    }
}

#[test]
fn a_region_that_is_down_is_never_a_target_nor_served_from() {
    use Class::{Read, Write};
    let one = Some(entry(1, false));
    let b_down = [("a", STATES[0]), ("b", STATES[2]), ("c", STATES[0])];
    let t = topology(&b_down, vec![(1, group(&["b", "c"], Some(("b", 3)), None))]);
    assert_eq!(told(Write, None, one, &t), "reject region_unavailable");
    assert_eq!(told(Read, None, one, &t), "redirect c no-local-replica");
    assert_eq!(
        told(Read, Some("b"), one, &t),
        "redirect c no-local-replica"
    );
    let a_down = [("a", STATES[2]), ("b", STATES[1])];
    let t = topology(&a_down, vec![(1, group(&["a", "b"], Some(("a", 3)), None))]);
    assert_eq!(told(Write, None, one, &t), "reject region_unavailable");
    assert_eq!(told(Read, None, one, &t), "redirect b no-local-replica");
    // Draining serves what it has, but is no one's preference.
    assert_eq!(
        told(Read, Some("b"), one, &t),
        "redirect b no-local-replica"
    );
}

#[test]
fn a_leader_reported_lost_is_waited_for_until_a_higher_term() {
    let all = [("a", STATES[0]), ("b", STATES[0])];
    let lost = topology(&all, vec![(1, group(&["a", "b"], Some(("a", 3)), Some(3)))]);
    let one = Some(entry(1, false));
    assert_eq!(
        told(Class::Write, None, one, &lost),
        "hold group_leaderless"
    );
    let next = topology(&all, vec![(1, group(&["a", "b"], Some(("a", 4)), Some(3)))]);
    assert_eq!(
        told(Class::Write, None, one, &next),
        "local primary-is-local"
    );
}

#[test]
fn the_epoch_is_group_term_version() {
    let all = [("a", STATES[0])];
    let t = topology(&all, vec![(1, group(&["a"], Some(("a", 3)), None))]);
    let facts = Facts {
        class: Class::Write,
        preferred: None,
    };
    let Decision::Local { epoch, .. } = decide(&facts, Some(&entry(1, false)), &t, &rules()) else {
        panic!("served here");
    };
    assert_eq!(epoch.to_string(), "1/3/7");
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let states = proptest::collection::vec((0usize..4, 0usize..3), 0..4);
    let leader = proptest::option::of((0usize..4, 1u64..5));
    let members = proptest::collection::vec(0usize..4, 1..4);
    (states, members, leader, proptest::option::of(1u64..5)).prop_map(
        |(states, members, leader, lost)| {
            let names = ["a", "b", "c", "d"];
            let states: Vec<_> = states
                .iter()
                .map(|(r, s)| (names[*r], STATES[*s]))
                .collect();
            let members: Vec<_> = members.iter().map(|m| names[*m]).collect();
            let leader = leader.map(|(r, term)| (names[r], term));
            topology(&states, vec![(1, group(&members, leader, lost))])
        },
    )
}

proptest! {
    /// I10: a write is passed on only where every fact speaks for it.
    #[test]
    fn writes_fail_closed(
        t in any_topology(),
        known in any::<bool>(),
        group_id in 1u64..3,
        holding in any::<bool>(),
    ) {
        let entry = known.then(|| entry(group_id, holding));
        let facts = Facts { class: Class::Write, preferred: Some("a") };
        let decision = decide(&facts, entry.as_ref(), &t, &rules());
        let leads_here = |g: &GroupView| {
            g.leader.as_ref().is_some_and(|l| {
                l.region.as_str() == "a"
                    && g.regions.contains(&l.region)
                    && g.leaderless_since.is_none_or(|lost| lost < l.term)
            })
        };
        let up_here = t.regions.get(&name("a")).is_some_and(|r| r.state != RegionState::Down);
        let allowed = known && !holding && group_id == 1 && up_here
            && t.groups.values().all(leads_here);
        prop_assert_eq!(matches!(decision, Decision::Local { .. }), allowed);
    }

    /// Whatever is chosen holds the data and is not down; no request is redirected to itself.
    #[test]
    fn targets_hold_the_data_and_are_up(
        t in any_topology(),
        write in any::<bool>(),
        preferred in proptest::option::of("[a-e]"),
    ) {
        let class = if write { Class::Write } else { Class::Read };
        let facts = Facts { class, preferred: preferred.as_deref() };
        let entry = entry(1, false);
        let target = match decide(&facts, Some(&entry), &t, &rules()) {
            Decision::Local { .. } => name("a"),
            Decision::Redirect { to, .. } => {
                prop_assert_ne!(to.name.as_str(), "a");
                to.name.clone()
            }
            Decision::Hold(_) | Decision::Reject(_) => return Ok(()),
        };
        prop_assert!(t.groups[&GroupId::new(1)].regions.contains(&target));
        prop_assert_ne!(t.regions[&target].state, RegionState::Down);
    }

    /// Read affinity never affects a write.
    #[test]
    fn a_preference_never_moves_a_write(t in any_topology(), preferred in "[a-e]") {
        let entry = entry(1, false);
        let plain = Facts { class: Class::Write, preferred: None };
        let wanting = Facts { class: Class::Write, preferred: Some(&preferred) };
        prop_assert_eq!(
            decide(&plain, Some(&entry), &t, &rules()),
            decide(&wanting, Some(&entry), &t, &rules())
        );
    }
}
