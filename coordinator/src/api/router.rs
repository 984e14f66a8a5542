//! The routes and what stands before every handler: the gate, the deadline, the body limit, the
//! scope.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use maia_common::limits;
use maia_common::runtime::GateError;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::openapi::{self, shapes};
use super::problem::ApiError;
use super::{
    Api, admin, auth, data, digest, health, metrics, nodes, placements, proxies, quarantine,
    regions,
};
use crate::config::Scope;

/// All routes.
pub fn router(mut api: Api) -> Router {
    let (routes, document) = routes(&api).split_for_parts();
    api.document = openapi::json(&document);
    routes
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path has no such method")
        })
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(api)
}

/// Every handler by its annotation: what is not here neither answers nor is documented.
fn routes(api: &Api) -> OpenApiRouter<Api> {
    let demand = |scope| middleware::from_fn_with_state((api.clone(), scope), auth::demand);
    let guarded = OpenApiRouter::with_openapi(openapi::base())
        .merge(reads().route_layer(demand(Scope::Read)))
        .merge(changes().route_layer(demand(Scope::Admin)))
        .merge(loads().route_layer(demand(Scope::Admin)))
        .merge(resources().route_layer(demand(Scope::Data)))
        .layer(middleware::from_fn_with_state(api.clone(), gate));
    guarded.merge(open())
}

fn reads() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(placements::list))
        .routes(routes!(placements::get))
        .routes(routes!(health::health))
        .routes(routes!(admin::election))
        .routes(routes!(regions::list))
        .routes(routes!(regions::get))
        .routes(routes!(nodes::list))
        .routes(routes!(proxies::list))
        .routes(routes!(admin::events))
        .routes(routes!(quarantine::list))
        .routes(routes!(openapi::serve))
}

fn changes() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(placements::put, placements::remove))
        .routes(routes!(placements::place))
        .routes(routes!(regions::put))
        .routes(routes!(nodes::add))
        .routes(routes!(nodes::remove))
        .routes(routes!(proxies::remove))
        .routes(routes!(quarantine::get))
        .routes(routes!(digest::get))
        .routes(routes!(quarantine::resolve))
        .layer(DefaultBodyLimit::max(limits::MAX_ADMIN_BODY_BYTES))
}

fn loads() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(placements::load))
        .layer(DefaultBodyLimit::max(limits::MAX_LOAD_BODY_BYTES))
}

fn resources() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(data::list))
        .routes(routes!(data::read, data::put, data::patch, data::remove))
        .layer(DefaultBodyLimit::max(limits::MAX_RESOURCE_BYTES))
}

/// For everyone, and past the gate: a node that is busy or stopping says so here.
fn open() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(metrics::metrics))
}

/// The document, for tests.
#[cfg(test)]
pub(super) fn document() -> utoipa::openapi::OpenApi {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(reads())
        .merge(changes())
        .merge(loads())
        .merge(resources())
        .merge(open())
        .into_openapi()
}

/// Admission before work; and an end for what takes too long.
async fn gate(State(api): State<Api>, request: Request, next: Next) -> Response {
    // It knows only how things were.
    if !api.latches.is_open("member") && !is_for_removed(request.uri().path()) {
        let text = "this node was removed from the cluster: ask another";
        return ApiError::new(ErrorCode::Unavailable, text).into_response();
    }
    let _pass = match api.gate.enter() {
        Ok(pass) => pass,
        Err(GateError::Full) => {
            return ApiError::new(ErrorCode::Unavailable, "too many requests in flight")
                .into_response();
        }
        Err(GateError::Closed) => {
            return ApiError::new(ErrorCode::Unavailable, "the node is stopping").into_response();
        }
    };
    let patience = limits::API_DEADLINE + std::time::Duration::from_secs(1);
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(ErrorCode::OutcomeUnknown, "not answered in time").into_response(),
    }
}

/// What a node that was removed still answers: what is in its quarantine is nowhere else.
fn is_for_removed(path: &str) -> bool {
    let rest = path.strip_prefix("/admin/replication/");
    rest.is_some_and(|rest| matches!(rest.split('/').next(), Some("quarantine" | "digest")))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the shape that the layer asks for"
)]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .unwrap_or("a handler panicked");
    tracing::error!(panic = text, "a handler panicked");
    ApiError::new(ErrorCode::Internal, "internal error: the log has more").into_response()
}

/// The process lives.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = "node",
    responses((status = 200, description = "`ok`", body = String, content_type = "text/plain"))
)]
async fn livez() -> &'static str {
    "ok\n"
}

/// Whether the node is ready, and what it waits for.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "node",
    responses(
        (status = 200, description = "It is", body = shapes::Readiness),
        (status = 503, description = "Not yet", body = shapes::Readiness)
    )
)]
async fn readyz(State(api): State<Api>) -> Response {
    let mut latches = api.latches.states();
    let root = api.parts.engine.status(GroupId::METASTORE);
    let led = root.is_some_and(|status| !status.is_leaderless(api.parts.replica_silence));
    latches.insert("metastore_leader", led);
    let whole = api.parts.store.read(&mut |_| Ok(())).is_ok();
    latches.insert("metastore_state", whole);
    let ready = latches.values().all(|open| *open);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "ready": ready, "latches": latches });
    let mut response = (status, Json(body)).into_response();
    if !ready {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::is_for_removed;

    #[test]
    fn a_removed_node_answers_for_its_quarantine_alone() {
        for path in [
            "/admin/replication/quarantine",
            "/admin/replication/quarantine/3-7-120",
            "/admin/replication/quarantine/3-7-120/resolve",
            "/admin/replication/digest",
        ] {
            assert!(is_for_removed(path), "{path}");
        }
        for path in [
            "/admin/placements",
            "/v1/data/k/quarantine",
            "/admin/replication/quarantined",
        ] {
            assert!(!is_for_removed(path), "{path}");
        }
    }
}
