//! Carries faults out, and undoes them.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::{Duration, Instant};

use reqwest::Method;

use super::plan::{CLOCK_BOUND_MS, Fault, Round, Target};
use super::relay::Node;
use super::stage::Stage;

/// A wrong clock that lasts shorter may not have been noticed.
const NOTICED_AFTER: Duration = Duration::from_secs(2);
/// By then a node whose clock is wrong leads nothing: its followers may have to recover from the round before.
const HANDED_ON_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What a round has done to the nodes.
#[derive(Debug, Default)]
struct Struck {
    killed: Vec<Node>,
    stopped: Vec<Node>,
    without_power: Vec<Node>,
    full: Vec<Node>,
    wrong: Vec<Node>,
}

/// What was done, and what this machine does not let us do, by kind.
#[derive(Debug, Default)]
pub struct Counts {
    pub struck: BTreeMap<&'static str, usize>,
    pub skipped: BTreeMap<&'static str, usize>,
    /// What did not go as promised while it lasted.
    pub violations: Vec<String>,
}

/// Strikes a round's faults, waits, and heals all of it.
pub async fn carry_out(stage: &Stage, round: &Round, counts: &mut Counts) {
    let mut aimed = Vec::new();
    // Before any of them: a stopped node would keep the question who leads waiting.
    for fault in &round.faults {
        aimed.push((*fault, aim(stage, fault).await));
    }
    let mut struck = Struck::default();
    for (fault, node) in aimed {
        let count = match struck.strike(stage, fault, node).await {
            Strike::Done => &mut counts.struck,
            Strike::Skipped => &mut counts.skipped,
            Strike::Busy => continue,
        };
        *count.entry(fault.kind()).or_default() += 1;
    }
    tokio::time::sleep(round.lasting).await;
    if let ([Fault::Clock { ahead_ms, .. }], [node]) = (&round.faults[..], &struck.wrong[..])
        && ahead_ms.unsigned_abs() > CLOCK_BOUND_MS
        && round.lasting >= NOTICED_AFTER
    {
        let found = leads_nothing(stage, *node).await;
        let text = |why| format!("node {}: clock {ahead_ms} ms ahead: {why}", node + 1);
        counts.violations.extend(found.err().map(text));
    }
    struck.heal(stage).await;
}

