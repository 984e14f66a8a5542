//! What a configuration must fulfil beyond the types of its keys. Pure but for reading the
//! cluster key and the certificates; names the key at fault, so that the caller can name its line.

use std::time::Duration;

use maia_common::cluster_key::ClusterKey;

use super::{Config, TableMode};

/// Where the origin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginAddress {
    /// `host:port`.
    pub authority: String,
}

impl OriginAddress {
    /// Takes `http://host:port`, with or without a trailing slash.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|e| format!("`{url}` is no URL: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!(
                "`{url}` must begin with http:// (TLS to origins comes later)"
            ));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("`{url}` must have no path"));
        }
        let authority = uri.authority().filter(|a| !a.as_str().contains('@'));
        let authority = authority.ok_or_else(|| format!("`{url}` names no plain host"))?;
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
        })
    }
}

type Fault = (&'static str, String);

/// Checks what the types alone don't.
pub(super) fn check(config: &Config) -> Result<(), Fault> {
    within("threads", config.threads as u64, 1, 256)?;
    within(
        "listen.max_connections",
        u64::from(config.listen.max_connections),
        1,
        1_000_000,
    )?;
    let (public, admin) = (config.listen.public, config.listen.admin);
    if public == admin && public.port() != 0 {
        return fault(
            "listen.admin",
            "is the same address as listen.public".into(),
        );
    }
    OriginAddress::parse(&config.origin.url).map_err(|message| ("origin.url", message))?;
    coordinators(&config.feed.coordinators)?;
    ClusterKey::from_file(&config.cluster_key_file)
        .map_err(|e| ("cluster_key_file", e.to_string()))?;
    config
        .rpc
        .check(config.party())
        .map_err(|fault| (fault.key, fault.message))?;
    within(
        "proxy.hold_max_requests",
        u64::from(config.proxy.hold_max_requests),
        0,
        1_000_000,
    )?;
    let placings = u64::from(config.proxy.placings_per_second);
    within("proxy.placings_per_second", placings, 1, 10_000)?;
    if config.proxy.table == TableMode::OnDemand && config.proxy.hold_max_requests == 0 {
        let message = "must be at least 1 with an on-demand table: lookups wait too";
        return fault("proxy.hold_max_requests", message.into());
    }
    // The proxy's answer must come before clients' own time-outs of about a minute.
    at_most(
        "proxy.hold_budget",
        config.proxy.hold_budget,
        Duration::from_secs(60),
    )?;
    snapshot_every(config.proxy.snapshot_every)?;
    // More than there may be lookups under way, each with its tenant.
    let max_tenants = config.proxy.table_max_tenants;
    within("proxy.table_max_tenants", max_tenants, 1024, 100_000_000)?;
    timeouts(config)
}

fn snapshot_every(every: Duration) -> Result<(), Fault> {
    const KEY: &str = "proxy.snapshot_every";
    if every < Duration::from_millis(100) {
        return fault(KEY, "must be at least 100ms: it writes all tenants".into());
    }
    at_most(KEY, every, Duration::from_secs(86_400))
}

fn coordinators(addresses: &[String]) -> Result<(), Fault> {
    const KEY: &str = "feed.coordinators";
    if addresses.is_empty() || addresses.len() > 64 {
        return fault(KEY, "must name 1 to 64 coordinators".into());
    }
    for address in addresses {
        let port = address
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(1..))) if !host.is_empty() && !host.contains('/')) {
            return fault(KEY, format!("`{address}` is no host:port"));
        }
    }
    Ok(())
}

fn timeouts(config: &Config) -> Result<(), Fault> {
    let t = &config.timeouts;
    let day = Duration::from_secs(86_400);
    for (key, value) in [
        ("timeouts.header", t.header),
        ("timeouts.idle", t.idle),
        ("timeouts.body_idle", t.body_idle),
        ("timeouts.body_total", t.body_total),
        ("timeouts.client_write", t.client_write),
        ("timeouts.origin_connect", t.origin_connect),
        ("timeouts.origin_read", t.origin_read),
        ("timeouts.origin_write", t.origin_write),
        ("timeouts.origin_idle", t.origin_idle),
    ] {
        if value.is_zero() {
            return fault(key, "must not be 0: nothing waits without end".into());
        }
        at_most(key, value, day)?;
    }
    if t.idle < Duration::from_secs(1) {
        return fault("timeouts.idle", "must be at least 1s".into());
    }
    at_most("timeouts.linger", t.linger, Duration::from_secs(300))?;
    at_most("timeouts.drain", t.drain, Duration::from_secs(300))
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Fault> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    fault(key, format!("is {value}, must be {least} to {most}"))
}

fn at_most(key: &'static str, value: Duration, most: Duration) -> Result<(), Fault> {
    if value <= most {
        return Ok(());
    }
    let most = maia_common::duration::format(most);
    fault(key, format!("is more than {most}"))
}

fn fault(key: &'static str, message: String) -> Result<(), Fault> {
    Err((key, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_plain_http_addresses() {
        let at = |url| OriginAddress::parse(url).map(|o| o.authority);
        assert_eq!(at("http://127.0.0.1:7001").as_deref(), Ok("127.0.0.1:7001"));
        assert_eq!(at("http://origin.local/").as_deref(), Ok("origin.local:80"));
        for bad in [
            "https://a:1",
            "a:1",
            "http://a:1/x",
            "http://u@a:1",
            "http://",
            "",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
