//! `/v1/data/…`: the built-in origin by HTTP. ETag is (group, term, index) of the last change.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maia_common::error_code::ErrorCode;
use maia_common::headers;
use maia_common::ids::{ResourceId, ResourceType, TenantId};
use maia_common::limits;
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::placements::{idempotency_key, page_limit};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::core::data::{etag, parse_etag};
use crate::core::entries::content;
use crate::core::record::Idempotency;
use crate::core::token::Token;
use crate::shell::data::{
    Query as Wanted, ReadRequest, Resource, Served, Which, WriteRequest, Written,
};

type Answer = Result<Response, ApiError>;
type Body = Result<Bytes, BytesRejection>;

/// How fresh a read must be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Freshness {
    /// `local` (default), or `strong`: at the leader.
    consistency: Option<String>,
}

impl Freshness {
    fn strong(&self) -> Result<bool, ApiError> {
        match self.consistency.as_deref() {
            None | Some("local") => Ok(false),
            Some("strong") => Ok(true),
            Some(_) => Err(ApiError::invalid("consistency is strong or local")),
        }
    }
}

/// Which page of which resources.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
    /// Only what follows this resource.
    after: Option<String>,
    /// Only ids that begin so.
    prefix: Option<String>,
    /// `local` (default), or `strong`: at the leader.
    consistency: Option<String>,
}

fn tenant(headers: &HeaderMap) -> Result<TenantId, ApiError> {
    let mut values = headers.get_all(headers::TENANT).iter();
    let Some(value) = values.next() else {
        let text = "X-MAIA-Tenant-ID is missing";
        return Err(ApiError::new(ErrorCode::TenantRequired, text));
    };
    if values.any(|other| other != value) {
        let text = "X-MAIA-Tenant-ID is there twice, with different values";
        return Err(ApiError::new(ErrorCode::InvalidTenant, text));
    }
    let text = value.to_str().map_err(|_| {
        ApiError::new(
            ErrorCode::InvalidTenant,
            "X-MAIA-Tenant-ID is not visible ASCII",
        )
    })?;
    Ok(TenantId::new(text)?)
}

/// What `If-Match` and `If-None-Match` demand of a write.
fn condition(headers: &HeaderMap) -> Result<Option<wire::Condition>, ApiError> {
    use wire::condition::Must;
    let text = |name| {
        headers
            .get(name)
            .map(|v| v.to_str().unwrap_or_default().trim())
    };
    let must = match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => return Ok(None),
        (Some("*"), None) => Must::BePresent(true),
        (None, Some("*")) => Must::BeAbsent(true),
        (Some(tag), None) => Must::BeAt(
            parse_etag(tag)
                .ok_or_else(|| ApiError::invalid("If-Match must be one strong ETag, or *"))?,
        ),
        _ => {
            return Err(ApiError::invalid(
                "send either If-Match, or If-None-Match: *",
            ));
        }
    };
    Ok(Some(wire::Condition { must: Some(must) }))
}

/// One write, as the request names it.
struct Asked {
    method: Method,
    kind: ResourceType,
    id: ResourceId,
    what: What,
    content_type: String,
}

impl Asked {
    fn new(
        method: Method,
        (kind, id): (String, String),
        what: What,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).map(|v| v.to_str());
        let content_type = match content_type {
            None => "application/octet-stream",
            Some(Ok(text)) if text.len() <= 256 => text,
            Some(_) => return Err(ApiError::invalid("an illegal Content-Type")),
        };
        Ok(Self {
            method,
            kind: ResourceType::new(kind)?,
            id: ResourceId::new(id)?,
            what,
            content_type: content_type.to_owned(),
        })
    }

    /// All that makes two requests the same write.
    fn hash(&self, condition: Option<&wire::Condition>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let body: &[u8] = match &self.what {
            What::Put(body) | What::MergePatch(body) => body,
            What::Delete(_) => b"",
        };
        let condition = format!("{condition:?}");
        let parts: [&[u8]; 6] = [
            self.method.as_str().as_bytes(),
            self.kind.as_str().as_bytes(),
            self.id.as_str().as_bytes(),
            self.content_type.as_bytes(),
            condition.as_bytes(),
            body,
        ];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

async fn write(api: &Api, headers: &HeaderMap, asked: Asked) -> Result<Written, ApiError> {
    let tenant = tenant(headers)?;
    let condition = condition(headers)?;
    let idempotency = idempotency_key(headers)?.map(|key| Idempotency {
        key,
        body_hash: asked.hash(condition.as_ref()),
    });
    let operation = wire::DataOperation {
        resource_type: asked.kind.to_string(),
        resource_id: asked.id.to_string(),
        what: Some(asked.what),
        content_type: asked.content_type,
        condition,
    };
    let request = WriteRequest {
        tenant,
        operations: vec![operation],
        idempotency,
    };
    Ok(api.parts.data.write(request, deadline()).await?)
}

pub(super) fn body(body: Body) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let text = format!(
                "a resource has at most {} bytes",
                limits::MAX_RESOURCE_BYTES
            );
            ApiError::new(ErrorCode::BodyTooLarge, text)
        } else {
            ApiError::invalid(rejection.body_text())
        }
    })
}

