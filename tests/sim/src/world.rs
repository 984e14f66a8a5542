//! The world of one run: time, the queue of what is to happen, the network, and the dispatch of
//! events to the nodes. All chance comes from one generator, all order from the queue: (time,
//! number), so that the seed fixes everything. `devices` has the network and the disks.

mod devices;

use std::collections::BTreeMap;

use maia_common::invariants::Violation;

use crate::clients::Clients;
use crate::faults::Net;
use crate::node::{Clocks, Node};
use crate::oracle::Oracle;
use crate::plan::{LEASE, MEMBERS, MS, Micros, Plan};
use crate::raft::Message;
use crate::report::Report;
use crate::serve::{Reply, Request};

/// How long the healed world has to come to rest.
const REST: Micros = 6000 * MS;
const TICK: Micros = 10 * MS;
/// How long the one who leaves is cut off before: a leader answers early for most of its lease.
const FAREWELL: Micros = LEASE;

/// Something that is to happen.
#[derive(Debug)]
pub enum Event {
    Tick(usize),
    Deliver(Message),
    Synced {
        node: usize,
        life: u64,
    },
    Apply {
        node: usize,
        life: u64,
    },
    Ask {
        node: usize,
        request: Request,
    },
    Reply {
        client: usize,
        number: u64,
        from: usize,
        reply: Reply,
    },
    /// A client acts, unless it has done something since.
    Client {
        client: usize,
        number: u64,
    },
    Operator,
    Fault,
    /// The one who is to leave is cut off before.
    Farewell,
    Start(usize),
    SetClock(usize),
}

/// One run under way.
pub struct World {
    pub plan: Plan,
    pub now: Micros,
    pub rng: fastrand::Rng,
    pub nodes: Vec<Node>,
    pub net: Net,
    pub clients: Clients,
    pub oracle: Oracle,
    /// Who leaves the group in the end, where that is known before.
    pub leaver: Option<usize>,
    queue: BTreeMap<(Micros, u64), Event>,
    numbers: u64,
    ids: u64,
    trace: String,
}

/// Runs a plan to its end, or to the first violation.
#[must_use]
pub fn run(plan: Plan) -> Report {
    let mut world = World::new(plan);
    let mut steps = 0;
    let end = plan.busy + REST;
    let mut is_healed = false;
    while let Some(((at, _), event)) = world.queue.pop_first() {
        if at > plan.busy && !is_healed {
            is_healed = true;
            world.heal();
        }
        if at > end || world.oracle.violation.is_some() {
            break;
        }
        world.now = at;
        steps += 1;
        world.happen(event);
    }
    if world.oracle.violation.is_none() {
        world.check_quarantine();
        world.oracle.finish(&world.nodes, &plan);
    }
    world.report(steps)
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let clocks = |rng: &mut fastrand::Rng| Clocks {
            fast_ppm: rng.i64(-50_000..=50_000),
            ahead_ms: rng.i64(-100..=100),
        };
        let nodes = (0..MEMBERS).map(|_| Node::new(clocks(&mut rng)));
        let nodes: Vec<Node> = nodes.collect();
        let mut world = Self {
            plan,
            now: 0,
            nodes,
            net: Net::default(),
            clients: Clients::new(&mut rng),
            oracle: Oracle::default(),
            leaver: None,
            queue: BTreeMap::new(),
            numbers: 0,
            ids: 0,
            trace: String::new(),
            rng,
        };
        for n in 0..MEMBERS {
            world.nodes[n].start(&plan, 0);
            let first = world.rng.u64(0..TICK);
            world.after(first, Event::Tick(n));
        }
        world.begin_clients();
        world.after(1500 * MS, Event::Operator);
        world.after(1500 * MS, Event::Fault);
        if plan.has_farewell {
            world.after(plan.busy - FAREWELL, Event::Farewell);
        }
        world
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.numbers += 1;
        self.queue.insert((self.now + delay, self.numbers), event);
    }

    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn local(&self, n: usize) -> Micros {
        self.nodes[n].clocks.local(self.now)
    }

    /// Adds a line to the trace, if one is kept.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.plan.traced {
            use std::fmt::Write as _;
            let at = self.now;
            let _infallible = writeln!(self.trace, "{}.{:03} {}", at / MS, at % MS, line());
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some(n) = node_of(&event)
            && self.nodes[n].paused_until > self.now
        {
            let wait = self.nodes[n].paused_until - self.now;
            self.after(wait, event);
            return;
        }
        match event {
            Event::Tick(n) => {
                if self.nodes[n].up {
                    self.tick(n);
                }
                self.after(TICK, Event::Tick(n));
            }
            Event::Deliver(message) => {
                let node = &self.nodes[message.to];
                if node.up && !node.has_left {
                    self.receive(message);
                }
            }
            Event::Synced { node, life } if self.nodes[node].life == life => self.synced(node),
            Event::Apply { node, life } if self.nodes[node].life == life => self.apply(node),
            Event::Synced { .. } | Event::Apply { .. } => {}
            Event::Ask { node, request } => {
                if self.nodes[node].up {
                    self.serve(node, request);
                }
            }
            Event::Reply {
                client,
                number,
                from,
                reply,
            } => {
                self.client_hears(client, number, from, reply);
            }
            Event::Client { client, number } => self.client_acts(client, number),
            Event::Operator => self.operate(),
            Event::Fault => self.strike(),
            Event::Farewell => self.cut_off_leaver(),
            Event::Start(n) => self.start(n),
            Event::SetClock(n) => self.set_clock(n),
        }
    }

    pub fn plan_apply(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let is_behind = node.applied.index.get() < node.raft.commit;
        if is_behind && !node.apply_due && self.plan.is_data(n) {
            node.apply_due = true;
            let life = node.life;
            let delay = self.rng.u64(0..15 * MS);
            self.after(delay, Event::Apply { node: n, life });
        }
    }

    fn report(self, steps: u64) -> Report {
        let violation: Option<Violation> = self.oracle.violation;
        Report {
            seed: self.plan.seed,
            steps,
            counts: self.oracle.counts,
            violation,
            at: self.now,
            trace: self.trace,
        }
    }
}

/// The node to which the event happens, if it can be paused.
fn node_of(event: &Event) -> Option<usize> {
    match event {
        Event::Tick(n) => Some(*n),
        Event::Deliver(message) => Some(message.to),
        Event::Synced { node, .. } | Event::Apply { node, .. } | Event::Ask { node, .. } => {
            Some(*node)
        }
        Event::Reply { .. }
        | Event::Client { .. }
        | Event::Operator
        | Event::Fault
        | Event::Farewell
        | Event::Start(_)
        | Event::SetClock(_) => None,
    }
}
