//! The command line as clap reads it: verbs, options, their texts. Decides nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use maia_common::ids::{ProxyId, RegionName, TenantId};
use maia_common::placement::{ConflictStrategy, Mode, ShortagePolicy, SyncMode, WriteRouting};
use maia_common::topology::RegionState;

use crate::config::Preset;

/// The operator's tool of maia-edge.
#[derive(Debug, Parser)]
#[command(
    name = "maiactl",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that go with every verb.
#[derive(Debug, Clone, ClapArgs)]
pub struct Global {
    /// A coordinator's API; repeatable: the next is tried when one does not connect.
    #[arg(
        long,
        global = true,
        env = "MAIA_API",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub api: Vec<String>,
    /// Bearer token for the API.
    #[arg(long, global = true, env = "MAIA_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A local cluster's folder: URLs and token come from its cluster.json.
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// A cluster of several regions on this machine.
    Cluster {
        #[command(subcommand)]
        verb: ClusterVerb,
    },
    /// Where tenants live.
    Tenant {
        #[command(subcommand)]
        verb: TenantVerb,
    },
    /// What each coordinator says of its health; exit code 1 unless all is well.
    Health,
    /// The placement groups, their leaders and members.
    Groups,
    /// The cluster's regions.
    Region {
        #[command(subcommand)]
        verb: RegionVerb,
    },
    /// The cluster's coordinators.
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// The proxies that have registered.
    Proxy {
        #[command(subcommand)]
        verb: ProxyVerb,
    },
    /// Records that were cut off a log before they were known to be committed.
    Quarantine {
        #[command(subcommand)]
        verb: QuarantineVerb,
    },
    /// What happened in the cluster.
    Events {
        /// Only events of later revisions.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Goes on as events happen, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Configuration files.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// A completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Starts three regions on this machine and shows what they do; exit code 0 if all held.
    Demo(Demo),
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ListVerb {
    /// Lists them.
    List,
}

#[derive(Debug, Subcommand)]
pub enum RegionVerb {
    /// Lists them.
    List,
    /// Adds a region.
    Add {
        name: RegionName,
        /// Where clients reach its proxies.
        #[arg(long, value_name = "URL")]
        public_url: String,
        /// Greater comes first at an election.
        #[arg(long, default_value_t = 0)]
        priority: u32,
    },
    /// Changes a region: what is not named stays.
    #[command(arg_required_else_help = true)]
    Set {
        name: RegionName,
        /// Where clients reach its proxies.
        #[arg(long, value_name = "URL")]
        public_url: Option<String>,
        /// Greater comes first at an election.
        #[arg(long)]
        priority: Option<u32>,
        /// active, draining or down.
        #[arg(long)]
        state: Option<RegionState>,
    },
    /// Lets a region take no new tenants, and hands what it leads to other regions that have the
    /// data. It goes on serving; `set --state active` ends it.
    Drain {
        name: RegionName,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// Lists them, with their part in the metastore.
    List,
    /// Adds a coordinator: it takes part as soon as it runs.
    Add(AddNode),
    /// Takes a coordinator out of the cluster, for ever: its id is never used again.
    Remove {
        id: u64,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
        /// Returns when it is out.
        #[arg(long)]
        wait: bool,
        /// Gives up the groups of which it has the only copy: their tenants, with their data, are lost.
        #[arg(long)]
        accept_data_loss: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct AddNode {
    /// An id that was never used in this cluster; as in the node's configuration.
    #[arg(long, value_name = "N")]
    pub id: u64,
    /// Its region.
    #[arg(long)]
    pub region: RegionName,
    /// Its gRPC listener, as the other coordinators reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub rpc_addr: String,
    /// Its HTTP API.
    #[arg(long, value_name = "URL")]
    pub api_url: String,
    /// It votes in the metastore and never holds tenants' data.
    #[arg(long)]
    pub witness: bool,
    /// Returns when it follows the metastore, or votes in it.
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum ProxyVerb {
    /// Lists them, and where they are connected.
    List,
    /// Forgets one that is gone for good; refused while it is connected.
    Remove {
        id: ProxyId,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// Lists the entries of all coordinators that are named by `--api`.
    List,
    /// Shows one, with what was written.
    Show {
        /// GROUP-TERM-INDEX, as listed.
        id: String,
    },
    /// Writes all of them, with what was written, as one JSON object a line.
    Export,
    /// Decides what becomes of one.
    Resolve {
        /// GROUP-TERM-INDEX, as listed.
        id: String,
        /// Written over whatever is there now, or gone for good.
        #[arg(value_enum)]
        action: QuarantineAction,
        /// Only where this node has it; else all coordinators that are named by `--api` and have it.
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuarantineAction {
    Apply,
    Drop,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Checks a coordinator's file as its start would; exit code 64 and the line at fault.
    Check { file: PathBuf },
}

#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// The first port; each region takes four of the ten that follow.
    #[arg(long, value_name = "PORT")]
    pub base_port: Option<u16>,
    /// Leaves the cluster running, and its folder in place.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Makes a cluster in --dir and starts it, or starts what of it does not run, with its data.
    Up(Up),
    /// Which processes run and are ready; exit code 1 when one is not.
    Status,
    /// Stops all processes; the data stay.
    Down,
    /// kill -9 of one process.
    Kill(Target),
    /// SIGSTOP: the process stands still, its connections stay open.
    Stop(Target),
    /// SIGCONT: goes on after `stop`.
    Cont(Target),
    /// Starts one process again, stopping it first if it runs.
    Restart {
        #[command(flatten)]
        target: Target,
        /// Returns once it is started, ready or not.
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Target {
    /// A `coordinator_id` or `proxy_id` of cluster.json.
    #[arg(long, value_name = "ID")]
    pub node: String,
}

#[derive(Debug, Default, ClapArgs)]
pub struct Up {
    /// Names of the regions; the first has the highest priority.
    /// [default: us-west-1,eu-central-1,ap-southeast-1]
    #[arg(long, value_delimiter = ',', value_name = "REGION")]
    pub regions: Vec<RegionName>,
    /// The first port; region i takes four of PORT+10i… [default: 17000]
    #[arg(long, value_name = "PORT")]
    pub base_port: Option<u16>,
    /// Timeouts: lan, metro or wan. [default: lan]
    #[arg(long, value_parser = preset)]
    pub preset: Option<Preset>,
    /// Serves this origin in place of the built-in one.
    #[arg(long, value_name = "URL")]
    pub origin: Option<String>,
    /// Worker threads of each proxy.
    #[arg(long, value_name = "N")]
    pub proxy_threads: Option<u32>,
    /// Sets a configuration key: `proxy.…` of the proxies, all others of the coordinators.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum TenantVerb {
    /// Places a tenant, or changes its placement.
    Place(Box<Place>),
    /// Shows a tenant's placement.
    Show { tenant: TenantId },
    /// Lists all placements.
    List {
        /// Stops after this many.
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Removes a tenant's placement.
    Remove {
        tenant: TenantId,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// What each proxy would do with a request of the tenant, and why.
    Explain(Explain),
    /// Places many tenants from a file, one JSON object a line: `tenant` and the fields of a
    /// placement. May be repeated: tenants that are as asked already are left alone. Exit code 1
    /// when a tenant could not be placed as asked.
    Load(Load),
}

#[derive(Debug, ClapArgs)]
pub struct Load {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Requests in flight.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = in_flight)]
    pub in_flight: usize,
    /// Gives up after this long without any progress.
    #[arg(long, value_name = "DURATION", default_value = "60s",
          value_parser = maia_common::duration::parse)]
    pub retry_for: Duration,
}

#[derive(Debug, ClapArgs)]
pub struct Place {
    pub tenant: TenantId,
    /// The region that takes its writes.
    #[arg(long, value_name = "REGION")]
    pub primary: RegionName,
    /// The other regions that hold a copy.
    #[arg(long, value_delimiter = ',', value_name = "REGION")]
    pub replicas: Vec<RegionName>,
    /// single, replicated or global.
    #[arg(long)]
    pub mode: Option<Mode>,
    /// async, semi-sync or sync.
    #[arg(long)]
    pub sync_mode: Option<SyncMode>,
    /// Data followers that semi-sync waits for.
    #[arg(long, value_name = "N")]
    pub min_sync_replicas: Option<u32>,
    /// reject or degrade.
    #[arg(long)]
    pub on_too_few: Option<ShortagePolicy>,
    /// last-write-wins, merge or reject.
    #[arg(long)]
    pub conflict: Option<ConflictStrategy>,
    /// redirect or forward.
    #[arg(long)]
    pub write_routing: Option<WriteRouting>,
    /// Only if the placement has this version.
    #[arg(long, value_name = "VERSION", conflicts_with = "create")]
    pub if_match: Option<u64>,
    /// Only if the tenant has no placement yet.
    #[arg(long)]
    pub create: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Explain {
    pub tenant: TenantId,
    /// Method of the request; a read and a write unless given.
    #[arg(long)]
    pub method: Vec<String>,
    /// Path of the request.
    #[arg(long, default_value = "/v1/data/notes/1")]
    pub path: String,
    /// As the header X-MAIA-Preferred-Region would say.
    #[arg(long, value_name = "REGION")]
    pub preferred_region: Option<RegionName>,
    /// Admin URL of a proxy; repeatable. [default: all of the local cluster]
    #[arg(long, value_name = "URL")]
    pub proxy_admin: Vec<String>,
}

impl Up {
    /// Whether configurations that are there would change.
    #[must_use]
    pub fn changes_files(&self) -> bool {
        self.preset.is_some()
            || self.origin.is_some()
            || self.proxy_threads.is_some()
            || !self.set.is_empty()
    }
}

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=64) => Ok(number),
        _ => Err("1 to 64".to_owned()),
    }
}

fn preset(text: &str) -> Result<Preset, String> {
    match text {
        "lan" => Ok(Preset::Lan),
        "metro" => Ok(Preset::Metro),
        "wan" => Ok(Preset::Wan),
        _ => Err("none of lan, metro, wan".to_owned()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_are_comma_separated_and_settings_have_a_key() {
        let args = Args::try_parse_from([
            "maiactl",
            "cluster",
            "up",
            "--dir",
            "d",
            "--regions",
            "a,b",
            "--set",
            "x.y=1=2",
        ])
        .unwrap();
        let Verb::Cluster {
            verb: ClusterVerb::Up(up),
        } = args.verb
        else {
            panic!("another verb");
        };
        assert_eq!(up.regions.len(), 2);
        assert_eq!(up.set, [("x.y".to_owned(), "1=2".to_owned())]);
        for bad in ["x", "=1"] {
            let parsed = Args::try_parse_from(["maiactl", "cluster", "up", "--set", bad]);
            assert!(parsed.is_err(), "{bad}");
        }
    }
}
