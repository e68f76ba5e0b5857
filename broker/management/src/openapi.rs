//! The API's description in OpenAPI 3.1, made of the routes.

use serde_json::{Map, Value, json};

use crate::login::Access;
use crate::routes::{Op, ROUTES};

/// Paths whose GET shows a list that can be sorted, filtered, and cut into pages.
const LISTS: &[&str] = &[
    "/bindings",
    "/bindings/{vhost}",
    "/channels",
    "/connections",
    "/connections/{connection}/channels",
    "/consumers",
    "/consumers/{vhost}",
    "/exchanges",
    "/exchanges/{vhost}",
    "/nodes",
    "/permissions",
    "/policies",
    "/policies/{vhost}",
    "/queues",
    "/queues/detailed",
    "/queues/{vhost}",
    "/topic-permissions",
    "/users",
    "/vhosts",
    "/vhosts/{vhost}/channels",
    "/vhosts/{vhost}/connections",
];

/// Parameters of a list. Any value but `true` turns a switch off.
fn paging() -> Vec<Value> {
    let text = || json!({"type": "string"});
    let page = |max: usize| json!({"type": "integer", "minimum": 1, "maximum": max});
    let parameter = |name: &str, about: &str, schema: Value| json!({"name": name, "in": "query", "description": about, "schema": schema});
    vec![
        parameter("page", "The page; all items if it is not given.", page(1)),
        parameter("page_size", "Items of a page.", page(500)),
        parameter("name", "What the name has to contain.", text()),
        parameter("use_regex", "`true`: `name` is a pattern.", text()),
        parameter("sort", "The column, as a path of names.", text()),
        parameter("sort_reverse", "`true`: downwards.", text()),
        parameter(
            "columns",
            "Columns to show, with commas between them.",
            text(),
        ),
    ]
}

/// An object with these fields, of which the first `required` have to be there.
fn object(fields: &[(&str, Value)], required: usize) -> Value {
    let names: Vec<&str> = fields
        .iter()
        .take(required)
        .map(|(name, _)| *name)
        .collect();
    let all: Map<String, Value> = fields
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()))
        .collect();
    json!({"type": "object", "required": names, "properties": all})
}

