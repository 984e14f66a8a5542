//! Steps 2 and 3: tenants are placed; a write to the wrong region finds its way.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use maia_common::ids::RegionName;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Application, Outcome};
use super::story::{Story, ms};
use crate::cli::api::Api;
use crate::cli::cluster::{ClusterFile, RegionEntry};

/// Lives in the first region alone.
const SINGLE: &str = "demo-single";
/// Its primary is the second region, its replica the first.
pub const REPLICATED: &str = "demo-replicated";
/// Its primary is the second region; every region has a copy.
pub const GLOBAL: &str = "demo-global";

/// The note that steps 3 and 4 write and read.
pub(super) const PATH: &str = "/v1/data/notes/hello";
pub(super) const NOTE: &str = r#"{"text":"written in one region, read in all"}"#;
/// As [`GLOBAL`], in async mode.
pub const ASYNC: &str = "demo-async";

/// How long a thing may take that takes milliseconds when all is well.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const POLL: Duration = Duration::from_millis(2);

/// The cluster and how to ask it.
#[derive(Debug)]
pub struct Tour {
    pub cluster: ClusterFile,
    pub api: Api,
}

impl Tour {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(cluster: ClusterFile) -> anyhow::Result<Self> {
        let urls = cluster
            .regions
            .iter()
            .map(|region| region.api_url.clone())
            .collect();
        let api = Api::new(urls, Some(cluster.admin_token.clone()))?;
        Ok(Self { cluster, api })
    }

    /// One of the three.
    #[must_use]
    pub fn region(&self, i: usize) -> &RegionEntry {
        &self.cluster.regions[i]
    }

    /// The name of one of the three regions.
    #[must_use]
    pub fn name(&self, i: usize) -> &RegionName {
        &self.region(i).name
    }

    /// Step 2.
    ///
    /// # Errors
    /// When a placement is refused, or not in force at a proxy in time.
    pub async fn place(&self, story: &mut Story) -> anyhow::Result<()> {
        story.step("2", "three tenants, each placed as it needs");
        let specs = [
            (
                SINGLE,
                json!({"primary_region": self.name(0), "mode": "single"}),
            ),
            (
                REPLICATED,
                json!({"primary_region": self.name(1), "replicas": [self.name(0)], "mode": "replicated"}),
            ),
            (
                GLOBAL,
                json!({"primary_region": self.name(1), "mode": "global"}),
            ),
        ];
        for (at, (tenant, spec)) in specs.iter().enumerate() {
            // Any coordinator takes the change: each tenant's goes to another one.
            let api = self.api.only(&self.region(at).api_url);
            let placement = put_placement(&api, tenant, spec).await?;
            let answered = Instant::now();
            self.in_force(tenant, &placement["version"]).await?;
            story.tell(&format!(
                "{tenant:<16} primary {}, replicas {}, group {}: in force at every proxy after {}",
                crate::cli::print::text(&placement["home_region"]),
                crate::cli::print::text(&placement["replicas"]),
                crate::cli::print::text(&placement["group"]),
                ms(answered.elapsed()),
            ));
        }
        story.held();
        Ok(())
    }

    /// Waits until every proxy decides by this version.
    pub(super) async fn in_force(&self, tenant: &str, version: &Value) -> anyhow::Result<()> {
        let end = Instant::now() + SOON;
        for region in &self.cluster.regions {
            let api = Api::new(vec![region.proxy_admin_url.clone()], None)?;
            let path = format!("/explain?tenant={tenant}&method=GET&path={PATH}");
            loop {
                let answer = api.call(Method::GET, &path, &[], None).await?.body;
                if answer["facts"]["version"] == *version || answer["version"] == *version {
                    break;
                }
                let name = &region.proxy_id;
                ensure!(
                    Instant::now() < end,
                    "{name} does not know {tenant}: {answer}"
                );
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Step 3.
    ///
    /// # Errors
    /// When the write is not redirected to the primary, or not stored there.
    pub async fn misrouted_write(&self, story: &mut Story) -> anyhow::Result<()> {
        story.step(
            "3",
            "a write sent to the wrong region is told where to go, and stored there",
        );
        let here = &self.region(0).proxy_url;
        for tenant in [REPLICATED, GLOBAL] {
            let application = Application::new(tenant, SOON)?;
            let outcome = written(&application, here).await?;
            let hop = outcome
                .hops
                .first()
                .context("the write was not redirected")?;
            let expected = format!("{}{PATH}", self.region(1).proxy_url);
            ensure!(
                hop.location == expected,
                "Location is {}, not {expected}",
                hop.location
            );
            ensure!(
                outcome.region == self.name(1).as_str(),
                "served by `{}`",
                outcome.region
            );
            story.tell(&format!(
                "PUT {here}{PATH} for {tenant}: 307, {}",
                hop.reason
            ));
            story.tell(&format!("Location: {}", hop.location));
            let copies = match outcome.acked_regions.as_str() {
                "" => String::new(),
                regions => format!(", durable in {regions}"),
            };
            let status = outcome.status.as_u16();
            let took = ms(outcome.took);
            story.tell(&format!(
                "followed: {status} by {}{copies}; {took}",
                outcome.region
            ));
        }
        let application = Application::new(SINGLE, SOON)?;
        let outcome = written(&application, here).await?;
        ensure!(
            outcome.hops.is_empty(),
            "a write at its primary was redirected"
        );
        story.tell(&format!(
            "PUT {here}{PATH} for {SINGLE}: it is at home; {}",
            ms(outcome.took)
        ));
        story.held();
        Ok(())
    }
}

/// PUT of a placement; a cluster that is just electing is asked again.
pub(super) async fn put_placement(api: &Api, tenant: &str, spec: &Value) -> anyhow::Result<Value> {
    let path = format!("/v1/placements/{tenant}");
    let end = Instant::now() + SOON;
    loop {
        let answer = api.call(Method::PUT, &path, &[], Some(spec)).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let retry = answer.status.as_u16() == 503 && Instant::now() < end;
        ensure!(retry, "placing {tenant}: {} {}", answer.status, answer.body);
        tokio::time::sleep(POLL).await;
    }
}

/// PUT of the note; a group that is just electing its first leader is asked again.
async fn written(application: &Application, proxy: &str) -> anyhow::Result<Outcome> {
    let end = Instant::now() + SOON;
    loop {
        let outcome = application.put(proxy, PATH, NOTE).await?;
        if outcome.status.is_success() {
            return Ok(outcome);
        }
        let retry = outcome.status.as_u16() == 503 && Instant::now() < end;
        ensure!(
            retry,
            "the write was not stored: {} {}",
            outcome.status,
            outcome.body
        );
        tokio::time::sleep(POLL).await;
    }
}