/// Adds what every answer to a write says.
fn written(mut response: Response, written: &Written) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&etag(written.written.version.as_ref())) {
        headers.insert(header::ETAG, value);
    }
    let regions: Vec<&str> = written.acked_regions.iter().map(AsRef::as_ref).collect();
    if let Ok(value) = HeaderValue::from_str(&regions.join(",")) {
        headers.insert(headers::ACKED_REGIONS, value);
    }
    if let Ok(value) = HeaderValue::from_str(&written.token) {
        headers.insert(headers::CONSISTENCY_TOKEN, value);
    }
    if written.degraded {
        let value = HeaderValue::from_static("true");
        headers.insert(headers::ACK_DEGRADED, value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Creates or replaces a resource.
#[utoipa::path(
    put,
    path = "/v1/data/{kind}/{id}",
    operation_id = "put_resource",
    tag = "data",
    params(("kind" = String, Path, description = "The type of the resource"), ("id" = String, Path, description = "The resource"), shapes::Tenant, shapes::Conditions),
    request_body(content = String, content_type = "*/*", description = "Kept as it is"),
    responses(
        (status = 200, description = "It was replaced", body = shapes::Written),
        (status = 201, description = "It is created", body = shapes::Written),
        Problems
    ),
    security(("bearer" = ["data"]))
)]
pub async fn put(
    State(api): State<Api>,
    Checked(Path(path)): Checked<Path<(String, String)>>,
    headers: HeaderMap,
    content: Body,
) -> Answer {
    let asked = Asked::new(
        Method::PUT,
        path.clone(),
        What::Put(body(content)?),
        &headers,
    )?;
    let done = write(&api, &headers, asked).await?;
    // Of one that is not applied yet it is not known.
    let created = done.written.created.first().copied();
    let status = if created == Some(true) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let answer = serde_json::json!({
        "type": path.0,
        "id": path.1,
        "created": created,
        "etag": etag(done.written.version.as_ref()),
    });
    Ok(written((status, Json(answer)).into_response(), &done))
}

/// Changes a JSON resource by a merge patch (RFC 7396), and answers with the whole.
#[utoipa::path(
    patch,
    path = "/v1/data/{kind}/{id}",
    operation_id = "patch_resource",
    tag = "data",
    params(("kind" = String, Path, description = "The type of the resource"), ("id" = String, Path, description = "The resource"), shapes::Tenant, shapes::Conditions),
    request_body(content = serde_json::Value, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "The whole resource", body = serde_json::Value), Problems),
    security(("bearer" = ["data"]))
)]
pub async fn patch(
    State(api): State<Api>,
    Checked(Path(path)): Checked<Path<(String, String)>>,
    headers: HeaderMap,
    content: Body,
) -> Answer {
    let content = body(content)?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&content).is_err() {
        return Err(ApiError::invalid("the body is no JSON merge patch"));
    }
    let asked = Asked::new(Method::PATCH, path, What::MergePatch(content), &headers)?;
    let done = write(&api, &headers, asked).await?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok(written(
        (json, done.written.data.clone()).into_response(),
        &done,
    ))
}

/// Deletes a resource.
#[utoipa::path(
    delete,
    path = "/v1/data/{kind}/{id}",
    operation_id = "remove_resource",
    tag = "data",
    params(("kind" = String, Path, description = "The type of the resource"), ("id" = String, Path, description = "The resource"), shapes::Tenant, shapes::Conditions),
    responses((status = 204, description = "It is deleted"), Problems),
    security(("bearer" = ["data"]))
)]
pub async fn remove(
    State(api): State<Api>,
    Checked(Path(path)): Checked<Path<(String, String)>>,
    headers: HeaderMap,
) -> Answer {
    let asked = Asked::new(Method::DELETE, path, What::Delete(true), &headers)?;
    let done = write(&api, &headers, asked).await?;
    Ok(written(StatusCode::NO_CONTENT.into_response(), &done))
}

