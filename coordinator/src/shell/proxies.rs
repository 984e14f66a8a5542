//! The registered proxies: who they are (in the metastore, under their stable ids) and where they
//! are connected now (asked of every coordinator). The feed registers them, the API lists and
//! removes them.
//!
//! A proxy is written once, and again only when its region changes: a reconnect costs no
//! transaction. A removal is refused while any coordinator that answers has the proxy on its feed; one
//! that did not answer and has it sees the removal later and ends the stream, whereupon the proxy
//! registers anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{NodeId, ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::topology::Proxy;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::clock::unix_us;
use super::cluster::Cluster;
use super::peers::Peers;
use super::placements::Refusal;
use crate::core::idempotency::RequestId;
use crate::core::keyspace;
use crate::core::metastore::{Precondition, Transaction};
use crate::core::placements::Event;
use crate::feed::Hub;
use crate::metastore::{self, Metastore, MetastoreError, Outcome, Versioned};

/// How often a plan is made anew before the caller is told to come again.
const MAX_PLANS: usize = 8;

/// What the service stands on.
pub struct ProxiesParts {
    /// This node.
    pub node: NodeId,
    /// Where proxies are registered.
    pub store: Arc<dyn Metastore>,
    /// For the other coordinators.
    pub cluster: Cluster,
    /// To ask them.
    pub peers: Arc<Peers>,
    /// The proxies that are connected here.
    pub hub: Arc<Hub>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Proxies {
    parts: Arc<ProxiesParts>,
    registrations: Arc<Semaphore>,
}

/// A registered proxy as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProxyView {
    /// Its stable id.
    pub id: ProxyId,
    /// Its region.
    pub region: RegionName,
    /// Microseconds since 1970.
    #[serde(rename = "registered_at")]
    pub registered_at_unix_us: u64,
    /// What it said is in force there; none: it is connected to no coordinator that answers.
    pub revision: Option<Revision>,
    /// How long ago it last said anything.
    pub last_seen_ms: Option<u64>,
    /// The coordinator whose feed it is on.
    pub connected_to: Option<NodeId>,
}

/// Where a proxy is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Live {
    node: NodeId,
    applied: Revision,
    last_seen_ms: u64,
}

impl Proxies {
    /// The service over these parts.
    #[must_use]
    pub fn new(parts: ProxiesParts) -> Self {
        Self {
            parts: Arc::new(parts),
            registrations: Arc::new(Semaphore::new(limits::MAX_REGISTRATIONS_IN_FLIGHT)),
        }
    }

    /// Registers the proxy unless it is; returns the revision of its registration. One that is known
    /// here needs no leader of the metastore.
    ///
    /// # Errors
    /// [`Refusal`] when a new proxy can't be written: no leader, or too many proxies.
    pub async fn register(
        &self,
        id: &ProxyId,
        region: &RegionName,
        deadline: Instant,
    ) -> Result<Revision, Refusal> {
        let store = &*self.parts.store;
        for _ in 0..MAX_PLANS {
            let known = self.stored(id)?;
            if let Some(known) = known.as_ref().filter(|k| k.value.region == *region) {
                return Ok(known.revision);
            }
            let turn = tokio::time::timeout_at(deadline.into(), self.registrations.acquire());
            let Ok(_turn) = turn.await else {
                return Err(busy());
            };
            if known.is_none() {
                self.check_room()?;
            }
            let transaction = registration(id, region, known.as_ref());
            match store.transact(transaction, deadline).await? {
                Outcome::Committed(revision) => return Ok(revision),
                Outcome::Conflict(_) => store.catch_up(deadline).await?,
            }
        }
        Err(busy())
    }

    fn stored(&self, id: &ProxyId) -> Result<Option<Versioned<Proxy>>, MetastoreError> {
        metastore::get(&*self.parts.store, &keyspace::proxy(id))
    }

    fn check_room(&self) -> Result<(), Refusal> {
        let count = self.parts.cluster.proxies();
        if count < limits::MAX_PROXIES {
            return Ok(());
        }
        let text = format!(
            "{count} proxies are registered, as many as may be: remove those that are gone"
        );
        Err(Refusal::new(ErrorCode::TooManyProxies, text))
    }

