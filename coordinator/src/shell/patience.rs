//! Bounds how long what was sent on a connection may stay unread or unacknowledged: the kernel closes it
//! then. Without it, a reader that is gone without a word, or that reads no more, keeps its connection,
//! and with it a stream's place, for good. Set by the node where it listens.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;

/// For all connections that are accepted afterwards: they inherit it.
///
/// # Errors
/// When the system refuses.
pub fn bound(listener: impl AsFd, patience: Duration) -> io::Result<()> {
    let millis = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    Ok(set_tcp_user_timeout(listener, millis)?)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_reads_no_more_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        bound(&listener, Duration::from_millis(500)).unwrap();
        let address = listener.local_addr().unwrap();
        let _reads_nothing = TcpStream::connect(address).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let much = vec![0; 65_536];
        let written = async {
            loop {
                if let Err(error) = accepted.write_all(&much).await {
                    return error.kind();
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), written).await;
        assert_eq!(ended.unwrap(), io::ErrorKind::TimedOut);
    }
}
