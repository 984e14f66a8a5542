//! The OpenAPI document and the coordinator agree: every operation of the document answers as it
//! says, and nothing else answers.

use std::collections::BTreeSet;

use maia_tests::Cluster;
use maia_tests::client::{Answer, Request};
use reqwest::Method;
use serde_json::{Value, json};

/// One request and the operation that it stands for.
struct Drive {
    method: Method,
    template: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Option<String>,
    status: u16,
}

fn drive(method: Method, template: &'static str, path: &str, status: u16) -> Drive {
    Drive {
        method,
        template,
        path: path.to_owned(),
        headers: Vec::new(),
        body: None,
        status,
    }
}

impl Drive {
    fn body(mut self, body: &Value) -> Self {
        self.body = Some(body.to_string());
        self
    }

    /// As a tenant's request of JSON.
    fn of_tenant(mut self) -> Self {
        self.headers.push(("x-maia-tenant-id", "t"));
        self.headers.push(("content-type", "application/json"));
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// Requests in an order that makes sense; each operation at least once.
#[expect(clippy::too_many_lines, reason = "a table")]
fn drives(region: &str) -> Vec<Drive> {
    let spec = json!({"primary_region": region});
    let lost = json!({"tenant": "u", "primary_region": "atlantis"});
    let (one, many) = ("/v1/placements/{tenant}", "/v1/placements");
    let (thing, things) = ("/v1/data/{kind}/{id}", "/v1/data/{kind}");
    let (site, sites) = ("/admin/regions/{name}", "/admin/regions");
    let (log, stream) = ("/v1/replication/entries", "/v1/replication/stream");
    let append = |operation: &str, id: &str| {
        json!({
            "tenant_id": "t", "operation": operation, "resource_type": "logs",
            "resource_id": id, "data": {"a": 1},
        })
    };
    let doc = json!({"a": 1});
    let mars = json!({"public_url": "http://mars.example"});
    let node = json!({
        "id": 9, "region": region, "rpc_addr": "127.0.0.1:9", "api_url": "http://127.0.0.1:9",
    });
    let get = Method::GET;
    let put = |template, path: &str, status| drive(Method::PUT, template, path, status);
    let entry = "/admin/replication/quarantine/{id}";
    let absent = "/admin/replication/quarantine/1-2-3";
    let decide = "/admin/replication/quarantine/{id}/resolve";
    let decided = "/admin/replication/quarantine/1-2-3/resolve";
    let entries = "/admin/replication/quarantine";
    let digest = "/admin/replication/digest";
    vec![
        drive(
            get.clone(),
            digest,
            "/admin/replication/digest?group=0",
            200,
        ),
        drive(
            get.clone(),
            digest,
            "/admin/replication/digest?group=99",
            404,
        ),
        drive(
            get.clone(),
            entries,
            "/admin/replication/quarantine?limit=1",
            200,
        ),
        drive(
            get.clone(),
            entries,
            "/admin/replication/quarantine?after=x",
            400,
        ),
        drive(get.clone(), entry, absent, 404),
        drive(Method::POST, decide, decided, 404).body(&json!({"action": "drop"})),
        drive(Method::POST, decide, decided, 400).body(&json!({"action": "eat"})),
        put(one, "/v1/placements/u?dry_run=true", 200).body(&spec),
        put(one, "/v1/placements/u", 201).body(&spec),
        put(one, "/v1/placements/u", 200).body(&spec),
        put(one, "/v1/placements/u", 412)
            .body(&spec)
            .header("if-none-match", "*"),
        put(one, "/v1/placements/u", 400).body(&json!({})),
        drive(
            Method::POST,
            "/admin/tenants/{tenant}/placement",
            "/admin/tenants/u/placement",
            200,
        )
        .body(&spec),
        drive(get.clone(), one, "/v1/placements/u", 200),
        drive(get.clone(), one, "/v1/placements/nobody", 404),
        drive(get.clone(), many, "/v1/placements?limit=1", 200),
        drive(Method::POST, many, many, 200).body(&lost),
        drive(Method::POST, many, many, 400).body(&spec),
        drive(Method::DELETE, one, "/v1/placements/u", 204),
        put(thing, "/v1/data/notes/n", 201).of_tenant().body(&doc),
        put(thing, "/v1/data/notes/n", 200).of_tenant().body(&doc),
        drive(Method::PATCH, thing, "/v1/data/notes/n", 200)
            .of_tenant()
            .body(&doc),
        drive(get.clone(), thing, "/v1/data/notes/n", 200).of_tenant(),
        put(thing, "/v1/data/notes/raw", 201)
            .header("x-maia-tenant-id", "t")
            .body(&doc),
        drive(get.clone(), things, "/v1/data/notes", 200).of_tenant(),
        drive(Method::DELETE, thing, "/v1/data/notes/n", 204).of_tenant(),
        drive(get.clone(), thing, "/v1/data/notes/n", 404).of_tenant(),
        put(site, "/admin/regions/mars", 201).body(&mars),
        put(site, "/admin/regions/mars", 200).body(&mars),
        drive(get.clone(), site, "/admin/regions/mars", 200),
        drive(get.clone(), sites, sites, 200),
        drive(get.clone(), "/admin/nodes", "/admin/nodes", 200),
        drive(Method::POST, "/admin/nodes", "/admin/nodes", 202).body(&node),
        drive(
            Method::DELETE,
            "/admin/nodes/{id}",
            "/admin/nodes/9?dry_run=true",
            200,
        ),
        drive(Method::DELETE, "/admin/nodes/{id}", "/admin/nodes/9", 202),
        drive(Method::DELETE, "/admin/nodes/{id}", "/admin/nodes/77", 404),
        drive(
            Method::DELETE,
            "/admin/proxies/{proxy}",
            "/admin/proxies/nobody",
            404,
        ),
        drive(get.clone(), "/admin/proxies", "/admin/proxies", 200),
        drive(
            get.clone(),
            "/admin/events",
            "/admin/events?limit=1000",
            200,
        ),
        drive(
            get.clone(),
            "/admin/replication/election",
            "/admin/replication/election",
            200,
        ),
        drive(
            get.clone(),
            "/v1/replication/health",
            "/v1/replication/health",
            200,
        ),
        drive(Method::POST, log, log, 201)
            .body(&json!([append("update", "1"), append("create", "2")])),
        drive(Method::POST, log, log, 412).body(&append("create", "2")),
        drive(Method::POST, log, log, 400).body(&json!([])),
        drive(
            get.clone(),
            log,
            "/v1/replication/entries?tenant=t&limit=1000",
            200,
        ),
        drive(
            get.clone(),
            log,
            "/v1/replication/entries?tenant=t&after=99/1/1",
            409,
        ),
        drive(get.clone(), log, "/v1/replication/entries?group=0", 400),
        // A stream of a tenant has no end: see tests/entries.rs.
        drive(
            get.clone(),
            stream,
            "/v1/replication/stream?tenant=nobody",
            404,
        ),
        drive(
            get.clone(),
            "/v1/replication/position",
            "/v1/replication/position?tenant=t",
            200,
        ),
        drive(
            get.clone(),
            "/v1/replication/stats",
            "/v1/replication/stats",
            200,
        ),
        drive(
            get.clone(),
            "/v1/replication/leader",
            "/v1/replication/leader",
            200,
        ),
        drive(
            get.clone(),
            "/v1/replication/followers",
            "/v1/replication/followers",
            200,
        ),
        drive(get.clone(), "/openapi.json", "/openapi.json", 200),
        drive(get.clone(), "/livez", "/livez", 200),
        drive(get.clone(), "/readyz", "/readyz", 200),
        drive(get, "/metrics", "/metrics", 200),
    ]
}

/// The document's operations, as method and path.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let each = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("a path item").keys();
        methods.map(move |method| (method.to_uppercase(), path.clone()))
    });
    each.collect()
}

