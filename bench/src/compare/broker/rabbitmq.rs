//! RabbitMQ as Debian packages it: one node, or a cluster of several.
//!
//! Each instance has an epmd of its own (Erlang's name service), which the first node starts and `stop` of the candidate ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Error, Result};

/// Where Debian has the start script.
pub const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Ports of the block behind those for AMQP: of nodes among themselves, of epmd, and a range for rabbitmqctl.
const DISTRIBUTION: u16 = 3;
const EPMD: u16 = 6;
const TOOL_FIRST: u16 = 7;
const TOOL_LAST: u16 = 15;

/// How long `rabbitmqctl` waits for nodes to be there.
const ONLINE_S: u32 = 120;

/// What its queues are, which decides how it is started and used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One node.
    Alone,
    /// A cluster with a policy ha-mode=all on all queues.
    Mirrored,
    /// A cluster whose queues are declared as quorum queues.
    Quorum,
}

impl Kind {
    /// Of the cluster.
    pub fn nodes(self) -> u16 {
        if self == Kind::Alone { 1 } else { 3 }
    }

    /// How it is set, for the report.
    pub fn settings(self) -> &'static str {
        match self {
            Kind::Alone => "Debian's package, default settings, no plugins",
            Kind::Mirrored => {
                "three nodes of Debian's package, default settings, policy ha-mode=all, ha-sync-mode=automatic"
            }
            Kind::Quorum => {
                "three nodes of Debian's package, default settings, x-queue-type=quorum"
            }
        }
    }

    /// What a confirm means: of a persistent message on a durable queue, and of any other.
    pub fn confirm(self) -> [&'static str; 2] {
        match self {
            Kind::Alone => ["synced", "routed"],
            Kind::Mirrored => ["synced by all mirrors", "routed by all mirrors"],
            Kind::Quorum => ["synced by 2 of 3"; 2],
        }
    }
}

/// One instance.
pub struct RabbitMq {
    /// Start script; the tools are beside it.
    pub script: String,
    pub kind: Kind,
    /// First port of its block.
    pub base: u16,
    /// Configuration, logs and data.
    pub folder: PathBuf,
}

impl RabbitMq {
    /// Where its epmd listens.
    pub fn epmd_port(&self) -> u16 {
        self.base + EPMD
    }

    /// Whether it has run here before.
    pub fn has_data(&self, data: &Path) -> bool {
        fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Writes what all nodes read.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn prepare(&self) -> Result<()> {
        let mut config = "loopback_users.guest = true\n".to_owned();
        if self.kind != Kind::Alone {
            config += "cluster_formation.peer_discovery_backend = classic_config\n";
            for n in 0..self.kind.nodes() {
                let key = format!("cluster_formation.classic_config.nodes.{}", n + 1);
                config += &format!("{key} = {}\n", self.node_name(n));
            }
        }
        fs::write(self.folder.join("rabbitmq.conf"), config).context("writing rabbitmq.conf")?;
        fs::write(self.folder.join("enabled_plugins"), "[].\n").context("writing enabled_plugins")
    }

    /// Starts node `n`, from 0.
    pub fn node(&self, n: u16, data: &Path) -> Command {
        let mut command = Command::new(&self.script);
        self.environment(&mut command, n, data);
        command
    }

    /// Waits until all nodes are one cluster, and sets the policy.
    ///
    /// # Errors
    /// What rabbitmqctl says.
    pub fn settle(&self, data: &Path) -> Result<()> {
        let nodes = self.kind.nodes().to_string();
        let wait = ONLINE_S.to_string();
        self.tool(data, &["await_online_nodes", &nodes, "--timeout", &wait])?;
        if self.kind == Kind::Mirrored {
            let policy = r#"{"ha-mode":"all","ha-sync-mode":"automatic"}"#;
            self.tool(data, &["set_policy", "mirrored", ".*", policy])?;
        }
        Ok(())
    }

    fn node_name(&self, n: u16) -> String {
        format!("bench{}@localhost", self.base + n)
    }

    fn environment(&self, command: &mut Command, n: u16, data: &Path) {
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", self.node_name(n))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", (self.base + n).to_string())
            .env(
                "RABBITMQ_DIST_PORT",
                (self.base + DISTRIBUTION + n).to_string(),
            )
            .env(
                "RABBITMQ_CTL_DIST_PORT_MIN",
                (self.base + TOOL_FIRST).to_string(),
            )
            .env(
                "RABBITMQ_CTL_DIST_PORT_MAX",
                (self.base + TOOL_LAST).to_string(),
            )
            .env("RABBITMQ_MNESIA_BASE", data)
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq"))
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.folder.join("enabled_plugins"),
            )
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port().to_string());
    }

    fn tool(&self, data: &Path, words: &[&str]) -> Result<()> {
        let mut command = Command::new(self.script.replace("rabbitmq-server", "rabbitmqctl"));
        self.environment(&mut command, 0, data);
        let done = command.args(words).output().context("rabbitmqctl")?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(Error::Failed(format!("rabbitmqctl {words:?}: {said}")))
    }
}
