//! What comes and goes with what: queues, exchanges, bindings, vhosts, users,
//! connections; and where messages go meanwhile.

use leveret_protocol::FieldValue;
use serde_json::json;

use crate::access::{Actor, Permission};
use crate::command::{
    ChangeBinding, ClearPermissions, CloseConnection, Command, DeleteExchange, DeleteQueue,
    DeleteUser, DeleteVhost, PlaceQueue, PutUser, PutVhost, SetParameter, SetPermissions,
    SetUserLimits, SetVhostLimits,
};
use crate::model::{Arguments, Destination, Name, OwnerId, QueueId, Resource};
use crate::outcome::Outcome;
use crate::testing::{State, bind, bind_exchange, exchange, queue};

fn delete_queue(name: &str) -> Command {
    Command::DeleteQueue(DeleteQueue {
        vhost: Name::from("/"),
        name: Name::from(name),
        id: None,
    })
}

fn delete_exchange(name: &str) -> Command {
    let (vhost, name) = (Name::from("/"), Name::from(name));
    Command::DeleteExchange(DeleteExchange {
        vhost,
        name,
        if_unused: false,
    })
}

fn deleted(outcome: &Outcome) -> (Vec<&str>, Vec<&str>, usize) {
    (
        outcome
            .queues_deleted
            .iter()
            .map(|queue| queue.name.as_str())
            .collect(),
        outcome
            .exchanges_deleted
            .iter()
            .map(|exchange| exchange.name.as_str())
            .collect(),
        outcome.bindings_deleted.len(),
    )
}

#[test]
fn a_queue_has_the_index_of_its_command_as_id() {
    let mut state = State::new();
    let created = state.apply(queue("q")).queue.unwrap();
    assert_eq!(created.id, QueueId(state.index));
    let again = state.apply(queue("q"));
    assert!(again.queues_created.is_empty() && !again.changed);
    assert_eq!(again.queue.unwrap().id, created.id);
    assert_eq!(
        deleted(&state.apply(delete_queue("q"))),
        (vec!["q"], vec![], 0)
    );
    assert!(!state.apply(delete_queue("q")).changed);
    assert_ne!(state.apply(queue("q")).queue.unwrap().id, created.id);
    assert!(state.topology.queue_by_id(created.id).is_none());
}

#[test]
fn a_deletion_of_one_queue_spares_its_successor() {
    let mut state = State::new();
    let first = state.apply(queue("q")).queue.unwrap().id;
    state.apply(delete_queue("q"));
    state.apply(queue("q"));
    let (vhost, name) = (Name::from("/"), Name::from("q"));
    let outcome = state.apply(Command::DeleteQueue(DeleteQueue {
        vhost,
        name,
        id: Some(first),
    }));
    assert!(!outcome.changed);
    assert!(state.topology.queue("/", "q").is_some());
}

#[test]
fn bindings_go_with_their_queue_and_auto_delete_exchanges_with_them() {
    let mut state = State::new();
    state.apply(exchange("first", "fanout").auto_delete());
    state.apply(exchange("second", "fanout").auto_delete());
    state.apply(exchange("kept", "fanout"));
    state.apply(queue("q"));
    state.apply(queue("other"));
    state.apply(bind_exchange("first", "second", ""));
    state.apply(bind("second", "q", "a"));
    state.apply(bind("second", "q", "b"));
    state.apply(bind("kept", "q", ""));
    state.apply(bind("kept", "other", ""));
    let outcome = state.apply(delete_queue("q"));
    assert_eq!(deleted(&outcome), (vec!["q"], vec!["second", "first"], 4));
    assert_eq!(state.route("kept", &[""]), ["other"]);
}

#[test]
fn an_auto_delete_exchange_that_never_had_a_binding_stays() {
    let mut state = State::new();
    state.apply(exchange("x", "fanout").auto_delete());
    state.apply(queue("q"));
    state.apply(Command::Unbind(bind("x", "q", "")));
    assert!(state.topology.exchange("/", "x").is_some());
    state.apply(bind("x", "q", ""));
    let outcome = state.apply(Command::Unbind(bind("x", "q", "")));
    assert_eq!(deleted(&outcome), (vec![], vec!["x"], 1));
}

