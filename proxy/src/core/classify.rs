//! Whether a request reads or writes, by its method. Route rules that override the method
//! (`POST /v1/search` is a read) come with a later issue. Unknown methods are writes: a write
//! taken for a read would reach a replica (I10), a read taken for a write only costs a redirect.

use http::Method;

/// What a request does to a tenant's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Served by any region with the data. A body does not make it a write.
    Read,
    /// Served by the primary region alone.
    Write,
    /// A browser's question whether it may ask (Fetch standard, CORS preflight). It carries no
    /// tenant, and browsers refuse to follow a redirect of it, so it passes to the local origin.
    Preflight,
}

impl Class {
    /// The class as metrics and `/explain` name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Write => "write",
            Class::Preflight => "preflight",
        }
    }
}

/// The class of a request. `preflight`: it carries `Origin` and `Access-Control-Request-Method`,
/// which together make an `OPTIONS` request a CORS preflight.
#[must_use]
pub fn classify(method: &Method, preflight: bool) -> Class {
    match *method {
        Method::OPTIONS if preflight => Class::Preflight,
        Method::GET | Method::HEAD | Method::OPTIONS => Class::Read,
        _ => Class::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_methods_read() {
        for read in ["GET", "HEAD", "OPTIONS"] {
            let method = Method::from_bytes(read.as_bytes()).unwrap();
            assert_eq!(classify(&method, false), Class::Read, "{read}");
        }
        for write in [
            "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY", "get", "PROPFIND",
        ] {
            let method = Method::from_bytes(write.as_bytes()).unwrap();
            assert_eq!(classify(&method, false), Class::Write, "{write}");
            assert_eq!(classify(&method, true), Class::Write, "{write}");
        }
        assert_eq!(classify(&Method::OPTIONS, true), Class::Preflight);
        assert_eq!(classify(&Method::GET, true), Class::Read);
    }
}
