//! The gate before what coordinators ask of each other: a node that was removed from the cluster has
//! deleted what it knew, so its answers would be those of one that never knew anything. It refuses
//! every call instead (`failed_precondition`): whoever counts answers, such as a blank disk that asks
//! for its past, must not count its (I1). And the gate before those who were removed: what such a node
//! still asks or claims is refused (`permission_denied`) wherever its removal is known; but for two calls:
//! it may learn of its removal, and hand over what stands in its quarantine and nowhere else (I3). A node that is
//! not registered is let in, if the cluster's CA gave it a certificate: its registration may not have
//! arrived here yet, and who lacks it may still be asked for a vote. Called by tonic before each call.

use http::Extensions;
use maia_common::ids::NodeId;
use maia_common::rpc::{Admission, Caller};
use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::cluster::Cluster;

/// Refuses a call of a node that is known here to have been removed.
///
/// # Errors
/// `permission_denied`
pub fn refuse_removed(cluster: &Cluster, extensions: &Extensions) -> Result<(), Status> {
    match removed_caller(cluster, extensions)? {
        Some(node) => {
            let text = format!("node {node} was removed from the cluster");
            Err(Status::permission_denied(text))
        }
        None => Ok(()),
    }
}

/// The removed node that calls, if it is one: its certificate names it, and the registry its removal.
///
/// # Errors
/// As [`Caller::of`].
pub fn removed_caller(
    cluster: &Cluster,
    extensions: &Extensions,
) -> Result<Option<NodeId>, Status> {
    let Caller::Known(identity) = Caller::of(extensions)? else {
        return Ok(None);
    };
    let node = identity.node();
    Ok(node.filter(|node| cluster.state().retired.contains(node)))
}

/// The check of who calls, then whether it was removed.
#[derive(Clone)]
pub struct OfMembers {
    admission: Admission,
    cluster: Cluster,
}

impl OfMembers {
    /// `cluster` knows who was removed.
    #[must_use]
    pub fn new(admission: Admission, cluster: Cluster) -> Self {
        Self { admission, cluster }
    }
}

impl Interceptor for OfMembers {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let request = self.admission.call(request)?;
        refuse_removed(&self.cluster, request.extensions())?;
        Ok(request)
    }
}

/// The check of who calls, then whether this node still belongs to the cluster.
#[derive(Debug, Clone)]
pub struct MembersOnly {
    admission: Admission,
    removed: watch::Receiver<bool>,
}

impl MembersOnly {
    /// `removed` turns true when this node has been removed.
    #[must_use]
    pub fn new(admission: Admission, removed: watch::Receiver<bool>) -> Self {
        Self { admission, removed }
    }
}

impl Interceptor for MembersOnly {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let request = self.admission.call(request)?;
        if *self.removed.borrow() {
            let text = "this node was removed from the cluster";
            return Err(Status::failed_precondition(text));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use maia_common::cluster_key::ClusterKey;
    use maia_common::rpc::{Caller, Kind, Rpc};

    use super::*;

    #[test]
    fn a_removed_node_answers_nobody() {
        let key = ClusterKey::from_secret("a secret of this test, and of no other");
        let removed = watch::Sender::new(false);
        let admission = Rpc::plaintext(&key).admit(Kind::Nodes);
        let mut gate = MembersOnly::new(admission, removed.subscribe());
        let unproven = || {
            let mut request = Request::new(());
            request.extensions_mut().insert(Caller::Plain);
            request
        };
        let ask = || key.interceptor().call(unproven()).expect("a request");
        assert!(gate.call(ask()).is_ok());
        assert!(gate.call(unproven()).is_err(), "of another cluster");
        removed.send_replace(true);
        let refused = gate.call(ask()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    }
}