/// What is wrong with an answer, by the document.
fn check(document: &Value, drive: &Drive, answer: &Answer) -> Result<(), String> {
    let method = drive.method.as_str().to_lowercase();
    let responses = &document["paths"][drive.template][&method]["responses"];
    let status = answer.status.to_string();
    let response = match (&responses[&status], answer.status) {
        (Value::Null, 400..) => &responses["default"],
        (found, _) => found,
    };
    if response.is_null() {
        return Err(format!("status {status} is not documented"));
    }
    let Some(content) = response["content"].as_object() else {
        let empty = answer.body.is_empty();
        return if empty {
            Ok(())
        } else {
            Err("has a body".to_owned())
        };
    };
    let media = answer.header("content-type").unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default();
    match content.get(media) {
        Some(described) if media.ends_with("json") => {
            conforms(document, &described["schema"], &answer.json(), "body")
        }
        Some(_) => Ok(()),
        None if content.contains_key("*/*") => Ok(()),
        None => Err(format!("media type `{media}` is not documented")),
    }
}

/// Whether the value is as the schema says, without anything that it does not tell of.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.trim_start_matches('#'));
        let target = target.ok_or_else(|| format!("{name} leads nowhere"))?;
        return conforms(document, target, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let mut reasons = Vec::new();
        for choice in choices {
            match conforms(document, choice, value, at) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        return Err(reasons.join("; or "));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&is) || (is == "integer" && types.contains(&"number"));
    if !fits {
        return Err(format!("{at} is {value}, not {types:?}"));
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(document, &schema["items"], item, &format!("{at}[{i}]"))?;
    }
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !object.contains_key(name) {
            return Err(format!("{at}.{name} is missing"));
        }
    }
    for (name, field) in object {
        let described = match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Null) if schema["properties"].is_null() => continue,
            (Value::Null, Value::Null) => return Err(format!("{at}.{name} is not documented")),
            (Value::Null, others) => others,
            (described, _) => described,
        };
        conforms(document, described, field, &format!("{at}.{name}"))?;
    }
    Ok(())
}

