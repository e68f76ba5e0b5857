//! Import of definitions: a plan of commands, in RabbitMQ's order. Each is
//! applied by itself, since the id of a queue is the index of its command; as
//! in RabbitMQ, what was imported before an error stays.

use leveret_protocol::ReplyCode;
use serde_json::{Map, Value};

use super::json;
use crate::access::{HashingAlgorithm, PasswordHash, SALT_SIZE};
use crate::command::{
    ChangeBinding, Command, DeclareExchange, DeclareQueue, PutUser, PutVhost, SetGlobalParameter,
    SetParameter, SetPermissions, SetPolicy, SetTopicPermissions, SetUserLimits,
};
use crate::model::{Arguments, Destination, Key, Name};
use crate::policy::ApplyTo;
use crate::refusal::Refusal;

/// What the file does not say.
pub struct ImportOptions<'a> {
    /// The vhost of the objects that name none: for definitions of one vhost.
    /// Then users, vhosts, permissions and global parameters are passed over.
    pub vhost: Option<&'a str>,
    /// Who imports, and is given all permissions in vhosts that are new.
    pub user: Option<&'a str>,
    /// Random salts, for passwords that are there in the clear.
    pub salt: &'a mut dyn FnMut() -> [u8; SALT_SIZE],
}

/// One command of the plan. The caller sets the placement of a DeclareQueue.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportStep {
    /// What is imported, for messages: `queue 'q' in vhost '/'`.
    pub object: String,
    /// The command.
    pub command: Command,
}

impl ImportStep {
    /// Whether the import goes on when this step is refused so: RabbitMQ exports
    /// bindings of exclusive queues and internal exchanges without exporting
    /// those, and passes over them when it imports.
    pub fn may_be_skipped(&self, refusal: &Refusal) -> bool {
        matches!(self.command, Command::Bind(_)) && refusal.reply_code == ReplyCode::NotFound
    }
}

/// Definitions that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct DefinitionsError {
    /// What is wrong: `queue 'q' in vhost '/'`, or `queues[3]` when it has no
    /// name.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The commands that import a file, in order. Queues and exchanges that exist
/// are left as they are; users, permissions, policies and parameters are
/// replaced. Objects whose names begin with `amq.` are passed over, as are
/// sections that are unknown.
///
/// # Errors
/// The first object that is malformed. What a command would be refused with
/// shows when it is applied.
pub fn plan_import(
    file: &[u8],
    options: ImportOptions<'_>,
) -> Result<Vec<ImportStep>, DefinitionsError> {
    let file: Value = serde_json::from_slice(file).map_err(|error| DefinitionsError {
        object: "definitions".to_owned(),
        reason: format!("not JSON: {error}"),
    })?;
    let Value::Object(sections) = file else {
        let (object, reason) = ("definitions".to_owned(), "not an object".to_owned());
        return Err(DefinitionsError { object, reason });
    };
    let version = ["rabbitmq_version", "rabbit_version"]
        .iter()
        .find_map(|key| sections.get(*key)?.as_str())
        .unwrap_or_default()
        .to_owned();
    let mut plan = Plan {
        options,
        version,
        steps: Vec::new(),
    };
    if plan.options.vhost.is_none() {
        plan.section(&sections, "users", Plan::user)?;
        plan.section(&sections, "vhosts", Plan::vhost)?;
        plan.section(&sections, "permissions", Plan::permission)?;
        plan.section(&sections, "topic_permissions", Plan::topic_permission)?;
    }
    plan.section(&sections, "exchanges", Plan::exchange)?;
    if plan.options.vhost.is_none() {
        plan.section(&sections, "global_parameters", Plan::global_parameter)?;
    }
    plan.section(&sections, "policies", Plan::policy)?;
    plan.section(&sections, "parameters", Plan::parameter)?;
    plan.section(&sections, "queues", Plan::queue)?;
    plan.section(&sections, "bindings", Plan::binding)?;
    Ok(plan.steps)
}

struct Plan<'a> {
    options: ImportOptions<'a>,
    version: String,
    steps: Vec<ImportStep>,
}

/// One object of a section.
struct Item<'a> {
    fields: &'a Map<String, Value>,
    /// What errors call it.
    object: String,
}

type Planned = Result<(), DefinitionsError>;

impl<'a> Item<'a> {
    fn error(&self, reason: impl Into<String>) -> DefinitionsError {
        DefinitionsError {
            object: self.object.clone(),
            reason: reason.into(),
        }
    }

