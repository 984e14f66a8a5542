//! The files of a new local cluster: keys, certificates, and a configuration for each process. What a process
//! may be told is the business of its own configuration; this only fills it in.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use maia_common::ids::{ClusterName, NodeId, ProxyId, RegionName};
use maia_common::rpc::{Party, RpcSection};
use toml::{Table, Value};

use super::file::{ClusterFile, RegionEntry};
use super::ports::Ports;
use crate::cli::Usage;
use crate::cli::args::Up;
use crate::cli::cert::{self, Authority};
use crate::config::{
    self, Auth, Bootstrap, Config, InitialNode, InitialRegion, Listen, NodeSection, Preset, Scope,
    Token,
};

const COORDINATOR_HEAD: &str = "\
# Written by `maiactl cluster up`; changed by it again only for options given to a later `up`.
# auth.anonymous_data: clients of this machine reach the built-in origin through the proxies
# without a token. Right for a cluster on loopback, wrong for any other.
";
const PROXY_HEAD: &str = "\
# Written by `maiactl cluster up`; changed by it again only for options given to a later `up`.
";
/// The first region's; each further one has less.
const TOP_PRIORITY: u32 = 100;
const PRIORITY_STEP: u32 = 10;

/// What a new cluster consists of; nothing is written yet.
///
/// # Errors
/// [`Usage`] when regions repeat or ports run out.
pub fn plan(dir: &Path, regions: &[RegionName], base: u16) -> anyhow::Result<ClusterFile> {
    let mut entries = Vec::new();
    for (i, name) in regions.iter().enumerate() {
        if regions[..i].contains(name) {
            return Err(Usage(format!("region {name} is named twice")).into());
        }
        let Some(ports) = Ports::of(base, i) else {
            return Err(Usage(format!("no ports left for {name} from {base} on")).into());
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        entries.push(RegionEntry {
            name: name.clone(),
            proxy_url: url(ports.proxy),
            proxy_admin_url: url(ports.proxy_admin),
            api_url: url(ports.api),
            rpc_addr: format!("127.0.0.1:{}", ports.rpc),
            coordinator_id: NodeId::new(i as u64 + 1),
            coordinator_pid: 0,
            proxy_id: ProxyId::new(format!("proxy-{name}"))?,
            proxy_pid: 0,
            dir: dir.join(name.as_str()).join("coordinator"),
        });
    }
    Ok(ClusterFile {
        admin_token: secret()?,
        making: true,
        regions: entries,
    })
}

/// Writes the key and the configurations of a new cluster; cluster.json is written last, by the
/// caller: it is what makes the folder a cluster.
///
/// # Errors
/// [`config::ConfigError`] when `--set` makes no legal configuration; I/O.
pub fn create(dir: &Path, cluster: &ClusterFile, up: &Up) -> anyhow::Result<()> {
    let key = dir.join("cluster.key");
    private_file(&key, &format!("{}\n", secret()?))?;
    let tls = cert::tls_folder(dir);
    let authority = if up.plaintext {
        None
    } else {
        private_dir(&tls)?;
        let name = ClusterName::new(format!("local-{:08x}", fastrand::u32(..)))?;
        Some(Authority::create(&tls, &name, cert::CA_DAYS)?)
    };
    let rpc = |party: Party| -> anyhow::Result<RpcSection> {
        let Some(authority) = &authority else {
            return Ok(RpcSection {
                plaintext: true,
                ..RpcSection::default()
            });
        };
        let issued = authority.issue(&[party], &tls, cert::DAYS)?;
        Ok(RpcSection {
            plaintext: false,
            ca_file: Some(tls.join("ca.pem")),
            certificate_file: Some(issued.certificate),
            key_file: Some(issued.key),
        })
    };
    for (i, region) in cluster.regions.iter().enumerate() {
        private_dir(&region.dir)?;
        private_dir(&region.proxy_dir())?;
        let mut config = coordinator(cluster, region, &key, up.preset.unwrap_or(Preset::Lan));
        config.rpc = rpc(Party::Node(region.coordinator_id))?;
        let mut table = Table::try_from(&config)?;
        adjust_coordinator(&mut table, up);
        write_coordinator(region, &table)?;
        let mut table = proxy(cluster, i, &key);
        let own = rpc(Party::Proxy(region.proxy_id.clone()))?;
        table.insert("rpc".to_owned(), Value::try_from(own)?);
        adjust_proxy(&mut table, up);
        write_proxy(region, &table)?;
    }
    Ok(())
}

/// Applies the options of a later `up` to the configurations that are there.
///
/// # Errors
/// [`config::ConfigError`] when `--set` makes no legal configuration; I/O.
pub fn change(cluster: &ClusterFile, up: &Up) -> anyhow::Result<()> {
    let read = |path: &Path| -> anyhow::Result<Table> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.parse().with_context(|| path.display().to_string())
    };
    for region in &cluster.regions {
        let mut table = read(&region.coordinator().config)?;
        if adjust_coordinator(&mut table, up) {
            write_coordinator(region, &table)?;
        }
        let mut table = read(&region.proxy().config)?;
        if adjust_proxy(&mut table, up) {
            write_proxy(region, &table)?;
        }
    }
    Ok(())
}

