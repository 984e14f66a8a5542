//! The operator: seals tenants and unseals them, step after step, as migrations would; and the
//! records come late, twice, and to everyone.

use maia_common::position::Revision;
use maia_coordinator::core::record::{MigrationStep, RecordKind};

use crate::plan::{MEMBERS, MS, TENANTS};
use crate::serve::{Ask, Request};
use crate::world::{Event, World};

/// As a client, one that listens to nothing.
const OPERATOR: usize = usize::MAX;

/// What the operator has done.
#[derive(Default)]
pub(super) struct Operator {
    revision: u64,
    sealed: Option<(usize, MigrationStep)>,
    steps: Vec<(usize, MigrationStep)>,
}

impl World {
    /// The operator acts: a new seal, the unseal that belongs to it, or an old record again.
    pub fn operate(&mut self) {
        if self.now > self.plan.busy {
            return;
        }
        let wait = self.rng.u64(20 * MS..250 * MS);
        self.after(wait, Event::Operator);
        let is_old = self.rng.u8(0..100) < 15;
        let old = self.clients.operator.steps.len();
        let (kind, (tenant, step)) = if is_old && old > 0 {
            let step = self.clients.operator.steps[self.rng.usize(0..old)];
            let is_seal = self.rng.bool();
            (
                if is_seal {
                    RecordKind::Seal
                } else {
                    RecordKind::Unseal
                },
                step,
            )
        } else if let Some(sealed) = self.clients.operator.sealed.take() {
            (RecordKind::Unseal, sealed)
        } else {
            (RecordKind::Seal, self.next_step())
        };
        for node in 0..MEMBERS {
            let request = Request {
                client: OPERATOR,
                number: 0,
                ask: Ask::Control { kind, tenant, step },
            };
            let delay = self.net.delay(&mut self.rng);
            self.after(delay, Event::Ask { node, request });
        }
    }

    fn next_step(&mut self) -> (usize, MigrationStep) {
        let tenant = if self.rng.bool() {
            0
        } else {
            self.rng.usize(0..TENANTS.len())
        };
        let last = self.clients.operator.steps.last().copied();
        let again = last.filter(|(of, _)| *of == tenant && self.rng.bool());
        let attempt = again.map_or(1, |(_, step)| step.attempt + 1);
        self.clients.operator.revision += u64::from(again.is_none());
        let step = MigrationStep {
            revision: Revision::new(self.clients.operator.revision),
            attempt,
        };
        self.clients.operator.steps.push((tenant, step));
        self.clients.operator.sealed = Some((tenant, step));
        (tenant, step)
    }
}
