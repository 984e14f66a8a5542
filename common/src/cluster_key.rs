//! The cluster key: a secret that all processes of one cluster share. What is derived from it
//! keeps strangers, and nodes of another cluster that took over a port, out of this one. Each use
//! derives a key of its own. Mutual TLS comes with a later issue; until then listeners for nodes
//! stay on loopback unless told otherwise.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

const METADATA_KEY: &str = "maia-cluster";

/// The key; never printed.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Why a key can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// The file can't be read.
    #[error("cluster key file {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too short to be a secret.
    #[error("cluster key file {path}: holds less than 32 characters")]
    TooShort {
        /// The file.
        path: String,
    },
}

impl ClusterKey {
    /// The key made of this secret text.
    #[must_use]
    pub fn from_secret(secret: &str) -> Self {
        Self(blake3::derive_key(
            "maia-edge 2026 cluster key v1",
            secret.trim().as_bytes(),
        ))
    }

    /// Reads the key from a file of at least 32 characters.
    ///
    /// # Errors
    /// [`ClusterKeyError`] names the file.
    pub fn from_file(path: &Path) -> Result<Self, ClusterKeyError> {
        let shown = path.display().to_string();
        let secret = std::fs::read_to_string(path).map_err(|source| ClusterKeyError::Read {
            path: shown.clone(),
            source,
        })?;
        if secret.trim().len() < 32 {
            return Err(ClusterKeyError::TooShort { path: shown });
        }
        Ok(Self::from_secret(&secret))
    }

    /// Names the cluster in files that must not be taken for another one's. No secret.
    #[must_use]
    pub fn mark(&self) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, b"mark of files").as_bytes()
    }

    /// The key that signs consistency tokens: the same on every node, and good for nothing else.
    #[must_use]
    pub fn token_key(&self) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, b"consistency tokens").as_bytes()
    }

    /// What proves membership on gRPC calls, for clients and servers alike.
    #[must_use]
    pub fn interceptor(&self) -> ClusterInterceptor {
        let proof = blake3::keyed_hash(&self.0, b"grpc");
        let text = proof.to_hex();
        ClusterInterceptor {
            proof,
            value: MetadataValue::try_from(text.as_str()).expect("hex digits are ASCII"),
        }
    }
}

/// On a client: adds the proof. On a server (through [`ClusterInterceptor::check`]): demands it.
#[derive(Debug, Clone)]
pub struct ClusterInterceptor {
    proof: blake3::Hash,
    value: MetadataValue<Ascii>,
}

impl ClusterInterceptor {
    /// The server's side.
    #[must_use]
    pub fn check(&self) -> ClusterCheck {
        ClusterCheck { proof: self.proof }
    }
}

impl Interceptor for ClusterInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert(METADATA_KEY, self.value.clone());
        Ok(request)
    }
}

/// Refuses callers of another cluster. Compares in constant time.
#[derive(Debug, Clone)]
pub struct ClusterCheck {
    proof: blake3::Hash,
}

impl Interceptor for ClusterCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request
            .metadata()
            .get(METADATA_KEY)
            .and_then(|v| v.to_str().ok());
        match given.and_then(|text| blake3::Hash::from_hex(text).ok()) {
            Some(hash) if hash == self.proof => Ok(request),
            Some(_) => Err(Status::unauthenticated(
                "the caller belongs to another cluster",
            )),
            None => Err(Status::unauthenticated(
                "the caller proves no cluster membership",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_gets_in() {
        let secret = "0123456789abcdef0123456789abcdef";
        let key = ClusterKey::from_secret(secret);
        let mut check = key.interceptor().check();
        assert!(check.call(Request::new(())).is_err());
        let signed = key.interceptor().call(Request::new(())).unwrap();
        assert!(check.call(signed).is_ok());
        let other = ClusterKey::from_secret("another")
            .interceptor()
            .call(Request::new(()))
            .unwrap();
        assert!(check.call(other).is_err());
        assert!(!format!("{key:?}").contains("0123"));
    }
}
