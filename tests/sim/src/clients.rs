//! Clients, who write and read with keys, conditions and tokens, and retry; and the operator, who
//! seals and unseals tenants ([`operator`]).

mod operator;

use std::collections::BTreeMap;

use maia_common::wire::record as wire;
use maia_common::wire::record::condition::Must;
use maia_common::wire::record::data_operation::What as Op;
use maia_common::wire::record::data_outcome::What;

use self::operator::Operator;
use crate::plan::{MEMBERS, MS};
use crate::serve::{Ask, Reply, Request, Write};
use crate::world::{Event, World};

const CLIENTS: usize = 6;
const RESOURCES: u8 = 3;
const TRIES: u32 = 12;
const PATIENCE: u64 = 700 * MS;

/// Everyone outside the group.
pub struct Clients {
    clients: Vec<Client>,
    operator: Operator,
}

#[derive(Default)]
struct Client {
    /// Of what it waits for: an answer to anything older is ignored.
    number: u64,
    /// To be asked again if no answer comes.
    asking: Option<Ask>,
    /// The last that was asked.
    asked: Option<Ask>,
    tries: u32,
    target: usize,
    token: Option<(usize, u8, String)>,
    versions: BTreeMap<(usize, u8), wire::Version>,
    keyed: Option<Write>,
}

impl Clients {
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        let client = |_| Client {
            target: rng.usize(0..MEMBERS),
            ..Client::default()
        };
        Self {
            clients: (0..CLIENTS).map(client).collect(),
            operator: Operator::default(),
        }
    }
}

impl World {
    pub fn begin_clients(&mut self) {
        for client in 0..CLIENTS {
            let wait = 1300 * MS + self.rng.u64(0..100 * MS);
            self.after(wait, Event::Client { client, number: 0 });
        }
    }

    /// A client begins something, or takes an answer for lost.
    pub fn client_acts(&mut self, client: usize, number: u64) {
        if self.clients.clients[client].number != number {
            return;
        }
        let asking = self.clients.clients[client].asking.take();
        let ask = match asking {
            Some(ask) if self.clients.clients[client].tries < TRIES => ask,
            _ if self.now > self.plan.busy => return,
            _ => {
                self.clients.clients[client].tries = 0;
                self.choose(client)
            }
        };
        self.ask(client, ask);
    }

    fn ask(&mut self, at: usize, ask: Ask) {
        let is_twice = self.rng.u8(0..100) < 5 && is_repeatable(&ask);
        let client = &mut self.clients.clients[at];
        client.number += 1;
        client.tries += 1;
        let number = client.number;
        let target = client.target;
        let request = Request {
            client: at,
            number,
            ask: ask.clone(),
        };
        // What may have been done is not asked for again, unless a repetition is recognized.
        client.asking = is_repeatable(&ask).then_some(ask);
        let targets = if is_twice {
            0..MEMBERS
        } else {
            target..target + 1
        };
        for node in targets {
            if self.rng.u8(0..100) < 98 {
                let delay = self.net.delay(&mut self.rng);
                let request = request.clone();
                self.after(delay, Event::Ask { node, request });
            }
        }
        self.clients.clients[at].target = self.rng.usize(0..MEMBERS);
        self.after(PATIENCE, Event::Client { client: at, number });
        self.clients.clients[at].remember(&request.ask);
    }

    pub fn client_hears(&mut self, at: usize, number: u64, from: usize, reply: Reply) {
        if self.resolver_hears(at, number, &reply) {
            return;
        }
        let wait = self.rng.u64(2 * MS..30 * MS);
        let Some(client) = self.clients.clients.get_mut(at) else {
            return;
        };
        if client.number != number {
            return;
        }
        client.number += 1;
        let number = client.number;
        client.target = from;
        match reply {
            Reply::NotLeader(leader) => {
                client.asking = client.asked.take();
                client.target = leader.unwrap_or_else(|| self.rng.usize(0..MEMBERS));
            }
            other => {
                client.learn(other);
                client.asking = None;
                client.tries = TRIES;
            }
        }
        self.after(wait, Event::Client { client: at, number });
    }

