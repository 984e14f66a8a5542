//! What all peers know: 100 k tenants in two regions, of which every peer stands in `a`. Even
//! tenants are led in `a`, odd ones in `b`; both regions hold a copy of each. So a read is served
//! here, and a write of an odd tenant is misrouted. Written once, in each peer's own format.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use maia_common::wire::feed as wire;

/// How many tenants.
pub const TENANTS: usize = 100_000;
/// Where every peer stands.
pub const LOCAL: &str = "a";
/// The other region, and its public URL.
pub const REMOTE: (&str, &str) = ("b", "http://b.example:8080");

/// The files of a run.
pub struct World {
    /// `tenant region;` a line.
    pub nginx_map: PathBuf,
    /// `tenant region` a line.
    pub tenants: PathBuf,
    /// `region url` a line.
    pub regions: PathBuf,
}

/// A tenant's name.
pub fn tenant(number: usize) -> String {
    format!("tenant-{number:06}")
}

fn home(number: usize) -> &'static str {
    if number.is_multiple_of(2) {
        LOCAL
    } else {
        REMOTE.0
    }
}

impl World {
    /// Writes the files.
    pub fn write(dir: &Path) -> anyhow::Result<Self> {
        let world = Self {
            nginx_map: dir.join("tenants.nginx"),
            tenants: dir.join("tenants.map"),
            regions: dir.join("regions.map"),
        };
        let (mut nginx, mut plain) = (String::new(), String::new());
        for number in 0..TENANTS {
            let (tenant, home) = (tenant(number), home(number));
            writeln!(nginx, "{tenant} {home};")?;
            writeln!(plain, "{tenant} {home}")?;
        }
        std::fs::write(&world.nginx_map, nginx)?;
        std::fs::write(&world.tenants, plain)?;
        let regions = format!(
            "{LOCAL} http://{LOCAL}.example\n{} {}\n",
            REMOTE.0, REMOTE.1
        );
        std::fs::write(&world.regions, regions)?;
        Ok(world)
    }
}

/// The same as a feed's snapshot.
pub fn changes() -> wire::Changes {
    let region = |name: &str, url: &str| wire::Region {
        name: name.into(),
        public_url: url.into(),
        priority: 1,
        state: "active".into(),
    };
    let group = |id: u64, home: &str, other: &str| wire::Group {
        group: id,
        home_region: home.into(),
        regions: vec![home.into(), other.into()],
        mode: "replicated".into(),
        leader: Some(wire::Leader {
            term: 1,
            node: id,
            region: home.into(),
        }),
    };
    let tenants = (0..TENANTS).map(|number| wire::Tenant {
        tenant: tenant(number),
        group: if home(number) == LOCAL { 1 } else { 2 },
        version: 1,
        holding: false,
        write_routing: String::new(),
    });
    wire::Changes {
        regions: vec![
            region(LOCAL, "http://a.example"),
            region(REMOTE.0, REMOTE.1),
        ],
        groups: vec![group(1, LOCAL, REMOTE.0), group(2, REMOTE.0, LOCAL)],
        tenants: tenants.collect(),
        ..Default::default()
    }
}
