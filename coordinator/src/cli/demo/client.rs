//! The tour's HTTP client: an application's, as it would be written by hand. It follows 307 itself,
//! with method and body kept, so that each hop can be shown.

use std::time::{Duration, Instant};

use maia_common::headers;
use maia_common::ids::RegionName;
use reqwest::{Method, StatusCode, header};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const TEXT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HOPS: usize = 5;

/// An application that serves one tenant.
#[derive(Debug, Clone)]
pub struct Application {
    http: reqwest::Client,
    tenant: &'static str,
    preferred: Option<RegionName>,
    token: Option<String>,
}

/// What came back in the end, and the way to it.
#[derive(Debug)]
pub struct Outcome {
    pub status: StatusCode,
    pub region: String,
    pub acked_regions: String,
    pub token: String,
    /// How far what was read may be behind, in milliseconds.
    pub lag_ms: String,
    pub body: String,
    pub hops: Vec<Hop>,
    pub took: Duration,
}

/// A redirect.
#[derive(Debug)]
pub struct Hop {
    pub location: String,
    pub reason: String,
}

/// What a plain GET of this URL brings, such as metrics.
///
/// # Errors
/// When nobody answers.
pub async fn text(url: &str) -> anyhow::Result<String> {
    let http = reqwest::Client::builder().no_proxy().timeout(TEXT_TIMEOUT);
    let answer = http.build()?.get(url).send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

impl Application {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(tenant: &'static str, timeout: Duration) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .build()?;
        Ok(Self {
            http,
            tenant,
            preferred: None,
            token: None,
        })
    }

    /// The same, with read affinity.
    #[must_use]
    pub fn preferring(mut self, region: &RegionName) -> Self {
        self.preferred = Some(region.clone());
        self
    }

    /// The same, with the token of a write that its reads must see.
    #[must_use]
    pub fn after(mut self, write: &Outcome) -> Self {
        self.token = Some(write.token.clone());
        self
    }

    /// PUT of a resource.
    ///
    /// # Errors
    /// When a hop does not answer.
    pub async fn put(&self, proxy: &str, path: &str, body: &str) -> anyhow::Result<Outcome> {
        self.request(Method::PUT, proxy, path, body).await
    }

    /// GET of a resource.
    ///
    /// # Errors
    /// When a hop does not answer.
    pub async fn get(&self, proxy: &str, path: &str) -> anyhow::Result<Outcome> {
        self.request(Method::GET, proxy, path, "").await
    }

    async fn request(
        &self,
        method: Method,
        proxy: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let mut url = format!("{proxy}{path}");
        let mut hops = Vec::new();
        loop {
            let mut request = self.http.request(method.clone(), &url);
            request = request
                .header(headers::TENANT, self.tenant)
                .body(body.to_owned());
            if !body.is_empty() {
                request = request.header(header::CONTENT_TYPE, "application/json");
            }
            if let Some(region) = &self.preferred {
                request = request.header(headers::PREFERRED_REGION, region.as_str());
            }
            if let Some(token) = &self.token {
                request = request.header(headers::CONSISTENCY_TOKEN, token);
            }
            let response = request.send().await?;
            let field = |name: &str| {
                let value = response
                    .headers()
                    .get(name)
                    .and_then(|value| value.to_str().ok());
                value.unwrap_or_default().to_owned()
            };
            let location = field("location");
            if response.status() == StatusCode::TEMPORARY_REDIRECT && hops.len() < MAX_HOPS {
                hops.push(Hop {
                    location: location.clone(),
                    reason: field(headers::REDIRECT_REASON),
                });
                url = location;
                continue;
            }
            return Ok(Outcome {
                status: response.status(),
                region: field(headers::REGION),
                acked_regions: field(headers::ACKED_REGIONS),
                token: field(headers::CONSISTENCY_TOKEN),
                lag_ms: field(headers::REPLICA_LAG_MS),
                body: response.text().await?,
                hops,
                took: began.elapsed(),
            });
        }
    }
}
