//! A client that sends exactly the bytes it is told to, and reads responses by their framing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream
            .write_all(text.as_ref())
            .await
            .expect("the connection is open");
    }

    pub async fn response(&mut self) -> Response {
        self.try_response().await.expect("a response")
    }

    /// The next response, to a HEAD request: without a body, whatever length it names.
    pub async fn head_response(&mut self) -> Response {
        let read = tokio::time::timeout(PATIENCE, self.read_head());
        read.await.expect("an answer in time").expect("a response")
    }

    /// The next response, or `None` where the connection ends before one.
    pub async fn try_response(&mut self) -> Option<Response> {
        tokio::time::timeout(PATIENCE, self.read_response())
            .await
            .expect("an answer in time")
    }

    /// Whether the connection ends cleanly (FIN, not RST) without another byte.
    pub async fn closes_cleanly(&mut self) -> bool {
        let mut rest = [0u8; 1];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut rest));
        self.buffer.is_empty() && matches!(read.await, Ok(Ok(0)))
    }

    async fn read_response(&mut self) -> Option<Response> {
        let mut response = self.read_head().await?;
        if response.status >= 200 && response.status != 204 && response.status != 304 {
            response.body = self.body(&response).await?;
        }
        Some(response)
    }

    async fn read_head(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(n, v)| (n.to_owned(), v.trim().to_owned()))
            .collect();
        Some(Response {
            status,
            headers,
            body: Vec::new(),
        })
    }

    async fn body(&mut self, response: &Response) -> Option<Vec<u8>> {
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                self.more().await?;
            }
            return Some(self.buffer.drain(..length).collect());
        }
        assert_eq!(
            response.header("transfer-encoding"),
            None,
            "the fake origin never chunks"
        );
        while self.more().await.is_some() {}
        Some(std::mem::take(&mut self.buffer))
    }

    async fn more(&mut self) -> Option<()> {
        let mut piece = [0u8; 8192];
        let count = self.stream.read(&mut piece).await.ok().filter(|c| *c > 0)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Some(())
    }
}
