//! What a node does for its clients, as the product's shell does it: everything that is decided is
//! decided by the product's cores. Writes and control records at the leader, reads anywhere.
//! `answers` has what happens to a proposal later.

mod answers;
mod reads;

use maia_common::error_code::ErrorCode;
use maia_common::ids::IdempotencyKey;
use maia_common::placement::ConflictStrategy;
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::acks::{self, AckRule, Replicas};
use maia_coordinator::core::hlc;
use maia_coordinator::core::record::{
    Hlc, Idempotency, MigrationStep, Record, RecordFields, RecordKind,
};
use prost::Message as _;

use crate::disk::Entry;
use crate::oracle::Proposal;
use crate::plan::{Bug, LEASE, MAX_PENDING, MEMBERS, SILENCE, TENANTS, region, tenant};
use crate::raft::Role;
use crate::world::{Event, World};

/// What a client asks of a node.
#[derive(Debug, Clone)]
pub struct Request {
    pub client: usize,
    pub number: u64,
    pub ask: Ask,
}

#[derive(Debug, Clone)]
pub enum Ask {
    Write(Write),
    /// A seal or an unseal.
    Control {
        kind: RecordKind,
        tenant: usize,
        step: MigrationStep,
    },
    /// What is to become of a proposal that was cut off.
    Resolve {
        record: Record,
        proposal: Proposal,
    },
    /// With a token: read your writes, anywhere. Without: a strong read, at the leader.
    Read {
        tenant: usize,
        resource: u8,
        token: Option<String>,
    },
}

/// A data record to be.
#[derive(Debug, Clone)]
pub struct Write {
    pub tenant: usize,
    pub operation: wire::DataOperation,
    /// The key, and which body it stands for.
    pub key: Option<(String, u64)>,
}

/// What a client hears.
#[derive(Debug, Clone)]
pub enum Reply {
    Outcome {
        what: What,
        token: String,
    },
    /// Answered before commit.
    Early {
        token: String,
    },
    /// Definitely not written.
    Refused(ErrorCode),
    NotLeader(Option<usize>),
    Value {
        version: Option<wire::Version>,
    },
    NotYet,
    Diverged,
}

/// A proposal that waits for an answer.
#[derive(Debug, Clone)]
pub struct Pending {
    pub id: u64,
    pub position: Position,
    pub client: usize,
    pub number: u64,
    pub rule: AckRule,
    pub record: Record,
    pub outcome: Option<What>,
    pub is_answered: bool,
}

impl World {
    pub fn serve(&mut self, n: usize, request: Request) {
        let Request {
            client,
            number,
            ask,
        } = request;
        match ask {
            Ask::Read {
                tenant,
                resource,
                token,
            } => {
                let reply = self.read(n, tenant, resource, token);
                self.reply(n, client, number, reply);
            }
            Ask::Resolve { record, proposal } => {
                let rule = TENANTS[proposal.tenant].1;
                self.propose(n, (client, number), rule, record, &proposal);
            }
            Ask::Write(write) => {
                let rule = TENANTS[write.tenant].1;
                let record = self.record_of(&write, n);
                self.propose(n, (client, number), rule, record, &Proposal::of(&write));
            }
            Ask::Control { kind, tenant, step } => {
                let record = control_record(kind, tenant, step);
                let proposal = Proposal::control(tenant);
                self.propose(n, (client, number), AckRule::default(), record, &proposal);
            }
        }
    }

    pub(crate) fn reply(&mut self, from: usize, client: usize, number: u64, reply: Reply) {
        if self.rng.u8(0..100) < 2 {
            return;
        }
        let delay = self.net.delay(&mut self.rng);
        let event = Event::Reply {
            client,
            number,
            from,
            reply,
        };
        self.after(delay, event);
    }

    /// The term in which a node may propose now; none: it is not the leader, or can't be sure.
    fn proposing_term(&self, n: usize) -> Option<u64> {
        let local = self.local(n);
        let node = &self.nodes[n];
        let Role::Leader(lead) = &node.raft.role else {
            return None;
        };
        let lives = lead
            .quorum_answered(local)
            .is_some_and(|at| local < at + LEASE);
        let may_stamp = hlc::may_stamp(Some(node.applied.term.get()), lead.term);
        (lives && may_stamp && !lead.is_transferring).then_some(lead.term)
    }