    fn choose(&mut self, at: usize) -> Ask {
        let tenant = [0, 0, 0, 1, 1, 2, 2, 3][self.rng.usize(0..8)];
        let resource = self.rng.u8(0..RESOURCES);
        let client = &self.clients.clients[at];
        let kind = self.rng.u8(0..100);
        if kind < 20
            && let Some((tenant, resource, token)) = client.token.clone()
        {
            let token = Some(token);
            return Ask::Read {
                tenant,
                resource,
                token,
            };
        }
        if kind < 25 {
            let token = None;
            return Ask::Read {
                tenant,
                resource,
                token,
            };
        }
        let version = client.versions.get(&(tenant, resource)).copied();
        let keyed = client.keyed.clone();
        let body = self.next_id();
        let put = operation(resource, Op::Put(format!("{{\"v\":{body}}}").into()), None);
        match (kind, keyed) {
            // Again, though it was answered: the same, or another body under the same key.
            (25..30, Some(write)) => Ask::Write(write),
            (30..35, Some(mut write)) => {
                let (key, _) = write.key.expect("it has one");
                write.operation = put;
                write.key = Some((key, body));
                Ask::Write(write)
            }
            (35..50, _) => Ask::Write(Write {
                tenant,
                operation: put,
                key: Some((format!("k{body}"), body)),
            }),
            (50..70, _) => {
                let must = version.map_or(Must::BeAbsent(true), Must::BeAt);
                let what = put.what.expect("a put");
                plain(tenant, operation(resource, what, Some(must)))
            }
            (70..74, _) => plain(tenant, operation(resource, Op::Delete(true), None)),
            (74..78, _) => {
                let patch = format!("{{\"p\":{body}}}");
                plain(
                    tenant,
                    operation(resource, Op::MergePatch(patch.into()), None),
                )
            }
            _ => plain(tenant, put),
        }
    }
}

impl Client {
    fn remember(&mut self, ask: &Ask) {
        if let Ask::Write(write) = ask
            && write.key.is_some()
        {
            self.keyed = Some(write.clone());
        }
        self.asked = Some(ask.clone());
    }

    fn learn(&mut self, reply: Reply) {
        let Some(Ask::Write(write)) = &self.asked else {
            if let (
                Reply::Value { version },
                Some(Ask::Read {
                    tenant, resource, ..
                }),
            ) = (reply, &self.asked)
            {
                let place = (*tenant, *resource);
                match version {
                    Some(version) => drop(self.versions.insert(place, version)),
                    None => drop(self.versions.remove(&place)),
                }
            }
            return;
        };
        let id = write.operation.resource_id.trim_start_matches('r');
        let place = (write.tenant, id.parse().unwrap_or_default());
        match reply {
            Reply::Outcome {
                what: What::Written(written),
                token,
            } => {
                if let Some(version) = written.version {
                    self.versions.insert(place, version);
                }
                self.token = Some((place.0, place.1, token));
            }
            Reply::Early { token } => self.token = Some((place.0, place.1, token)),
            Reply::Outcome { .. } => drop(self.versions.remove(&place)),
            _ => {}
        }
    }
}

fn plain(tenant: usize, operation: wire::DataOperation) -> Ask {
    let key = None;
    Ask::Write(Write {
        tenant,
        operation,
        key,
    })
}

fn operation(resource: u8, what: Op, must: Option<Must>) -> wire::DataOperation {
    wire::DataOperation {
        resource_type: "k".into(),
        resource_id: format!("r{resource}"),
        what: Some(what),
        content_type: "application/json".into(),
        condition: must.map(|must| wire::Condition { must: Some(must) }),
    }
}

fn is_repeatable(ask: &Ask) -> bool {
    match ask {
        Ask::Write(write) => write.key.is_some(),
        Ask::Read { .. } => true,
        Ask::Control { .. } | Ask::Resolve { .. } => false,
    }
}
