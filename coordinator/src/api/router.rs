//! The routes and what stands before every handler: the gate, the deadline, the body limit, the
//! scope.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use maia_common::limits;
use maia_common::runtime::GateError;
use tower_http::catch_panic::CatchPanicLayer;

use super::problem::ApiError;
use super::{Api, admin, auth, data, health, metrics, nodes, placements, proxies, regions};

/// All routes.
pub fn router(api: Api) -> Router {
    let read = Router::new()
        .route("/v1/placements", get(placements::list))
        .route("/v1/replication/health", get(health::health))
        .route("/admin/replication/election", get(admin::election))
        .route("/admin/regions", get(regions::list))
        .route("/admin/regions/{name}", get(regions::get))
        .route("/admin/nodes", get(nodes::list))
        .route("/admin/proxies", get(proxies::list))
        .route("/admin/events", get(admin::events))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::read));
    let placement_reads = Router::new()
        .route("/v1/placements/{tenant}", get(placements::get))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::read));
    let placement_writes = Router::new()
        .route(
            "/v1/placements/{tenant}",
            axum::routing::put(placements::put).delete(placements::remove),
        )
        .route("/admin/tenants/{tenant}/placement", post(placements::put))
        .route(
            "/admin/proxies/{proxy}",
            axum::routing::delete(proxies::remove),
        )
        .route("/admin/regions/{name}", axum::routing::put(regions::put))
        .route("/admin/nodes", post(nodes::add))
        .route("/admin/nodes/{id}", delete(nodes::remove))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::admin))
        .layer(DefaultBodyLimit::max(limits::MAX_ADMIN_BODY_BYTES));
    let loads = Router::new()
        .route("/v1/placements", post(placements::load))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::admin))
        .layer(DefaultBodyLimit::max(limits::MAX_LOAD_BODY_BYTES));
    let data = Router::new()
        .route("/v1/data/{kind}", get(data::list))
        .route(
            "/v1/data/{kind}/{id}",
            get(data::read)
                .put(data::put)
                .patch(data::patch)
                .delete(data::remove),
        )
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::data))
        .layer(DefaultBodyLimit::max(limits::MAX_RESOURCE_BYTES));
    Router::new()
        .merge(read)
        .merge(placement_reads)
        .merge(placement_writes)
        .merge(loads)
        .merge(data)
        .layer(middleware::from_fn_with_state(api.clone(), gate))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics::metrics))
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::MethodNotAllowed, "the path has no such method")
        })
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(api)
}

/// Admission before work; and an end for what takes too long.
async fn gate(State(api): State<Api>, request: Request, next: Next) -> Response {
    // It knows only how things were.
    if !api.latches.is_open("member") {
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