async fn send(cluster: &Cluster, drive: &Drive) -> Answer {
    let mut request = cluster.api(0, drive.method.clone(), &drive.path);
    for (name, value) in &drive.headers {
        request = request.header(name, *value);
    }
    if let Some(body) = &drive.body {
        request = request.body(body.clone());
    }
    cluster.client.send(&request).await
}

#[tokio::test]
async fn every_operation_answers_as_the_document_says() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1, 2]).await;
    let document = cluster.api_get(0, "/openapi.json").await;
    let mut left = operations(&document);
    let all = left.clone();
    let mut wrong = Vec::new();
    for drive in drives(&cluster.region(0).name) {
        let answer = send(&cluster, &drive).await;
        let operation = (drive.method.to_string(), drive.template.to_owned());
        assert!(all.contains(&operation), "{operation:?} is not documented");
        left.remove(&operation);
        let what = format!("{} {}: {}", drive.method, drive.path, answer.text());
        assert_eq!(answer.status, drive.status, "{what}");
        if let Err(reason) = check(&document, &drive, &answer) {
            wrong.push(format!("{reason}: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(left.is_empty(), "documented, and not tried here: {left:?}");
}

#[tokio::test]
async fn nothing_answers_that_is_not_documented() {
    let cluster = Cluster::start().await;
    let document = cluster.api_get(0, "/openapi.json").await;
    let all = operations(&document);
    let paths: BTreeSet<&String> = all.iter().map(|(_, path)| path).collect();
    for template in paths {
        let path = template.replace(['{', '}'], "");
        for method in [
            Method::GET,
            Method::PUT,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
        ] {
            let is_documented = all.contains(&(method.to_string(), template.clone()));
            if !is_documented {
                let request = cluster.api(0, method.clone(), &path);
                let answer = cluster.client.send(&request).await;
                answer.expect_problem(405, "method_not_allowed");
                continue;
            }
            let operation = &document["paths"][template][method.as_str().to_lowercase()];
            let url = format!("{}{path}", cluster.region(0).api_url);
            let bare = Request::new(method.clone(), url);
            let answer = cluster.client.send(&bare).await;
            // A local cluster serves resources without a token.
            let is_open = operation["security"].is_null() || path.starts_with("/v1/data");
            assert_eq!(
                answer.status != 401,
                is_open,
                "{method} {path}: {}",
                answer.text()
            );
        }
    }
    let unknown = cluster.api(0, Method::GET, "/v2/placements");
    let answer = cluster.client.send(&unknown).await;
    answer.expect_problem(404, "not_found");
}
