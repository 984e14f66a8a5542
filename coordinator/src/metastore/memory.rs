//! The metastore in memory: the same transactions without a log or a disk. For tests and
//! benches of what stands on a metastore, and for the conformance suite.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use maia_common::position::Revision;
use tokio::sync::watch as notify;

use super::{Metastore, MetastoreError, Outcome};
use crate::core::metastore::{self as core, Applied, Transaction};
use crate::raft::{Mutations, Rows, StateCf, StateError, StateView};

/// State in a sorted map.
#[derive(Debug, Clone, Default)]
pub struct MemoryState(BTreeMap<(StateCf, Vec<u8>), Vec<u8>>);

impl MemoryState {
    /// Carries the mutations out.
    pub fn write(&mut self, mutations: Mutations) {
        for (cf, key, value) in mutations.into_writes() {
            match value {
                Some(value) => drop(self.0.insert((cf, key), value)),
                None => drop(self.0.remove(&(cf, key))),
            }
        }
    }

    /// Carries a transaction of the metastore out, and tells what came of it.
    ///
    /// # Errors
    /// [`StateError`] for what only newer software understands.
    pub fn run(&mut self, transaction: &Transaction) -> Result<Applied, StateError> {
        let mut mutations = Mutations::default();
        let applied = core::apply(&transaction.encode(), self, &mut mutations)?;
        self.write(mutations);
        Ok(applied)
    }

    /// All of it, to compare two states byte by byte.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<(StateCf, Vec<u8>), Vec<u8>> {
        &self.0
    }
}

impl StateView for MemoryState {
    fn get(&self, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(&(cf, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StateError> {
        let from = after
            .filter(|after| *after >= prefix)
            .unwrap_or(prefix)
            .to_vec();
        Ok(self
            .0
            .range((cf, from)..)
            .take_while(|((in_cf, key), _)| *in_cf == cf && key.starts_with(prefix))
            .filter(|((_, key), _)| after != Some(key.as_slice()))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}

/// A metastore of one process.
#[derive(Debug)]
pub struct MemoryMetastore {
    state: Mutex<MemoryState>,
    revisions: notify::Sender<Revision>,
}

impl Default for MemoryMetastore {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            revisions: notify::Sender::new(Revision::default()),
        }
    }
}

impl MemoryMetastore {
    /// One that goes on from this state.
    ///
    /// # Errors
    /// [`StateError`] when the state's revision can't be read.
    pub fn of(state: MemoryState) -> Result<Self, StateError> {
        let revision = core::current_revision(&state)?;
        Ok(Self {
            state: Mutex::new(state),
            revisions: notify::Sender::new(revision),
        })
    }

    fn run(&self, transaction: &Transaction) -> Result<Outcome, MetastoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = state.run(transaction)?;
        if let Some(change) = &applied.change {
            self.revisions.send_replace(Revision::new(change.revision));
        }
        super::raft::outcome(&applied.outcome)
    }
}

impl Metastore for MemoryMetastore {
    fn transact(
        &self,
        transaction: Transaction,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Outcome, MetastoreError>> {
        Box::pin(async move { self.run(&transaction) })
    }

    fn catch_up(&self, _deadline: Instant) -> BoxFuture<'_, Result<(), MetastoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn read(
        &self,
        read: &mut dyn FnMut(&dyn StateView) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        read(&*self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn revisions(&self) -> notify::Receiver<Revision> {
        self.revisions.subscribe()
    }
}
