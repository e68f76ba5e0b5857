//! Users.

use leveret_topology::{Command, DeleteUser, HashingAlgorithm, Name, PasswordHash, PutUser, User};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

fn value(user: &User) -> Value {
    json!({
        "name": user.name,
        "password_hash": user.password.to_base64(),
        "hashing_algorithm": user.password.algorithm().as_str(),
        "tags": user.tags,
        "limits": user.limits,
    })
}

pub fn list(call: &Call) -> Result {
    let users = call.topology().users().map(value).collect();
    call.list(users, &["name"])
}

pub fn list_without_permissions(call: &Call) -> Result {
    let topology = call.topology();
    let enters_any = |user: &User| {
        let mut all = topology.vhosts().flat_map(|vhost| vhost.permissions());
        all.any(|(name, _)| *name == user.name)
    };
    let users = topology.users().filter(|user| !enters_any(user));
    let users = users.map(value).collect();
    drop(topology);
    call.list(users, &["name"])
}

pub fn get(call: &Call) -> Result {
    let user = call.topology().user(call.param("user")).map(value);
    call.one(user.ok_or_else(Failure::missing)?)
}

/// Tags of a user or virtual host: a list, or a text with commas.
pub fn tags(value: &Value) -> Result<Vec<Name>> {
    let trimmed = |text: &str| Some(text.trim()).filter(|t| !t.is_empty()).map(Name::from);
    let bad = || Failure::bad_request("tags are neither a text nor a list of texts");
    match value {
        Value::String(text) => Ok(text.split(',').filter_map(trimmed).collect()),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().ok_or_else(bad));
            let texts: Result<Vec<&str>> = texts.collect();
            Ok(texts?.into_iter().filter_map(trimmed).collect())
        }
        _ => Err(bad()),
    }
}

fn password(call: &Call, body: &Map<String, Value>) -> Result<PasswordHash> {
    let algorithm = match body.get("hashing_algorithm").and_then(Value::as_str) {
        None => HashingAlgorithm::Sha256,
        Some(name) => HashingAlgorithm::from_name(name)
            .ok_or_else(|| Failure::bad_request(json!(["unknown_hashing_algorithm", name])))?,
    };
    match (body.get("password"), body.get("password_hash")) {
        (Some(password), None) => {
            let password = json::text(password, "password")?;
            Ok(PasswordHash::new(password, call.broker().salt(), algorithm))
        }
        (None, Some(hash)) => {
            let hash = json::text(hash, "password_hash")?;
            PasswordHash::from_base64(hash, algorithm)
                .ok_or_else(|| Failure::bad_request(json!(["not_base64", hash])))
        }
        (None, None) => Ok(PasswordHash::default()),
        (Some(_), Some(_)) => {
            let reason = "only one of password, password_hash can be given";
            Err(Failure::bad_request(reason))
        }
    }
}

pub fn put(call: &Call) -> Result {
    let name = call.param("user");
    let body = call.json()?;
    let given = body
        .get("tags")
        .ok_or_else(|| Failure::bad_request("tags_not_present"))?;
    let put = PutUser {
        name: Name::from(name),
        password: Some(password(call, &body)?),
        tags: Some(tags(given)?),
        must_be_new: false,
        must_exist: false,
    };
    let exists = call.topology().user(name).is_some();
    call.propose(Command::PutUser(put))?;
    Ok(Reply::Put { made: !exists })
}

fn delete_one(call: &Call, name: &str) -> Result<()> {
    let name = Name::from(name);
    call.propose(Command::DeleteUser(DeleteUser { name }))
}

pub fn delete(call: &Call) -> Result {
    let name = call.param("user");
    if call.topology().user(name).is_none() {
        return Err(Failure::missing());
    }
    delete_one(call, name)?;
    Ok(Reply::Done)
}

/// Names that are no users are passed over.
pub fn bulk_delete(call: &Call) -> Result {
    let body = call.json()?;
    let [names] = json::fields(&body, ["users"])?;
    let names = names
        .as_array()
        .ok_or_else(|| Failure::bad_request(json!(["not_list", "users"])))?;
    for name in names {
        let name = json::text(name, "users")?;
        let exists = call.topology().user(name).is_some();
        if exists {
            delete_one(call, name)?;
        }
    }
    Ok(Reply::Done)
}

pub fn hash_password(call: &Call) -> Result {
    let (password, salt) = (call.param("password"), call.broker().salt());
    let hash = PasswordHash::new(password, salt, HashingAlgorithm::Sha256);
    Ok(Reply::Json(json!({"ok": hash.to_base64()})))
}
