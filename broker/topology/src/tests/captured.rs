//! What RabbitMQ 3.10.8 answered and where it routed, captured by
//! `captures/capture.py`: here the same operations give the same texts and the
//! same queues, but for the differences that are meant.

use leveret_protocol::{FieldTable, FieldValue, ShortStr};
use serde::Deserialize;
use serde_json::Value;

use crate::access::{Actor, HashingAlgorithm, PasswordHash, Permission};
use crate::command::{
    ChangeBinding, Command, DeclareExchange, DeclareQueue, DeleteExchange, DeleteQueue, PutUser,
    SetPermissions, SetTopicPermissions,
};
use crate::model::{Arguments, Destination, Key, Name, OwnerId, Resource};
use crate::ops::arguments::check_consume_arguments;
use crate::ops::queues::check_exclusive_access;
use crate::refusal::Refusal;
use crate::routing::MessageAttributes;
use crate::testing::{State, bind, exchange, queue};

#[derive(Deserialize)]
struct Captures {
    replies: Vec<Case>,
    routes: Vec<Routes>,
}

#[derive(Deserialize)]
struct Case {
    ops: Vec<Op>,
    reply: Option<Reply>,
}

#[derive(Deserialize)]
struct Reply {
    code: u16,
    text: String,
}

#[derive(Deserialize)]
struct Routes {
    #[serde(rename = "type")]
    kind: String,
    bindings: Vec<BoundQueue>,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct BoundQueue {
    key: String,
    args: Vec<Value>,
}

#[derive(Deserialize)]
struct Message {
    key: String,
    headers: Vec<Value>,
    queues: Vec<usize>,
}

/// One operation; which fields it has depends on `do`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Op {
    r#do: String,
    kind: String,
    name: String,
    r#type: String,
    source: String,
    queue: Option<String>,
    exchange: Option<String>,
    key: String,
    vhost: String,
    args: Vec<Value>,
    on: String,
    user: Option<String>,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    internal: bool,
    if_unused: bool,
}

fn captures() -> Captures {
    let file = include_str!("../../captures/rabbitmq-3.10.8.json");
    serde_json::from_str(file).unwrap()
}

/// A value as `capture.py` writes it: type letter and value.
fn field(letter: &str, value: &Value) -> FieldValue {
    let integer = || value.as_i64().unwrap();
    let octets = || value.as_str().unwrap().as_bytes().to_vec();
    match letter {
        "t" => FieldValue::Bool(value.as_bool().unwrap()),
        "b" => FieldValue::Byte(integer() as i8),
        "I" => FieldValue::Int(integer() as i32),
        "l" => FieldValue::Long(integer()),
        "d" => FieldValue::Double(value.as_f64().unwrap()),
        "S" => FieldValue::LongStr(octets()),
        "x" => FieldValue::Binary(octets()),
        "T" => FieldValue::Timestamp(integer() as u64),
        "V" => FieldValue::Void,
        "D" => FieldValue::Decimal {
            scale: value[0].as_u64().unwrap() as u8,
            value: value[1].as_u64().unwrap() as u32,
        },
        "A" => {
            let items = value.as_array().unwrap().iter();
            FieldValue::Array(
                items
                    .map(|item| field(item[0].as_str().unwrap(), &item[1]))
                    .collect(),
            )
        }
        "F" => FieldValue::Table(table(value.as_array().unwrap())),
        other => panic!("unknown type letter {other}"),
    }
}

fn table(fields: &[Value]) -> FieldTable {
    fields
        .iter()
        .map(|entry| {
            let name = ShortStr::truncated(entry[0].as_str().unwrap().as_bytes());
            (name, field(entry[1].as_str().unwrap(), &entry[2]))
        })
        .collect()
}

