//! Founding over the wire: the rounds of questions, and what others are answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use leveret_storage::disk::Disk;
use tokio::sync::{Mutex, watch};

use super::message::{self, Joined, Joiner, kind};
use super::{Answer, Founders, Member, Plan, Step, Waiting, decide, take_plan};
use crate::identity::{Identity, IdentityError, Phase};
use crate::name::{NodeAddress, NodeName};
use crate::peers::{DialError, Handler, Inbound, Peers, RequestError};
use crate::wire::frame::Frame;
use crate::wire::hello::{NodeId, random};
use crate::wire::sender::Lane;

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(200);
/// For one answer; an `admit` may take [`JOIN`].
const ASK: Duration = Duration::from_secs(2);
/// For a place in a cluster that exists.
const JOIN: Duration = Duration::from_secs(30);

/// What the node knows beyond its identity.
pub trait Host: Send + Sync + 'static {
    /// The members in the metadata; asked only of a member.
    fn members(&self) -> Vec<Member>;

    /// Whether the metadata group has a log here.
    fn initialised(&self) -> bool;

    /// Lets a node into the cluster: a change of the metadata, committed when this ends. One with a name that is a member's is
    /// refused, unless the incarnation is the same: then its place is told again.
    fn admit(&self, joiner: Joiner) -> BoxFuture<'static, Result<Joined, String>>;

    /// This node was let into a cluster; called before its identity says so. Blocks.
    ///
    /// # Errors
    /// It cannot be noted: the node asks again.
    fn joined(&self, _joined: &Joined) -> Result<(), String> {
        Ok(())
    }

    /// Whether that member, with that disk, is known to have been removed for good.
    fn forgotten(&self, _node: NodeId, _incarnation: u64) -> bool {
        false
    }
}

/// Whether one of these members knows that this node was removed from its cluster.
pub async fn is_forgotten(peers: &Peers, identity: &Identity, addresses: &[NodeAddress]) -> bool {
    let others = addresses.iter().filter(|a| a.name != identity.name);
    let asked = others.map(|address| async move {
        let body = message::encode_standing(identity.node, identity.incarnation);
        let (_, body) = peers.ask(address, kind::STANDING, body, ASK).await.ok()?;
        Some(body.first() == Some(&1))
    });
    join_all(asked).await.into_iter().flatten().any(|is| is)
}

/// This node's identity on its disk, and what others are answered about it. The handler of
/// [`crate::wire::hello::Purpose::Founding`].
pub struct Founding {
    founders: Founders,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    host: Arc<dyn Host>,
    /// Held while the file is written.
    writing: Mutex<()>,
    identity: watch::Sender<Identity>,
}

/// What a node is to do now that it has its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founded {
    /// Take part under it. Nobody is to be initialised.
    TakePart(Identity),
    /// Initialise the metadata group with these members, then take part; the metadata's first content are these members.
    Initialise(Identity, Vec<Member>),
}

impl Founding {
    /// With the identity that [`Identity::open`] gave for `dir`.
    pub fn new(
        identity: Identity,
        founders: Founders,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        host: Arc<dyn Host>,
    ) -> Founding {
        Founding {
            founders,
            disk,
            dir,
            host,
            writing: Mutex::new(()),
            identity: watch::Sender::new(identity),
        }
    }

