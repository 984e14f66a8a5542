//! Where a redirect points: the other region's public URL, then path and query of the request,
//! bytes untouched. The host comes from configuration only, never from the client, so that
//! nobody can make the proxy send a client elsewhere. Source: RFC 9110 §15.4.8, protocols.md.

/// The value of `Location`, or `None` if the target can't be redirected (`*`, or an authority).
///
/// `public_url` is absolute and without a trailing slash; `target` is the request target as the
/// client sent it: `/path?query`, or in absolute form `scheme://host/path?query`, of which only
/// path and query are used.
#[must_use]
pub fn location(public_url: &str, target: &[u8]) -> Option<Vec<u8>> {
    let path = path_and_query(target)?;
    let mut location = Vec::with_capacity(public_url.len() + path.len() + 1);
    location.extend_from_slice(public_url.as_bytes());
    if path.first() != Some(&b'/') {
        location.push(b'/');
    }
    location.extend_from_slice(path);
    Some(location)
}

/// Path and query of a request target: empty, or beginning with `/` or `?`.
fn path_and_query(target: &[u8]) -> Option<&[u8]> {
    if target.first() == Some(&b'/') {
        return Some(target);
    }
    let scheme_end = target.windows(3).position(|w| w == b"://")?;
    let after = &target[scheme_end + 3..];
    let authority_end = after
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(after.len());
    Some(&after[authority_end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(url: &str, target: &str) -> Option<String> {
        location(url, target.as_bytes()).map(|l| String::from_utf8(l).unwrap())
    }

    #[test]
    fn path_and_query_follow_the_public_url() {
        let cases = [
            ("http://b:1", "/v1/x?a=%2F&b", "http://b:1/v1/x?a=%2F&b"),
            ("https://b/base", "/v1/x", "https://b/base/v1/x"),
            ("https://b", "//evil.example/x", "https://b//evil.example/x"),
            ("https://b", "http://evil.example/x?y", "https://b/x?y"),
            ("https://b", "http://evil.example", "https://b/"),
            ("https://b", "http://evil.example?y", "https://b/?y"),
            (
                "https://b",
                "/a?next=http://c/d",
                "https://b/a?next=http://c/d",
            ),
        ];
        for (url, target, expected) in cases {
            assert_eq!(at(url, target).as_deref(), Some(expected), "{url} {target}");
        }
        assert_eq!(at("https://b", "*"), None);
        assert_eq!(at("https://b", "evil.example:443"), None);
    }

    proptest! {
        #[test]
        fn the_host_is_always_ours_and_the_bytes_untouched(
            path in "/[ -~]{0,60}",
            host in "[a-z]{1,12}",
        ) {
            let ours = "https://ours.example/base";
            let direct = location(ours, path.as_bytes()).unwrap();
            prop_assert_eq!(&direct[..ours.len()], ours.as_bytes());
            prop_assert_eq!(&direct[ours.len()..], path.as_bytes());
            let absolute = location(ours, format!("http://{host}{path}").as_bytes()).unwrap();
            prop_assert_eq!(absolute, direct);
        }

        #[test]
        fn any_bytes_stay_behind_our_host(target in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(location) = location("https://ours.example", &target) {
                prop_assert!(location.starts_with(b"https://ours.example/"));
            }
        }
    }
}