/// What a body has to be; `None`: there is none, or it is not looked at.
fn body(path: &str, method: &str) -> Option<Value> {
    let (text, flag) = (json!({"type": "string"}), json!({"type": "boolean"}));
    let (number, any) = (json!({"type": "integer"}), json!({}));
    let (table, pattern) = (
        json!({"type": "object"}),
        json!({"type": "string", "format": "regex"}),
    );
    let tags = json!({"type": "string", "description": "Words with commas between them."});
    let one_of = |words: &[&str]| json!({"type": "string", "enum": words});
    Some(match (method, path) {
        ("PUT", "/cluster-name") => object(&[("name", text)], 1),
        ("PUT", "/users/{user}") => {
            let algorithm = one_of(&[
                "rabbit_password_hashing_sha256",
                "rabbit_password_hashing_sha512",
                "rabbit_password_hashing_md5",
            ]);
            let password = json!({"type": "string", "minLength": 1});
            let hash = json!({"type": "string", "contentEncoding": "base64"});
            let mut either = object(&[("tags", tags)], 1);
            if let Some(fields) = either.as_object_mut() {
                let plain = object(&[("password", password)], 1);
                let hashed = object(
                    &[("password_hash", hash), ("hashing_algorithm", algorithm)],
                    1,
                );
                fields.insert("oneOf".to_owned(), json!([plain, hashed]));
            }
            either
        }
        ("POST", "/users/bulk-delete") => {
            object(&[("users", json!({"type": "array", "items": text}))], 1)
        }
        ("PUT", "/vhosts/{vhost}") => object(
            &[
                ("description", text),
                ("tags", tags),
                (
                    "default_queue_type",
                    one_of(&["classic", "quorum", "stream"]),
                ),
                ("tracing", json!({"type": ["boolean", "null"]})),
            ],
            0,
        ),
        ("PUT", "/permissions/{vhost}/{user}") => object(
            &[
                ("configure", pattern.clone()),
                ("write", pattern.clone()),
                ("read", pattern),
            ],
            3,
        ),
        ("PUT", "/topic-permissions/{vhost}/{user}") => object(
            &[
                ("exchange", text),
                ("write", pattern.clone()),
                ("read", pattern),
            ],
            3,
        ),
        ("PUT", "/policies/{vhost}/{name}" | "/operator-policies/{vhost}/{name}") => object(
            &[
                ("pattern", pattern),
                ("definition", table),
                ("priority", number),
                (
                    "apply-to",
                    one_of(&[
                        "all",
                        "queues",
                        "exchanges",
                        "classic_queues",
                        "quorum_queues",
                        "streams",
                    ]),
                ),
            ],
            2,
        ),
        ("PUT", "/vhost-limits/{vhost}/{name}" | "/user-limits/{user}/{name}") => {
            object(&[("value", number)], 1)
        }
        ("PUT", "/parameters/{component}/{vhost}/{name}" | "/global-parameters/{name}") => {
            object(&[("value", any)], 1)
        }
        ("PUT", "/exchanges/{vhost}/{exchange}") => object(
            &[
                (
                    "type",
                    one_of(&["direct", "fanout", "topic", "headers", "x-consistent-hash"]),
                ),
                ("durable", flag.clone()),
                ("auto_delete", flag.clone()),
                ("internal", flag),
                ("arguments", table),
            ],
            0,
        ),
        ("PUT", "/queues/{vhost}/{queue}") => object(
            &[
                ("durable", flag.clone()),
                ("auto_delete", flag),
                ("arguments", table),
            ],
            0,
        ),
        ("POST", "/bindings/{vhost}/e/{source}/{dtype}/{destination}") => {
            object(&[("routing_key", text), ("arguments", table)], 0)
        }
        ("POST", "/exchanges/{vhost}/{exchange}/publish") => object(
            &[
                ("routing_key", text.clone()),
                ("properties", table),
                ("payload", text),
                ("payload_encoding", one_of(&["string", "base64"])),
            ],
            4,
        ),
        ("POST", "/queues/{vhost}/{queue}/get") => object(
            &[
                (
                    "ackmode",
                    one_of(&[
                        "ack_requeue_true",
                        "ack_requeue_false",
                        "reject_requeue_true",
                        "reject_requeue_false",
                    ]),
                ),
                (
                    "count",
                    json!({"type": "integer", "minimum": 0, "maximum": 10_000}),
                ),
                ("encoding", one_of(&["auto", "base64"])),
                ("truncate", number),
            ],
            3,
        ),
        ("POST", "/queues/{vhost}/{queue}/actions") => {
            object(&[("action", one_of(&["sync", "cancel_sync"]))], 1)
        }
        ("POST", "/definitions" | "/all-configuration" | "/definitions/{vhost}") => {
            let list = json!({"type": "array", "items": {"type": "object"}});
            let kinds = [
                "users",
                "vhosts",
                "permissions",
                "topic_permissions",
                "parameters",
                "global_parameters",
                "policies",
                "queues",
                "exchanges",
                "bindings",
            ];
            object(&kinds.map(|kind| (kind, list.clone())), 0)
        }
        _ => return None,
    })
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Any => "Any user with a tag of management.",
        Access::Admin => "Tag: administrator.",
        Access::Monitor => "Tag: monitoring or administrator.",
        Access::Vhost => "A user who may enter the virtual host, or administrator.",
        Access::VhostVisible => "A user who may enter the virtual host, or monitoring.",
        Access::Policies => "Tag: policymaker, with access to the virtual host, or administrator.",
        Access::GlobalParameters => "Tag: policymaker or administrator.",
    }
}

