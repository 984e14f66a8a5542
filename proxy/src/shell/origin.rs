//! The way to the local origin: where it is, what every request to it carries, and when a failed
//! try may be repeated. The origin's own behaviour is trusted as far as time-outs reach; a
//! client's word on internal headers is not.
//!
//! Repeated are: connections that were never made, requests that the origin refused as misrouted
//! (421, nothing was done), and, once, requests whose connection broke before an answer and whose
//! repetition has no further effect. Never what took too long.

use std::io;
use std::net::ToSocketAddrs;

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use maia_common::headers;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};

use crate::config::{Config, Timeouts};
use crate::core::alias::is_alias;
use crate::core::decide::Epoch;
use crate::shell::response::REQUEST_ID;
use crate::shell::stream::Guard;

const FORWARDED: HeaderName = http::header::FORWARDED;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PLACEMENT_EPOCH: HeaderName = HeaderName::from_static(headers::PLACEMENT_EPOCH);
/// A client's `Connection` can't take these from its request: what was decided rests on them.
const KEPT: [HeaderName; 3] = [
    HeaderName::from_static(headers::TENANT),
    HeaderName::from_static(headers::PREFERRED_REGION),
    HeaderName::from_static(headers::CONSISTENCY_TOKEN),
];
/// Only answers carry these.
const ANSWERS: [&str; 2] = [headers::REGION, headers::ACKED_REGIONS];
/// Longer ids are replaced: they go into every log line.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The origin as connections are made to it: its name is resolved once, at the start.
///
/// # Errors
/// The name can't be resolved.
pub fn peer(config: &Config) -> io::Result<HttpPeer> {
    let authority = config.origin_address().authority;
    let address = authority.to_socket_addrs()?.next().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{authority} has no address"),
        )
    })?;
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options = options(&config.timeouts);
    Ok(peer)
}

/// pingora's own defaults are "no limit" for each of these.
fn options(timeouts: &Timeouts) -> PeerOptions {
    let mut options = PeerOptions::new();
    options.connection_timeout = Some(timeouts.origin_connect);
    options.total_connection_timeout = Some(timeouts.origin_connect);
    options.read_timeout = Some(timeouts.origin_read);
    options.write_timeout = Some(timeouts.origin_write);
    options.idle_timeout = Some(timeouts.origin_idle);
    options
}

/// Makes a client's request fit for the origin. `client`: the headers as the client sent them;
/// from those of `request` pingora has already taken what `Connection` lists.
///
/// # Errors
/// None in practice: all values are legal by construction.
pub fn prepare(
    request: &mut RequestHeader,
    client: &HeaderMap,
    guard: Option<&Guard>,
    epoch: Option<Epoch>,
    request_id: &HeaderValue,
) -> Result<()> {
    for name in headers::INTERNAL.iter().chain(&ANSWERS) {
        request.remove_header(*name);
    }
    let aliases = request
        .headers
        .keys()
        .filter(|name| is_alias(name.as_str()));
    for alias in aliases.cloned().collect::<Vec<_>>() {
        request.remove_header(&alias);
    }
    for name in KEPT {
        if let Some(value) = client.get(&name) {
            request.insert_header(name, value)?;
        }
    }
    if let Some(epoch) = epoch {
        request.insert_header(PLACEMENT_EPOCH, epoch.to_string())?;
    }
    if let Some(guard) = guard {
        // Appended: what proxies before this one said stays, as the standard has it.
        request.append_header(X_FORWARDED_FOR, guard.forwarded_for())?;
        request.append_header(FORWARDED, guard.forwarded())?;
    }
    request.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    request.insert_header(REQUEST_ID, request_id)
}

/// The request's own id where it is legal, else a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let own = headers.get(REQUEST_ID).filter(|v| {
        let bytes = v.as_bytes();
        (1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=@".contains(b))
    });
    match own {
        Some(id) => id.clone(),
        None => {
            let id = format!("{:032x}", fastrand::u128(..));
            HeaderValue::from_maybe_shared(bytes::Bytes::from(id)).expect("hex digits are ASCII")
        }
    }
}

/// Whether doing the request twice has the effect and the answer of doing it once. Asked of the
/// request as the origin gets it: a key that stays behind makes nothing recognizable.
#[must_use]
pub fn is_repeatable(request: &RequestHeader) -> bool {
    if request.headers.contains_key(headers::IDEMPOTENCY_KEY) {
        return true;
    }
    let conditional = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| request.headers.contains_key(name));
    match request.method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        // The second of two conditional writes would be told that the first one spoiled it.
        Method::PUT | Method::DELETE => !conditional,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn only_what_has_no_further_effect_is_repeated() {
        for (method, headers, expected) in [
            ("GET", &[][..], true),
            ("PUT", &[][..], true),
            ("POST", &[][..], false),
            ("PATCH", &[][..], false),
            ("PUT", &[("if-match", "\"x\"")][..], false),
            ("POST", &[("idempotency-key", "k")][..], true),
            (
                "PUT",
                &[("if-match", "\"x\""), ("idempotency-key", "k")][..],
                true,
            ),
        ] {
            assert_eq!(
                is_repeatable(&request(method, headers)),
                expected,
                "{method} {headers:?}"
            );
        }
    }

    #[test]
    fn a_client_can_not_set_what_is_internal() {
        let mut forged = request(
            "PUT",
            &[
                ("x-maia-placement-epoch", "9/9/9"),
                ("x-maia-placement-epoch", "8/8/8"),
                ("x-maia-hops", "1"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "https"),
            ],
        );
        let client = "192.0.2.7:1".parse().unwrap();
        let guard = Guard::new(client, Duration::from_secs(1), Duration::from_secs(1));
        prepare(
            &mut forged,
            &HeaderMap::new(),
            Some(&guard),
            None,
            &HeaderValue::from_static("r"),
        )
        .unwrap();
        let all = |name| -> Vec<&str> {
            let values = forged.headers.get_all(name).iter();
            values.map(|v| v.to_str().unwrap()).collect()
        };
        assert!(all("x-maia-placement-epoch").is_empty() && all("x-maia-hops").is_empty());
        assert_eq!(all("x-forwarded-for"), ["10.0.0.1", "192.0.2.7"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert_eq!(all("forwarded"), ["for=192.0.2.7;proto=http"]);
    }

    #[test]
    fn an_illegal_request_id_is_replaced() {
        let of = |value: &str| request_id(&request("GET", &[("x-request-id", value)]).headers);
        assert_eq!(of("abc-1"), "abc-1");
        assert_eq!(of("a b").len(), 32);
        assert_eq!(of(&"a".repeat(129)).len(), 32);
        assert_eq!(request_id(&HeaderMap::new()).len(), 32);
    }
}
