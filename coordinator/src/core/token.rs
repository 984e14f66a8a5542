//! The consistency token: a client that wrote gives it back with a read, and the read sees that
//! write or says why not (I9). Owns its text form, which is opaque to clients and signed with a key
//! derived from the cluster's, so that nobody makes up positions. Made by whoever acknowledges a
//! write, checked by whoever serves a read, against the state that the read is served from.
//!
//! ```text
//! base64url( [version: u8 = 1][group: u64 BE][term: u64 BE][index: u64 BE][tenant][16 bytes of keyed blake3] )
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits::MAX_TENANT_ID_BYTES;
use maia_common::position::{Index, Position, Term};

use super::history::{self, Standing};
use crate::raft::{StateError, StateView};

/// The version of the text form that this code writes.
const TOKEN_VERSION: u8 = 1;
/// Version, group, term, index.
const HEAD_BYTES: usize = 1 + 3 * 8;
/// Nobody guesses so many bytes.
const SIGNATURE_BYTES: usize = 16;
/// The longest text: four characters for three bytes.
const MAX_TEXT_BYTES: usize = (HEAD_BYTES + MAX_TENANT_ID_BYTES + SIGNATURE_BYTES).div_ceil(3) * 4;

/// What signs tokens: a key of its own, derived from the cluster's.
pub type TokenKey = [u8; 32];

/// Up to where a client knows a tenant's writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose writes.
    pub tenant: TenantId,
    /// The group in which they were made.
    pub group: GroupId,
    /// The position of the last one that it knows.
    pub position: Position,
}

/// Why a text is not a token of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form, or of another version.
    #[error("the consistency token is malformed")]
    Malformed,
    /// Signed by nobody of this cluster.
    #[error("the consistency token was not made by this cluster")]
    Forged,
}

impl Token {
    /// The text that a client is given.
    #[must_use]
    pub fn encode(&self, key: &TokenKey) -> String {
        let mut bytes = vec![TOKEN_VERSION];
        let Position { term, index } = self.position;
        for number in [self.group.get(), term.get(), index.get()] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(self.tenant.as_str().as_bytes());
        let signature = blake3::keyed_hash(key, &bytes);
        bytes.extend_from_slice(&signature.as_bytes()[..SIGNATURE_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`encode`](Token::encode) wrote.
    ///
    /// # Errors
    /// [`TokenError`]; never panics, whatever the text.
    pub fn decode(text: &str, key: &TokenKey) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| TokenError::Malformed)?;
        let signed = bytes
            .len()
            .checked_sub(SIGNATURE_BYTES)
            .filter(|length| *length > HEAD_BYTES)
            .ok_or(TokenError::Malformed)?;
        let (message, signature) = bytes.split_at(signed);
        let expected = blake3::keyed_hash(key, message);
        if !is_equal(&expected.as_bytes()[..SIGNATURE_BYTES], signature) {
            return Err(TokenError::Forged);
        }
        let (head, tenant) = message.split_at(HEAD_BYTES);
        let [TOKEN_VERSION, numbers @ ..] = head else {
            return Err(TokenError::Malformed);
        };
        let number = |n: usize| {
            let bytes = numbers.get(n * 8..(n + 1) * 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        let tenant = std::str::from_utf8(tenant).ok();
        let tenant = tenant.and_then(|name| TenantId::new(name).ok());
        match (tenant, number(0), number(1), number(2)) {
            (Some(tenant), Some(group), Some(term), Some(index)) => Ok(Self {
                tenant,
                group: GroupId::new(group),
                position: Position::new(Term::new(term), Index::new(index)),
            }),
            _ => Err(TokenError::Malformed),
        }
    }

    /// Whether a state of the group, applied up to `applied`, has the token's write. A token of
    /// another group is `Diverged`: what was written there is not known to be here.
    ///
    /// # Errors
    /// [`StateError`] when the view fails.
    pub fn standing(
        &self,
        group: GroupId,
        applied: Position,
        view: &dyn StateView,
    ) -> Result<Standing, StateError> {
        if self.group != group {
            return Ok(Standing::Diverged);
        }
        history::standing(group, self.position, applied, view)
    }
}

/// Compares without telling by the time taken where two differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    one.len() == other.len() && differ == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: TokenKey = [7; 32];

    fn token() -> Token {
        Token {
            tenant: TenantId::new("t").unwrap(),
            group: GroupId::new(1),
            position: Position::new(Term::new(2), Index::new(3)),
        }
    }

    #[test]
    fn the_text_is_as_it_was_in_version_1() {
        let golden = token().encode(&KEY);
        assert_eq!(golden, GOLDEN);
        assert_eq!(Token::decode(GOLDEN, &KEY), Ok(token()));
    }

    const GOLDEN: &str = "AQAAAAAAAAABAAAAAAAAAAIAAAAAAAAAA3R9UEKgAvqbaEt2vx1UvxSx";

    #[test]
    fn another_clusters_key_does_not_open_it() {
        assert_eq!(Token::decode(GOLDEN, &[8; 32]), Err(TokenError::Forged));
        let long = "A".repeat(MAX_TEXT_BYTES + 1);
        for bad in ["", "A", "====", &GOLDEN[..8], &long] {
            assert_eq!(Token::decode(bad, &KEY), Err(TokenError::Malformed));
        }
    }

    #[test]
    fn a_token_of_another_group_is_not_honoured() {
        let state = crate::metastore::memory::MemoryState::default();
        let applied = Position::new(Term::new(2), Index::new(9));
        let stands = token().standing(GroupId::new(2), applied, &state);
        assert_eq!(stands.unwrap(), Standing::Diverged);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            name in "[a-z0-9]{1,128}", group: u64, term: u64, index: u64
        ) {
            let token = Token {
                tenant: TenantId::new(name).unwrap(),
                group: GroupId::new(group),
                position: Position::new(Term::new(term), Index::new(index)),
            };
            let text = token.encode(&KEY);
            prop_assert!(text.len() <= MAX_TEXT_BYTES);
            prop_assert_eq!(Token::decode(&text, &KEY), Ok(token));
        }

        /// No changed byte gets through.
        #[test]
        fn a_changed_text_is_refused(at in 0usize..56, to in "[A-Za-z0-9_-]") {
            let mut text = GOLDEN.to_owned();
            let at = at % text.len();
            prop_assume!(text[at..=at] != to);
            text.replace_range(at..=at, &to);
            prop_assert!(Token::decode(&text, &KEY).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,300}") {
            let _ = Token::decode(&text, &KEY);
        }
    }
}
