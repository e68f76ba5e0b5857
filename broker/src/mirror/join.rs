//! `join_cluster`: a node that runs alone and has nothing becomes a node of a cluster.
//!
//! The member to ask is noted in the file `cluster/join` of the data, and the process begins anew: with that file a node without a list of nodes
//! is one of a cluster, with that member in its list. What the node had alone, which is nothing but what every new node has, is removed
//! before its first start so.

use std::io::{self, IoSlice};
use std::path::Path;
use std::time::Duration;

use leveret_cluster::founding::Answer;
use leveret_cluster::founding::message::{self, kind};
use leveret_cluster::identity::Identity;
use leveret_cluster::name::{NAME_BYTES_MAX, NodeAddress};
use leveret_cluster::peers::{Handlers, Me, Peers, PeersConfig};
use leveret_cluster::wire::hello::{Cookie, random_u64};
use leveret_config::Config;
use leveret_storage::disk::{Disk, RealDisk};

use super::start::PORT_DEFAULT;
use crate::node::Node;

const FILE: &str = "join";
const TEMPORARY_FILE: &str = "join-new";
/// What a node alone keeps in its data folder.
const STORE: [&str; 3] = ["journal", "checkpoints", "paging"];
/// For the member's answer.
const ASK: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// The process has to begin anew.
    Restart,
    /// The two are in one cluster already.
    AlreadyMember,
}

/// Notes that this node is to join the cluster of `target`, `name@host` or `name@host:port`. Not to be called on a thread of the runtime.
///
/// # Errors
/// The text says why it cannot.
pub fn prepare(node: &Node, target: &str) -> Result<Prepared, String> {
    let target = NodeAddress::parse(target, PORT_DEFAULT).map_err(|e| e.to_string())?;
    if let Some(mirror) = node.mirror() {
        return match mirror.node_named(target.name.as_str()) {
            Some(_) => Ok(Prepared::AlreadyMember),
            None => Err(format!(
                "this node is a member of a cluster, and {} is not one of it",
                target.name
            )),
        };
    }
    if target.name.as_str() == node.name() {
        return Err("a node cannot join itself".to_owned());
    }
    if let Some(what) = content(node) {
        return Err(format!(
            "this node has {what}, which would be lost: join with an empty data folder"
        ));
    }
    let members = ask(node, &target)?;
    if members.iter().any(|name| name == node.name()) {
        return Err(format!(
            "{0} is a member of that cluster already, with another disk: leveret ctl forget_cluster_node {0} on a member first",
            node.name()
        ));
    }
    let dir = node.config().node.data_dir.join("cluster");
    write(&RealDisk, &dir, &target).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(Prepared::Restart)
}

/// What somebody has made on this node.
fn content(node: &Node) -> Option<&'static str> {
    let topology = node.topology();
    if topology.queues().next().is_some() {
        return Some("queues");
    }
    if topology.users().count() > 1 {
        return Some("users");
    }
    (topology.vhosts().count() > 1).then_some("virtual hosts")
}

/// The names of the members that a member knows.
fn ask(node: &Node, target: &NodeAddress) -> Result<Vec<String>, String> {
    let cookie = match &node.config().cluster.cookie_file {
        Some(path) => Cookie::load(path).map_err(|e| e.to_string())?,
        None => return Err("cluster.cookie_file: a cluster needs a secret".to_owned()),
    };
    let name = leveret_cluster::name::NodeName::parse(node.name()).map_err(|e| e.to_string())?;
    let me = Me {
        cluster: [0; 16],
        node: 0,
        incarnation: random_u64().map_err(|e| e.to_string())?,
        boot: random_u64().map_err(|e| e.to_string())?,
        name,
    };
    let mut config = PeersConfig::new(me, cookie);
    config.tls = super::start::tls_between_nodes(node.config())?;
    let runtime = tokio::runtime::Handle::current();
    let asked = runtime.block_on(async {
        let peers = Peers::new(config, Handlers::default());
        let asked = peers.ask(target, kind::ASK, Vec::new(), ASK).await;
        peers.stop().await;
        asked
    });
    let (_, body) = asked.map_err(|e| e.to_string())?;
    match message::decode_answer(&body).map_err(|e| e.to_string())? {
        Answer::Member { members, .. } => Ok(members.iter().map(|m| m.name.to_string()).collect()),
        _ => Err(format!("{} is no member of a cluster itself", target.name)),
    }
}

fn write(disk: &dyn Disk, dir: &Path, target: &NodeAddress) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    let temporary = dir.join(TEMPORARY_FILE);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    let text = target.to_string();
    file.write_all_at(&mut [IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<NodeAddress>> {
    let file = match disk.open(&dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file `join` is damaged");
    let length = usize::try_from(file.len()?).map_err(|_| damaged())?;
    if length > NAME_BYTES_MAX + 8 {
        return Err(damaged());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    let text = String::from_utf8(bytes).map_err(|_| damaged())?;
    NodeAddress::parse(&text, PORT_DEFAULT)
        .map(Some)
        .map_err(|_| damaged())
}

/// Puts the member that this node was told to join into the list of nodes, if there is one and the list is empty; and removes what the node
/// had alone, if it was never one of a cluster.
///
/// # Errors
/// The text says what could not be read or removed.
pub fn apply(config: &mut Config) -> Result<(), String> {
    if !config.cluster.nodes.is_empty() {
        return Ok(());
    }
    let dir = config.node.data_dir.join("cluster");
    let failed = |e: io::Error| format!("{}: {e}", dir.display());
    let Some(target) = read(&RealDisk, &dir).map_err(failed)? else {
        return Ok(());
    };
    let known = Identity::read(&RealDisk, &dir).map_err(|e| e.to_string())?;
    if known.is_none() {
        for part in STORE {
            let path = config.node.data_dir.join(part);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
    }
    tracing::info!(member = %target, "this node was told to join a cluster");
    config.cluster.nodes.push(target.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use leveret_storage::disk::sim::{Fault, SimDisk};

    use super::*;

    #[test]
    fn whom_to_join_is_kept_whole() {
        let dir = Path::new("d/cluster");
        let target = NodeAddress::parse("a@[::1]:7", 1).expect("an address");
        for cut in 1..10 {
            let disk = SimDisk::new();
            assert!(read(&disk, dir).expect("no fault").is_none());
            disk.fail(cut, Fault::PowerCut);
            let done = write(&disk, dir, &target).is_ok();
            disk.crash(cut);
            let found = read(&disk, dir).expect("whole");
            assert!(found.as_ref() == Some(&target) || (found.is_none() && !done));
        }
    }
}