fn coordinator(cluster: &ClusterFile, own: &RegionEntry, key: &Path, preset: Preset) -> Config {
    let mut priority = TOP_PRIORITY + PRIORITY_STEP;
    let mut regions = Vec::new();
    let mut nodes = Vec::new();
    for region in &cluster.regions {
        priority = priority.saturating_sub(PRIORITY_STEP);
        regions.push(InitialRegion {
            name: region.name.clone(),
            public_url: region.proxy_url.clone(),
            priority,
        });
        nodes.push(InitialNode {
            id: region.coordinator_id,
            region: region.name.clone(),
            rpc_addr: region.rpc_addr.clone(),
            api_url: region.api_url.clone(),
        });
    }
    let token = Token {
        name: "admin".to_owned(),
        blake3: blake3::hash(cluster.admin_token.as_bytes())
            .to_hex()
            .to_string(),
        scopes: vec![Scope::Admin],
    };
    Config {
        dir: own.dir.join("data"),
        cluster_key_file: key.to_path_buf(),
        preset,
        node: NodeSection {
            id: own.coordinator_id,
            region: own.name.clone(),
        },
        listen: Listen {
            api: address(&own.api_url),
            rpc: address(&own.rpc_addr),
        },
        rpc: RpcSection::default(),
        bootstrap: Bootstrap { regions, nodes },
        auth: Auth {
            tokens: vec![token],
            anonymous_data: true,
        },
        election: config::ElectionSection::default(),
        failover: config::Failover::default(),
        replication: config::Replication::default(),
        groups: config::Groups::default(),
        storage: config::Storage::default(),
    }
}

/// The proxy's file: keys of its own configuration.
fn proxy(cluster: &ClusterFile, own: usize, key: &Path) -> Table {
    let region = &cluster.regions[own];
    let text = |value: &str| Value::String(value.to_owned());
    // The local coordinator first: the others are for when it dies.
    let others = cluster
        .regions
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != own);
    let coordinators = std::iter::once(region).chain(others.map(|(_, region)| region));
    let coordinators = coordinators.map(|region| text(&region.rpc_addr)).collect();
    let section = |entries: Vec<(&str, Value)>| {
        Value::Table(
            entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    };
    Table::from_iter([
        ("id".to_owned(), text(region.proxy_id.as_str())),
        ("region".to_owned(), text(region.name.as_str())),
        (
            "dir".to_owned(),
            text(&region.proxy_dir().to_string_lossy()),
        ),
        ("cluster_key_file".to_owned(), text(&key.to_string_lossy())),
        (
            "listen".to_owned(),
            section(vec![
                ("public", text(&address(&region.proxy_url).to_string())),
                ("admin", text(&address(&region.proxy_admin_url).to_string())),
            ]),
        ),
        (
            "feed".to_owned(),
            section(vec![("coordinators", Value::Array(coordinators))]),
        ),
        (
            "origin".to_owned(),
            section(vec![("url", text(&region.api_url))]),
        ),
    ])
}

