//! Who holds a certificate: one node, or one or several proxies, of one cluster. Pure.

use std::collections::BTreeSet;
use std::fmt;

use crate::ids::{ClusterName, NodeId, ProxyId};
use crate::limits;

const SCHEME: &str = "maia://";

/// One process of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A coordinator.
    Node(NodeId),
    /// A proxy.
    Proxy(ProxyId),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Node(id) => write!(f, "node {id}"),
            Party::Proxy(id) => write!(f, "proxy {id}"),
        }
    }
}

impl Party {
    /// The name in a certificate: `maia://CLUSTER/node/ID` or `maia://CLUSTER/proxy/ID`.
    #[must_use]
    pub fn uri(&self, cluster: &ClusterName) -> String {
        match self {
            Party::Node(id) => format!("{SCHEME}{cluster}/node/{id}"),
            Party::Proxy(id) => format!("{SCHEME}{cluster}/proxy/{id}"),
        }
    }

    /// One spelling for each: `node/07` is nobody.
    fn parse(path: &str) -> Option<Self> {
        let party = match path.split_once('/')? {
            ("node", id) => Party::Node(id.parse().ok()?),
            ("proxy", id) => Party::Proxy(ProxyId::new(id).ok()?),
            _ => return None,
        };
        let spelt = match &party {
            Party::Node(id) => format!("node/{id}"),
            Party::Proxy(id) => format!("proxy/{id}"),
        };
        (spelt == path).then_some(party)
    }
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// No URI of ours.
    #[error("names neither maia://CLUSTER/node/ID nor maia://CLUSTER/proxy/ID")]
    Nobody,
    /// A URI of ours that can't be read.
    #[error("names `{0}`, which is no node and no proxy")]
    Illegible(String),
    /// More than one certificate may name.
    #[error(
        "names more than it may: one node, or up to {} proxies, of one cluster",
        limits::MAX_CERTIFICATE_PROXIES
    )]
    TooMany,
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    cluster: ClusterName,
    parties: BTreeSet<Party>,
}

impl Identity {
    /// Reads the URIs among a certificate's names; those of other schemes say nothing.
    ///
    /// # Errors
    /// [`IdentityFault`]
    pub fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, IdentityFault> {
        let mut found: Option<Identity> = None;
        for uri in uris {
            let Some(rest) = uri.strip_prefix(SCHEME) else {
                continue;
            };
            let illegible = || IdentityFault::Illegible(uri.escape_default().take(200).collect());
            let (cluster, path) = rest.split_once('/').ok_or_else(illegible)?;
            let cluster = ClusterName::new(cluster).map_err(|_| illegible())?;
            let party = Party::parse(path).ok_or_else(illegible)?;
            let identity = found.get_or_insert_with(|| Identity {
                cluster: cluster.clone(),
                parties: BTreeSet::new(),
            });
            identity.parties.insert(party);
            if identity.cluster != cluster || !identity.is_bounded() {
                return Err(IdentityFault::TooMany);
            }
        }
        found.ok_or(IdentityFault::Nobody)
    }

    fn is_bounded(&self) -> bool {
        let nodes = self.parties.iter().filter(|p| matches!(p, Party::Node(_)));
        let most = match nodes.count() {
            0 => limits::MAX_CERTIFICATE_PROXIES,
            _ => 1,
        };
        self.parties.len() <= most
    }

    /// The cluster that all of them belong to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Whether this one is named.
    #[must_use]
    pub fn names(&self, party: &Party) -> bool {
        self.parties.contains(party)
    }

    /// The node, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self.parties.first() {
            Some(Party::Node(id)) => Some(*id),
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.parties.first() {
            first.fmt(f)?;
        }
        match self.parties.len() {
            0 | 1 => Ok(()),
            all => write!(f, " and {} more", all - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uris: &[&str]) -> Result<Identity, IdentityFault> {
        Identity::from_uris(uris.iter().copied())
    }

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        let cluster = ClusterName::new("c1").unwrap();
        for party in [
            Party::Node(NodeId::new(7)),
            Party::Proxy(ProxyId::new("proxy-us.1").unwrap()),
        ] {
            let uri = party.uri(&cluster);
            let identity = of(&["https://else.where", &uri]).unwrap();
            assert!(identity.names(&party) && *identity.cluster() == cluster);
        }
    }

    #[test]
    fn a_node_is_one_and_nothing_else() {
        let node = of(&["maia://c/node/2"]).unwrap();
        assert_eq!(node.node(), Some(NodeId::new(2)));
        assert!(!node.names(&Party::Node(NodeId::new(3))));
        assert!(!node.names(&Party::Proxy(ProxyId::new("2").unwrap())));
        for both in [
            ["maia://c/node/2", "maia://c/node/3"],
            ["maia://c/node/2", "maia://c/proxy/a"],
            ["maia://c/proxy/a", "maia://c/node/2"],
            ["maia://c/proxy/a", "maia://d/proxy/b"],
        ] {
            assert_eq!(of(&both), Err(IdentityFault::TooMany), "{both:?}");
        }
        let two = of(&["maia://c/proxy/a", "maia://c/proxy/b"]).unwrap();
        assert!(two.names(&Party::Proxy(ProxyId::new("b").unwrap())) && two.node().is_none());
        assert_eq!(two.to_string(), "proxy a and 1 more");
    }

    #[test]
    fn what_is_not_spelt_exactly_names_nobody() {
        assert_eq!(of(&[]), Err(IdentityFault::Nobody));
        assert_eq!(of(&["http://c/node/1"]), Err(IdentityFault::Nobody));
        for bad in [
            "maia://c",
            "maia://c/",
            "maia:///node/1",
            "maia://C/node/1",
            "maia://c/node/07",
            "maia://c/node/+7",
            "maia://c/node/1/",
            "maia://c/node/",
            "maia://c/proxy/a/b",
            "maia://c/king/1",
            "maia://c/Node/1",
        ] {
            let fault = of(&[bad]).unwrap_err();
            assert!(matches!(fault, IdentityFault::Illegible(_)), "{bad}");
        }
    }
}