    fn rows(&self, after: Option<&ProxyId>, limit: usize) -> Result<Vec<Proxy>, MetastoreError> {
        let after = after.map(keyspace::proxy);
        let mut rows = Vec::new();
        self.parts.store.read(&mut |view| {
            rows = metastore::range(view, keyspace::PROXIES, after.as_deref(), limit)?;
            Ok(())
        })?;
        let proxies = rows.iter();
        Ok(proxies
            .filter_map(|(_, row)| serde_json::from_slice(&row.value).ok())
            .collect())
    }

    /// Up to `limit` registered proxies in the order of their ids, after the id `after`, with what
    /// the coordinators that answer say of them.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub async fn list(
        &self,
        after: Option<&ProxyId>,
        limit: usize,
    ) -> Result<Vec<ProxyView>, Refusal> {
        let registered = self.rows(after, limit)?;
        let mut live = self.live().await;
        let proxies = registered.into_iter().map(|proxy| {
            let live = live.remove(&proxy.id);
            ProxyView {
                id: proxy.id,
                region: proxy.region,
                registered_at_unix_us: proxy.registered_at_unix_us,
                revision: live.as_ref().map(|l| l.applied),
                last_seen_ms: live.as_ref().map(|l| l.last_seen_ms),
                connected_to: live.map(|l| l.node),
            }
        });
        Ok(proxies.collect())
    }

    /// Takes a registration back.
    ///
    /// # Errors
    /// [`Refusal`]: `not_found`, `proxy_connected` while it is on the feed of a coordinator that
    /// answers, or the metastore has no leader.
    pub async fn remove(&self, id: &ProxyId, deadline: Instant) -> Result<(), Refusal> {
        let store = &*self.parts.store;
        for _ in 0..MAX_PLANS {
            store.catch_up(deadline).await?;
            let Some(known) = self.stored(id)? else {
                let text = format!("no proxy `{id}` is registered");
                return Err(Refusal::new(ErrorCode::NotFound, text));
            };
            if let Some(live) = self.live().await.get(id) {
                let text = format!("proxy `{id}` is connected to node {}", live.node);
                return Err(Refusal::new(ErrorCode::ProxyConnected, text));
            }
            let now = unix_us();
            let key = keyspace::proxy(id);
            let transaction = Transaction::new(chance("proxy-removal"), now)
                .when(&key, Precondition::At(known.revision))
                .delete(key)
                .event(&event("proxy_removed", &known.value, now));
            if let Outcome::Committed(_) = store.transact(transaction, deadline).await? {
                return Ok(());
            }
        }
        Err(busy())
    }

    /// Where proxies are connected, by all coordinators that answer soon.
    async fn live(&self) -> BTreeMap<ProxyId, Live> {
        let here = self.parts.hub.subscribers().into_iter().map(|subscriber| {
            let live = Live {
                node: self.parts.node,
                applied: subscriber.applied,
                last_seen_ms: u64::try_from(subscriber.last_seen.as_millis()).unwrap_or(u64::MAX),
            };
            (subscriber.id, live)
        });
        let here: Vec<_> = here.collect();
        let deadline = Instant::now() + limits::PROXIES_DEADLINE;
        let state = self.parts.cluster.state();
        let others = state.nodes.keys().filter(|node| **node != self.parts.node);
        let asked = others.map(|node| async move {
            let answer = self.parts.peers.proxies(*node, deadline).await;
            let proxies = answer.unwrap_or_default().into_iter();
            let there = proxies.filter_map(|proxy| {
                let live = Live {
                    node: *node,
                    applied: Revision::new(proxy.applied_revision),
                    last_seen_ms: proxy.last_seen_ms,
                };
                Some((ProxyId::new(proxy.id).ok()?, live))
            });
            there.collect::<Vec<_>>()
        });
        let answers = futures::future::join_all(asked).await;
        newest(here.into_iter().chain(answers.into_iter().flatten()))
    }
}