/// A state with the users that `capture.py` expects.
fn state() -> State {
    let mut state = State::new();
    for user in ["limited", "nobody", "stranger"] {
        state.apply(Command::PutUser(PutUser {
            name: Name::from(user),
            password: Some(PasswordHash::new(
                "secret",
                [1; 4],
                HashingAlgorithm::Sha256,
            )),
            tags: None,
            must_be_new: true,
            must_exist: false,
        }));
    }
    for (user, [configure, write, read]) in
        [("limited", ["^c-", "^w-", "^r-"]), ("nobody", ["", "", ""])]
    {
        state.apply(Command::SetPermissions(SetPermissions {
            user: Name::from(user),
            vhost: Name::from("/"),
            configure: configure.to_owned(),
            write: write.to_owned(),
            read: read.to_owned(),
        }));
    }
    state.apply(Command::SetTopicPermissions(SetTopicPermissions {
        user: Name::from("limited"),
        vhost: Name::from("/"),
        exchange: Name::from("w-topic"),
        write: "^k\\.".to_owned(),
        read: "^k\\.".to_owned(),
    }));
    state
}

impl Op {
    fn connection(&self) -> OwnerId {
        let user = self.user.as_deref().unwrap_or_default();
        let text = format!("{user}/{}", self.on);
        OwnerId(
            text.bytes()
                .fold(0, |acc, octet| acc * 256 + u128::from(octet)),
        )
    }

    fn arguments(&self) -> Arguments {
        Arguments::from(table(&self.args))
    }

    fn declare_queue(&self) -> DeclareQueue {
        DeclareQueue {
            durable: self.durable,
            auto_delete: self.auto_delete,
            exclusive_owner: self.exclusive.then(|| self.connection()),
            arguments: self.arguments(),
            ..queue(&self.name)
        }
    }

    fn declare_exchange(&self) -> DeclareExchange {
        DeclareExchange {
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments(),
            ..exchange(&self.name, &self.r#type)
        }
    }

    fn change_binding(&self) -> ChangeBinding {
        let destination = match (&self.queue, &self.exchange) {
            (Some(queue), _) => Destination::Queue(Name::from(queue.as_str())),
            (None, exchange) => Destination::Exchange(Name::from(exchange.as_deref().unwrap())),
        };
        ChangeBinding {
            destination,
            arguments: self.arguments(),
            connection: Some(self.connection()),
            ..bind(&self.source, "", &self.key)
        }
    }

    /// Does what a channel does for it.
    fn run(&self, state: &mut State) -> Result<(), Refusal> {
        let user = self.user.as_deref().unwrap_or("guest");
        let actor = Actor::new(user, self.connection());
        let topology = &state.topology;
        let command = match self.r#do.as_str() {
            "queue" => {
                topology.check_declare_queue(&self.declare_queue(), Some(&actor))?;
                Command::DeclareQueue(self.declare_queue())
            }
            "exchange" => {
                topology.check_declare_exchange(&self.declare_exchange(), Some(&actor))?;
                Command::DeclareExchange(self.declare_exchange())
            }
            "bind" => {
                topology.check_bind(&self.change_binding(), Some(&actor))?;
                Command::Bind(self.change_binding())
            }
            "unbind" => {
                topology.check_unbind(&self.change_binding(), Some(&actor))?;
                Command::Unbind(self.change_binding())
            }
            "delete_queue" => {
                topology.check_delete_queue("/", &self.name, &actor)?;
                let (vhost, name) = (Name::from("/"), Name::from(self.name.as_str()));
                Command::DeleteQueue(DeleteQueue {
                    vhost,
                    name,
                    id: None,
                })
            }
            "delete_exchange" => {
                let (vhost, name) = (Name::from("/"), Name::from(self.name.as_str()));
                let delete = DeleteExchange {
                    vhost,
                    name,
                    if_unused: self.if_unused,
                };
                topology.check_delete_exchange(&delete, Some(&actor))?;
                Command::DeleteExchange(delete)
            }
            _ => return self.read(state, &actor),
        };
        state.try_apply(command).map(drop)
    }

