//! Starting a node of a cluster: its peers, its groups, and the wait until it may serve.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leveret_cluster::address_book;
use leveret_cluster::founding::Founders;
use leveret_cluster::founding::driver::{Founded, Founding};
use leveret_cluster::identity::{Identity, Phase};
use leveret_cluster::name::{NodeAddress, NodeName};
use leveret_cluster::peers::{Handlers, Me, Peer, Peers, PeersConfig};
use leveret_cluster::power::Power;
use leveret_cluster::raft::group::{GroupConfig, Role};
use leveret_cluster::raft::network::{Network, NetworkConfig, RaftService};
use leveret_cluster::raft::node::start_group;
use leveret_cluster::raft::types::{epoch_of, generation_of};
use leveret_cluster::wire::hello::Cookie;
use leveret_cluster::wire::tls::{Tls, TlsFiles};
use leveret_cluster::{GROUPS_END, METADATA_GROUP, MIRRORED_TRANSIENT, Recovered};
use leveret_config::{Config, ListenAddr};
use leveret_storage::disk::{Disk, RealDisk};
use leveret_topology::{Command, NodeUp};

use super::cluster::{GROUPS_DEFAULT, Mirror, SessionService};
use super::generations;
use super::machines::MetadataMachine;
use super::membership::{ClusterHost, Places};
use crate::ctl::CtlServer;
use crate::node::{Node, StartReport};

/// Where nodes listen for each other if nothing is said: RabbitMQ's port for it.
pub(super) const PORT_DEFAULT: u16 = 25672;
/// How long a start waits between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Who is in the cluster at the start.
#[derive(Debug, Clone)]
pub struct Members {
    /// Ids of all nodes, this one among them.
    pub nodes: Vec<u64>,
    /// The groups are to be made: the cluster is new.
    pub new: bool,
}

/// What peers are told to call; made before they are, as they need it.
#[derive(Default)]
pub struct Services {
    /// Of `raft` and `stream` connections.
    pub raft: Arc<RaftService>,
    /// Of `session` connections.
    pub session: Arc<SessionService>,
}

/// Where the founders of the cluster listen for each other, by the configuration.
///
/// # Errors
/// Something is no node.
pub fn founders(config: &Config) -> Result<Vec<NodeAddress>, String> {
    let parse = |text: &String| NodeAddress::parse(text, PORT_DEFAULT).map_err(|e| e.to_string());
    config.cluster.nodes.iter().map(parse).collect()
}

/// Another boot id than the system's, for tests: a node that is started with another one than before takes it that the machine lost power.
const BOOT_ID_VARIABLE: &str = "LEVERET_BOOT_ID";

/// The boot id of this machine: new whenever it starts. Empty if the system does not tell.
fn boot_id() -> Vec<u8> {
    if let Some(told) = std::env::var_os(BOOT_ID_VARIABLE) {
        return told.into_encoded_bytes();
    }
    let told = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    told.trim_ascii().to_vec()
}

/// TLS between nodes, if it is configured.
pub(super) fn tls_between_nodes(config: &Config) -> Result<Option<Arc<Tls>>, String> {
    let tls = &config.cluster.tls;
    match (&tls.ca_file, &tls.cert_file, &tls.key_file) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => {
            let files = TlsFiles {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            };
            let tls = Tls::load(files).map_err(|e| e.to_string())?;
            Ok(Some(Arc::new(tls)))
        }
        _ => {
            Err("cluster.ssl_options: cacertfile, certfile and keyfile belong together".to_owned())
        }
    }
}

/// SIGHUP: new connections get the certificates that are in the files then.
async fn reload_on_hangup(tls: Arc<Tls>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangup.recv().await.is_some() {
        let reading = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(())) => tracing::info!("read the certificates between nodes again"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the certificates between nodes stay as they were")
            }
            Err(_) => return,
        }
    }
}

/// A node that is configured as one of a cluster: opens its store, finds its place, starts its groups, and waits until it may serve.
///
/// # Errors
/// The text says what cannot be.
pub async fn run(config: Config, memory_bytes: u64) -> Result<(Arc<Node>, StartReport), String> {
    let founders = founders(&config)?;
    let listen = config.cluster.listen.clone();
    let cookie = match &config.cluster.cookie_file {
        Some(path) => Cookie::load(path).map_err(|e| e.to_string())?,
        None => return Err("cluster.cookie_file: a cluster needs a secret".to_owned()),
    };
    let (node, report, recovered) =
        Node::start_member(config, memory_bytes).map_err(|e| e.to_string())?;
    let node = Arc::new(node);
    node.set_waiting(Some("it looks for its cluster".to_owned()));
    // Operators may ask why it does not serve, and stop it.
    let ctl =
        CtlServer::start(&node).map_err(|e| format!("cannot listen for control commands: {e}"))?;
    let member = Member {
        node: Arc::clone(&node),
        fresh: report.fresh,
        recovered,
        founders,
        listen,
        cookie,
    };
    tokio::select! {
        serves = member.take_part() => serves?,
        () = ctl.stop_requested() => return Err("stopped while it waited for its cluster".to_owned()),
        reason = node.stop().wait() => return Err(reason),
    }
    node.set_waiting(None);
    Ok((node, report))
}

