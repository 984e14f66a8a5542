//! The body of `POST /v1/replication/entries` as a write: one operation, or an array of one tenant.

use maia_common::error_code::ErrorCode;
use maia_common::ids::{ResourceId, ResourceType, TenantId};
use maia_common::limits;
use maia_common::wire::record as wire;
use maia_common::wire::record::condition::Must;
use maia_common::wire::record::data_operation::What;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::problem::ApiError;
use crate::core::data::parse_etag;
use crate::shell::data::WriteRequest;

/// One operation as a client names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Append {
    tenant_id: String,
    operation: Operation,
    resource_type: String,
    resource_id: String,
    namespace: Option<String>,
    data: Option<Box<RawValue>>,
    if_version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    /// It must not exist.
    Create,
    /// It becomes this, whether it existed or not, unless a version is given.
    Update,
    /// It must exist.
    Delete,
}

/// All that makes two appends the same write.
pub(super) fn hash(body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"append\0").update(body);
    *hasher.finalize().as_bytes()
}

/// The write that the body asks for, without idempotency key.
pub(super) fn request(body: &[u8]) -> Result<WriteRequest, ApiError> {
    let unreadable = |error: serde_json::Error| ApiError::invalid(format!("the body: {error}"));
    let is_array = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let appends: Vec<Append> = if is_array {
        serde_json::from_slice(body).map_err(unreadable)?
    } else {
        vec![serde_json::from_slice(body).map_err(unreadable)?]
    };
    if appends.len() > limits::MAX_APPEND_OPERATIONS {
        let text = format!("at most {} operations", limits::MAX_APPEND_OPERATIONS);
        return Err(ApiError::new(ErrorCode::BodyTooLarge, text));
    }
    let Some(first) = appends.first() else {
        return Err(ApiError::invalid("there is no operation"));
    };
    let tenant = TenantId::new(first.tenant_id.as_str())?;
    if appends
        .iter()
        .any(|append| append.tenant_id != tenant.as_str())
    {
        return Err(ApiError::invalid("all operations must be of one tenant"));
    }
    let operations = appends.into_iter().map(operation);
    Ok(WriteRequest {
        tenant,
        operations: operations.collect::<Result<_, _>>()?,
        idempotency: None,
    })
}

fn operation(append: Append) -> Result<wire::DataOperation, ApiError> {
    let id = match append.namespace {
        Some(namespace) => format!("{namespace}/{}", append.resource_id),
        None => append.resource_id,
    };
    let version = append.if_version.as_deref().map(|text| {
        parse_etag(text).ok_or_else(|| ApiError::invalid("if_version must be an ETag"))
    });
    let version = version.transpose()?;
    let must = match (append.operation, version) {
        (Operation::Create, Some(_)) => {
            return Err(ApiError::invalid("a create takes no if_version"));
        }
        (Operation::Create, None) => Some(Must::BeAbsent(true)),
        (_, Some(version)) => Some(Must::BeAt(version)),
        (_, None) => None,
    };
    let what = match (append.operation, append.data) {
        (Operation::Delete, None) => What::Delete(true),
        (Operation::Delete, Some(_)) => return Err(ApiError::invalid("a delete takes no data")),
        (_, Some(data)) => What::Put(String::from(Box::<str>::from(data)).into()),
        (_, None) => return Err(ApiError::invalid("data is missing")),
    };
    Ok(wire::DataOperation {
        resource_type: ResourceType::new(append.resource_type)?.to_string(),
        resource_id: ResourceId::new(id)?.to_string(),
        what: Some(what),
        content_type: "application/json".to_owned(),
        condition: must.map(|must| wire::Condition { must: Some(must) }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one(changes: &Value) -> Value {
        let mut append = json!({
            "tenant_id": "acme", "operation": "update", "resource_type": "notes",
            "resource_id": "1", "data": {"a": 1},
        });
        for (name, value) in changes.as_object().unwrap() {
            append[name] = value.clone();
        }
        append
    }

    fn asked(body: &Value) -> Result<WriteRequest, ApiError> {
        request(body.to_string().as_bytes())
    }

    #[test]
    fn operations_become_conditions_and_contents() {
        let body = json!([
            one(&json!({"operation": "create"})),
            one(&json!({"resource_id": "2", "namespace": "n", "if_version": "\"1-2-3\""})),
            one(&json!({"resource_id": "3", "operation": "delete", "data": null})),
            one(&json!({"resource_id": "4"})),
        ]);
        let write = asked(&body).unwrap();
        assert_eq!(write.tenant.as_str(), "acme");
        let must = |i: usize| write.operations[i].condition.as_ref().and_then(|c| c.must);
        assert_eq!(must(0), Some(Must::BeAbsent(true)));
        assert!(matches!(must(1), Some(Must::BeAt(_))));
        assert_eq!(write.operations[1].resource_id, "n/2");
        assert_eq!(write.operations[2].what, Some(What::Delete(true)));
        assert_eq!((must(2), must(3)), (None, None));
        assert_eq!(
            write.operations[3].what,
            Some(What::Put("{\"a\":1}".into()))
        );
    }

    #[test]
    fn data_is_kept_as_it_was_written() {
        let data = r#"{"z": 123456789012345678901234567890, "a": 1.10}"#;
        let one = format!(
            r#"{{"tenant_id":"acme","operation":"update","resource_type":"n","resource_id":"1","data": {data} }}"#
        );
        for body in [one.clone(), format!("[{one}]")] {
            let write = request(body.as_bytes()).unwrap();
            let put = What::Put(data.into());
            assert_eq!(write.operations[0].what, Some(put));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            json!([]),
            json!([one(&json!({})), one(&json!({"tenant_id": "other"}))]),
            one(&json!({"operation": "delete"})),
            one(&json!({"data": null})),
            one(&json!({"operation": "create", "if_version": "\"1-2-3\""})),
            one(&json!({"if_version": "3"})),
            one(&json!({"colour": "red"})),
            one(&json!({"operation": "upsert"})),
            json!(vec![one(&json!({})); limits::MAX_APPEND_OPERATIONS + 1]),
        ] {
            assert!(asked(&bad).is_err(), "{bad}");
        }
    }
}