/// A proxy that has just moved may still be listed where it was: the one that heard of it last is
/// right.
fn newest(all: impl Iterator<Item = (ProxyId, Live)>) -> BTreeMap<ProxyId, Live> {
    let mut newest: BTreeMap<ProxyId, Live> = BTreeMap::new();
    for (id, live) in all {
        match newest.get(&id) {
            Some(known) if known.last_seen_ms <= live.last_seen_ms => {}
            _ => drop(newest.insert(id, live)),
        }
    }
    newest
}

fn registration(
    id: &ProxyId,
    region: &RegionName,
    known: Option<&Versioned<Proxy>>,
) -> Transaction {
    let now = unix_us();
    let proxy = Proxy {
        id: id.clone(),
        region: region.clone(),
        registered_at_unix_us: known.map_or(now, |k| k.value.registered_at_unix_us),
    };
    let unchanged = known.map_or(Precondition::Absent, |k| Precondition::At(k.revision));
    let key = keyspace::proxy(id);
    Transaction::new(chance("proxy"), now)
        .when(&key, unchanged)
        .put_json(key, &proxy)
        .event(&event("proxy_registered", &proxy, now))
}

fn event(kind: &str, proxy: &Proxy, now_unix_us: u64) -> Event {
    Event {
        kind: kind.into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: None,
        detail: format!("{} in {}", proxy.id, proxy.region),
    }
}

fn chance(what: &str) -> String {
    let id = RequestId::new(None, (what, ""), b"", fastrand::u128(..));
    id.id().to_owned()
}

