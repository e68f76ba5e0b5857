//! The API's description in OpenAPI 3.1, made of the routes.

use serde_json::{Map, Value, json};

use crate::login::Access;
use crate::routes::{Op, ROUTES};

const PAGED: &[&str] = &[
    "page",
    "page_size",
    "name",
    "use_regex",
    "sort",
    "sort_reverse",
    "columns",
];

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
            let schema = json!({"type": "string"});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    if op.method == "GET" {
        parameters.extend(PAGED.iter().map(|name| {
            let kind = match *name {
                "page" | "page_size" => "integer",
                "use_regex" | "sort_reverse" => "boolean",
                _ => "string",
            };
            json!({"name": name, "in": "query", "schema": {"type": kind}})
        }));
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
    let takes_body = op.method == "PUT" || op.method == "POST";
    if let (Some(fields), true) = (out.as_object_mut(), takes_body) {
        let schema = json!({"type": "object"});
        let body = json!({"content": {"application/json": {"schema": schema}}});
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
