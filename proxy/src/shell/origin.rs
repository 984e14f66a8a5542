//! The way to the local origin: where it is, what every request to it carries, and when a failed
//! try may be repeated. The origin's own behaviour is trusted as far as time-outs reach; a
//! client's word on internal headers is not.
//!
//! Repeated are: connections that were never made, requests that the origin refused as misrouted
//! (421, nothing was done), and, once, requests whose connection broke before an answer and whose
//! repetition has no further effect. Never what took too long.

use std::io;
use std::net::ToSocketAddrs;

use bytes::Bytes;
use http::header::{FORWARDED, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use maia_common::headers;
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::upstreams::peer::{HttpPeer, PeerOptions};

use crate::config::{Config, Timeouts};
use crate::core::alias::is_alias;
use crate::core::decide::Epoch;
use crate::shell::names::{
    CONSISTENCY_TOKEN, IDEMPOTENCY_KEY, PLACEMENT_EPOCH, PREFERRED_REGION, REQUEST_ID, TENANT,
    X_FORWARDED_FOR, X_FORWARDED_PROTO,
};
use crate::shell::stream::Guard;
use crate::shell::text::{hex, push_decimal};

/// A client's `Connection` can't take these from its request: what was decided rests on them.
static KEPT: [HeaderName; 3] = [TENANT, PREFERRED_REGION, CONSISTENCY_TOKEN];
/// Only answers carry these.
const ANSWERS: [&str; 4] = [
    headers::REGION,
    headers::ACKED_REGIONS,
    headers::ACK_DEGRADED,
    headers::REPLICA_LAG_MS,
];
/// Longer ids are replaced: they go into every log line.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// What [`prepare`] adds at most: room for all of it at once.
const ADDED_HEADERS: usize = 8;

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
/// from those of `request` pingora has already taken what `Connection` lists. Names of headers
/// come out in lower case.
///
/// # Errors
/// None in practice: the target was legal when it came.
pub fn prepare(
    request: &mut RequestHeader,
    client: &HeaderMap,
    guard: Option<&Guard>,
    epoch: Option<Epoch>,
    request_id: &HeaderValue,
) -> Result<()> {
    let target = target_beside_uri(request);
    let (empty, ()) = http::Request::new(()).into_parts();
    // As its parts, where names need not be kept, and hashed, a second time for their case.
    let mut parts = Parts::from(std::mem::replace(request, empty.into()));
    let headers = &mut parts.headers;
    launder(headers, client);
    headers.reserve(ADDED_HEADERS);
    if let Some(epoch) = epoch {
        headers.insert(PLACEMENT_EPOCH, epoch_value(epoch));
    }
    if let Some(guard) = guard {
        // Appended: what proxies before this one said stays, as the standard has it.
        headers.append(X_FORWARDED_FOR, guard.forwarded_for().clone());
        headers.append(FORWARDED, guard.forwarded().clone());
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(REQUEST_ID, request_id.clone());
    *request = RequestHeader::from(parts);
    match target {
        Some(target) => request.set_raw_path(&target),
        None => Ok(()),
    }
}

/// The target as it was sent, where the URI does not say all of it (absolute form, odd bytes).
fn target_beside_uri(request: &RequestHeader) -> Option<Vec<u8>> {
    let target = request.raw_path();
    let in_uri = request.uri.path_and_query().map(|p| p.as_str().as_bytes());
    (in_uri != Some(target)).then(|| target.to_vec())
}

/// Takes out what only maia-edge may say, and puts back what the client said of its tenant.
fn launder(headers: &mut HeaderMap, client: &HeaderMap) {
    let is_foreign = |name: &&HeaderName| {
        let name = name.as_str();
        headers::INTERNAL.contains(&name) || ANSWERS.contains(&name) || is_alias(name)
    };
    // Usually there is none, and nothing is allocated.
    let foreign: Vec<HeaderName> = headers.keys().filter(is_foreign).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
    for name in client.keys().filter(|name| KEPT.contains(name)) {
        if name == CONSISTENCY_TOKEN {
            // Each is a demand: of several the origin chooses none, so all are passed on.
            if !headers.contains_key(name) {
                let sent = client.get_all(name).iter();
                headers.extend(sent.map(|value| (name.clone(), value.clone())));
            }
            continue;
        }
        let mut sent = client.get_all(name).iter();
        let (first, more) = (sent.next(), sent.next());
        let whole = more.is_none() && headers.contains_key(name);
        if let Some(first) = first.filter(|_| !whole) {
            headers.insert(name, first.clone());
        }
    }
}

/// `group/term/version`, as [`Epoch`] displays itself.
fn epoch_value(epoch: Epoch) -> HeaderValue {
    let mut text = Vec::with_capacity(32);
    push_decimal(&mut text, epoch.group.get());
    text.push(b'/');
    push_decimal(&mut text, epoch.term.get());
    text.push(b'/');
    push_decimal(&mut text, epoch.version.get());
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits and slashes are ASCII")
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
            let id = hex(fastrand::u128(..));
            HeaderValue::from_bytes(&id).expect("hex digits are ASCII")
        }
    }
}

/// Whether doing the request twice has the effect and the answer of doing it once. Asked of the
/// request as the origin gets it: a key that stays behind makes nothing recognizable.
#[must_use]
pub fn is_repeatable(request: &RequestHeader) -> bool {
    let names = |name: HeaderName| request.headers.contains_key(name);
    match request.method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        _ if names(IDEMPOTENCY_KEY) => true,
        // The second of two conditional writes would be told that the first one spoiled it.
        Method::PUT | Method::DELETE => {
            !(names(IF_MATCH) || names(IF_NONE_MATCH) || names(IF_UNMODIFIED_SINCE))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

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
        let guard = Guard::new(client, SECOND, SECOND, SECOND);
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
