//! Loads on paper: what each line comes to, and what is committed.

use maia_common::limits;
use maia_common::placement::{
    ConflictStrategy, PlacementState, ShortagePolicy, SyncMode, WriteRouting,
};
use maia_common::position::Version;

use super::*;

const GROUP: GroupId = GroupId::new(1);

fn line(number: usize, tenant: &str) -> Line {
    let text = format!(r#"{{"tenant":"{tenant}","primary_region":"a"}}"#);
    (number, parse_line(number, text.as_bytes()).unwrap())
}

fn home() -> Home {
    Home {
        group: (GROUP, Revision::new(7)),
        properties: TenantProperties {
            sync_mode: SyncMode::SemiSync,
            min_sync_replicas: 0,
            on_too_few: ShortagePolicy::Reject,
            conflict_strategy: ConflictStrategy::LastWriteWins,
            write_routing: None,
        },
    }
}

fn placement(tenant: &str, version: u64, state: PlacementState) -> (Placement, Revision) {
    let placement = Placement {
        tenant: TenantId::new(tenant).unwrap(),
        group: GROUP,
        version: Version::new(version),
        state,
        properties: home().properties,
    };
    (placement, Revision::new(3))
}

#[test]
fn lines_are_items_and_the_first_that_is_none_is_named() {
    let body = b"{\"tenant\":\"a\",\"primary_region\":\"r\"}\n\n \r\n\
        {\"tenant\":\"b\",\"primary_region\":\"r\",\"mode\":\"global\"}\n";
    let lines = parse(body).unwrap();
    let found: Vec<_> = lines.iter().map(|(n, i)| (*n, i.tenant.as_str())).collect();
    assert_eq!(found, [(1, "a"), (4, "b")]);
    for bad in [
        "{}",
        "x",
        r#"{"tenant":"a b","primary_region":"r"}"#,
        r#"{"tenant":"a","primary_region":"r","sync":"async"}"#,
        r#"{"tenant":"a"}"#,
    ] {
        let body = format!("{{\"tenant\":\"a\",\"primary_region\":\"r\"}}\n{bad}\n");
        let error = parse(body.as_bytes()).unwrap_err();
        assert_eq!(error.line, 2, "{bad}: {error}");
    }
}

#[test]
fn each_tenant_is_created_changed_or_left_alone() {
    let mut changed = placement("changed", 4, PlacementState::Active);
    changed.0.properties.write_routing = Some(WriteRouting::Forward);
    let found = [
        Found::default(),
        Found {
            placement: Some(changed),
            retired: None,
        },
        Found {
            placement: Some(placement("same", 2, PlacementState::Active)),
            retired: None,
        },
        Found {
            placement: None,
            retired: Some((Version::new(8), Revision::new(5))),
        },
    ];
    let lines = [
        line(1, "new"),
        line(2, "changed"),
        line(3, "same"),
        line(4, "again"),
    ];
    let mut plan = LoadPlan::default();
    for (line, found) in lines.iter().zip(&found) {
        plan.add(line, found, &Ok(home()));
    }
    let tally = Tally {
        created: 2,
        changed: 1,
        unchanged: 1,
        ..Tally::default()
    };
    assert_eq!(plan.tally, tally);
    let versions: Vec<_> = plan
        .puts
        .iter()
        .map(|(_, p)| (p.tenant.as_str(), p.version.get()))
        .collect();
    assert_eq!(versions, [("new", 1), ("changed", 5), ("again", 9)]);
    // The group; two for new tenants, that nobody places or deletes them meanwhile; one for others.
    let transaction = plan.transaction("id", 1);
    assert_eq!(transaction.compares().len(), 1 + 2 + 1 + 2);
}

#[test]
fn one_tenants_trouble_stops_no_other() {
    let trouble = Trouble {
        code: ErrorCode::PlacementConflict,
        detail: "elsewhere".into(),
    };
    let deleting = Found {
        placement: Some(placement("deleting", 2, PlacementState::Deleting)),
        retired: None,
    };
    let new = Found::default();
    let mut twice = line(5, "fine");
    twice.1.spec.write_routing = Some(WriteRouting::Forward);
    let lines = [
        line(1, "moved"),
        line(2, "deleting"),
        line(3, "fine"),
        line(4, "fine"),
        twice,
    ];
    let mut plan = LoadPlan::default();
    plan.add(&lines[0], &new, &Err(trouble));
    plan.add(&lines[1], &deleting, &Ok(home()));
    for line in &lines[2..] {
        plan.add(line, &new, &Ok(home()));
    }
    let failed: Vec<_> = plan.tally.failed.iter().map(|f| (f.line, f.code)).collect();
    let conflict = ErrorCode::PlacementConflict;
    let expected = [(1, conflict), (2, conflict), (5, ErrorCode::InvalidRequest)];
    assert_eq!(failed, expected);
    assert_eq!((plan.tally.created, plan.tally.unchanged), (1, 1));
}

#[test]
fn the_largest_load_and_what_is_remembered_of_it_fit() {
    let name = |n: usize| format!("{n:0>width$}", width = limits::MAX_TENANT_ID_BYTES);
    let lines: Vec<Line> = (0..limits::MAX_LOAD_ITEMS)
        .map(|n| line(n + 1, &name(n)))
        .collect();
    let found = Found {
        placement: None,
        retired: Some((Version::new(1), Revision::new(1))),
    };
    let mut plan = LoadPlan::default();
    for line in &lines {
        plan.add(line, &found, &Ok(home()));
    }
    for group in 2..=limits::MAX_GROUPS as u64 {
        plan.groups.insert(
            GroupId::new(group),
            GroupPart {
                at: Revision::new(1),
                created: 1,
            },
        );
    }
    assert!(plan.transaction("id", 1).size() <= limits::MAX_TXN_OPERATIONS);
    let trouble = Trouble {
        code: ErrorCode::MigrationTargetUnavailable,
        detail: "x".repeat(500),
    };
    let mut failing = LoadPlan::default();
    for line in &lines {
        failing.add(line, &found, &Err(trouble.clone()));
    }
    let memo = failing.tally.memo();
    let size = serde_json::to_vec(&memo).unwrap().len();
    assert!(size <= limits::MAX_MEMO_BYTES, "{size}");
    assert_eq!(memo.failed.len() + memo.failed_omitted, lines.len());
}
