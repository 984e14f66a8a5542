//! Names of headers that an origin may take for one of ours. Many origins (CGI and what came after
//! it) fold header names: `X_MAIA_Tenant_ID` and `X-MAIA-Tenant-ID` become one variable, and the
//! client's word would stand in for ours. Called by the shell for every header of a request that
//! goes to the origin; allocates only for odd names.

use maia_common::headers;

/// What decisions rest on or what this proxy sets, apart from the `x-maia-` family.
const OURS: [&str; 4] = [
    headers::IDEMPOTENCY_KEY,
    headers::REQUEST_ID,
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// What the product's own names begin with.
pub const FAMILY: &str = "x-maia-";

/// Whether a name, in lower case, is none of ours but becomes one where all that is neither letter
/// nor digit is folded into one character.
#[must_use]
pub fn is_alias(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    // Folding leaves a first letter as it is, and ours are these two.
    if !name.starts_with(['x', 'i']) || name.bytes().all(plain) {
        return false;
    }
    let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let folded: String = name.chars().map(fold).collect();
    folded.starts_with(FAMILY) || OURS.contains(&folded.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_begin_as_the_short_cut_says() {
        for name in OURS.iter().chain([&FAMILY]) {
            assert!(name.starts_with(['x', 'i']), "{name}");
        }
        for name in headers::INTERNAL.iter().chain([&headers::ACKED_REGIONS]) {
            assert!(name.starts_with(FAMILY), "{name}");
        }
    }

    #[test]
    fn only_other_spellings_of_our_names_are_aliases() {
        for alias in [
            "x_maia_placement_epoch",
            "x-maia_tenant-id",
            "x.maia.hops",
            "x_maia_anything",
            "idempotency_key",
            "x_request_id",
            "x_forwarded-for",
        ] {
            assert!(is_alias(alias), "{alias}");
        }
        for other in [
            "x-maia-tenant-id",
            "idempotency-key",
            "x_own",
            "maia_tenant",
            "content_type",
            "",
        ] {
            assert!(!is_alias(other), "{other}");
        }
    }
}
