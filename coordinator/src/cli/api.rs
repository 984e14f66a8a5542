//! The coordinators' HTTP API as maiactl uses it: tries one URL after the other until one
//! connects, adds the token, and turns problem documents into errors that say code and detail.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long a coordinator may take: a little longer than its own deadline for a request.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The API of one cluster.
#[derive(Debug, Clone)]
pub struct Api {
    urls: Vec<String>,
    token: Option<String>,
    http: reqwest::Client,
}

/// An answer with its status; `body` is null where there was none.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub etag: Option<String>,
    pub body: Value,
}

/// The cluster refused.
#[derive(Debug, thiserror::Error)]
#[error("{code} ({status}): {detail}")]
pub struct Refused {
    pub status: u16,
    pub code: String,
    pub detail: String,
}

impl Api {
    /// The API behind these URLs.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(urls: Vec<String>, token: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()?;
        let urls = urls
            .into_iter()
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        Ok(Self { urls, token, http })
    }

    /// All coordinators that are known.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The same API, through this coordinator only.
    #[must_use]
    pub fn only(&self, url: &str) -> Self {
        Self {
            urls: vec![url.to_owned()],
            ..self.clone()
        }
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// [`Refused`], or no coordinator connects.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.call(Method::GET, path, &[], None).await?;
        accepted(answer).map(|answer| answer.body)
    }

    /// Any request whose refusal is an error.
    ///
    /// # Errors
    /// [`Refused`], or no coordinator connects.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        accepted(self.call(method, path, headers, body).await?)
    }

    /// Any request; every answer is fine, only silence is an error. The next coordinator is
    /// tried only where the connection failed: nothing was sent then.
    ///
    /// # Errors
    /// No coordinator connects, or the connection broke.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut last = None;
        for url in &self.urls {
            let mut request = self.http.request(method.clone(), format!("{url}{path}"));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(response) => return read(response).await,
                Err(error) if error.is_connect() => last = Some((url, error)),
                Err(error) => return Err(plain(error)).context(format!("{url} did not answer")),
            }
        }
        match last {
            Some((url, error)) => Err(plain(error)).context(match self.urls.len() {
                1 => format!("{url} does not connect"),
                n => format!("none of {n} coordinators connects; the last was {url}"),
            }),
            None => anyhow::bail!("no coordinator is known"),
        }
    }
}

impl Api {
    /// POST of newline-separated JSON to one coordinator, counted round from the first; every answer
    /// is fine, only silence is an error.
    ///
    /// # Errors
    /// That coordinator does not connect, or the connection broke.
    pub async fn post_lines(
        &self,
        coordinator: usize,
        path: &str,
        idempotency_key: &str,
        body: bytes::Bytes,
    ) -> anyhow::Result<Answer> {
        let known = self.urls.len().max(1);
        let Some(url) = self.urls.get(coordinator % known) else {
            anyhow::bail!("no coordinator is known");
        };
        let mut request = self.http.post(format!("{url}{path}")).body(body);
        request = request
            .header("content-type", "application/x-ndjson")
            .header(maia_common::headers::IDEMPOTENCY_KEY, idempotency_key);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(plain);
        read(response.with_context(|| format!("{url} did not answer"))?).await
    }
}

/// The error with its causes, without the URL that the context names already.
fn plain(error: reqwest::Error) -> anyhow::Error {
    anyhow::Error::new(error.without_url())
}

async fn read(response: reqwest::Response) -> anyhow::Result<Answer> {
    let status = response.status();
    let etag = response.headers().get(reqwest::header::ETAG);
    let etag = etag.and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let bytes = response
        .bytes()
        .await
        .map_err(plain)
        .context("the answer broke off")?;
    let body = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(_) if bytes.is_empty() => Value::Null,
        Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
    };
    Ok(Answer { status, etag, body })
}

/// The answer, or the refusal that it carries.
fn accepted(answer: Answer) -> anyhow::Result<Answer> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    Err(refusal(answer.status, &answer.body).into())
}

/// What a problem document says.
pub fn refusal(status: StatusCode, body: &Value) -> Refused {
    let field = |name: &str| body[name].as_str().map(str::to_owned);
    Refused {
        status: status.as_u16(),
        code: field("code").unwrap_or_else(|| "refused".to_owned()),
        detail: field("detail").unwrap_or_else(|| match body {
            Value::Null => status.to_string(),
            other => super::print::text(other),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_says_code_and_detail() {
        let body = json!({"code": "unknown_tenant", "detail": "no tenant `x`", "status": 404});
        let text = refusal(StatusCode::NOT_FOUND, &body).to_string();
        assert_eq!(text, "unknown_tenant (404): no tenant `x`");
        let text = refusal(StatusCode::BAD_GATEWAY, &Value::Null).to_string();
        assert_eq!(text, "refused (502): 502 Bad Gateway");
    }

    #[tokio::test]
    async fn the_next_coordinator_is_tried_when_one_does_not_connect() {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let api = Api::new(vec![free(), free()], None).unwrap();
        let error = format!("{:#}", api.get("/x").await.unwrap_err());
        assert!(error.contains("none of 2 coordinators connects"), "{error}");
    }
}
