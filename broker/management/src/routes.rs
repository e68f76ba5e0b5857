//! The routes: path, verbs, who may, what is done. One table for the router, for 405, and for the description in OpenAPI.

use crate::call::Call;
use crate::handlers::{
    access, bindings, cluster, connections, definitions, exchanges, health, limits, messages,
    parameters, policies, queues, users, vhosts,
};
use crate::login::Access::{
    self, Admin, Any, GlobalParameters, Monitor, Policies, Vhost, VhostVisible,
};
use crate::reply::Result;

/// What a verb of a route does.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The verb; GET stands for HEAD too.
    pub method: &'static str,
    /// Who may.
    pub access: Access,
    /// Does it.
    pub handler: fn(&Call) -> Result,
    /// One line on what it does.
    pub about: &'static str,
}

/// A route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The path below `/api`, names in braces.
    pub path: &'static str,
    /// Its verbs.
    pub ops: &'static [Op],
}

const fn get(access: Access, handler: fn(&Call) -> Result, about: &'static str) -> Op {
    op("GET", access, handler, about)
}

const fn put(access: Access, handler: fn(&Call) -> Result, about: &'static str) -> Op {
    op("PUT", access, handler, about)
}

const fn post(access: Access, handler: fn(&Call) -> Result, about: &'static str) -> Op {
    op("POST", access, handler, about)
}

const fn delete(access: Access, handler: fn(&Call) -> Result, about: &'static str) -> Op {
    op("DELETE", access, handler, about)
}

const fn op(
    method: &'static str,
    access: Access,
    handler: fn(&Call) -> Result,
    about: &'static str,
) -> Op {
    Op {
        method,
        access,
        handler,
        about,
    }
}

macro_rules! routes {
    ($($path:literal => [$($op:expr),* $(,)?],)*) => {
        /// All routes.
        pub const ROUTES: &[Route] = &[$(Route { path: $path, ops: &[$($op),*] },)*];
    };
}