    fn read(&self, state: &State, actor: &Actor<'_>) -> Result<(), Refusal> {
        let topology = &state.topology;
        match self.r#do.as_str() {
            "passive" if self.kind == "queue" => {
                let queue = topology.expect_queue("/", &self.name)?;
                check_exclusive_access(queue, actor.connection)
            }
            "passive" => topology.check_passive_exchange("/", &self.name).map(drop),
            "publish" => {
                let exchange = self.exchange.as_deref().unwrap();
                topology
                    .check_publish(actor, "/", exchange, self.key.as_bytes())
                    .map(drop)
            }
            "consume" => {
                let resource = Resource::queue("/", &self.name);
                topology.check_permission(actor, resource, Permission::Read)?;
                let queue = topology.expect_queue("/", &self.name)?;
                check_exclusive_access(queue, actor.connection)?;
                check_consume_arguments(queue, &self.arguments())
            }
            "open" => topology.check_vhost_access(actor.user, &self.vhost),
            other => panic!("unknown operation {other}"),
        }
    }

    fn argument(&self, name: &str) -> Option<FieldValue> {
        table(&self.args).get(name).cloned()
    }
}

/// The cases in which Leveret means to differ.
fn differs_on_purpose(case: &Case) -> bool {
    let last = case.ops.last().unwrap();
    let is_quorum = |op: &Op| op.argument("x-queue-type") == Some(FieldValue::from("quorum"));
    // A quorum queue may be transient, exclusive and whatever else a queue can be.
    last.r#do == "queue" && is_quorum(last)
}

#[test]
fn replies_equal_rabbitmqs() {
    let mut compared = 0;
    let mut differences = Vec::new();
    for case in captures().replies {
        if differs_on_purpose(&case) {
            continue;
        }
        let mut state = state();
        let (last, setup) = case.ops.split_last().unwrap();
        for op in setup {
            op.run(&mut state)
                .unwrap_or_else(|refusal| panic!("{refusal} at {op:?}"));
        }
        let reply = last.run(&mut state).err();
        let actual = reply.map(|refusal| {
            let text = refusal
                .reply_code
                .text(&refusal.text)
                .to_string_lossy()
                .into_owned();
            (refusal.reply_code.code(), text)
        });
        let expected = case.reply.map(|reply| (reply.code, reply.text));
        if actual != expected {
            differences.push(format!("{:?}\n  {expected:?}\n  {actual:?}", case.ops));
        }
        compared += 1;
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared > 250, "{compared}");
}

struct Headers(FieldTable);

impl MessageAttributes for Headers {
    fn headers(&self) -> Option<&FieldTable> {
        Some(&self.0)
    }
}

#[test]
fn routes_equal_rabbitmqs() {
    let mut routed = 0;
    for routes in captures().routes {
        let mut state = State::new();
        state.apply(exchange("routes", &routes.kind));
        for (number, binding) in routes.bindings.iter().enumerate() {
            let name = format!("{number:03}");
            state.apply(queue(&name));
            state.apply(ChangeBinding {
                routing_key: Key::from(binding.key.as_str()),
                arguments: Arguments::from(table(&binding.args)),
                ..bind("routes", &name, "")
            });
        }
        for message in &routes.messages {
            let headers = Headers(table(&message.headers));
            let found = state.route_with("routes", &[&message.key], &headers);
            let expected: Vec<String> = message
                .queues
                .iter()
                .map(|number| format!("{number:03}"))
                .collect();
            assert_eq!(found, expected, "{} {:?}", message.key, message.headers);
            routed += expected.len();
        }
    }
    assert!(routed > 1000, "{routed}");
}

#[test]
fn password_hashes_of_rabbitmq_verify() {
    let hashes = [
        (
            "hbDdxXzmDlSPhxcqcLXEku8bSsaRfgdGNsp7NlfTxMycHIXwZb2JMo8v5YLlkIBo86w4cVD/LQ9zxoxp7glpo\
             +KN6Mk=",
            HashingAlgorithm::Sha512,
        ),
        ("U4RiGhjz+vlBBAm928OWNQy/4+A=", HashingAlgorithm::Md5),
        (
            "O/wGcYC17U8DvF7zlIo68rBM0hIP1V8KGD4x1fXShLR4UA/J",
            HashingAlgorithm::Sha256,
        ),
    ];
    for (text, algorithm) in hashes {
        let hash = PasswordHash::from_base64(text, algorithm).unwrap();
        assert!(hash.verify(b"secret"), "{algorithm:?}");
        assert!(!hash.verify(b"Secret"));
    }
}