/// One resource.
#[utoipa::path(
    get,
    path = "/v1/data/{kind}/{id}",
    operation_id = "get_resource",
    tag = "data",
    params(("kind" = String, Path, description = "The type of the resource"), ("id" = String, Path, description = "The resource"), Freshness, shapes::Tenant, shapes::ReadAfter),
    responses(
        (status = 200, description = "As it was written", body = String, content_type = "*/*"),
        (status = 304, description = "It has the ETag of If-None-Match"),
        Problems
    ),
    security(("bearer" = ["data"]))
)]
pub async fn read(
    State(api): State<Api>,
    Checked(Path((kind, id))): Checked<Path<(String, String)>>,
    Checked(Query(freshness)): Checked<Query<Freshness>>,
    headers: HeaderMap,
) -> Answer {
    let (tenant, kind, id) = (
        tenant(&headers)?,
        ResourceType::new(kind)?,
        ResourceId::new(id)?,
    );
    let query = Wanted {
        tenant,
        kind,
        which: Which::One(id),
    };
    let served = serve(&api, &headers, freshness.strong()?, query).await?;
    let Some((_, resource)) = served.page.items.into_iter().next() else {
        let absent = ApiError::new(ErrorCode::NotFound, "the resource does not exist");
        return Ok(with_lag(absent.into_response(), served.lag));
    };
    let tag = etag(resource.version.as_ref());
    let mut response = if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|v| *v == tag.as_str())
    {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        resource.data.clone().into_response()
    };
    let answer = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&resource.content_type) {
        answer.insert(header::CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, value);
    }
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(with_lag(response, served.lag))
}

async fn serve(
    api: &Api,
    headers: &HeaderMap,
    strong: bool,
    query: Wanted,
) -> Result<Served, ApiError> {
    let request = ReadRequest {
        query,
        strong,
        token: token(api, headers)?,
    };
    Ok(api.parts.data.serve(&request, deadline()).await?)
}

/// The write that a read must see, if the client says one.
fn token(api: &Api, headers: &HeaderMap) -> Result<Option<Token>, ApiError> {
    let mut values = headers.get_all(headers::CONSISTENCY_TOKEN).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::invalid("X-MAIA-Consistency-Token is there twice"));
    }
    // What is no text is malformed, as an empty one is.
    let text = value.to_str().unwrap_or_default();
    let token = api.parts.data.decode_token(text);
    token
        .map(Some)
        .map_err(|e| ApiError::invalid(e.to_string()))
}

/// Adds how far what was read may be behind, where that is known.
fn with_lag(mut response: Response, lag: Option<Duration>) -> Response {
    if let Some(lag) = lag {
        let ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        let headers = response.headers_mut();
        headers.insert(headers::REPLICA_LAG_MS, HeaderValue::from(ms));
    }
    response
}

/// A page of a type's resources.
#[utoipa::path(
    get,
    path = "/v1/data/{kind}",
    operation_id = "list_resources",
    tag = "data",
    params(("kind" = String, Path, description = "The type of the resource"), Page, shapes::Tenant, shapes::ReadAfter),
    responses((status = 200, description = "A page", body = shapes::ItemPage), Problems),
    security(("bearer" = ["data"]))
)]
pub async fn list(
    State(api): State<Api>,
    Checked(Path(kind)): Checked<Path<String>>,
    Checked(Query(page)): Checked<Query<Page>>,
    headers: HeaderMap,
) -> Answer {
    let (tenant, kind) = (tenant(&headers)?, ResourceType::new(kind)?);
    let limit = page_limit(page.limit)?;
    let after = page.after.map(ResourceId::new).transpose()?;
    let strong = Freshness {
        consistency: page.consistency,
    }
    .strong()?;
    let which = Which::Page {
        prefix: page.prefix.unwrap_or_default(),
        after,
        limit,
    };
    let query = Wanted {
        tenant,
        kind,
        which,
    };
    let Served { page, lag } = serve(&api, &headers, strong, query).await?;
    let items: Vec<Item<'_>> = page.items.iter().map(|(id, r)| item(id, r)).collect();
    let next = page.next.clone();
    let answer = Json(List { items, next });
    Ok(with_lag(answer.into_response(), lag))
}

#[derive(Serialize)]
struct List<'a> {
    items: Vec<Item<'a>>,
    next: Option<ResourceId>,
}

/// A resource within a list; its JSON is as it was written.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a ResourceId,
    etag: String,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

fn item<'a>(id: &'a ResourceId, resource: &'a Resource) -> Item<'a> {
    let (data, data_base64) = content(&resource.content_type, &resource.data);
    Item {
        id,
        etag: etag(resource.version.as_ref()),
        content_type: &resource.content_type,
        data,
        data_base64,
    }
}
