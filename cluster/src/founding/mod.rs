//! How nodes that have nothing become a cluster, once. `docs/cluster.md` section 4.
//!
//! A node asks all founders what they are, in rounds, and [`decide`]s from one round's answers and its own identity. Nothing else is
//! kept between rounds, so a crash between any two steps is a new round. What makes it safe:
//!
//! - only the first founder by name makes a uuid, only as a candidate, after all founders answered in one round that they are
//!   candidates with the same list; it writes the uuid before anybody hears of it, and never makes another on this disk;
//! - a node takes a plan only as a candidate, only from the first founder, and only if the plan has its own incarnation: a plan that
//!   comes late does not reach a disk that was replaced;
//! - the founder initialises only after all others answered in one round that they have its uuid on disk, and never when the
//!   metadata group has a log;
//! - a node whose name is a member's, with another incarnation, is refused.
//!
//! - [`message`]: the bytes of what nodes ask each other.
//! - [`driver`]: the rounds, over [`crate::peers`], and what others are answered.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::identity::{Identity, Phase};
use crate::name::NodeName;
use crate::wire::hello::{ClusterId, NodeId};

pub mod driver;
pub mod message;

/// Founders of a cluster, and members in an answer.
pub const MEMBERS_MAX: usize = 255;

/// The configured founders: names in their order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founders(Vec<NodeName>);

impl Founders {
    /// These; the order and repetitions do not matter.
    pub fn new(names: impl IntoIterator<Item = NodeName>) -> Founders {
        let mut names: Vec<NodeName> = names.into_iter().collect();
        names.sort();
        names.dedup();
        Founders(names)
    }

    /// In their order.
    pub fn names(&self) -> &[NodeName] {
        &self.0
    }

    /// The one that founds.
    pub fn first(&self) -> Option<&NodeName> {
        self.0.first()
    }

    /// What tells one list from another.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for name in &self.0 {
            hash.update(name.as_str());
            hash.update([b'\n']);
        }
        hash.finalize().into()
    }
}

/// A member, or one to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Of its disk.
    pub incarnation: u64,
}

/// What a node is, told to who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It has nothing.
    Candidate {
        /// Of its disk.
        incarnation: u64,
        /// [`Founders::hash`] of its list.
        list: [u8; 32],
    },
    /// It has its place in a cluster that is being founded.
    Planned {
        /// Of its disk.
        incarnation: u64,
        /// The cluster.
        cluster: ClusterId,
    },
    /// It is a member.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// All members, as it knows them.
        members: Vec<Member>,
    },
}

impl Answer {
    /// What the node of `identity` answers. `members` are those of its metadata, where it is a member.
    pub fn of(identity: &Identity, founders: &Founders, members: &[Member]) -> Answer {
        match identity.phase {
            Phase::Candidate => Answer::Candidate {
                incarnation: identity.incarnation,
                list: founders.hash(),
            },
            Phase::Planned => Answer::Planned {
                incarnation: identity.incarnation,
                cluster: identity.cluster,
            },
            Phase::Member => Answer::Member {
                cluster: identity.cluster,
                members: members.to_vec(),
            },
        }
    }
}

/// A cluster to be: the founder's word to all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Its uuid.
    pub cluster: ClusterId,
    /// [`Founders::hash`] of the founder's list.
    pub list: [u8; 32],
    /// All founders, in the order of their names, numbered from 1.
    pub members: Vec<Member>,
}

/// What a node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write this, durably, then begin another round.
    Write(Identity),
    /// Send the plan to these, then begin another round.
    Propose {
        /// The plan.
        plan: Plan,
        /// To whom.
        to: Vec<NodeName>,
    },
    /// All founders have their place on disk: initialise the metadata group with all of them as voters.
    Initialise(Vec<Member>),
    /// Ask `via`, a member, to be let into its cluster.
    Join {
        /// Whom to ask.
        via: NodeName,
    },
    /// Take part under this identity, and wait for the cluster's leader.
    TakePart,
    /// Begin another round after a while; why.
    Wait(Waiting),
}

