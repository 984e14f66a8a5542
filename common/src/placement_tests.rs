//! Specs against regions: what is refused, and what is filled in.

use super::*;
use crate::topology::RegionState;

struct Three;
impl Regions for Three {
    fn state_of(&self, region: &RegionName) -> Option<RegionState> {
        match region.as_str() {
            "a" | "b" | "c" => Some(RegionState::Active),
            "d" => Some(RegionState::Draining),
            _ => None,
        }
    }
    fn all(&self) -> Vec<RegionName> {
        ["a", "b", "c", "d"].into_iter().map(region).collect()
    }
}

fn region(text: &str) -> RegionName {
    RegionName::new(text).unwrap()
}

fn spec(json: &str) -> Result<(GroupKey, TenantProperties), SpecError> {
    serde_json::from_str::<PlacementSpec>(json)
        .unwrap()
        .resolve(&Three, None)
}

#[test]
fn what_is_left_out_is_filled_in() {
    let (key, properties) = spec(r#"{"primary_region":"a"}"#).unwrap();
    assert_eq!((key.mode, properties.min_sync_replicas), (Mode::Single, 0));
    let (key, properties) = spec(r#"{"primary_region":"a","replicas":["b"]}"#).unwrap();
    assert_eq!(
        (key.mode, properties.min_sync_replicas),
        (Mode::Replicated, 1)
    );
    assert_eq!(properties.on_too_few, ShortagePolicy::Degrade);
    let (key, properties) = spec(r#"{"primary_region":"a","mode":"global"}"#).unwrap();
    assert_eq!(key.to_string(), "a|b,c|global|0");
    assert_eq!(properties.on_too_few, ShortagePolicy::Reject);
}

#[test]
fn the_order_of_replicas_does_not_make_another_group() {
    let one = spec(r#"{"primary_region":"a","replicas":["b","c"]}"#).unwrap();
    let two = spec(r#"{"primary_region":"a","replicas":["c","b"]}"#).unwrap();
    assert_eq!(one, two);
}

#[test]
fn what_can_not_be_is_refused_by_name() {
    let cases = [
        (r#"{"primary_region":"x"}"#, "region `x` is not part"),
        (r#"{"primary_region":"a","replicas":["a"]}"#, "named twice"),
        (
            r#"{"primary_region":"a","replicas":["b","b"]}"#,
            "named twice",
        ),
        (r#"{"primary_region":"d"}"#, "is draining"),
        (
            r#"{"primary_region":"a","mode":"single","replicas":["b"]}"#,
            "mode `single`",
        ),
        (
            r#"{"primary_region":"a","mode":"replicated"}"#,
            "mode `replicated`",
        ),
        (
            r#"{"primary_region":"a","min_sync_replicas":1}"#,
            "only 0 replicas",
        ),
    ];
    for (json, message) in cases {
        let error = spec(json).unwrap_err().to_string();
        assert!(error.contains(message), "{json}: {error}");
    }
}