fn busy() -> Refusal {
    let text = "too many proxies register at this moment: try again";
    Refusal::new(ErrorCode::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use maia_common::cluster_key::ClusterKey;
    use maia_common::rpc::Rpc;

    use super::super::cluster::ClusterLoop;
    use super::super::peers::Directory;
    use super::*;
    use crate::feed::CutOff;
    use crate::metastore::memory::MemoryMetastore;

    fn service() -> (Proxies, ClusterLoop) {
        let store: Arc<dyn Metastore> = Arc::<MemoryMetastore>::default();
        let key = ClusterKey::from_secret("a secret of thirty-two characters");
        let directory = Arc::new(Directory::new(Rpc::plaintext(&key)));
        let hub = Arc::<Hub>::default();
        let (cluster_loop, cluster) =
            ClusterLoop::new(Arc::clone(&store), Arc::clone(&directory), Arc::clone(&hub));
        let proxies = Proxies::new(ProxiesParts {
            node: NodeId::new(1),
            store,
            cluster,
            peers: Arc::new(Peers::new(directory)),
            hub,
        });
        (proxies, cluster_loop)
    }

    fn names(id: &str, region: &str) -> (ProxyId, RegionName) {
        (ProxyId::new(id).unwrap(), RegionName::new(region).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_proxy_is_written_once_and_again_when_its_region_changes() {
        let (proxies, _loop) = service();
        let (id, region) = names("p", "a");
        let first = proxies.register(&id, &region, soon()).await.unwrap();
        let again = proxies.register(&id, &region, soon()).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(*proxies.parts.store.revisions().borrow(), first);
        let (_, other) = names("p", "b");
        let before = proxies.list(None, 10).await.unwrap();
        let moved = proxies.register(&id, &other, soon()).await.unwrap();
        assert!(moved > first);
        let after = proxies.list(None, 10).await.unwrap();
        assert_eq!(after[0].region, other);
        assert_eq!(
            after[0].registered_at_unix_us,
            before[0].registered_at_unix_us
        );
        assert_eq!((after[0].connected_to, after[0].revision), (None, None));
    }

    #[tokio::test]
    async fn one_that_is_connected_stays_and_a_removal_ends_a_stream_that_was_not_seen() {
        let (proxies, cluster_loop) = service();
        let (id, region) = names("p", "a");
        proxies.register(&id, &region, soon()).await.unwrap();
        let seated = proxies.parts.hub.enter(id.clone(), region.clone()).unwrap();
        let list = proxies.list(None, 10).await.unwrap();
        assert_eq!(list[0].connected_to, Some(NodeId::new(1)));
        let refused = proxies.remove(&id, soon()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ProxyConnected);
        drop(seated);
        let tasks = maia_common::runtime::Tasks::new();
        tasks.spawn_until_stop("cluster loop", cluster_loop.run());
        let known = *proxies.parts.store.revisions().borrow();
        let caught_up = proxies
            .parts
            .cluster
            .wait_for(soon(), |s| s.revision >= known);
        assert!(caught_up.await);
        proxies.remove(&id, soon()).await.unwrap();
        // It came where the removal had not been seen yet.
        let late = proxies.parts.hub.enter(id.clone(), region).unwrap();
        let cut = late.seat().cut_off();
        assert!(
            tokio::time::timeout(Duration::from_secs(5), cut)
                .await
                .is_ok()
        );
        let gone = proxies.remove(&id, soon()).await.unwrap_err();
        assert_eq!(gone.code, ErrorCode::NotFound);
    }

    /// The removal may be in a part of the history that this node never saw.
    #[tokio::test]
    async fn one_whose_registration_is_gone_when_all_is_read_anew_registers_again() {
        let (proxies, cluster_loop) = service();
        let (id, region) = names("known", "a");
        proxies.register(&id, &region, soon()).await.unwrap();
        let hub = &proxies.parts.hub;
        let known = hub.enter(id, region.clone()).unwrap();
        let (id, _) = names("forgotten", "a");
        let forgotten = hub.enter(id, region).unwrap();
        let tasks = maia_common::runtime::Tasks::new();
        tasks.spawn_until_stop("cluster loop", cluster_loop.run());
        let cut = forgotten.seat().cut_off();
        let cut = tokio::time::timeout(Duration::from_secs(5), cut).await;
        assert_eq!(cut, Ok(CutOff::Removed));
        assert_eq!(known.seat().cut_off().now_or_never(), None);
    }

    #[tokio::test]
    async fn there_is_an_end_to_new_proxies_but_known_ones_still_come() {
        let (proxies, cluster_loop) = service();
        let tasks = maia_common::runtime::Tasks::new();
        tasks.spawn_until_stop("cluster loop", cluster_loop.run());
        let (known, region) = names("known", "a");
        proxies.register(&known, &region, soon()).await.unwrap();
        for part in 0..2 {
            let start = Transaction::new(format!("fill-{part}"), 1);
            let ids = (0..limits::MAX_PROXIES / 2).map(|n| format!("p{part}-{n}"));
            let fill = ids.fold(start, |transaction, id| {
                transaction.put(format!("{}{id}", keyspace::PROXIES), "{}")
            });
            proxies.parts.store.transact(fill, soon()).await.unwrap();
        }
        let newest = *proxies.parts.store.revisions().borrow();
        let cluster = &proxies.parts.cluster;
        assert!(cluster.wait_for(soon(), |s| s.revision >= newest).await);
        assert_eq!(cluster.proxies(), limits::MAX_PROXIES + 1);
        let (id, _) = names("one-more", "a");
        let refused = proxies.register(&id, &region, soon()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::TooManyProxies);
        let again = proxies.register(&known, &region, soon()).now_or_never();
        assert!(again.expect("it needs no transaction").is_ok());
    }

    #[test]
    fn a_proxy_is_where_it_was_heard_of_last() {
        let id = ProxyId::new("p").unwrap();
        let live = |node, last_seen_ms| Live {
            node: NodeId::new(node),
            applied: Revision::new(1),
            last_seen_ms,
        };
        let both = [(id.clone(), live(1, 900)), (id.clone(), live(2, 30))];
        let merged = newest(both.into_iter());
        assert_eq!(merged[&id], live(2, 30));
        let both = [(id.clone(), live(2, 30)), (id.clone(), live(1, 900))];
        assert_eq!(newest(both.into_iter())[&id], live(2, 30));
    }
}