/// Why a node is not in a cluster yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Founders do not answer.
    Unreachable(Vec<NodeName>),
    /// Founders have another list of founders.
    OtherList(Vec<NodeName>),
    /// The first founder has to do something.
    Founder(NodeName),
    /// This node is no founder, and no founder is a member yet.
    NoCluster,
    /// Founders have places in a cluster that this node knows nothing of: its founder's disk was replaced.
    LostFounder(Vec<NodeName>),
    /// Founders belong to another cluster.
    OtherCluster(Vec<NodeName>),
    /// The node's name is a member's, with another disk.
    Replaced(NodeName),
    /// A member does not let this node in, for this reason.
    Refused(NodeName, String),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[NodeName]| {
            let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
            names.join(", ")
        };
        match self {
            Waiting::Unreachable(names) => {
                write!(
                    f,
                    "no answer from {}: all founders have to be there once",
                    list(names)
                )
            }
            Waiting::OtherList(names) => write!(
                f,
                "another list of cluster_formation.classic_config.nodes on {}",
                list(names)
            ),
            Waiting::Founder(name) => write!(f, "{name} founds the cluster"),
            Waiting::NoCluster => f.write_str("no founder is a member of a cluster yet"),
            Waiting::LostFounder(names) => write!(
                f,
                "the founding was not finished and this node's disk is not the one that began it: \
                 empty the data directories of {}",
                list(names)
            ),
            Waiting::OtherCluster(names) => write!(f, "{} belong to another cluster", list(names)),
            Waiting::Replaced(name) => write!(
                f,
                "{name} is a member already, with another disk: leveret ctl forget_cluster_node {name} \
                 on a member first"
            ),
            Waiting::Refused(via, reason) => write!(f, "{via} does not let this node in: {reason}"),
        }
    }
}

/// What the node of `identity` does next, from one round's answers of the founders other than itself.
///
/// `initialised`: its metadata group has a log. `fresh`: a new random uuid, should it be needed.
pub fn decide(
    identity: &Identity,
    initialised: bool,
    founders: &Founders,
    answers: &BTreeMap<NodeName, Answer>,
    fresh: ClusterId,
) -> Step {
    let others = founders
        .names()
        .iter()
        .filter(|name| **name != identity.name);
    let others: Vec<&NodeName> = others.collect();
    match identity.phase {
        Phase::Member => Step::TakePart,
        Phase::Planned if initialised || founders.first() != Some(&identity.name) => Step::TakePart,
        Phase::Planned => go_on(identity, founders, &others, answers),
        Phase::Candidate => begin(identity, founders, &others, answers, fresh),
    }
}

/// Names whose answers are so.
fn those(
    others: &[&NodeName],
    answers: &BTreeMap<NodeName, Answer>,
    are: impl Fn(Option<&Answer>) -> bool,
) -> Vec<NodeName> {
    let names = others.iter().filter(|name| are(answers.get(**name)));
    names.map(|name| (*name).clone()).collect()
}

/// A candidate.
fn begin(
    identity: &Identity,
    founders: &Founders,
    others: &[&NodeName],
    answers: &BTreeMap<NodeName, Answer>,
    fresh: ClusterId,
) -> Step {
    let list = founders.hash();
    let mut found: Option<(&NodeName, &ClusterId)> = None;
    for (via, answer) in answers {
        let Answer::Member { cluster, members } = answer else {
            continue;
        };
        if found.is_some_and(|(_, other)| other != cluster) {
            let members = those(others, answers, |a| {
                matches!(a, Some(Answer::Member { .. }))
            });
            return Step::Wait(Waiting::OtherCluster(members));
        }
        let mine = members.iter().find(|member| member.name == identity.name);
        if mine.is_some_and(|member| member.incarnation != identity.incarnation) {
            return Step::Wait(Waiting::Replaced(identity.name.clone()));
        }
        found = Some((via, cluster));
    }
    if let Some((via, _)) = found {
        return Step::Join { via: via.clone() };
    }
    if !founders.names().contains(&identity.name) {
        return Step::Wait(Waiting::NoCluster);
    }
    let planned = those(others, answers, |a| {
        matches!(a, Some(Answer::Planned { .. }))
    });
    let first = founders.first() == Some(&identity.name);
    match (planned.is_empty(), first, founders.first()) {
        (false, true, _) => return Step::Wait(Waiting::LostFounder(planned)),
        (false, false, Some(founder)) => return Step::Wait(Waiting::Founder(founder.clone())),
        _ => {}
    }
    let absent = those(others, answers, |answer| answer.is_none());
    if !absent.is_empty() {
        return Step::Wait(Waiting::Unreachable(absent));
    }
    let strange = those(
        others,
        answers,
        |answer| !matches!(answer, Some(Answer::Candidate { list: theirs, .. }) if *theirs == list),
    );
    if !strange.is_empty() {
        return Step::Wait(Waiting::OtherList(strange));
    }
    match founders.first() {
        Some(founder) if !first => Step::Wait(Waiting::Founder(founder.clone())),
        _ => Step::Write(Identity {
            phase: Phase::Planned,
            cluster: fresh,
            node: 1,
            ..identity.clone()
        }),
    }
}

