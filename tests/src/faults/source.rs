//! Which coordinator a connection on loopback comes from: the kernel's table of sockets says which
//! inode has the other end's port, and a process's open files whose that is.

use std::net::SocketAddr;
use std::path::Path;

use crate::cluster::Files;

/// The table is read while it changes: a socket may be missed once.
const LOOKS: usize = 5;

/// The place, among the cluster's regions, of the coordinator that connected from `peer` to `here`.
#[must_use]
pub fn owner(dir: &Path, peer: SocketAddr, here: SocketAddr) -> Option<usize> {
    (0..LOOKS).find_map(|_| {
        let link = format!("socket:[{}]", inode(peer, here)?);
        let regions = Files::read(dir).regions;
        regions
            .iter()
            .position(|region| holds(region.coordinator_pid, &link))
    })
}

fn inode(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let (from, to) = (shown(from)?, shown(to)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|row| {
        // Number, local and remote address, six more fields, inode; 0: it is nobody's any more.
        let fields: Vec<&str> = row.split_whitespace().collect();
        let is_it = fields.get(1..3)? == [from.as_str(), to.as_str()];
        let inode = fields.get(9)?.parse().ok()?;
        (is_it && inode != 0).then_some(inode)
    })
}

/// An address as the table has it.
fn shown(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
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
        let link = format!(
            "socket:[{}]",
            inode(peer, listener.local_addr().unwrap()).unwrap()
        );
        assert!(holds(std::process::id() as i32, &link));
        assert!(!holds(1, &link));
    }
}