    /// A field that counts as missing when it is null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<&'a str, DefinitionsError> {
        let value = self
            .get(key)
            .ok_or_else(|| self.error(format!("'{key}' is missing")))?;
        value
            .as_str()
            .ok_or_else(|| self.error(format!("'{key}' is not a string")))
    }

    fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str, DefinitionsError> {
        if self.get(key).is_some() {
            self.text(key)
        } else {
            Ok(default)
        }
    }

    /// The name of a queue or exchange, which AMQP bounds.
    fn short(&self, key: &str) -> Result<Name, DefinitionsError> {
        let text = self.text(key)?;
        if text.len() > 255 {
            return Err(self.error(format!("'{key}' is longer than 255 octets")));
        }
        Ok(Name::from(text))
    }

    fn flag(&self, key: &str) -> Result<bool, DefinitionsError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.error(format!("'{key}' is not a boolean"))),
        }
    }

    fn arguments(&self) -> Result<Arguments, DefinitionsError> {
        match self.get("arguments") {
            None => Ok(Arguments::new()),
            Some(Value::Object(fields)) => {
                json::arguments(fields).map_err(|reason| self.error(reason))
            }
            Some(Value::Array(list)) if list.is_empty() => Ok(Arguments::new()),
            Some(_) => Err(self.error("'arguments' is not an object")),
        }
    }

    /// Tags: a list, or one string with commas.
    fn tags(value: &Value) -> Option<Vec<Name>> {
        let names: Vec<&str> = match value {
            Value::String(text) => text.split(',').collect(),
            Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let names = names
            .into_iter()
            .map(str::trim)
            .filter(|name| !name.is_empty());
        Some(names.map(Name::from).collect())
    }
}