/// Waits until a node, and nothing else is wrong, has handed on what it led, and says why.
async fn leads_nothing(stage: &Stage, node: Node) -> Result<(), String> {
    let request = stage
        .cluster
        .api(node, Method::GET, "/v1/replication/health");
    let end = Instant::now() + HANDED_ON_WITHIN;
    loop {
        let answer = stage.client.try_send(&request).await;
        let health = answer.map(|answer| answer.json());
        let leads = health.as_ref().map_or(0, |health| {
            let groups = health["groups"].as_array().into_iter().flatten();
            groups.filter(|group| group["role"] == "leader").count()
        });
        let says = health.as_ref().is_ok_and(says_clock);
        if says && leads == 0 {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(format!("after {HANDED_ON_WITHIN:?} it says {health:?}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a node's health names its clock.
pub fn says_clock(health: &serde_json::Value) -> bool {
    let reasons = health["reasons"].as_array().into_iter().flatten();
    let mut reasons = reasons.filter_map(serde_json::Value::as_str);
    reasons.any(|reason| reason.contains("clock is off"))
}

/// Whether a fault struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Done,
    /// No right to, on this machine.
    Skipped,
    /// Another fault of the round has this node already.
    Busy,
}

async fn aim(stage: &Stage, fault: &Fault) -> Node {
    let target = match fault {
        Fault::Kill(target)
        | Fault::Away(target)
        | Fault::PowerCut(target)
        | Fault::DiskFull(target)
        | Fault::Stop(target)
        | Fault::Isolate(target)
        | Fault::Mute(target)
        | Fault::Deafen(target)
        | Fault::Pair(target)
        | Fault::Clock { target, .. } => *target,
        Fault::KillAll | Fault::PowerCutAll | Fault::Sever => Target::Node(0),
    };
    match target {
        Target::Node(node) => node,
        Target::Leader { tenant } => {
            let group = &stage.tenants[tenant].group;
            stage.cluster.leader_of(group).await
        }
    }
}

async fn signal(stage: &Stage, verb: &str, node: Node) -> Output {
    let id = stage.cluster.region(node).coordinator_id.to_string();
    let verb = ["cluster", verb, "--node", &id];
    stage.cluster.maiactl(&verb).await
}

/// Has the process stand still, unless it has ended by itself: a full disk lets none start.
async fn halt(stage: &Stage, node: Node) {
    let output = signal(stage, "stop", node).await;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let is_gone = complaint.contains("does not run");
    assert!(output.status.success() || is_gone, "{complaint}");
}

impl Struck {
    async fn strike(&mut self, stage: &Stage, fault: Fault, node: Node) -> Strike {
        let all = 0..stage.cluster.regions().len();
        match fault {
            Fault::Kill(_) | Fault::Away(_) | Fault::Stop(_) | Fault::PowerCut(_)
                if self.is_down(node) =>
            {
                return Strike::Busy;
            }
            Fault::PowerCut(_) | Fault::PowerCutAll | Fault::DiskFull(_)
                if stage.disks.is_empty() =>
            {
                return Strike::Skipped;
            }
            Fault::DiskFull(_) if self.without_power.contains(&node) => return Strike::Busy,
            Fault::Clock { .. } if !stage.cluster.has_clocks() => return Strike::Skipped,
            Fault::Kill(_) | Fault::Away(_) => self.kill(stage, node).await,
            Fault::KillAll => {
                for node in all {
                    self.kill(stage, node).await;
                }
            }
            Fault::Stop(_) => {
                halt(stage, node).await;
                self.stopped.push(node);
            }
            Fault::PowerCut(_) => self.cut_power(stage, &[node]).await,
            Fault::PowerCutAll => self.cut_power(stage, &all.collect::<Vec<_>>()).await,
            Fault::DiskFull(_) => {
                stage.disks[node].fill();
                self.full.push(node);
            }
            Fault::Clock { ahead_ms, .. } => {
                stage.cluster.set_clock(node, ahead_ms);
                self.wrong.push(node);
            }
            Fault::Isolate(_)
            | Fault::Mute(_)
            | Fault::Deafen(_)
            | Fault::Pair(_)
            | Fault::Sever => cut(stage, fault, node),
        }
        Strike::Done
    }

    fn is_down(&self, node: Node) -> bool {
        self.killed.contains(&node) || self.stopped.contains(&node)
    }

    /// One that is stopped, too.
    async fn kill(&mut self, stage: &Stage, node: Node) {
        if self.killed.contains(&node) {
            return;
        }
        // It may have ended by itself: its disk does nothing any more, or is full.
        let _gone = signal(stage, "kill", node).await;
        self.stopped.retain(|stopped| *stopped != node);
        self.killed.push(node);
    }

    /// The processes first, which stand still: what a disk says while its power is cut must reach nobody. ext4 reports
    /// success for an fdatasync that is under way in that moment and loses what it synced (39 of 612 cuts; none of
    /// 624 with the writer stopped before). A machine without power says nothing.
    async fn cut_power(&mut self, stage: &Stage, nodes: &[Node]) {
        for node in nodes.iter().filter(|node| !self.killed.contains(node)) {
            halt(stage, *node).await;
        }
        for node in nodes {
            stage.disks[*node].cut_power();
        }
        for node in nodes {
            self.kill(stage, *node).await;
        }
        self.without_power.extend(nodes);
    }

    async fn heal(self, stage: &Stage) {
        stage.network.heal();
        for node in self.wrong {
            stage.cluster.set_clock(node, 0);
        }
        for node in self.full {
            stage.disks[node].make_room();
        }
        for node in self.stopped {
            // One that was gone already still is.
            let _gone = signal(stage, "cont", node).await;
        }
        for node in self.without_power {
            stage.disks[node].power_again();
        }
        for node in self.killed {
            let id = stage.cluster.region(node).coordinator_id.to_string();
            let restart = ["cluster", "restart", "--no-wait", "--node", &id];
            stage.cluster.run(&restart).await;
        }
    }
}

/// What does not go through the network from now on.
fn cut(stage: &Stage, fault: Fault, node: Node) {
    let network = &stage.network;
    let nodes = stage.cluster.regions().len();
    let others: Vec<Node> = match fault {
        Fault::Sever => return network.sever(),
        Fault::Pair(_) => vec![(node + 1) % nodes],
        _ => (0..nodes).filter(|other| *other != node).collect(),
    };
    for other in others {
        if !matches!(fault, Fault::Deafen(_)) {
            network.hold(node, other);
        }
        if !matches!(fault, Fault::Mute(_)) {
            network.hold(other, node);
        }
    }
}
