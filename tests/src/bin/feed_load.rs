//! A thousand simulated proxies on the feed of a fresh local cluster: prints what was measured as
//! JSON. `feed_load [clients=1000] [connections=30] [changes=50] [seconds=30] [tenants=500]`

#![expect(clippy::print_stdout, reason = "figures are what this program is for")]

use std::time::Duration;

use maia_tests::Cluster;
use maia_tests::feed_load::{self, Plan};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut plan = Plan::default();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').expect("arguments are name=number");
        let number: usize = value.parse().expect("arguments are name=number");
        match name {
            "clients" => plan.clients = number,
            "connections" => plan.connections = number,
            "changes" => plan.changes_per_s = number as u32,
            "seconds" => plan.lasts = Duration::from_secs(number as u64),
            "tenants" => plan.tenants = number,
            _ => panic!("no argument is called {name}"),
        }
    }
    let cluster = Cluster::start().await;
    let report = feed_load::run(&cluster, &plan).await;
    let json = serde_json::to_string_pretty(&report).expect("numbers and texts");
    println!("{json}");
}