/// Whether anything was given that the coordinators' files take.
fn adjust_coordinator(table: &mut Table, up: &Up) -> bool {
    let sets: Vec<_> = up
        .set
        .iter()
        .filter(|(key, _)| !key.starts_with("proxy."))
        .collect();
    for (key, value) in &sets {
        config::set(table, key, value);
    }
    if let Some(preset) = up.preset
        && let Ok(value) = Value::try_from(preset)
    {
        table.insert("preset".to_owned(), value);
    }
    !sets.is_empty() || up.preset.is_some()
}

/// Whether anything was given that the proxies' files take.
fn adjust_proxy(table: &mut Table, up: &Up) -> bool {
    let sets: Vec<_> = up
        .set
        .iter()
        .filter(|(key, _)| key.starts_with("proxy."))
        .collect();
    for (key, value) in &sets {
        config::set(table, key, value);
    }
    if let Some(origin) = &up.origin {
        config::set(table, "origin.url", origin);
    }
    if let Some(threads) = up.proxy_threads {
        config::set(table, "threads", &threads.to_string());
    }
    !sets.is_empty() || up.origin.is_some() || up.proxy_threads.is_some()
}

fn write_coordinator(region: &RegionEntry, table: &Table) -> anyhow::Result<()> {
    let text = format!("{COORDINATOR_HEAD}{}", toml::to_string(table)?);
    let path = region.coordinator().config;
    config::parse(&text, &path.display().to_string())?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

fn write_proxy(region: &RegionEntry, table: &Table) -> anyhow::Result<()> {
    let text = format!("{PROXY_HEAD}{}", toml::to_string(table)?);
    let path = region.proxy().config;
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

fn address(url: &str) -> SocketAddr {
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("`plan` wrote the port")))
}

/// Tenants' data and logs are readable by their owner alone.
fn private_dir(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| path.display().to_string())
}

fn private_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).with_context(place)?;
    file.write_all(text.as_bytes()).with_context(place)
}

/// 64 hex digits that nobody can guess.
fn secret() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn regions() -> Vec<RegionName> {
        ["us", "eu"]
            .map(|name| RegionName::new(name).unwrap())
            .to_vec()
    }

    #[test]
    fn a_new_cluster_has_legal_files_and_no_token_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = plan(dir.path(), &regions(), 18000).unwrap();
        let up = Up {
            set: vec![
                ("proxy.hold_budget".into(), "3s".into()),
                ("election.heartbeat".into(), "40ms".into()),
            ],
            proxy_threads: Some(2),
            ..Up::default()
        };
        create(dir.path(), &cluster, &up).unwrap();
        let path = cluster.regions[1].coordinator().config;
        let config = config::load(&path, std::iter::empty()).unwrap();
        assert_eq!(config.node.id.get(), 2);
        assert_eq!(config.election().heartbeat.as_millis(), 40);
        assert!(config.bootstrap.regions[0].priority > config.bootstrap.regions[1].priority);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&cluster.admin_token));
        for dir in [&cluster.regions[0].dir, &cluster.regions[0].proxy_dir()] {
            let mode = std::fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "tenants' data are in it");
        }
        let proxy: Table = std::fs::read_to_string(cluster.regions[1].proxy().config)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(proxy["threads"].as_integer(), Some(2));
        assert_eq!(proxy["proxy"]["hold_budget"].as_str(), Some("3s"));
        assert_eq!(
            proxy["feed"]["coordinators"][0].as_str(),
            Some("127.0.0.1:18013")
        );
        assert_eq!(
            proxy["feed"]["coordinators"][1].as_str(),
            Some("127.0.0.1:18003")
        );
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = plan(dir.path(), &regions(), 18000).unwrap();
        let up = Up {
            set: vec![("nonsense".into(), "1".into())],
            ..Up::default()
        };
        let error = create(dir.path(), &cluster, &up).unwrap_err();
        assert!(error.is::<config::ConfigError>(), "{error:#}");
        assert!(error.to_string().contains("nonsense"), "{error:#}");
    }

    #[test]
    fn a_region_is_named_once() {
        let twice = [regions(), regions()].concat();
        assert!(plan(Path::new("/x"), &twice, 18000).is_err());
    }

    #[test]
    fn secrets_differ() {
        let (a, b) = (secret().unwrap(), secret().unwrap());
        assert!(a != b && a.len() == 64);
    }
}