#[test]
fn deleting_an_exchange_deletes_the_auto_delete_ones_that_lead_to_it() {
    let mut state = State::new();
    state.apply(exchange("from", "fanout").auto_delete());
    state.apply(exchange("x", "fanout"));
    state.apply(exchange("to", "fanout").auto_delete());
    state.apply(bind_exchange("from", "x", ""));
    state.apply(bind_exchange("x", "to", ""));
    let outcome = state.apply(delete_exchange("x"));
    assert_eq!(deleted(&outcome), (vec![], vec!["x", "from"], 2));
    assert!(
        state.topology.exchange("/", "to").is_some(),
        "it never had a binding of its own"
    );
}

#[test]
fn a_ring_of_auto_delete_exchanges_can_be_deleted() {
    let mut state = State::new();
    for name in ["a", "b", "c"] {
        state.apply(exchange(name, "fanout").auto_delete());
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")] {
        state.apply(bind_exchange(from, to, ""));
    }
    let outcome = state.apply(delete_exchange("b"));
    assert_eq!(outcome.exchanges_deleted[0].name, "b");
    assert!(state.topology.exchange("/", "c").is_some());
    assert!(state.route("a", &["k"]).is_empty());
}

#[test]
fn several_bindings_of_a_pair_are_told_apart() {
    let mut state = State::new();
    state.apply(exchange("x", "direct"));
    state.apply(queue("q"));
    let with = |number: i32| ChangeBinding {
        arguments: Arguments::from([("n", FieldValue::Int(number))]),
        ..bind("x", "q", "k")
    };
    state.apply(with(1));
    state.apply(with(2));
    state.apply(bind("x", "q", "k"));
    assert!(!state.apply(with(2)).changed);
    assert_eq!(
        state.topology.vhost("/").unwrap().bindings_from("x").len(),
        3
    );
    for change in [with(1), bind("x", "q", "k")] {
        state.apply(Command::Unbind(change));
        assert_eq!(state.route("x", &["k"]), ["q"]);
    }
    state.apply(Command::Unbind(with(2)));
    assert!(state.route("x", &["k"]).is_empty());
}

#[test]
fn the_arguments_of_a_binding_have_no_order() {
    let mut state = State::new();
    state.apply(exchange("x", "headers"));
    state.apply(queue("q"));
    let with = |names: [&str; 2]| ChangeBinding {
        arguments: Arguments::from(names.map(|name| (name, FieldValue::Int(1)))),
        ..bind("x", "q", "")
    };
    state.apply(with(["a", "b"]));
    assert!(!state.apply(with(["b", "a"])).changed);
    assert!(state.apply(Command::Unbind(with(["b", "a"]))).changed);
}

#[test]
fn exclusive_queues_go_with_their_connection() {
    let mut state = State::new();
    state.apply(exchange("x", "fanout").auto_delete());
    state.apply(queue("b").exclusive(1));
    state.apply(queue("a").exclusive(1));
    state.apply(queue("theirs").exclusive(2));
    let mine = ChangeBinding {
        connection: Some(OwnerId(1)),
        ..bind("x", "a", "")
    };
    state.apply(mine);
    let close = Command::CloseConnection(CloseConnection {
        connection: OwnerId(1),
    });
    let outcome = state.apply(close.clone());
    assert_eq!(deleted(&outcome), (vec!["b", "a"], vec!["x"], 1));
    assert_eq!(outcome.connection_closed, Some(OwnerId(1)));
    assert!(!state.apply(close).changed);
    assert!(state.topology.queue("/", "theirs").is_some());
}

