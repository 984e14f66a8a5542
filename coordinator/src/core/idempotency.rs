//! What makes a client's request recognizable when it comes again (I8): the transaction that carries
//! it out has an id made of what it concerns and the client's idempotency key, and keeps a digest of
//! the request and what was answered. The same key with another request is refused, by whoever looks first: the
//! planner, or apply. Called by the services of `shell/` that change the metastore for clients.
//!
//! Known for as many revisions as `limits::WATCH_HISTORY_REVISIONS` says; a repetition that comes
//! later is a new request.

use maia_common::ids::IdempotencyKey;
use serde::Serialize;

use super::metastore::Transaction;

/// The identity of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    id: String,
    digest: Option<[u8; 32]>,
}

impl RequestId {
    /// Of a request with this key, that asks `what` of the thing `of` (as `tenant/NAME`), with all
    /// that it says. Keys of different things have nothing to do with each other. Without a key each
    /// request is another one: `chance` tells them apart.
    #[must_use]
    pub fn new(
        key: Option<&IdempotencyKey>,
        (what, of): (&str, &str),
        request: &[u8],
        chance: u128,
    ) -> Self {
        let Some(key) = key else {
            return Self {
                id: format!("{what:.64}-{chance:032x}"),
                digest: None,
            };
        };
        let mut digest = blake3::Hasher::new();
        digest.update(what.as_bytes()).update(&[0]).update(request);
        Self {
            // The key may be 128 bytes long, and the id holds 128 in all.
            id: format!(
                "key-{}",
                blake3::hash(format!("{of}\0{key}").as_bytes()).to_hex()
            ),
            digest: Some(*digest.finalize().as_bytes()),
        }
    }

    /// The id of the transaction that carries the request out.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The digest of the request, if it has a key.
    #[must_use]
    pub fn digest(&self) -> Option<&[u8; 32]> {
        self.digest.as_ref()
    }

    /// The transaction, with what is to be remembered for a repetition.
    #[must_use]
    pub fn sign(&self, transaction: Transaction, memo: &impl Serialize) -> Transaction {
        let Some(digest) = self.digest else {
            return transaction;
        };
        let memo = serde_json::to_vec(memo).expect("memos are plain data");
        transaction.carries_out(digest, memo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_of_the_key_and_the_digest_of_the_request() {
        let key = IdempotencyKey::new("k").unwrap();
        let of =
            |what, request: &str| RequestId::new(Some(&key), (what, "t"), request.as_bytes(), 1);
        assert_eq!(of("put", "a"), of("put", "a"));
        assert_eq!(of("put", "a").id(), of("remove", "b").id());
        assert_ne!(of("put", "a").digest(), of("put", "b").digest());
        assert_ne!(of("put", "a").digest(), of("remove", "a").digest());
        let other = IdempotencyKey::new("l").unwrap();
        assert_ne!(
            RequestId::new(Some(&other), ("put", "t"), b"a", 1).id(),
            of("put", "a").id()
        );
        let elsewhere = RequestId::new(Some(&key), ("put", "u"), b"a", 1);
        assert_ne!(elsewhere.id(), of("put", "a").id(), "another tenant's key");
        assert_ne!(
            RequestId::new(None, ("put", "t"), b"a", 1).id(),
            RequestId::new(None, ("put", "t"), b"a", 2).id()
        );
    }
}