/// What a start has before it knows its place.
struct Member {
    node: Arc<Node>,
    fresh: bool,
    recovered: Recovered,
    founders: Vec<NodeAddress>,
    listen: Option<ListenAddr>,
    cookie: Cookie,
}

impl Member {
    /// Finds its place, starts its groups, and waits until it may serve.
    async fn take_part(self) -> Result<(), String> {
        let Member {
            node,
            fresh,
            recovered,
            founders,
            listen,
            cookie,
        } = self;
        let name = NodeName::parse(node.name()).map_err(|e| e.to_string())?;
        // A node that is not in the list joins those that are.
        let own = founders.iter().find(|address| address.name == name);
        let own = own.cloned().unwrap_or_else(|| NodeAddress {
            host: name.host().trim_matches(['[', ']']).to_owned(),
            port: listen.as_ref().map_or(PORT_DEFAULT, |address| address.port),
            name: name.clone(),
        });
        let dir = node.config().node.data_dir.join("cluster");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        disk.create_dir_all(&dir)
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        let journal = node.store().journal().uuid();
        let identity = Identity::open(&*disk, &dir, &name, journal).map_err(|e| e.to_string())?;
        if identity.phase == Phase::Candidate && !fresh {
            return Err(format!(
                "{} has the data of a node that ran alone: they do not become a cluster's; start with an empty folder",
                node.config().node.data_dir.display()
            ));
        }
        let services = Services::default();
        let host = Arc::new(ClusterHost {
            initialised: recovered.has_raft(METADATA_GROUP),
            disk: Arc::clone(&disk),
            dir: dir.clone(),
            mirror: OnceLock::new(),
        });
        let names = Founders::new(founders.iter().map(|address| address.name.clone()));
        let boot = leveret_cluster::boot::next(&*disk, &dir, node.now_ms())
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        let found =
            (MIRRORED_TRANSIENT..GROUPS_END).filter_map(|group| recovered.raft_member(group));
        let found = found.map(epoch_of).max();
        let power = Power::open(Arc::clone(&disk), &dir, &boot_id(), found)
            .map_err(|e| format!("{}: {e}", dir.display()))?;
        if power.lost() {
            tracing::warn!(
                epoch = power.epoch(),
                "the machine started again since this node ran: what it did not wait for the disk with is learned from the others"
            );
        }
        let founding = Arc::new(Founding::new(
            identity.clone(),
            names.clone(),
            Arc::clone(&disk),
            dir.clone(),
            host.clone(),
        ));
        let me = |identity: &Identity| Me {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            boot,
            name: identity.name.clone(),
        };
        let handlers = Handlers {
            raft: services.raft.clone(),
            session: services.session.clone(),
            stream: services.raft.clone(),
            founding: founding.clone(),
            ..Handlers::default()
        };
        let mut peers = PeersConfig::new(me(&identity), cookie);
        peers.tls = tls_between_nodes(node.config())?;
        if let Some(tls) = peers.tls.clone() {
            tokio::spawn(reload_on_hangup(tls));
        }
        let peers = Peers::new(peers, handlers);
        let address = match listen {
            Some(address) => address.to_string(),
            None => format!("[::]:{}", own.port),
        };
        let listener = tokio::net::TcpListener::bind(&address)
            .await
            .map_err(|e| format!("cluster.listen {address}: {e}"))?;
        peers.listen(listener);
        let founded = founding
            .found(&peers, &own, &founders, |why| {
                tracing::warn!("waiting for the cluster: {why}");
                node.set_waiting(Some(why.to_string()));
            })
            .await
            .map_err(|e| e.to_string())?;
        let (Founded::TakePart(identity) | Founded::Initialise(identity, _)) = founded;
        peers.set_me(me(&identity));
        // Founders are numbered from 1 in the order of their names.
        let numbered = (1..).zip(names.names()).filter_map(|(node, name)| {
            let address = founders.iter().find(|a| a.name == *name)?.clone();
            Some(Peer {
                node,
                incarnation: None,
                address,
            })
        });
        let known =
            address_book::read(&*disk, &dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let known = known.unwrap_or_else(|| numbered.collect());
        let members = Members {
            nodes: known.iter().map(|peer| peer.node).collect(),
            // Later everybody has a log, or learns it.
            new: identity.node == 1 && identity.phase == Phase::Planned,
        };
        let mirror = Mirror::new(identity.node, boot, GROUPS_DEFAULT, node.bodies());
        node.set_mirror(Arc::clone(&mirror));
        node.set_waiting(Some("it waits for a majority of the cluster".to_owned()));
        // Once, here.
        let _ = services.session.0.set(Arc::clone(&mirror));
        let _ = host.mirror.set(Arc::clone(&mirror));
        let places = Places {
            disk,
            dir,
            configured: founders,
            known: known.clone(),
        };
        mirror.membership.begin(places, identity.clone());
        mirror.generations.begin(power);
        start(&node, peers.clone(), &services, recovered, &members).await?;
        peers.set_peers(known);
        mirror.follow();
        tracing::info!(
            node = identity.node,
            "member of the cluster; waiting for the others"
        );
        join_in(&node, &identity, &own).await?;
        let settling = Arc::clone(&node);
        let first = members.new;
        tokio::task::spawn_blocking(move || settling.settle_in_cluster(first))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        founding.mark_member().await.map_err(|e| e.to_string())
    }
}

/// Starts the groups, and everything that follows them.
///
/// # Errors
/// The text says which group cannot be started.
pub async fn start(
    node: &Arc<Node>,
    peers: Peers,
    services: &Services,
    mut recovered: Recovered,
    members: &Members,
) -> Result<(), String> {
    let mirror = Arc::clone(node.mirror().ok_or("this node is alone")?);
    mirror.begin(node, peers.clone());
    let me = mirror.own_member(METADATA_GROUP, 0);
    let rate = NetworkConfig {
        snapshot_bytes_per_second: node.config().cluster.catch_up_bytes_per_second,
        ..NetworkConfig::default()
    };
    let network = Network::new(peers, rate);
    let metadata = start_group(
        config_of(node, METADATA_GROUP, me),
        Arc::clone(node.store()),
        recovered.take_raft(METADATA_GROUP),
        Box::new(MetadataMachine::new(node)),
        network.group(METADATA_GROUP, me),
    )
    .await
    .map_err(|e| e.to_string())?;
    services.raft.add(metadata.clone());
    mirror.set_metadata(Arc::clone(&metadata));
    let first = Mirror::members(&members.nodes);
    mirror
        .generations
        .connect(network.clone(), Arc::clone(&services.raft));
    for mirrored in mirror.groups() {
        let id = mirrored.group.id();
        let found = recovered.take_raft(id);
        // The metadata here may be behind the log.
        let begun = found.index.member().map_or(0, generation_of);
        let known = generations::generation(&node.topology(), id);
        let me = mirror.own_member(id, begun.max(known));
        mirror
            .run_group(node, mirrored, me, found, &network, &services.raft)
            .await?;
    }
    if members.new {
        // A group that has a log already refuses: this start is not its first.
        let _ = metadata.initialize(first.clone()).await;
        for mirrored in mirror.groups() {
            if let Some(raft) = mirrored.raft.get() {
                let _ = raft.initialize(first.clone()).await;
            }
        }
    }
    Ok(())
}

pub(super) fn config_of(node: &Node, group: leveret_cluster::GroupId, me: u64) -> GroupConfig {
    GroupConfig {
        log_keep_bytes: node.config().cluster.log_keep_bytes,
        ..GroupConfig::new(group, me)
    }
}

/// Waits until the metadata is as the cluster has it, and says that this node is there. Ends when it may serve.
///
/// # Errors
/// The cluster does not want it: the text says why.
pub async fn join_in(
    node: &Arc<Node>,
    identity: &Identity,
    own: &NodeAddress,
) -> Result<(), String> {
    let Some(mirror) = node.mirror().cloned() else {
        return Ok(());
    };
    let up = Command::NodeUp(NodeUp {
        node: mirror.id(),
        name: node.name().into(),
        incarnation: mirror.session_id().incarnation,
        disk: identity.incarnation,
        address: own.to_string().as_str().into(),
        epoch: mirror.generations.epoch(),
    });
    let refused = Arc::new(parking_lot::Mutex::new(None));
    let told = Arc::clone(&refused);
    // A command of this process that comes back was behind everything that was committed before.
    mirror.proposals().propose(
        &up,
        Box::new(move |result| *told.lock() = result.err().map(|refusal| refusal.text)),
    );
    let mut said_ms = 0;
    loop {
        let there = {
            let topology = node.topology();
            let known = topology.node(mirror.id());
            known.is_some_and(|n| n.up && n.incarnation == mirror.session_id().incarnation)
        };
        if there {
            break;
        }
        if let Some(reason) = refused.lock().take() {
            return Err(format!("the cluster refuses this node: {reason}"));
        }
        if mirror.was_forgotten() {
            return Err(super::membership::FORGOTTEN.to_owned());
        }
        said_ms += LOOK.as_millis() as u64;
        if said_ms.is_multiple_of(5000) {
            tracing::info!("waiting for a majority of the cluster");
        }
        tokio::time::sleep(LOOK).await;
    }
    mirror.set_ready();
    // Leaders of all groups: a client that comes now need not wait for an election.
    let patience = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < patience {
        let led = |m: &super::cluster::Mirrored| {
            let role = m.raft.get().map(|r| r.role());
            matches!(role, Some(Role::Leading { .. } | Role::Following { .. }))
                && m.session.leader().is_some()
        };
        if mirror.groups().iter().all(led) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