#[test]
fn a_queue_moves_to_another_group() {
    let mut state = State::new();
    let mut declare = queue("q");
    declare.placement.local = 3;
    declare.placement.mirrored = 9;
    let before = state.apply(declare.clone()).queue.unwrap();
    assert_eq!((before.group, before.mirrored), (3, false));
    let place = Command::PlaceQueue(PlaceQueue {
        id: before.id,
        group: 9,
    });
    let version = state.topology.version();
    let outcome = state.apply(place.clone());
    assert_eq!(outcome.queues_changed[0].before, before);
    assert_eq!(outcome.queues_changed[0].after.group, 9);
    assert!(state.topology.version() > version);
    assert!(!state.apply(place).changed);
    declare.name = Name::from("mirrored");
    let mirrored = state
        .apply(declare.arg("x-ha-policy", "all"))
        .queue
        .unwrap();
    assert_eq!((mirrored.group, mirrored.mirrored), (9, true));
}

#[test]
fn messages_go_from_exchange_to_exchange_and_once_to_each_queue() {
    let mut state = State::new();
    for name in ["a", "b", "c"] {
        state.apply(exchange(name, "fanout"));
        state.apply(queue(name));
        state.apply(bind(name, name, ""));
        state.apply(bind(name, "a", ""));
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")] {
        state.apply(bind_exchange(from, to, ""));
    }
    assert_eq!(state.route("a", &["k"]), ["a", "b", "c"]);
    assert_eq!(state.route("c", &["k"]), ["a", "b", "c"]);
}

#[test]
fn the_alternate_exchange_takes_what_no_binding_takes() {
    let mut state = State::new();
    state.apply(exchange("main", "direct").arg("alternate-exchange", "spare"));
    state.apply(queue("main"));
    state.apply(queue("spare"));
    state.apply(bind("main", "main", "k"));
    assert!(
        state.route("main", &["other"]).is_empty(),
        "it does not exist"
    );
    state.apply(exchange("spare", "fanout").arg("alternate-exchange", "main"));
    assert!(
        state.route("main", &["other"]).is_empty(),
        "and does not go in circles"
    );
    state.apply(bind("spare", "spare", ""));
    assert_eq!(state.route("main", &["other"]), ["spare"]);
    assert_eq!(state.route("main", &["k"]), ["main"]);
    assert_eq!(state.route("main", &["k", "other"]), ["main"]);
}

#[test]
fn an_inner_exchange_has_its_alternate_too() {
    let mut state = State::new();
    state.apply(exchange("outer", "fanout"));
    state.apply(exchange("inner", "direct").arg("alternate-exchange", "spare"));
    state.apply(exchange("spare", "fanout"));
    state.apply(queue("q"));
    state.apply(bind_exchange("outer", "inner", ""));
    state.apply(bind("spare", "q", ""));
    assert_eq!(state.route("outer", &["k"]), ["q"]);
}

#[test]
fn the_default_exchange_knows_every_queue_by_name() {
    let mut state = State::new();
    state.apply(queue("b"));
    state.apply(queue("a"));
    assert_eq!(state.route("", &["a", "b", "a", "none"]), ["b", "a"]);
    let text = state
        .topology
        .route(
            "/",
            "none",
            &crate::routing::Publication {
                routing_keys: &[b"k"],
                attributes: &crate::routing::NoAttributes,
            },
            &mut Vec::new(),
        )
        .unwrap_err()
        .to_string();
    assert_eq!(text, "NOT_FOUND - no exchange 'none' in vhost '/'");
}

#[test]
fn the_version_grows_with_every_change_of_routes() {
    let mut state = State::new();
    let mut version = state.topology.version();
    let mut grew = |state: &State| {
        let before = std::mem::replace(&mut version, state.topology.version());
        state.topology.version() > before
    };
    state.apply(exchange("x", "direct"));
    assert!(grew(&state));
    state.apply(queue("q"));
    assert!(grew(&state));
    state.apply(bind("x", "q", "k"));
    assert!(grew(&state));
    state.apply(bind("x", "q", "k"));
    assert!(!grew(&state));
    state.refused(queue("q").durable());
    assert!(!grew(&state));
    state.apply(delete_queue("q"));
    assert!(grew(&state));
}

fn put_vhost(name: &str) -> PutVhost {
    PutVhost {
        name: Name::from(name),
        description: "d".to_owned(),
        tags: vec![Name::from("t")],
        default_queue_type: None,
        tracing: None,
        user: Some(Name::from("guest")),
    }
}

