//! A lone node's log of data records, for benches: records as clients' writes make them, and an engine
//! that applies them as a coordinator does.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::cluster_key::ClusterKey;
use maia_common::placement::SyncMode;
use maia_common::rpc::Rpc;
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use maia_common::{GroupId, NodeId, Position, RegionName, Revision, TenantId};
use maia_coordinator::core::data;
use maia_coordinator::core::record::{Hlc, Outcome, Record, RecordFields, RecordKind};
use maia_coordinator::raft::{
    Applier, Effect, Engine, EngineConfig, Mutations, PeerDirectory, Source, StateError, StateView,
};
use prost::Message;

/// The node.
pub const NODE: NodeId = NodeId::new(1);
/// Its only group.
pub const GROUP: GroupId = GroupId::new(1);
/// A value of the size at which appends are compared with etcd's puts.
const VALUE: [u8; 256] = [b'v'; 256];

/// The record of a PUT of the resource of this number.
#[must_use]
pub fn put(number: usize) -> Record {
    let operation = wire::DataOperation {
        resource_type: "appends".to_owned(),
        resource_id: format!("k{number}"),
        what: Some(What::Put(Bytes::from_static(&VALUE))),
        content_type: "application/octet-stream".to_owned(),
        condition: None,
    };
    let body = wire::DataOperations {
        operations: vec![operation],
        by_field: false,
    };
    Record::new(RecordFields {
        kind: RecordKind::Data,
        tenant: TenantId::new("appends").ok(),
        sync_mode: Some(SyncMode::SemiSync),
        hlc: Hlc::new(1 + number as u64, 0),
        origin: RegionName::new("us-west-1").ok(),
        idempotency: None,
        placement: Revision::new(1),
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

/// Applies data records, and tells nobody.
struct Data;

impl Applier for Data {
    fn apply(
        &self,
        group: GroupId,
        position: Position,
        record: &Record,
        view: &dyn StateView,
        out: &mut Mutations,
    ) -> Result<Outcome, StateError> {
        data::apply(group, position, record, view, out).map(Outcome)
    }

    fn restored(&self, _group: GroupId, _greatest: Hlc, _source: Source) -> Result<(), StateError> {
        Ok(())
    }

    fn applied(&self, _group: GroupId, _last: Position, _effects: Vec<Effect>) {}
}

/// Of a node without others.
struct Nobody(Rpc);

impl PeerDirectory for Nobody {
    fn address(&self, _node: NodeId) -> Option<String> {
        None
    }

    fn rpc(&self) -> &Rpc {
        &self.0
    }
}

/// The node's engine over this folder.
///
/// # Panics
/// When the folder can't be used.
#[must_use]
pub fn engine(dir: &Path) -> Arc<Engine> {
    let config = EngineConfig {
        disk_watermark_bytes: 1 << 20,
        ..EngineConfig::new(NODE, dir)
    };
    let nobody = Nobody(Rpc::plaintext(&ClusterKey::from_secret("benches")));
    let opened = Engine::open(config, Arc::new(Data), Arc::new(nobody));
    opened.expect("a folder of this process")
}
