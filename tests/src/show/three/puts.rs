//! One client of the data API, reduced to what a comparison of servers needs: PUTs over one kept-alive
//! connection, with a request that is one write and an answer that is read to its end. A client that
//! does more would take from the servers the processors that it shares with them.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers of writes are a few hundred bytes.
const ANSWER_BYTES: usize = 4096;

/// The client.
pub struct Puts {
    stream: TcpStream,
    /// All of a request's head that does not change.
    headers: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Puts {
    /// Connects to an API; `url` is `http://host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(url: &str, token: &str, tenant: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            headers: format!(
                "host: {host}\r\nauthorization: Bearer {token}\r\nx-maia-tenant-id: {tenant}\r\n"
            ),
            request: Vec::new(),
            answer: vec![0; ANSWER_BYTES],
        })
    }

    /// Puts a value; whether it was acknowledged.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn put(&mut self, path: &str, value: &[u8]) -> Result<bool> {
        let (headers, length) = (&self.headers, value.len());
        let head = format!("PUT {path} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
        self.request.clear();
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(value);
        self.stream.write_all(&self.request).await?;
        let mut got = 0;
        loop {
            let read = self.stream.read(&mut self.answer[got..]).await?;
            if read == 0 {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
            got += read;
            if let Some(status) = whole(&self.answer[..got])? {
                return Ok((200..300).contains(&status));
            }
        }
    }
}

/// The status, once the answer is whole.
fn whole(answer: &[u8]) -> Result<Option<u16>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let illegible = || Error::from(ErrorKind::InvalidData);
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| illegible())?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    let is_whole = answer.len() >= end + 4 + length.ok_or_else(illegible)?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    Ok(is_whole.then_some(status.ok_or_else(illegible)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(whole(text).unwrap(), Some(201));
        assert_eq!(whole(&text[..text.len() - 1]).unwrap(), None);
        assert_eq!(whole(&text[..10]).unwrap(), None);
        whole(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err();
    }
}