#[test]
fn a_vhost_goes_with_all_that_is_in_it() {
    let mut state = State::new();
    let outcome = state.apply(Command::PutVhost(put_vhost("v")));
    assert_eq!(outcome.exchanges_created.len(), 7);
    assert!(state.topology.check_vhost_access("guest", "v").is_ok());
    assert!(
        state
            .apply(Command::PutVhost(put_vhost("v")))
            .exchanges_created
            .is_empty()
    );
    let mut declare = queue("q").exclusive(5);
    declare.vhost = Name::from("v");
    state.apply(declare);
    let mut change = bind("amq.topic", "q", "k");
    change.vhost = Name::from("v");
    change.connection = Some(OwnerId(5));
    state.apply(change);
    state.apply(queue("q"));
    let delete = || {
        Command::DeleteVhost(DeleteVhost {
            name: Name::from("v"),
        })
    };
    let outcome = state.apply(delete());
    let (queues, exchanges, bindings) = deleted(&outcome);
    assert_eq!((queues, exchanges.len(), bindings), (vec!["q"], 7, 1));
    assert_eq!(outcome.vhost_deleted.as_deref(), Some("v"));
    assert!(state.topology.queues_of_owner(OwnerId(5)).is_empty());
    assert!(state.topology.queue("/", "q").is_some());
    assert_eq!(
        state.refused(delete()),
        "NOT_FOUND - Virtual host 'v' does not exist"
    );
    let mut declare = queue("q");
    declare.vhost = Name::from("v");
    assert_eq!(state.refused(declare), "NOT_ALLOWED - vhost v not found");
}

#[test]
fn the_default_queue_type_holds_for_durable_queues() {
    let mut state = State::new();
    let mut put = put_vhost("/");
    put.default_queue_type = Some(Name::from("quorum"));
    state.apply(Command::PutVhost(put.clone()));
    put.default_queue_type = None;
    state.apply(Command::PutVhost(put.clone()));
    let durable = state.apply(queue("durable").durable()).queue.unwrap();
    assert!(durable.mirrored);
    assert_eq!(durable.arguments.text("x-queue-type"), Some("quorum"));
    assert!(!state.apply(queue("transient")).queue.unwrap().mirrored);
    put.default_queue_type = Some(Name::from("other"));
    assert_eq!(
        state.refused(Command::PutVhost(put)),
        "PRECONDITION_FAILED - invalid default queue type 'other'"
    );
}

#[test]
fn limits_refuse_what_is_beyond_them() {
    let mut state = State::new();
    let limits = |json: serde_json::Value| json.as_object().unwrap().clone();
    let set = |value| {
        Command::SetVhostLimits(SetVhostLimits {
            vhost: Name::from("/"),
            limits: limits(value),
        })
    };
    state.apply(set(json!({"max-queues": 1, "max-connections": 2})));
    state.apply(queue("q"));
    state.apply(queue("q"));
    assert_eq!(
        state.refused(queue("p")),
        "PRECONDITION_FAILED - cannot declare queue 'p': queue limit in vhost '/' (1) is reached"
    );
    assert_eq!(
        state.refused(set(json!({"max-queues": "many"}))),
        "PRECONDITION_FAILED - Validation failed\n\nmax-queues should be a number, actually was \
         <<\"many\">>\n"
    );
    let check = |state: &State, in_vhost, of_user| {
        let checked = state
            .topology
            .check_connection_limits("guest", "/", in_vhost, of_user);
        checked.map_err(|refusal| refusal.to_string())
    };
    assert_eq!(check(&state, 1, 9), Ok(()));
    assert_eq!(
        check(&state, 2, 0),
        Err(
            "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (2) is \
             reached"
                .to_owned()
        )
    );
    let of_user = json!({"max-connections": 0, "max-channels": 3});
    let (user, of_user) = (Name::from("guest"), limits(of_user));
    state.apply(Command::SetUserLimits(SetUserLimits {
        user,
        limits: of_user,
    }));
    assert_eq!(
        check(&state, 0, 0),
        Err(
            "NOT_ALLOWED - connection refused for user 'guest': user connection limit (0) is \
             reached"
                .to_owned()
        )
    );
    assert!(state.topology.check_channel_limit("guest", 2).is_ok());
    assert_eq!(
        state
            .topology
            .check_channel_limit("guest", 3)
            .unwrap_err()
            .to_string(),
        "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed \
         user limit of (3)"
    );
    state.apply(set(json!({"max-queues": -1})));
    state.apply(queue("p"));
}

