//! Which tenant a request belongs to. One rule for now, the header `X-MAIA-Tenant-ID`; further
//! rules (host label, path segment, query, cookie, API-key map) come with a later issue and join
//! as further functions that yield candidates. Called by the shell for every request and by
//! `/explain`; never allocates, never looks a tenant up.

use maia_common::{ErrorCode, TenantId};

/// Why no tenant could be taken from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// No rule found one.
    #[error("the request names no tenant: set the header X-MAIA-Tenant-ID")]
    Required,
    /// The text is no legal tenant id.
    #[error("the tenant id is illegal: 1 to 128 of A-Z, a-z, 0-9 and - _ . : @ ~")]
    Illegal,
    /// Several headers that disagree: an attack or a broken client (fail closed, I10).
    #[error("the request names several tenants")]
    Ambiguous,
}

impl TenantError {
    /// The code that the client sees.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            TenantError::Required => ErrorCode::TenantRequired,
            TenantError::Illegal | TenantError::Ambiguous => ErrorCode::InvalidTenant,
        }
    }
}

/// The tenant that all values of the tenant header agree on.
///
/// # Errors
/// [`TenantError`]: none, an illegal one, or several that differ.
pub fn from_header<'h>(mut values: impl Iterator<Item = &'h [u8]>) -> Result<&'h str, TenantError> {
    let first = values.next().ok_or(TenantError::Required)?;
    if values.any(|other| other != first) {
        return Err(TenantError::Ambiguous);
    }
    std::str::from_utf8(first)
        .ok()
        .filter(|text| TenantId::is_legal(text))
        .ok_or(TenantError::Illegal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[&'static [u8]]) -> Result<&'static str, TenantError> {
        from_header(values.iter().copied())
    }

    #[test]
    fn one_legal_value_or_several_equal_ones() {
        assert_eq!(of(&[b"acme"]), Ok("acme"));
        assert_eq!(of(&[b"acme", b"acme"]), Ok("acme"));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let long: &'static [u8] = Box::leak(vec![b'a'; 129].into_boxed_slice());
        let cases: &[(&[&'static [u8]], TenantError)] = &[
            (&[], TenantError::Required),
            (&[b""], TenantError::Illegal),
            (&[b"a b"], TenantError::Illegal),
            (&[b"../etc"], TenantError::Illegal),
            (&[b"\xff\xfe"], TenantError::Illegal),
            (&[b"a,b"], TenantError::Illegal),
            (&[long], TenantError::Illegal),
            (&[b"acme", b"other"], TenantError::Ambiguous),
            (&[b"acme", b"ACME"], TenantError::Ambiguous),
        ];
        for (values, error) in cases {
            assert_eq!(of(values), Err(*error), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_legal_tenant(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = from_header(std::iter::once(value.as_slice())) {
                prop_assert!(TenantId::is_legal(text));
            }
        }
    }
}
