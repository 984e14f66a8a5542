//! The OpenAPI document: what stands in it beside the handlers' own annotations, and its route. The
//! router is built from the same annotations (`routes!`), so neither can have an operation that the
//! other lacks; `tests/tests/openapi.rs` drives every operation and compares each answer with what is
//! written here. A new handler needs `#[utoipa::path(…)]` and a `routes!(…)` in `router`.

pub mod shapes;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use maia_common::error_code::PROBLEM_MEDIA_TYPE;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema};

use super::Api;

/// The name of the security scheme in the document.
pub const BEARER: &str = "bearer";

/// What every operation may answer beside its success: a problem document.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::response::Response>> {
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let problem = ResponseBuilder::new()
            .description(
                "A problem document (RFC 9457); its `code` is stable, its status goes with it",
            )
            .content(PROBLEM_MEDIA_TYPE, content)
            .build();
        [("default".to_owned(), RefOr::T(problem))].into()
    }
}

/// The document without any operation.
pub fn base() -> OpenApi {
    let mut components = Components::new();
    components
        .schemas
        .insert("Problem".to_owned(), shapes::Problem::schema());
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme(BEARER, bearer);
    let mut info = Info::new("maia-edge coordinator", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Placements, resources and the cluster itself. Any coordinator answers any request. Lists \
         page by `limit` and `after`; changes take an `Idempotency-Key`."
            .to_owned(),
    );
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .build()
}

/// The document as it is served: made once.
pub fn json(document: &OpenApi) -> String {
    let text = serde_json::to_string(document);
    text.expect("a document is plain data")
}

/// The document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "node",
    responses((status = 200, description = "This document", body = Object), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn serve(State(api): State<Api>) -> Response {
    let json = HeaderValue::from_static("application/json");
    let text = api.document.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, json)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::router;

    /// All operations of the document, as method and path, with their ids.
    #[test]
    fn every_operation_has_an_id_of_its_own_and_says_who_may_call_it() {
        let document: serde_json::Value = serde_json::to_value(router::document()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let open = ["/livez", "/readyz", "/metrics"];
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(ids.insert(id.clone()), "{id} is there twice");
                let has_scope = operation["security"][0]["bearer"][0].is_string();
                assert_eq!(has_scope, !open.contains(&path.as_str()), "{method} {path}");
                let says = operation["summary"].as_str().unwrap_or_default();
                assert!(!says.is_empty(), "{method} {path} has no summary");
            }
        }
        assert!(ids.len() > 20, "{ids:?}");
    }

    /// A route that is added otherwise would not be in the document.
    #[test]
    fn routes_are_made_of_annotated_handlers_alone() {
        let source = include_str!("router.rs");
        assert!(!source.contains(".route(") && !source.contains(".route_service("));
    }
}