#[test]
fn parameters_are_of_known_components() {
    let mut state = State::new();
    let set = |component: &str| {
        let (vhost, name) = (Name::from("/"), Name::from("n"));
        let value = json!({"max-queues": 3});
        let component = Name::from(component);
        Command::SetParameter(SetParameter {
            vhost,
            component,
            name,
            value,
        })
    };
    state.apply(set("shovel"));
    state.apply(set("vhost-limits"));
    let vhost = state.topology.vhost("/").unwrap();
    assert_eq!(vhost.parameters().count(), 1);
    assert_eq!(vhost.limits().max_queues, Some(3));
    assert_eq!(
        state.refused(set("other")),
        "PRECONDITION_FAILED - Validation failed\n\ncomponent other not found\n"
    );
    state.refused(set("policy"));
}

#[test]
fn a_user_goes_with_its_permissions() {
    let mut state = State::new();
    let put = |must_be_new| {
        let (name, tags) = (Name::from("u"), Some(vec![Name::from("t")]));
        Command::PutUser(PutUser {
            name,
            password: None,
            tags,
            must_be_new,
            must_exist: false,
        })
    };
    let set = |pattern: &str| {
        let (user, vhost) = (Name::from("u"), Name::from("/"));
        let [configure, write, read] = [pattern, ".*", ""].map(str::to_owned);
        Command::SetPermissions(SetPermissions {
            user,
            vhost,
            configure,
            write,
            read,
        })
    };
    assert_eq!(
        state.refused(set("")),
        "NOT_FOUND - User 'u' does not exist"
    );
    let access_version = state.topology.access_version();
    state.apply(put(true));
    assert!(state.topology.access_version() > access_version);
    assert_eq!(
        state.refused(put(true)),
        "PRECONDITION_FAILED - User 'u' already exists"
    );
    assert!(
        state
            .refused(set("("))
            .contains("invalid regular expression '('")
    );
    state.apply(set("^a"));
    let may = |state: &State, name: &str, permission| {
        let actor = Actor::new("u", OwnerId(1));
        state
            .topology
            .check_permission(&actor, Resource::queue("/", name), permission)
            .is_ok()
    };
    assert!(may(&state, "ab", Permission::Configure) && !may(&state, "b", Permission::Configure));
    assert!(may(&state, "b", Permission::Write) && !may(&state, "b", Permission::Read));
    let (user, vhost) = (Name::from("u"), Name::from("/"));
    state.apply(Command::ClearPermissions(ClearPermissions { user, vhost }));
    assert!(state.topology.check_vhost_access("u", "/").is_err());
    state.apply(set("^a"));
    let outcome = state.apply(Command::DeleteUser(DeleteUser {
        name: Name::from("u"),
    }));
    assert_eq!(outcome.user_deleted.as_deref(), Some("u"));
    state.apply(put(true));
    assert!(
        state.topology.check_vhost_access("u", "/").is_err(),
        "a namesake has none of it"
    );
}

#[test]
fn what_leads_to_a_queue_is_listed() {
    let mut state = State::new();
    state.apply(exchange("x", "direct"));
    state.apply(queue("q"));
    state.apply(bind("x", "q", "2"));
    state.apply(bind("x", "q", "1"));
    let vhost = state.topology.vhost("/").unwrap();
    let to = vhost.bindings_to(&Destination::Queue(Name::from("q")));
    let keys: Vec<_> = to
        .iter()
        .map(|b| b.id.routing_key.to_string_lossy())
        .collect();
    assert_eq!(keys, ["2", "1"]);
    assert_eq!(vhost.bindings_from("x"), to);
}
