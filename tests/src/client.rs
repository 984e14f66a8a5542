//! An HTTP client that never follows a redirect by itself, so that tests see each step; and the
//! answers it gets, read whole.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// Where a chain of redirects ends at the latest.
const MAX_HOPS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    timeout: Duration,
}

/// A request, to be sent as often as wanted.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Redirects that led here, as (from, to).
    pub hops: Vec<(String, String)>,
}

impl Request {
    /// A request without headers or body.
    #[must_use]
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With this JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json")
            .body(body.to_string())
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Duration::from_secs(20))
    }
}

impl Client {
    /// A client whose requests take at most this long.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .expect("a plain HTTP client needs nothing from the machine");
        Self { http, timeout }
    }

    /// Sends it once.
    ///
    /// # Errors
    /// When there is no whole answer: refused, broken off, or too late.
    pub async fn try_send(&self, request: &Request) -> reqwest::Result<Answer> {
        let mut builder = self.http.request(request.method.clone(), &request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if !request.body.is_empty() {
            builder = builder.body(request.body.clone());
        }
        let response = builder.timeout(self.timeout).send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await?.to_vec();
        Ok(Answer {
            status,
            headers,
            body,
            hops: Vec::new(),
        })
    }

    /// Sends it once; panics without an answer.
    pub async fn send(&self, request: &Request) -> Answer {
        match self.try_send(request).await {
            Ok(answer) => answer,
            Err(error) => panic!("{} {}: {error:?}", request.method, request.url),
        }
    }

    /// Like [`Client::send`], of a request that nobody needs afterwards.
    pub async fn send_owned(self, request: Request) -> Answer {
        self.send(&request).await
    }

    /// Sends it and follows 307 with method, headers and body kept.
    ///
    /// # Errors
    /// When a step has no whole answer.
    pub async fn try_follow(&self, request: &Request) -> reqwest::Result<Answer> {
        let mut request = request.clone();
        let mut hops = Vec::new();
        loop {
            let mut answer = self.try_send(&request).await?;
            let target = answer.header("location").map(str::to_owned);
            match target {
                Some(target) if answer.status == 307 && hops.len() < MAX_HOPS => {
                    hops.push((request.url.clone(), target.clone()));
                    request.url = target;
                }
                _ => {
                    answer.hops = hops;
                    return Ok(answer);
                }
            }
        }
    }

    /// Like [`Client::try_follow`]; panics without an answer.
    pub async fn follow(&self, request: &Request) -> Answer {
        match self.try_follow(request).await {
            Ok(answer) => answer,
            Err(error) => panic!("{} {}: {error:?}", request.method, request.url),
        }
    }
}

impl Answer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The problem document's code; empty when it carries none.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// For messages.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }

    /// Panics unless the answer is a success.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "an assertion first, a value second"
    )]
    pub fn expect_success(self, what: &str) -> Self {
        assert!(self.is_success(), "{what}: {}", self.text());
        self
    }

    /// Panics unless the answer is a problem document with this status and code.
    pub fn expect_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            self.text()
        );
        let media = self.header("content-type").unwrap_or_default();
        assert!(
            media.starts_with("application/problem+json"),
            "content-type {media}"
        );
        assert_eq!(self.json()["status"], status, "{}", self.text());
    }
}