impl Plan<'_> {
    fn section(
        &mut self,
        sections: &Map<String, Value>,
        name: &str,
        plan: fn(&mut Self, &Item<'_>) -> Planned,
    ) -> Planned {
        let list = match sections.get(name) {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(list)) => list,
            Some(_) => {
                let reason = "not a list".to_owned();
                return Err(DefinitionsError {
                    object: name.to_owned(),
                    reason,
                });
            }
        };
        for (index, value) in list.iter().enumerate() {
            let object = format!("{name}[{index}]");
            let Some(fields) = value.as_object() else {
                return Err(DefinitionsError {
                    object,
                    reason: "not an object".to_owned(),
                });
            };
            plan(
                self,
                &Item {
                    fields,
                    object: self.describe(name, fields).unwrap_or(object),
                },
            )?;
        }
        Ok(())
    }

    /// What an object is called, when it says enough of itself.
    fn describe(&self, section: &str, fields: &Map<String, Value>) -> Option<String> {
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        let vhost = || text("vhost").or(self.options.vhost);
        Some(match section {
            "users" => format!("user '{}'", text("name")?),
            "vhosts" => format!("vhost '{}'", text("name")?),
            "permissions" => format!("permissions of '{}' in vhost '{}'", text("user")?, vhost()?),
            "topic_permissions" => {
                format!(
                    "topic permissions of '{}' in vhost '{}'",
                    text("user")?,
                    vhost()?
                )
            }
            "global_parameters" => format!("global parameter '{}'", text("name")?),
            "parameters" => format!(
                "parameter '{}' of '{}' in vhost '{}'",
                text("name")?,
                text("component")?,
                vhost()?
            ),
            "bindings" => format!(
                "binding of '{}' to {} '{}' in vhost '{}'",
                text("source")?,
                text("destination_type")?,
                text("destination")?,
                vhost()?
            ),
            "policies" => format!("policy '{}' in vhost '{}'", text("name")?, vhost()?),
            "queues" => format!("queue '{}' in vhost '{}'", text("name")?, vhost()?),
            "exchanges" => format!("exchange '{}' in vhost '{}'", text("name")?, vhost()?),
            _ => return None,
        })
    }

    fn add(&mut self, item: &Item<'_>, command: Command) {
        self.steps.push(ImportStep {
            object: item.object.clone(),
            command,
        });
    }

    fn vhost_of(&self, item: &Item<'_>) -> Result<Name, DefinitionsError> {
        match self.options.vhost {
            Some(vhost) => Ok(Name::from(vhost)),
            None => item.text("vhost").map(Name::from),
        }
    }

    fn user(&mut self, item: &Item<'_>) -> Planned {
        let name = Name::from(item.text("name")?);
        let tags = match item.get("tags") {
            None => Some(Vec::new()),
            Some(value) => {
                Some(Item::tags(value).ok_or_else(|| item.error("'tags' are not strings"))?)
            }
        };
        let password = Some(self.password(item)?);
        let (must_be_new, must_exist) = (false, false);
        let put = PutUser {
            name: name.clone(),
            password,
            tags,
            must_be_new,
            must_exist,
        };
        self.add(item, Command::PutUser(put));
        if let Some(Value::Object(limits)) = item.get("limits") {
            let set = SetUserLimits {
                user: name,
                limits: limits.clone(),
            };
            self.add(item, Command::SetUserLimits(set));
        }
        Ok(())
    }

    fn password(&mut self, item: &Item<'_>) -> Result<PasswordHash, DefinitionsError> {
        let algorithm = match item.get("hashing_algorithm") {
            None => default_algorithm(&self.version),
            Some(_) => {
                let name = item.text("hashing_algorithm")?;
                HashingAlgorithm::from_name(name)
                    .ok_or_else(|| item.error(format!("unknown hashing algorithm '{name}'")))?
            }
        };
        match (item.get("password"), item.get("password_hash")) {
            (Some(_), Some(_)) => Err(item.error("has both a password and a password hash")),
            (Some(_), None) => {
                let salt = (self.options.salt)();
                Ok(PasswordHash::new(
                    item.text("password")?,
                    salt,
                    HashingAlgorithm::Sha256,
                ))
            }
            (None, Some(_)) => PasswordHash::from_base64(item.text("password_hash")?, algorithm)
                .ok_or_else(|| item.error("'password_hash' is not base64")),
            (None, None) => Ok(PasswordHash::default()),
        }
    }

    fn vhost(&mut self, item: &Item<'_>) -> Planned {
        let metadata = item.get("metadata").and_then(Value::as_object);
        let either = |key: &str| {
            let inner = metadata.and_then(|metadata| metadata.get(key));
            item.get(key).or(inner).filter(|value| !value.is_null())
        };
        let text = |key: &str| either(key).and_then(Value::as_str).unwrap_or_default();
        let tags = match either("tags") {
            None => Vec::new(),
            Some(value) => Item::tags(value).ok_or_else(|| item.error("'tags' are not strings"))?,
        };
        let put = PutVhost {
            name: Name::from(item.text("name")?),
            description: text("description").to_owned(),
            tags,
            default_queue_type: Some(Name::from(text("default_queue_type"))),
            tracing: item.get("tracing").and_then(Value::as_bool),
            user: self.options.user.map(Name::from),
        };
        self.add(item, Command::PutVhost(put));
        Ok(())
    }

    fn permission(&mut self, item: &Item<'_>) -> Planned {
        let set = SetPermissions {
            user: Name::from(item.text("user")?),
            vhost: self.vhost_of(item)?,
            configure: item.text("configure")?.to_owned(),
            write: item.text("write")?.to_owned(),
            read: item.text("read")?.to_owned(),
        };
        self.add(item, Command::SetPermissions(set));
        Ok(())
    }

    fn topic_permission(&mut self, item: &Item<'_>) -> Planned {
        let set = SetTopicPermissions {
            user: Name::from(item.text("user")?),
            vhost: self.vhost_of(item)?,
            exchange: item.short("exchange")?,
            write: item.text("write")?.to_owned(),
            read: item.text("read")?.to_owned(),
        };
        self.add(item, Command::SetTopicPermissions(set));
        Ok(())
    }

    fn exchange(&mut self, item: &Item<'_>) -> Planned {
        let name = item.short("name")?;
        if name.is_empty() || name.starts_with("amq.") {
            return Ok(());
        }
        let declare = DeclareExchange {
            vhost: self.vhost_of(item)?,
            name,
            kind: Name::from(item.text("type")?),
            durable: item.flag("durable")?,
            auto_delete: item.flag("auto_delete")?,
            internal: item.flag("internal")?,
            arguments: item.arguments()?,
            user: self.options.user.map(Name::from),
            keep_existing: true,
        };
        self.add(item, Command::DeclareExchange(declare));
        Ok(())
    }

    fn global_parameter(&mut self, item: &Item<'_>) -> Planned {
        let value = item.fields.get("value").cloned().unwrap_or_default();
        let set = SetGlobalParameter {
            name: Name::from(item.text("name")?),
            value,
        };
        self.add(item, Command::SetGlobalParameter(set));
        Ok(())
    }

    fn policy(&mut self, item: &Item<'_>) -> Planned {
        let (vhost, name) = (self.vhost_of(item)?, Name::from(item.text("name")?));
        let set = set_policy(item, vhost, name, false)?;
        self.add(item, Command::SetPolicy(set));
        Ok(())
    }

    fn parameter(&mut self, item: &Item<'_>) -> Planned {
        let vhost = self.vhost_of(item)?;
        let (component, name) = (item.text("component")?, Name::from(item.text("name")?));
        let value = item
            .get("value")
            .ok_or_else(|| item.error("'value' is missing"))?;
        if component == "operator_policy" {
            let fields = value
                .as_object()
                .ok_or_else(|| item.error("'value' is not an object"))?;
            let inner = Item {
                fields,
                object: item.object.clone(),
            };
            let set = set_policy(&inner, vhost, name, true)?;
            self.add(item, Command::SetPolicy(set));
            return Ok(());
        }
        let set = SetParameter {
            vhost,
            component: Name::from(component),
            name,
            value: value.clone(),
        };
        self.add(item, Command::SetParameter(set));
        Ok(())
    }

    fn queue(&mut self, item: &Item<'_>) -> Planned {
        let name = item.short("name")?;
        if name.starts_with("amq.") {
            return Ok(());
        }
        if name.is_empty() {
            return Err(item.error("the name is empty"));
        }
        let mut arguments = item.arguments()?;
        let kind = item.text_or("type", "classic")?;
        if kind != "classic" && !arguments.contains("x-queue-type") {
            arguments.insert("x-queue-type", kind);
        }
        let vhost = self.vhost_of(item)?;
        let declare = DeclareQueue {
            durable: item.flag("durable")?,
            auto_delete: item.flag("auto_delete")?,
            arguments,
            user: self.options.user.map(Name::from),
            keep_existing: true,
            ..DeclareQueue::new(&vhost, &name)
        };
        self.add(item, Command::DeclareQueue(declare));
        Ok(())
    }

    fn binding(&mut self, item: &Item<'_>) -> Planned {
        let source = item.short("source")?;
        let destination = item.short("destination")?;
        if source.is_empty() {
            // A queue is bound to the default exchange by being there.
            return Ok(());
        }
        let destination = match item.text("destination_type")? {
            "queue" => Destination::Queue(destination),
            "exchange" => Destination::Exchange(destination),
            other => return Err(item.error(format!("unknown destination_type '{other}'"))),
        };
        let change = ChangeBinding {
            vhost: self.vhost_of(item)?,
            source,
            destination,
            routing_key: Key::from(item.text_or("routing_key", "")?),
            arguments: item.arguments()?,
            connection: None,
        };
        self.add(item, Command::Bind(change));
        Ok(())
    }
}

