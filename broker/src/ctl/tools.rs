//! The names that the binary answers to, and which verbs each of them has: RabbitMQ's command line tools.

use std::path::Path;

use super::verbs::{self, Verb};

/// As what the command line was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `leveret ctl`: it has all verbs.
    Leveret,
    /// `rabbitmqctl`.
    Ctl,
    /// `rabbitmq-diagnostics`.
    Diagnostics,
    /// `rabbitmq-queues`.
    Queues,
    /// `rabbitmq-upgrade`.
    Upgrade,
    /// `rabbitmq-plugins`.
    Plugins,
}

impl Tool {
    /// The tool that a program of this path is; `None`: it is none of them.
    pub fn of_program(path: &Path) -> Option<Tool> {
        Some(match path.file_name()?.to_str()? {
            "rabbitmqctl" => Tool::Ctl,
            "rabbitmq-diagnostics" => Tool::Diagnostics,
            "rabbitmq-queues" => Tool::Queues,
            "rabbitmq-upgrade" => Tool::Upgrade,
            "rabbitmq-plugins" => Tool::Plugins,
            _ => return None,
        })
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Leveret => "leveret ctl",
            Tool::Ctl => "rabbitmqctl",
            Tool::Diagnostics => "rabbitmq-diagnostics",
            Tool::Queues => "rabbitmq-queues",
            Tool::Upgrade => "rabbitmq-upgrade",
            Tool::Plugins => "rabbitmq-plugins",
        }
    }

    /// Whether it has a verb.
    pub fn has(self, verb: &str) -> bool {
        match self {
            Tool::Leveret => true,
            // RabbitMQ's has nearly all that no other tool has, and some of both.
            Tool::Ctl => {
                let others = [DIAGNOSTICS, QUEUES, UPGRADE, PLUGINS];
                SHARED.contains(&verb) || !others.iter().any(|names| names.contains(&verb))
            }
            Tool::Diagnostics => SHARED.contains(&verb) || DIAGNOSTICS.contains(&verb),
            Tool::Queues => QUEUES.contains(&verb),
            Tool::Upgrade => UPGRADE.contains(&verb),
            Tool::Plugins => PLUGINS.contains(&verb),
        }
    }

    /// Its verbs, in the order of the help.
    pub fn verbs(self) -> impl Iterator<Item = &'static Verb> {
        verbs::all().filter(move |verb| self.has(verb.name))
    }

    /// Its verb of this name.
    pub fn find(self, name: &str) -> Option<&'static Verb> {
        verbs::find(name).filter(|verb| self.has(verb.name))
    }
}

/// What `rabbitmqctl` and `rabbitmq-diagnostics` both have.
const SHARED: &[&str] = &[
    "help",
    "version",
    "wait",
    "ping",
    "status",
    "cluster_status",
    "check_if_any_deprecated_features_are_used",
    "node_health_check",
    "environment",
    "report",
    "list_deprecated_features",
    "list_unresponsive_queues",
    "list_bindings",
    "list_channels",
    "list_connections",
    "list_consumers",
    "list_exchanges",
    "list_feature_flags",
    "list_global_parameters",
    "list_operator_policies",
    "list_parameters",
    "list_permissions",
    "list_policies",
    "list_queues",
    "list_topic_permissions",
    "list_user_limits",
    "list_user_permissions",
    "list_user_topic_permissions",
    "list_users",
    "list_vhost_limits",
    "list_vhosts",
];

/// What `rabbitmq-diagnostics` has besides.
const DIAGNOSTICS: &[&str] = &[
    "server_version",
    "is_running",
    "is_booting",
    "check_running",
    "check_local_alarms",
    "check_alarms",
    "alarms",
    "listeners",
    "check_port_connectivity",
    "check_port_listener",
    "check_protocol_listener",
    "check_virtual_hosts",
    "check_if_node_is_quorum_critical",
    "check_if_node_is_mirror_sync_critical",
    "check_certificate_expiration",
    "memory_breakdown",
    "os_env",
    "log_location",
    "quorum_status",
];

const QUEUES: &[&str] = &[
    "help",
    "grow",
    "shrink",
    "add_member",
    "delete_member",
    "rebalance",
    "quorum_status",
    "check_if_node_is_quorum_critical",
    "check_if_node_is_mirror_sync_critical",
];

const UPGRADE: &[&str] = &[
    "help",
    "drain",
    "revive",
    "post_upgrade",
    "await_online_quorum_plus_one",
    "await_online_synchronized_mirror",
];

const PLUGINS: &[&str] = &[
    "help",
    "version",
    "list",
    "is_enabled",
    "enable",
    "disable",
    "directories",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_the_last_part_of_its_path() {
        let of = |path: &str| Tool::of_program(Path::new(path));
        assert_eq!(of("/usr/sbin/rabbitmqctl"), Some(Tool::Ctl));
        assert_eq!(of("rabbitmq-plugins"), Some(Tool::Plugins));
        assert_eq!(of("/opt/rabbitmqctl/leveret"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn every_name_of_a_scope_is_a_verb() {
        for names in [SHARED, DIAGNOSTICS, QUEUES, UPGRADE, PLUGINS] {
            for name in names {
                assert!(verbs::find(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn tools_have_their_own_verbs_and_not_each_others() {
        for (tool, has, lacks) in [
            (Tool::Ctl, "add_user", "drain"),
            (Tool::Ctl, "list_queues", "check_running"),
            (Tool::Ctl, "stop_app", "enable"),
            (Tool::Diagnostics, "check_running", "add_user"),
            (Tool::Queues, "quorum_status", "list_queues"),
            (Tool::Upgrade, "drain", "version"),
            (Tool::Plugins, "list", "list_queues"),
        ] {
            assert!(tool.find(has).is_some(), "{tool:?} {has}");
            assert!(tool.find(lacks).is_none(), "{tool:?} {lacks}");
            assert!(Tool::Leveret.find(lacks).is_some(), "{lacks}");
        }
    }
}
