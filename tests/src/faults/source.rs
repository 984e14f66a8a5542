//! Which coordinator a connection on loopback comes from: the kernel's table of sockets says which
//! inode has the other end's port, and a process's open files whose that is.

use std::net::SocketAddr;
use std::path::Path;

use crate::cluster::Files;

/// The place, among the cluster's regions, of the coordinator that connected from `peer`.
#[must_use]
pub fn owner(dir: &Path, peer: SocketAddr) -> Option<usize> {
    let link = format!("socket:[{}]", inode(peer)?);
    let regions = Files::read(dir).regions;
    regions
        .iter()
        .position(|region| holds(region.coordinator_pid, &link))
}

fn inode(peer: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(peer) = peer else {
        return None;
    };
    let address = u32::from_ne_bytes(peer.ip().octets());
    let local = format!("{address:08X}:{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().skip(1).map(str::split_whitespace);
    let row = rows.find_map(|mut fields| (fields.nth(1) == Some(&local)).then_some(fields));
    // After the local address come seven fields, then the inode.
    row?.nth(7)?.parse().ok()
}

fn holds(pid: i32, link: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn our_own_socket_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_theirs, peer) = listener.accept().unwrap();
        assert_eq!(peer, own.local_addr().unwrap());
        let link = format!("socket:[{}]", inode(peer).unwrap());
        assert!(holds(std::process::id() as i32, &link));
        assert!(!holds(1, &link));
    }
}