fn set_policy(
    item: &Item<'_>,
    vhost: Name,
    name: Name,
    operator: bool,
) -> Result<SetPolicy, DefinitionsError> {
    let definition = item.get("definition").and_then(pairs);
    let definition = definition.ok_or_else(|| item.error("'definition' is not an object"))?;
    let priority = match item.get("priority") {
        None => 0,
        Some(value) => value
            .as_i64()
            .or_else(|| value.as_f64().map(|number| number as i64))
            .ok_or_else(|| item.error("'priority' is not a number"))?,
    };
    let apply_to = item.text_or("apply-to", "all")?;
    let apply_to = ApplyTo::from_name(apply_to)
        .ok_or_else(|| item.error(format!("apply-to '{apply_to}' unrecognised")))?;
    let pattern = item.text("pattern")?.to_owned();
    Ok(SetPolicy {
        vhost,
        name,
        operator,
        pattern,
        definition,
        priority,
        apply_to,
    })
}

/// The fields of an object; RabbitMQ writes some as a list of pairs.
fn pairs(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields.clone()),
        Value::Array(list) => list
            .iter()
            .map(|pair| match pair.as_array()?.as_slice() {
                [name, value] => Some((name.as_str()?.to_owned(), value.clone())),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// The algorithm of hashes that name none, by the RabbitMQ they come from.
fn default_algorithm(version: &str) -> HashingAlgorithm {
    let is_old = ["1.", "2.", "3.0.", "3.1.", "3.2.", "3.3.", "3.4.", "3.5."]
        .iter()
        .any(|prefix| version.starts_with(prefix));
    if is_old {
        HashingAlgorithm::Md5
    } else {
        HashingAlgorithm::Sha256
    }
}