/// The names in braces.
fn names(path: &str) -> impl Iterator<Item = &str> {
    let segments = path.split('/');
    segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn operation(path: &str, op: &Op) -> Value {
    let mut parameters: Vec<Value> = names(path)
        .map(|name| {
            let schema = match name {
                "port" => json!({"type": "integer", "minimum": 0, "maximum": 65535}),
                "within" => json!({"type": "integer", "minimum": 0}),
                "unit" => json!({"type": "string", "enum": ["days", "weeks", "months", "years"]}),
                "dtype" => json!({"type": "string", "enum": ["q", "e"]}),
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    if op.method == "GET" && LISTS.contains(&path) {
        parameters.extend(paging());
    }
    let refusal = |about: &str| {
        let schema = json!({"$ref": "#/components/schemas/Refusal"});
        json!({"description": about, "content": {"application/json": {"schema": schema}}})
    };
    let mut responses = Map::new();
    let mut add = |status: &str, response: Value| responses.insert(status.to_owned(), response);
    add("200", json!({"description": "As asked for."}));
    if op.method == "PUT" || op.method == "POST" {
        add("201", json!({"description": "Made."}));
    }
    if op.method != "GET" {
        add("204", json!({"description": "Done."}));
    }
    add("400", refusal("Malformed, or refused by the broker."));
    add("401", refusal("Not logged in, or not allowed."));
    add("404", refusal("Not there."));
    add("429", refusal("Too many failed logins."));
    add(
        "503",
        json!({"description": "Not now, or a health check that fails."}),
    );
    let mut out = json!({
        "summary": op.about, "description": access(op.access), "parameters": parameters,
        "operationId": format!("{}{}", op.method.to_lowercase(), path.replace(['/', '{', '}'], "_")),
        "responses": responses, "security": [{"basic": []}],
    });
    if let (Some(fields), Some(schema)) = (out.as_object_mut(), body(path, op.method)) {
        let has_to_be_there = schema["required"].as_array().is_some_and(|r| !r.is_empty());
        let content = json!({"application/json": {"schema": schema}});
        let body = json!({"required": has_to_be_there, "content": content});
        fields.insert("requestBody".to_owned(), body);
    }
    out
}

/// The whole description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let ops = route.ops.iter();
        let ops: Map<String, Value> = ops
            .map(|op| (op.method.to_lowercase(), operation(route.path, op)))
            .collect();
        paths.insert(format!("/api{}", route.path), Value::Object(ops));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Leveret HTTP API",
            "description": "RabbitMQ 3.13's management API. Names in paths are percent-encoded: \
                the virtual host / is %2F, the default exchange is amq.default.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "schemas": {"Refusal": {
                "type": "object",
                "required": ["error", "reason"],
                "properties": {"error": {"type": "string"}, "reason": {}},
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_bodies_are_of_routes_that_there_are() {
        let known = |path: &str, method: &str| {
            let route = ROUTES.iter().find(|route| route.path == path);
            route.is_some_and(|route| route.ops.iter().any(|op| op.method == method))
        };
        for path in LISTS {
            assert!(known(path, "GET"), "{path}");
        }
        let all = ROUTES.iter().flat_map(|route| {
            let ops = route.ops.iter();
            ops.filter(|op| body(route.path, op.method).is_some())
        });
        // As many as there are arms, with those that share one.
        assert_eq!(all.count(), 21);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        let all = description();
        for (path, ops) in all["paths"].as_object().unwrap() {
            for (verb, op) in ops.as_object().unwrap() {
                let id = op["operationId"].as_str().unwrap().to_owned();
                assert!(seen.insert(id), "{verb} {path}");
                let named = op["parameters"].as_array().unwrap().iter();
                let named = named.filter(|p| p["in"] == "path").count();
                assert_eq!(named, names(path).count(), "{verb} {path}");
            }
        }
        assert!(seen.len() > 100);
    }
}
