//! Which ports a local cluster takes: base + 10·i + {0 proxy, 1 proxy admin, 2 api, 3 rpc} for
//! region i. Whether they are free is found out before anything starts.

use std::net::{Ipv4Addr, TcpListener};

/// The first port unless told otherwise.
pub const DEFAULT_BASE: u16 = 17000;
const PER_REGION: u16 = 10;

/// The ports of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub proxy: u16,
    pub proxy_admin: u16,
    pub api: u16,
    pub rpc: u16,
}

impl Ports {
    /// The ports of region `i`; `None` beyond the last port there is.
    #[must_use]
    pub fn of(base: u16, i: usize) -> Option<Self> {
        let offset = u16::try_from(i).ok()?.checked_mul(PER_REGION)?;
        let first = base.checked_add(offset)?;
        first.checked_add(PER_REGION)?;
        Some(Self {
            proxy: first,
            proxy_admin: first + 1,
            api: first + 2,
            rpc: first + 3,
        })
    }
}

/// The first port that somebody listens on already, with its use; `None` when all are free.
#[must_use]
pub fn taken(ports: &[(String, u16)]) -> Option<&(String, u16)> {
    ports
        .iter()
        .find(|(_, port)| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_its_ten() {
        let third = Ports::of(17000, 2).unwrap();
        let expected = Ports {
            proxy: 17020,
            proxy_admin: 17021,
            api: 17022,
            rpc: 17023,
        };
        assert_eq!(third, expected);
        assert!(Ports::of(65530, 0).is_none());
        assert!(Ports::of(17000, 9000).is_none());
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports = [("api of eu".to_owned(), port)];
        assert_eq!(taken(&ports), Some(&ports[0]));
        drop(listener);
        assert_eq!(taken(&ports), None);
    }
}