    /// The identity, as it is on disk.
    pub fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// The metadata have this node among the members: it answers as one from now on.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn mark_member(self: &Arc<Self>) -> Result<(), IdentityError> {
        let _writing = self.writing.lock().await;
        let identity = self.identity();
        if identity.phase != Phase::Planned {
            return Ok(());
        }
        let phase = Phase::Member;
        self.write(Identity { phase, ..identity }).await
    }

    /// Makes it durable, then known. `writing` is held.
    async fn write(self: &Arc<Self>, identity: Identity) -> Result<(), IdentityError> {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            identity.write(&*this.disk, &this.dir)?;
            this.identity.send_replace(identity);
            Ok(())
        });
        written.await.unwrap_or_else(|error| {
            Err(IdentityError::Io {
                action: "write",
                path: self.dir.clone(),
                source: std::io::Error::other(error),
            })
        })
    }

    fn answer(&self) -> Answer {
        let identity = self.identity();
        let members = match identity.phase {
            Phase::Member => self.host.members(),
            _ => Vec::new(),
        };
        Answer::of(&identity, &self.founders, &members)
    }

    async fn plan(self: &Arc<Self>, from: &NodeName, plan: &Plan) -> Result<(), String> {
        let _writing = self.writing.lock().await;
        match take_plan(&self.identity(), &self.founders, from, plan)? {
            Some(identity) => self
                .write(identity)
                .await
                .map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    async fn reply(self: &Arc<Self>, from: &NodeName, frame: &Frame) -> Result<Vec<u8>, String> {
        let malformed = |error: crate::raft::codec::Malformed| error.to_string();
        match frame.header.kind {
            kind::ASK => Ok(message::encode_answer(&self.answer())),
            kind::PLAN => {
                let plan = message::decode_plan(&frame.body).map_err(malformed)?;
                self.plan(from, &plan).await?;
                Ok(message::encode_answer(&self.answer()))
            }
            kind::JOIN => {
                let joiner = message::decode_join(&frame.body).map_err(malformed)?;
                if joiner.address.name != *from {
                    return Err("a node joins under its own name".into());
                }
                if self.identity().phase != Phase::Member {
                    return Err("this node is no member itself".into());
                }
                let joined = self.host.admit(joiner).await?;
                Ok(message::encode_joined(&joined))
            }
            kind::STANDING => {
                let (node, incarnation) =
                    message::decode_standing(&frame.body).map_err(malformed)?;
                Ok(vec![u8::from(self.host.forgotten(node, incarnation))])
            }
            unknown => Err(format!("unknown request {unknown}")),
        }
    }

    /// Goes on until this node has its place. `addresses` are the founders', `me` this node's own; `waiting` is told why it is not
    /// there yet, when that changes. Cancel safe.
    ///
    /// # Errors
    /// The identity cannot be written, or there is no randomness: the node cannot go on.
    pub async fn found(
        self: &Arc<Self>,
        peers: &Peers,
        me: &NodeAddress,
        addresses: &[NodeAddress],
        waiting: impl Fn(&Waiting),
    ) -> Result<Founded, IdentityError> {
        let mut told: Option<Waiting> = None;
        let mut identities = self.identity.subscribe();
        loop {
            let before = identities.borrow_and_update().clone();
            let answers = match before.phase {
                Phase::Member => BTreeMap::new(),
                _ => self.round(peers, addresses, &before).await,
            };
            let fresh = random().map_err(|source| IdentityError::Io {
                action: "make",
                path: self.dir.clone(),
                source,
            })?;
            // A plan may have come meanwhile.
            let writing = self.writing.lock().await;
            let identity = self.identity();
            if identity != before {
                continue;
            }
            let initialised = self.host.initialised();
            match decide(&identity, initialised, &self.founders, &answers, fresh) {
                Step::TakePart => return Ok(Founded::TakePart(identity)),
                Step::Initialise(members) => return Ok(Founded::Initialise(identity, members)),
                Step::Write(identity) => {
                    self.write(identity).await?;
                    continue;
                }
                Step::Propose { plan, to } => {
                    drop(writing);
                    let body = message::encode_plan(&plan);
                    let to = addresses
                        .iter()
                        .filter(|address| to.contains(&address.name));
                    let sent = to.map(|address| peers.ask(address, kind::PLAN, body.clone(), ASK));
                    for refused in join_all(sent).await.into_iter().filter_map(Result::err) {
                        // The next round shows what came of it.
                        tracing::warn!("founding: {refused}");
                    }
                    continue;
                }
                Step::Join { via } => {
                    let refused = self.join(peers, me, addresses, &via, identity).await?;
                    drop(writing);
                    match refused {
                        None => continue,
                        Some(reason) => {
                            let why = Waiting::Refused(via, reason);
                            if told.as_ref() != Some(&why) {
                                waiting(&why);
                                told = Some(why);
                            }
                        }
                    }
                }
                Step::Wait(why) => {
                    drop(writing);
                    if told.as_ref() != Some(&why) {
                        waiting(&why);
                        told = Some(why);
                    }
                }
            }
            // A plan ends the wait.
            let _ = tokio::time::timeout(ROUND, identities.changed()).await;
        }
    }

    async fn round(
        &self,
        peers: &Peers,
        addresses: &[NodeAddress],
        identity: &Identity,
    ) -> BTreeMap<NodeName, Answer> {
        let others = addresses
            .iter()
            .filter(|address| address.name != identity.name);
        let asked = others.map(|address| async move {
            let (_, body) = peers.ask(address, kind::ASK, Vec::new(), ASK).await.ok()?;
            let answer = message::decode_answer(&body).ok()?;
            Some((address.name.clone(), answer))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks a member for a place; answers why there is none, if there is none. `writing` is held.
    async fn join(
        self: &Arc<Self>,
        peers: &Peers,
        me: &NodeAddress,
        addresses: &[NodeAddress],
        via: &NodeName,
        identity: Identity,
    ) -> Result<Option<String>, IdentityError> {
        let Some(address) = addresses.iter().find(|address| address.name == *via) else {
            return Ok(Some("it is not in the list of nodes".into()));
        };
        let joiner = Joiner {
            incarnation: identity.incarnation,
            address: me.clone(),
        };
        let asked = peers.ask(address, kind::JOIN, message::encode_join(&joiner), JOIN);
        let joined = match asked.await {
            Ok((_, body)) => message::decode_joined(&body).map_err(|error| error.to_string()),
            Err(DialError::Request(RequestError::Failed(reason))) => Err(reason),
            Err(error) => Err(error.to_string()),
        };
        let joined = match joined {
            Ok(joined) => joined,
            Err(reason) => return Ok(Some(reason)),
        };
        let host = Arc::clone(&self.host);
        let noted = joined.clone();
        let noted = tokio::task::spawn_blocking(move || host.joined(&noted)).await;
        if let Err(reason) = noted.unwrap_or_else(|error| Err(error.to_string())) {
            return Ok(Some(reason));
        }
        let member = Identity {
            phase: Phase::Member,
            cluster: joined.cluster,
            node: joined.node,
            ..identity
        };
        self.write(member).await?;
        Ok(None)
    }
}

impl Handler for Founding {
    fn serve(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let from = inbound.peer().name.clone();
            while let Ok(Some(frame)) = inbound.next().await {
                let reply = self.reply(&from, &frame).await;
                let answers = inbound.answers();
                // Who does not take the answer asks again.
                let _ = match reply {
                    Ok(body) => answers.answer(Lane::Bulk, &frame.header, body),
                    Err(reason) => answers.fail(Lane::Bulk, &frame.header, &reason),
                };
            }
        })
    }
}
