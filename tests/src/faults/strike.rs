//! Carries faults out, and undoes them.

use std::collections::BTreeMap;

use super::plan::{Fault, Round, Target};
use super::relay::Node;
use super::stage::Stage;

/// What a round has done to the nodes.
#[derive(Debug, Default)]
struct Struck {
    killed: Vec<Node>,
    stopped: Vec<Node>,
}

/// Strikes a round's faults, waits, and heals all of it; counts what was done, by kind.
pub async fn carry_out(stage: &Stage, round: &Round, counts: &mut BTreeMap<&'static str, usize>) {
    let mut aimed = Vec::new();
    // Before any of them: a stopped node would keep the question who leads waiting.
    for fault in &round.faults {
        aimed.push((*fault, aim(stage, fault).await));
    }
    let mut struck = Struck::default();
    for (fault, node) in aimed {
        if struck.strike(stage, fault, node).await {
            *counts.entry(fault.kind()).or_default() += 1;
        }
    }
    tokio::time::sleep(round.lasting).await;
    stage.network.heal();
    for node in struck.stopped {
        signal(stage, "cont", node).await;
    }
    for node in struck.killed {
        let id = stage.cluster.region(node).coordinator_id.to_string();
        let restart = ["cluster", "restart", "--no-wait", "--node", &id];
        stage.cluster.run(&restart).await;
    }
}

async fn aim(stage: &Stage, fault: &Fault) -> Node {
    let target = match fault {
        Fault::Kill(target)
        | Fault::Stop(target)
        | Fault::Isolate(target)
        | Fault::Mute(target)
        | Fault::Deafen(target)
        | Fault::Pair(target) => *target,
        Fault::KillAll | Fault::Sever => Target::Node(0),
    };
    match target {
        Target::Node(node) => node,
        Target::Leader { tenant } => {
            let group = &stage.tenants[tenant].group;
            stage.cluster.leader_of(group).await
        }
    }
}

async fn signal(stage: &Stage, verb: &str, node: Node) {
    let id = stage.cluster.region(node).coordinator_id.to_string();
    stage.cluster.run(&["cluster", verb, "--node", &id]).await;
}

impl Struck {
    /// False: another fault of the round has this node already.
    async fn strike(&mut self, stage: &Stage, fault: Fault, node: Node) -> bool {
        let nodes = stage.cluster.regions().len();
        let others = (0..nodes).filter(|other| *other != node);
        let network = &stage.network;
        match fault {
            Fault::Kill(_) if !self.is_down(node) => self.kill(stage, node).await,
            Fault::Stop(_) if !self.is_down(node) => {
                signal(stage, "stop", node).await;
                self.stopped.push(node);
            }
            Fault::Kill(_) | Fault::Stop(_) => return false,
            Fault::KillAll => {
                for node in 0..nodes {
                    if !self.killed.contains(&node) {
                        self.kill(stage, node).await;
                    }
                }
                self.stopped.clear();
            }
            Fault::Isolate(_) => {
                for other in others {
                    network.hold(node, other);
                    network.hold(other, node);
                }
            }
            Fault::Mute(_) => others.for_each(|other| network.hold(node, other)),
            Fault::Deafen(_) => others.for_each(|other| network.hold(other, node)),
            Fault::Pair(_) => {
                let other = (node + 1) % nodes;
                network.hold(node, other);
                network.hold(other, node);
            }
            Fault::Sever => network.sever(),
        }
        true
    }

    fn is_down(&self, node: Node) -> bool {
        self.killed.contains(&node) || self.stopped.contains(&node)
    }

    async fn kill(&mut self, stage: &Stage, node: Node) {
        stage.cluster.kill_coordinator(node).await;
        self.killed.push(node);
    }
}