    fn propose(
        &mut self,
        n: usize,
        (client, number): (usize, u64),
        rule: AckRule,
        record: Record,
        proposal: &Proposal,
    ) {
        let Some(term) = self.proposing_term(n) else {
            let leader = self.nodes[n].raft.leader.filter(|leader| *leader != n);
            self.reply(n, client, number, Reply::NotLeader(leader));
            return;
        };
        if rule.admit(&self.replicas(n)).is_err() {
            self.oracle.counts.refusals += 1;
            let code = acks::code_without_outcome(false);
            self.reply(n, client, number, Reply::Refused(code));
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.pending.len() >= MAX_PENDING {
            self.reply(n, client, number, Reply::Refused(ErrorCode::Unavailable));
            return;
        }
        node.hlc = hlc::tick(node.hlc, node.clocks.wall_ms(now));
        let record = record.stamped(node.hlc);
        let id = self.next_id();
        self.oracle.proposed(id, proposal, &record);
        let entry = Entry {
            term,
            id,
            record: Some(record.clone()),
        };
        let index = self.nodes[n].disk.now.last_index() + 1;
        let pending = Pending {
            id,
            position: Position::new(Term::new(term), Index::new(index)),
            client,
            number,
            rule,
            record,
            outcome: None,
            is_answered: false,
        };
        self.nodes[n].pending.insert(index, pending);
        let count = self.nodes[n].pending.len();
        self.oracle.bounded("proposals", count, MAX_PENDING);
        self.trace(|| format!("node {n} proposes {id} at {term}/{index}"));
        self.append(n, entry);
    }

    /// The group as its leader sees it.
    pub(crate) fn replicas(&self, n: usize) -> Replicas {
        let local = self.local(n);
        let mut replicas = Replicas {
            data_members: self.plan.data_members().count(),
            voters: MEMBERS,
            witnesses: usize::from(self.plan.has_witness),
            is_joint: false,
            reachable: 1,
        };
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return replicas;
        };
        let answers = |node: &usize| {
            let at = lead.answered.get(node);
            at.is_none_or(|at| local < at + SILENCE)
        };
        replicas.reachable += self.counted_followers(n).filter(answers).count();
        if self.plan.has(Bug::WitnessAsCopy) {
            replicas.data_members = MEMBERS;
            replicas.witnesses = 0;
        }
        replicas
    }

    /// Other members that count as copies.
    fn counted_followers(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let plan = self.plan;
        let counts = move |node: &usize| plan.is_data(*node) || plan.has(Bug::WitnessAsCopy);
        (0..MEMBERS).filter(move |node| *node != n).filter(counts)
    }

    fn record_of(&self, write: &Write, origin: usize) -> Record {
        let idempotency = write.key.as_ref().map(|(key, body)| {
            let mut body_hash = [0; 32];
            if !self.plan.has(Bug::SameKeyOtherBody) {
                body_hash[..8].copy_from_slice(&body.to_be_bytes());
            }
            Idempotency {
                key: IdempotencyKey::new(key.as_str()).expect("a legal key"),
                body_hash,
            }
        });
        let body = wire::DataOperations {
            operations: vec![write.operation.clone()],
            by_field: self.plan.strategy == ConflictStrategy::Merge,
        };
        Record::new(RecordFields {
            kind: RecordKind::Data,
            tenant: Some(tenant(write.tenant)),
            sync_mode: Some(TENANTS[write.tenant].1.mode),
            hlc: Hlc::default(),
            origin: Some(region(origin)),
            idempotency,
            placement: Revision::new(1),
            migration: None,
            body: body.encode_to_vec().into(),
        })
    }
}

fn control_record(kind: RecordKind, of: usize, step: MigrationStep) -> Record {
    Record::new(RecordFields {
        kind,
        tenant: Some(tenant(of)),
        sync_mode: None,
        hlc: Hlc::default(),
        origin: None,
        idempotency: None,
        placement: Revision::default(),
        migration: Some(step),
        body: bytes::Bytes::new(),
    })
}
