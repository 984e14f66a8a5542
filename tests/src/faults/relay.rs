//! The network between coordinators: a relay stands at each node's announced address, so that what
//! goes from one node to another can be cut, one way or both, without a right of root.
//!
//! ```text
//! node 1 ──▶ relay of node 2 ──▶ node 2's listener        link(1→2): requests, node 1's half of streams
//!        ◀──                 ◀──                           link(2→1): answers
//! ```
//!
//! Who connects is found by the owner of the other end's socket ([`super::source`]). A direction that
//! is cut holds its bytes: what was under way arrives late when it heals, as a packet that was sent
//! again. [`Network::sever`] breaks connections instead: what was under way is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::source::owner;

const BUFFER_BYTES: usize = 64 * 1024;

/// A node, by its place among the regions.
pub type Node = usize;

/// What is cut now: the directions, and how often all connections were broken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cuts {
    held: Vec<(Node, Node)>,
    severed: u64,
}

/// The relays of a cluster.
#[derive(Debug)]
pub struct Network {
    cuts: watch::Sender<Cuts>,
    listeners: Vec<AbortHandle>,
}

/// A relay that stands in front of one node.
struct Relay {
    node: Node,
    behind: SocketAddr,
    dir: PathBuf,
    cuts: watch::Receiver<Cuts>,
}

impl Network {
    /// Relays at these ports, each in front of the port beside it. `dir` is the cluster's folder.
    ///
    /// # Panics
    /// When a port is taken.
    pub async fn start(dir: PathBuf, ports: &[(u16, u16)]) -> Self {
        let (cuts, seen) = watch::channel(Cuts::default());
        let mut listeners = Vec::new();
        for (node, (own, behind)) in ports.iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *own)).await;
            let relay = Relay {
                node,
                behind: (Ipv4Addr::LOCALHOST, *behind).into(),
                dir: dir.clone(),
                cuts: seen.clone(),
            };
            let accepting = relay.accept(listener.expect("the relay's port is free"));
            listeners.push(tokio::spawn(accepting).abort_handle());
        }
        Self { cuts, listeners }
    }

    /// Holds what goes from one node to another, until [`Network::heal`].
    pub fn hold(&self, from: Node, to: Node) {
        self.cuts.send_modify(|cuts| cuts.held.push((from, to)));
    }

    /// Nothing is held any more.
    pub fn heal(&self) {
        self.cuts.send_modify(|cuts| cuts.held.clear());
    }

    /// Breaks every connection between nodes, once.
    pub fn sever(&self) {
        self.cuts.send_modify(|cuts| cuts.severed += 1);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

impl Relay {
    async fn accept(self, listener: TcpListener) {
        let relay = Arc::new(self);
        // Ends with this task: its connections are aborted then.
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                continue;
            };
            connections.spawn(Arc::clone(&relay).carry(stream, peer));
            while connections.try_join_next().is_some() {}
        }
    }

    /// Both directions of one connection, until one ends or all are severed.
    async fn carry(self: Arc<Self>, near: TcpStream, peer: SocketAddr) {
        let mut cuts = self.cuts.clone();
        let severed = cuts.borrow_and_update().severed;
        let dir = self.dir.clone();
        let Ok(here) = near.local_addr() else {
            return;
        };
        let found = tokio::task::spawn_blocking(move || owner(&dir, peer, here)).await;
        // Nobody else comes here; one that is gone already needs nothing.
        let Some(from) = found.ok().flatten() else {
            return;
        };
        open(&mut cuts, from, self.node).await;
        let Ok(far) = TcpStream::connect(self.behind).await else {
            return;
        };
        let nodelay = near.set_nodelay(true).and(far.set_nodelay(true));
        if nodelay.is_err() {
            return;
        }
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let there = (from, self.node);
        let back = (self.node, from);
        tokio::select! {
            () = pump(near_read, far_write, there, self.cuts.clone()) => {}
            () = pump(far_read, near_write, back, self.cuts.clone()) => {}
            // The network is gone, or all connections are broken.
            _ = cuts.wait_for(|cuts| cuts.severed != severed) => {}
        }
    }
}

/// Returns once the direction is open.
async fn open(cuts: &mut watch::Receiver<Cuts>, from: Node, to: Node) {
    // An error: the network is gone, and the connection ends with it.
    let _gone = cuts.wait_for(|cuts| !cuts.held.contains(&(from, to))).await;
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    link: (Node, Node),
    mut cuts: watch::Receiver<Cuts>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        open(&mut cuts, link.0, link.1).await;
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        open(&mut cuts, link.0, link.1).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
