//! The gate before what coordinators ask of each other: a node that was removed from the cluster has
//! deleted what it knew, so its answers would be those of one that never knew anything. It refuses
//! every call instead (`failed_precondition`): whoever counts answers, such as a blank disk that asks
//! for its past, must not count its (I1). Called by tonic before each call.

use maia_common::cluster_key::ClusterCheck;
use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The check of the cluster's key, then whether this node still belongs to it.
#[derive(Debug, Clone)]
pub struct MembersOnly {
    check: ClusterCheck,
    removed: watch::Receiver<bool>,
}

impl MembersOnly {
    /// `removed` turns true when this node has been removed.
    #[must_use]
    pub fn new(check: ClusterCheck, removed: watch::Receiver<bool>) -> Self {
        Self { check, removed }
    }
}

impl Interceptor for MembersOnly {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let request = self.check.call(request)?;
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

    use super::*;

    #[test]
    fn a_removed_node_answers_nobody() {
        let key = ClusterKey::from_secret("a secret of this test, and of no other");
        let mut client = key.interceptor();
        let removed = watch::Sender::new(false);
        let mut gate = MembersOnly::new(client.check(), removed.subscribe());
        let mut ask = || client.call(Request::new(())).expect("a request");
        assert!(gate.call(ask()).is_ok());
        assert!(gate.call(Request::new(())).is_err(), "of another cluster");
        removed.send_replace(true);
        let refused = gate.call(ask()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    }
}