/// The founder, its uuid written.
fn go_on(
    identity: &Identity,
    founders: &Founders,
    others: &[&NodeName],
    answers: &BTreeMap<NodeName, Answer>,
) -> Step {
    let (mine, list) = (identity.cluster, founders.hash());
    let member_here = |answer: Option<&Answer>| matches!(answer, Some(Answer::Member { cluster, .. }) if *cluster == mine);
    if !those(others, answers, member_here).is_empty() {
        // It was initialised, and this node has lost its log.
        return Step::TakePart;
    }
    let elsewhere = those(others, answers, |answer| match answer {
        Some(Answer::Member { cluster, .. } | Answer::Planned { cluster, .. }) => *cluster != mine,
        _ => false,
    });
    if !elsewhere.is_empty() {
        return Step::Wait(Waiting::OtherCluster(elsewhere));
    }
    let strange = those(others, answers, |answer| match answer {
        Some(Answer::Candidate { list: theirs, .. }) => *theirs != list,
        _ => false,
    });
    if !strange.is_empty() {
        return Step::Wait(Waiting::OtherList(strange));
    }
    let absent = those(others, answers, |answer| answer.is_none());
    if !absent.is_empty() {
        return Step::Wait(Waiting::Unreachable(absent));
    }
    let mut members = Vec::with_capacity(founders.names().len());
    for (at, name) in founders.names().iter().enumerate() {
        let incarnation = match answers.get(name) {
            Some(Answer::Candidate { incarnation, .. } | Answer::Planned { incarnation, .. }) => {
                *incarnation
            }
            _ => identity.incarnation,
        };
        members.push(Member {
            node: 1 + at as u64,
            name: name.clone(),
            incarnation,
        });
    }
    let to = those(others, answers, |a| {
        matches!(a, Some(Answer::Candidate { .. }))
    });
    if to.is_empty() {
        return Step::Initialise(members);
    }
    let plan = Plan {
        cluster: mine,
        list,
        members,
    };
    Step::Propose { plan, to }
}

/// What a node that is given a plan by `from` makes of it: the identity to write before it agrees, or none if it has
/// its place already.
///
/// # Errors
/// Why it does not agree.
pub fn take_plan(
    identity: &Identity,
    founders: &Founders,
    from: &NodeName,
    plan: &Plan,
) -> Result<Option<Identity>, String> {
    let own = plan
        .members
        .iter()
        .find(|member| member.name == identity.name);
    let Some(own) = own else {
        return Err(format!("{} is not in the plan", identity.name));
    };
    if own.incarnation != identity.incarnation {
        return Err(format!("the plan is for another disk of {}", identity.name));
    }
    if founders.first() != Some(from) || plan.list != founders.hash() {
        return Err(format!(
            "{from} has another list of founders, or does not found"
        ));
    }
    match identity.phase {
        Phase::Candidate => Ok(Some(Identity {
            phase: Phase::Planned,
            cluster: plan.cluster,
            node: own.node,
            ..identity.clone()
        })),
        _ if identity.cluster == plan.cluster && identity.node == own.node => Ok(None),
        _ => Err(format!(
            "{} has its place in another cluster",
            identity.name
        )),
    }
}
