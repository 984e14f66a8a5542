//! The format does not change without its number.

use maia_common::placement::Mode;
use maia_common::topology::{GroupView, Leader, Region, RegionState};
use maia_common::{NodeId, RegionName, Term};

use super::*;
use crate::core::table::Table;

fn sample() -> (Header, Topology, Table) {
    let header = Header {
        generation: Generation::new(3),
        revision: Revision::new(77),
        saved_unix_ms: 1_700_000_000_123,
        whole: true,
        tenants: 2,
        shards: 1,
        key: [4; 16],
        cluster: [9; 32],
    };
    let a = RegionName::new("a").unwrap();
    let mut topology = Topology {
        generation: header.generation,
        revision: header.revision,
        ..Topology::default()
    };
    let region = Region {
        name: a.clone(),
        public_url: "http://a.example".into(),
        priority: 2,
        state: RegionState::Draining,
    };
    topology.regions.insert(a.clone(), region);
    let group = GroupView {
        home_region: a.clone(),
        mode: Mode::Single,
        regions: vec![a.clone()],
        leader: Some(Leader {
            term: Term::new(5),
            node: NodeId::new(6),
            region: a,
        }),
        leaderless_since: None,
    };
    topology.groups.insert(GroupId::new(1), group);
    let mut tenants = Builder::new(2);
    for (number, routing) in [(1, None), (2, Some(WriteRouting::Forward))] {
        let entry = Entry {
            group: GroupId::new(1),
            version: Version::new(number),
            holding: number == 2,
            write_routing: routing,
        };
        let print = Fingerprint {
            high: number,
            low: number << 40,
        };
        tenants.insert(print, &entry);
    }
    (header, topology, tenants.build())
}

#[test]
fn format_2_is_as_in_the_golden_file() {
    let golden = include_str!("../../tests/golden/placements_v2.hex");
    let golden: Vec<u8> = golden
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let (header, topology, tenants) = sample();
    let mut file = header.encode();
    let mut section = Vec::new();
    encode_section(&mut section, |out| encode_topology(out, &topology));
    file.extend_from_slice(&section);
    for shard in tenants.shards() {
        encode_section(&mut section, |out| encode_shard(out, shard));
        file.extend_from_slice(&section);
    }
    let trailer = encode_trailer(crc32c::crc32c(&file));
    file.extend_from_slice(&trailer);
    let hex: Vec<String> = file.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(file, golden, "now encoded as: {}", hex.join(" "));
    let read = Header::decode(golden.first_chunk().unwrap()).unwrap();
    assert_eq!(read, header);
}
