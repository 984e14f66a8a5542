//! An origin that answers with what it was asked, as JSON. Some paths make it misbehave:
//! `/slow` answers when released, `/never` never, `/break` closes, `/misrouted` says 421 until
//! told otherwise, `/early` answers before it has read the body, `/break-once?STATUS` closes at first
//! and then answers so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::eventually;

/// In every response: what only maia-edge itself may say to a client.
const FORGED: &str = "X-MAIA-Region: forged\r\nX-MAIA-Placement-Epoch: 9/9/9\r\n\
                      X-MAIA-Redirect-Reason: forged\r\nX-MAIA-Primary-Region: forged\r\nX-MAIA-Hops: 9\r\n";

#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn all(&self, name: &str) -> Vec<&str> {
        let found = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
pub struct State {
    pub asked: Mutex<Vec<Asked>>,
    pub arrived: AtomicUsize,
    pub release: Notify,
    pub accepts: AtomicBool,
    pub dead: Notify,
    pub broke_off: AtomicBool,
}

pub struct FakeOrigin {
    pub address: SocketAddr,
    pub state: Arc<State>,
    task: JoinHandle<()>,
    /// While it is down: keeps the port from others, and refuses.
    placeholder: Option<TcpSocket>,
}

impl Drop for FakeOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeOrigin {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            task,
            placeholder: None,
        }
    }

    /// From now on connections are refused.
    pub async fn go_down(&mut self) {
        self.task.abort();
        eventually("the origin's port is let go", || async {
            self.task.is_finished()
        })
        .await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.placeholder = Some(socket);
    }

    /// As [`FakeOrigin::go_down`], and connections break off.
    pub async fn die(&mut self) {
        self.go_down().await;
        self.state.dead.notify_waiters();
    }

    /// Back at the same address.
    pub async fn come_back(&mut self) {
        drop(self.placeholder.take());
        *self = Self::start_at(self.address).await;
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    pub fn last(&self) -> Asked {
        self.asked().pop().expect("the origin was asked")
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut asked = head(&mut stream).await?;
        state.arrived.fetch_add(1, Ordering::SeqCst);
        let early = asked.path.starts_with("/early");
        if !early {
            if asked.all("expect").contains(&"100-continue") {
                stream
                    .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                    .await
                    .ok()?;
            }
            asked.body = body(&mut stream, &asked).await?;
        }
        state.asked.lock().unwrap().push(asked.clone());
        let mut status = "200 OK";
        match asked.path.split('?').next()? {
            "/slow" => state.release.notified().await,
            "/never" => {
                state.dead.notified().await;
                return None;
            }
            "/break" => return None,
            // Carried out, for all one knows; whoever comes again is refused.
            "/break-once" => {
                if !state.broke_off.swap(true, Ordering::SeqCst) {
                    return None;
                }
                status = asked.path.split_once('?').map_or("503", |(_, s)| s);
            }
            "/misrouted" if !state.accepts.load(Ordering::SeqCst) => {
                status = "421 Misdirected Request";
            }
            _ => {}
        }
        let echo = serde_json::json!({
            "method": asked.method,
            "path": asked.path,
            "body_bytes": asked.body.len(),
            "epoch": asked.all("x-maia-placement-epoch"),
        });
        let echo = echo.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{FORGED}X-MAIA-Consistency-Token: t\r\n\r\n",
            echo.len()
        );
        let echo = if asked.method == "HEAD" {
            String::new()
        } else {
            echo
        };
        stream
            .write_all(format!("{head}{echo}").as_bytes())
            .await
            .ok()?;
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some(Asked {
                method,
                path,
                headers,
                body: Vec::new(),
            });
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

async fn body(stream: &mut BufReader<TcpStream>, asked: &Asked) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = asked.all("content-length").first() {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if asked.all("transfer-encoding").contains(&"chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Some(body)
}
