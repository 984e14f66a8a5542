//! Three in-process nodes over the faulty network, whose power can be cut.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use maia_common::NodeId;

use super::super::*;
use super::faults::{FaultyTransport, Net, copy_files};
use super::harness::{Keeper, PATIENCE, gone, nodes};

pub(super) const NODES: [u64; 3] = [1, 2, 3];

/// The nodes, some of which may be down.
pub(super) struct Field {
    pub(super) net: Arc<Net>,
    dir: tempfile::TempDir,
    groups: Vec<GroupSetup>,
    configure: Box<dyn Fn(&mut EngineConfig) + Send + Sync>,
    up: Mutex<BTreeMap<u64, Arc<Engine>>>,
    /// How often each node's power was cut: its folder's name.
    generation: Mutex<HashMap<u64, u64>>,
}

impl Field {
    pub(super) fn new(
        seed: u64,
        groups: &[impl Into<GroupSetup> + Copy],
        configure: impl Fn(&mut EngineConfig) + Send + Sync + 'static,
    ) -> Self {
        Self {
            net: Net::new(seed),
            dir: tempfile::tempdir().unwrap(),
            groups: groups.iter().map(|group| (*group).into()).collect(),
            configure: Box::new(configure),
            up: Mutex::default(),
            generation: Mutex::default(),
        }
    }

    /// Starts all nodes and gives the groups their members.
    pub(super) async fn begin(&self) {
        self.start_all().await;
        for engine in self.engines() {
            for setup in &self.groups {
                if setup.witness != Some(engine.config.node) {
                    let made = engine.initialize_group(setup.group, nodes(&NODES));
                    made.await.unwrap();
                }
            }
        }
    }

    /// The nodes that are up.
    pub(super) fn engines(&self) -> Vec<Arc<Engine>> {
        self.up.lock().unwrap().values().cloned().collect()
    }

    pub(super) fn engine(&self, id: u64) -> Option<Arc<Engine>> {
        self.up.lock().unwrap().get(&id).cloned()
    }

    /// Starts what is down.
    pub(super) async fn start_all(&self) {
        for id in NODES {
            if self.engine(id).is_none() {
                self.start(id).await;
            }
        }
    }

    pub(super) async fn start(&self, id: u64) {
        let generation = *self.generation.lock().unwrap().entry(id).or_default();
        let mut config = EngineConfig::new(NodeId::new(id), self.node_dir(id, generation));
        config.disk_watermark_bytes = 1 << 20;
        (self.configure)(&mut config);
        let net = Arc::clone(&self.net);
        let engine = Engine::open_with(config, Arc::new(Keeper::default()), |_, _| {
            Arc::new(FaultyTransport(net))
        })
        .unwrap();
        self.net.plug_in(NodeId::new(id), engine.inbound());
        for group in &self.groups {
            engine.start_group(*group).await.unwrap();
        }
        self.up.lock().unwrap().insert(id, engine);
    }

    /// Cuts the node's power; it goes on from what was on its disk.
    pub(super) async fn power_cut(&self, id: u64) {
        let Some(engine) = self.up.lock().unwrap().remove(&id) else {
            return;
        };
        self.net.unplug(NodeId::new(id));
        let (old, new) = {
            let mut generations = self.generation.lock().unwrap();
            let generation = generations.entry(id).or_default();
            *generation += 1;
            (
                self.node_dir(id, *generation - 1),
                self.node_dir(id, *generation),
            )
        };
        let cut = tokio::task::spawn_blocking(move || {
            engine.crash();
            copy_files(&old, &new);
            drop(engine);
            std::fs::remove_dir_all(old)
        });
        // The old folder may still be in use by what is just ending.
        let _ = cut.await.unwrap();
    }

    /// Shuts all nodes down: nothing of them runs on when the test's process ends.
    pub(super) async fn end(&self) {
        let engines = std::mem::take(&mut *self.up.lock().unwrap());
        for (id, engine) in engines {
            self.net.unplug(NodeId::new(id));
            engine.shutdown(PATIENCE).await;
            gone(engine).await;
        }
    }

    /// Where the node's files are now.
    pub(super) fn dir_of(&self, id: u64) -> std::path::PathBuf {
        let generation = self.generation.lock().unwrap().get(&id).copied();
        self.node_dir(id, generation.unwrap_or_default())
    }

    fn node_dir(&self, id: u64, generation: u64) -> std::path::PathBuf {
        self.dir.path().join(format!("node-{id}-{generation}"))
    }
}