routes! {
    "/overview" => [get(Any, cluster::overview, "Totals of the cluster, rates, listeners")],
    "/cluster-name" => [
        get(Any, cluster::cluster_name, "The cluster's name"),
        put(Admin, cluster::set_cluster_name, "Sets the cluster's name"),
    ],
    "/nodes" => [get(Monitor, cluster::nodes, "The nodes")],
    "/nodes/{node}" => [get(Monitor, cluster::node, "A node")],
    "/nodes/{node}/memory" => [get(Monitor, cluster::memory, "What a node uses memory for")],
    "/extensions" => [get(Any, cluster::extensions, "Extensions of the web page: none")],
    "/version" => [get(Any, cluster::version, "The version that is stood for")],
    "/whoami" => [get(Any, cluster::whoami, "The user who asks")],
    "/feature-flags" => [get(Any, cluster::feature_flags, "Feature flags: all are on")],
    "/feature-flags/{name}/enable" => [put(Admin, cluster::enable_feature_flag, "Turns a feature flag on: it is already")],
    "/deprecated-features" => [get(Any, cluster::deprecated_features, "Deprecated features: none")],
    "/deprecated-features/used" => [get(Any, cluster::deprecated_features, "Deprecated features in use: none")],
    "/rebalance/queues" => [post(Admin, cluster::rebalance, "Spreads leaders over the nodes, which they do by themselves")],
    "/auth" => [get(Any, cluster::auth, "How to log in")],
    "/auth/attempts/{node}" => [
        get(Monitor, cluster::attempts, "Logins that were tried over HTTP"),
        delete(Admin, cluster::reset_attempts, "Forgets them"),
    ],
    "/auth/attempts/{node}/source" => [
        get(Monitor, cluster::attempts_by_source, "Logins that were tried over HTTP, by address and user"),
        delete(Admin, cluster::reset_attempts, "Forgets them"),
    ],
    "/auth/hash_password/{password}" => [get(Admin, users::hash_password, "The salted hash of a password")],

    "/definitions" => [
        get(Admin, definitions::export, "All definitions"),
        post(Admin, definitions::import, "Imports definitions"),
    ],
    "/all-configuration" => [
        get(Admin, definitions::export, "The old name of definitions"),
        post(Admin, definitions::import, "The old name of definitions"),
    ],
    "/definitions/{vhost}" => [
        get(Admin, definitions::export, "The definitions of a virtual host"),
        post(Admin, definitions::import, "Imports definitions into a virtual host"),
    ],

    "/parameters" => [get(Policies, parameters::list, "Runtime parameters")],
    "/parameters/{component}" => [get(Policies, parameters::list, "Those of a component")],
    "/parameters/{component}/{vhost}" => [get(Policies, parameters::list, "Those of a component in a virtual host")],
    "/parameters/{component}/{vhost}/{name}" => [
        get(Policies, parameters::get, "A runtime parameter"),
        put(Policies, parameters::put, "Sets a runtime parameter"),
        delete(Policies, parameters::delete, "Deletes a runtime parameter"),
    ],
    "/global-parameters" => [get(GlobalParameters, parameters::list_global, "Global parameters")],
    "/global-parameters/{name}" => [
        get(GlobalParameters, parameters::get_global, "A global parameter"),
        put(GlobalParameters, parameters::put_global, "Sets a global parameter"),
        delete(GlobalParameters, parameters::delete_global, "Deletes a global parameter"),
    ],
    "/policies" => [get(Vhost, policies::list, "Policies")],
    "/policies/{vhost}" => [get(Vhost, policies::list, "Policies of a virtual host")],
    "/policies/{vhost}/{name}" => [
        get(Policies, policies::get, "A policy"),
        put(Policies, policies::put, "Sets a policy"),
        delete(Policies, policies::delete, "Deletes a policy"),
    ],
    "/operator-policies" => [get(Vhost, policies::list_operator, "Operator policies")],
    "/operator-policies/{vhost}" => [get(Vhost, policies::list_operator, "Operator policies of a virtual host")],
    "/operator-policies/{vhost}/{name}" => [
        get(Admin, policies::get_operator, "An operator policy"),
        put(Admin, policies::put_operator, "Sets an operator policy"),
        delete(Admin, policies::delete_operator, "Deletes an operator policy"),
    ],
    "/vhost-limits" => [get(VhostVisible, limits::list_of_vhosts, "Limits of virtual hosts")],
    "/vhost-limits/{vhost}" => [get(VhostVisible, limits::list_of_vhosts, "Limits of a virtual host")],
    "/vhost-limits/{vhost}/{name}" => [
        put(Admin, limits::put_of_vhost, "Sets a limit of a virtual host"),
        delete(Admin, limits::delete_of_vhost, "Takes a limit of a virtual host away"),
    ],
    "/user-limits" => [get(VhostVisible, limits::list_of_users, "Limits of users")],
    "/user-limits/{user}" => [get(VhostVisible, limits::list_of_users, "Limits of a user")],
    "/user-limits/{user}/{name}" => [
        put(Admin, limits::put_of_user, "Sets a limit of a user"),
        delete(Admin, limits::delete_of_user, "Takes a limit of a user away"),
    ],

    "/connections" => [get(Any, connections::list, "Open connections")],
    "/connections/{connection}" => [
        get(Any, connections::get, "An open connection"),
        delete(Any, connections::close, "Closes a connection"),
    ],
    "/connections/username/{username}" => [
        get(Any, connections::list_of_user, "Connections of a user"),
        delete(Any, connections::close_of_user, "Closes the connections of a user"),
    ],
    "/connections/{connection}/channels" => [get(Any, connections::channels_of, "Channels of a connection")],
    "/channels" => [get(Any, connections::channels, "Open channels")],
    "/channels/{channel}" => [get(Any, connections::channel, "An open channel")],
    "/consumers" => [get(Any, connections::consumers, "Consumers")],
    "/consumers/{vhost}" => [get(Any, connections::consumers, "Consumers of a virtual host")],

    "/exchanges" => [get(Vhost, exchanges::list, "Exchanges")],
    "/exchanges/{vhost}" => [get(Vhost, exchanges::list, "Exchanges of a virtual host")],
    "/exchanges/{vhost}/{exchange}" => [
        get(Vhost, exchanges::get, "An exchange"),
        put(Vhost, exchanges::put, "Declares an exchange"),
        delete(Vhost, exchanges::delete, "Deletes an exchange"),
    ],
    "/exchanges/{vhost}/{exchange}/publish" => [post(Vhost, messages::publish, "Publishes a message")],
    "/exchanges/{vhost}/{exchange}/bindings/source" => [get(Vhost, bindings::of_source, "Bindings from an exchange")],
    "/exchanges/{vhost}/{exchange}/bindings/destination" => [get(Vhost, bindings::of_destination, "Bindings to an exchange")],

    "/queues" => [get(Vhost, queues::list, "Queues")],
    "/queues/detailed" => [get(Vhost, queues::list, "Queues")],
    "/queues/{vhost}" => [get(Vhost, queues::list, "Queues of a virtual host")],
    "/queues/{vhost}/{queue}" => [
        get(Vhost, queues::get, "A queue"),
        put(Vhost, queues::put, "Declares a queue"),
        delete(Vhost, queues::delete, "Deletes a queue"),
    ],
    "/queues/{vhost}/{queue}/bindings" => [get(Vhost, bindings::of_queue, "Bindings of a queue")],
    "/queues/{vhost}/{queue}/contents" => [delete(Vhost, queues::purge, "Purges a queue")],
    "/queues/{vhost}/{queue}/get" => [post(Vhost, messages::get, "Fetches messages")],
    "/queues/{vhost}/{queue}/actions" => [post(Admin, queues::action, "`sync` and `cancel_sync`, for which there is never a need")],

    "/bindings" => [get(Vhost, bindings::list, "Bindings")],
    "/bindings/{vhost}" => [get(Vhost, bindings::list, "Bindings of a virtual host")],
    "/bindings/{vhost}/e/{source}/{dtype}/{destination}" => [
        get(Vhost, bindings::between, "Bindings between an exchange and a queue (`q`) or exchange (`e`)"),
        post(Vhost, bindings::bind, "Binds"),
    ],
    "/bindings/{vhost}/e/{source}/{dtype}/{destination}/{props}" => [
        get(Vhost, bindings::get, "A binding"),
        delete(Vhost, bindings::unbind, "Unbinds"),
    ],

    "/vhosts" => [get(Any, vhosts::list, "Virtual hosts")],
    "/vhosts/{vhost}" => [
        get(VhostVisible, vhosts::get, "A virtual host"),
        put(Admin, vhosts::put, "Makes a virtual host"),
        delete(Admin, vhosts::delete, "Deletes a virtual host with all that is in it"),
    ],
    "/vhosts/{vhost}/start/{node}" => [post(Admin, vhosts::start, "Starts a virtual host, which runs already")],
    "/vhosts/{vhost}/permissions" => [get(Admin, access::list_of_vhost, "Permissions in a virtual host")],
    "/vhosts/{vhost}/topic-permissions" => [get(Admin, access::list_topic_of_vhost, "Topic permissions in a virtual host")],
    "/vhosts/{vhost}/connections" => [get(Vhost, connections::list, "Connections to a virtual host")],
    "/vhosts/{vhost}/channels" => [get(Vhost, connections::channels, "Channels in a virtual host")],

    "/users" => [get(Admin, users::list, "Users")],
    "/users/without-permissions" => [get(Admin, users::list_without_permissions, "Users who may enter no virtual host")],
    "/users/bulk-delete" => [post(Admin, users::bulk_delete, "Deletes users")],
    "/users/{user}" => [
        get(Admin, users::get, "A user"),
        put(Admin, users::put, "Makes or changes a user"),
        delete(Admin, users::delete, "Deletes a user"),
    ],
    "/users/{user}/permissions" => [get(Admin, access::list_of_user, "Permissions of a user")],
    "/users/{user}/topic-permissions" => [get(Admin, access::list_topic_of_user, "Topic permissions of a user")],
    "/permissions" => [get(Admin, access::list, "Permissions")],
    "/permissions/{vhost}/{user}" => [
        get(Admin, access::get, "What a user may do in a virtual host"),
        put(Admin, access::put, "Sets what a user may do in a virtual host"),
        delete(Admin, access::delete, "Takes it away"),
    ],
    "/topic-permissions" => [get(Admin, access::list_topic, "Topic permissions")],
    "/topic-permissions/{vhost}/{user}" => [
        get(Admin, access::get_topic, "What a user may do with the keys of topic exchanges"),
        put(Admin, access::put_topic, "Sets it"),
        delete(Admin, access::delete_topic, "Takes it away"),
    ],
    "/topic-permissions/{vhost}/{user}/{exchange}" => [delete(Admin, access::delete_topic, "Takes it away for one exchange")],

    "/aliveness-test/{vhost}" => [get(Vhost, health::aliveness, "Publishes and fetches a message")],
    "/healthchecks/node" => [get(Any, health::node, "The old health check")],
    "/healthchecks/node/{node}" => [get(Any, health::node, "The old health check")],
    "/health/checks/alarms" => [get(Any, health::alarms, "503 while an alarm is on in the cluster")],
    "/health/checks/local-alarms" => [get(Any, health::local_alarms, "503 while an alarm is on at this node")],
    "/health/checks/certificate-expiration/{within}/{unit}" => [get(Any, health::certificates, "503 if a certificate expires within so many days, weeks, months or years")],
    "/health/checks/port-listener/{port}" => [get(Any, health::port, "503 if nothing listens on a port")],
    "/health/checks/protocol-listener/{protocol}" => [get(Any, health::protocol, "503 if nothing listens for a protocol")],
    "/health/checks/virtual-hosts" => [get(Any, health::virtual_hosts, "Whether all virtual hosts run: they do")],
    "/health/checks/node-is-mirror-sync-critical" => [get(Any, health::quorum_critical, "503 if the loss of this node would stop queues")],
    "/health/checks/node-is-quorum-critical" => [get(Any, health::quorum_critical, "503 if the loss of this node would stop queues")],
    "/health/checks/is-in-service" => [get(Any, health::in_service, "503 while this node hears no majority of its cluster")],
    "/health/checks/ready-to-serve-clients" => [get(Any, health::in_service, "503 while this node serves no clients")],
    "/health/checks/below-node-connection-limit" => [get(Any, health::virtual_hosts, "Whether connections are accepted")],
    "/health/checks/reached-target-cluster-size" => [get(Any, health::cluster_size, "503 while nodes of the cluster are missing")],
    "/health/checks/metadata-store/initialized" => [get(Any, health::metadata, "503 until the metadata is there")],
    "/health/checks/metadata-store/initialized/with-data" => [get(Any, health::metadata, "503 until the metadata is there")],
    "/health/checks/quorum-queues-without-elected-leaders/all-vhosts" => [get(Any, health::leaders, "503 while queues have no leader")],
    "/health/checks/quorum-queues-without-elected-leaders/vhost/{vhost}" => [get(Any, health::leaders, "503 while queues of a virtual host have no leader")],
}
