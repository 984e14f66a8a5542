//! The keyed 128-bit fingerprint that stands for a tenant's name in the table, in the snapshot on
//! disk and in the in-flight counters: no name is kept a million times. Made here, with the key
//! that the shell brings; called by the feed (once per tenant that it hears of) and once per
//! request.
//!
//! Names come from attackers. SipHash-1-3 is a pseudorandom function under its key: whoever does
//! not have the key can't find two names that meet, neither to be taken for another tenant nor to
//! pile tenants up in one place of the table. The key is the system's randomness, one per proxy,
//! and leaves it only into the snapshot on disk (mode 0600). The odds that any two of n tenants
//! meet are n²/2^129: 10^-25 for ten million.

use maia_common::TenantId;
use siphasher::sip128::SipHasher13;

/// The secret of this proxy's fingerprints.
#[derive(Clone)]
pub struct FingerprintKey(SipHasher13);

impl std::fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FingerprintKey(…)")
    }
}

/// What stands for a tenant's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Its place within a shard of the table; the greater half of its order.
    pub high: u64,
    /// Its shard, by the lowest bits.
    pub low: u64,
}

impl Fingerprint {
    /// Whether both are equal: both halves at once, without a branch between them.
    #[must_use]
    #[inline]
    pub fn is(self, other: Self) -> bool {
        (self.high ^ other.high) | (self.low ^ other.low) == 0
    }
}

impl FingerprintKey {
    /// Of 16 bytes that nobody else knows.
    #[must_use]
    pub fn new(secret: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(secret))
    }

    /// The bytes again, for the snapshot on disk.
    #[must_use]
    pub fn secret(&self) -> [u8; 16] {
        self.0.key()
    }

    /// The fingerprint of a name. Never allocates; the name need not be legal.
    #[must_use]
    #[inline]
    pub fn of(&self, tenant: &str) -> Fingerprint {
        let hash = self.0.hash(tenant.as_bytes());
        Fingerprint {
            high: hash.h1,
            low: hash.h2,
        }
    }

    /// The fingerprint of a tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: &TenantId) -> Fingerprint {
        self.of(tenant.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_keys_and_nobody_elses() {
        let key = FingerprintKey::new(&[7; 16]);
        let again = FingerprintKey::new(&key.secret());
        assert_eq!(key.of("acme"), again.of("acme"));
        assert_ne!(key.of("acme"), key.of("acmf"));
        assert_ne!(key.of("acme"), FingerprintKey::new(&[8; 16]).of("acme"));
        assert!(!format!("{key:?}").contains('7'));
    }

    /// Snapshots on disk outlive versions of the program.
    #[test]
    fn it_never_changes() {
        let key = FingerprintKey::new(&std::array::from_fn(|i| i as u8));
        let print = key.of("tenant-1");
        let golden = (15_142_180_756_941_273_345, 17_211_351_696_595_567_000);
        assert_eq!((print.high, print.low), golden);
    }
}
