//! Bytes of what nodes ask each other over connections for founding.
//!
//! ```text
//! name        length u8 | text
//! members     count u8 | of each: node u64, incarnation u64, name
//! ask         nothing
//! answer      1 u8 | incarnation u64 | list, 32       a candidate
//!             2 u8 | incarnation u64 | cluster, 16    it has its place
//!             3 u8 | cluster, 16 | members            a member
//! plan        cluster, 16 | list, 32 | members        answered like an ask
//! join        incarnation u64 | port u16 | name | host, as a name
//! joined      cluster, 16 | node u64 | members | of each: port u16, host as a name
//! standing    node u64 | incarnation u64               answered with u8: 1 forgotten, 0 not that it is known
//! ```

use super::{Answer, MEMBERS_MAX, Member, Plan};
use crate::name::{NodeAddress, NodeName};
use crate::raft::codec::{Malformed, Reader};
use crate::wire::hello::{ClusterId, NodeId};

/// Kinds of frames. Never renumber.
pub mod kind {
    /// What are you?
    pub const ASK: u8 = 1;
    /// Take this place.
    pub const PLAN: u8 = 2;
    /// Let me in.
    pub const JOIN: u8 = 3;
    /// Was I forgotten?
    pub const STANDING: u8 = 4;
}

/// A node that wants to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Of its disk.
    pub incarnation: u64,
    /// Its name and where it listens.
    pub address: NodeAddress,
}

/// A node was let in. A second time gives the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's number.
    pub node: NodeId,
    /// All members, with it.
    pub members: Vec<Member>,
    /// Where each of them listens: host and port, in the order of `members`.
    pub places: Vec<(String, u16)>,
}

impl Joined {
    /// The members and where they are.
    pub fn addresses(&self) -> impl Iterator<Item = (&Member, NodeAddress)> {
        self.members
            .iter()
            .zip(&self.places)
            .map(|(member, place)| {
                let address = NodeAddress {
                    name: member.name.clone(),
                    host: place.0.clone(),
                    port: place.1,
                };
                (member, address)
            })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Names are that short.
    let text = &text.as_bytes()[..text.len().min(255)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

fn take_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let length = usize::from(reader.u8("text")?);
    let bytes = reader.bytes(length, "text")?;
    std::str::from_utf8(bytes).map_err(|_| Malformed("text"))
}

fn take_name(reader: &mut Reader<'_>) -> Result<NodeName, Malformed> {
    NodeName::parse(take_text(reader)?).map_err(|_| Malformed("name"))
}

fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    let members = &members[..members.len().min(MEMBERS_MAX)];
    out.push(members.len() as u8);
    for member in members {
        out.extend_from_slice(&member.node.to_le_bytes());
        out.extend_from_slice(&member.incarnation.to_le_bytes());
        put_text(out, member.name.as_str());
    }
}

fn take_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, Malformed> {
    let count = reader.u8("members")?;
    let mut members = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        members.push(Member {
            node: reader.u64("members")?,
            incarnation: reader.u64("members")?,
            name: take_name(reader)?,
        });
    }
    Ok(members)
}

/// What a node is.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match answer {
        Answer::Candidate { incarnation, list } => {
            out.push(1);
            out.extend_from_slice(&incarnation.to_le_bytes());
            out.extend_from_slice(list);
        }
        Answer::Planned {
            incarnation,
            cluster,
        } => {
            out.push(2);
            out.extend_from_slice(&incarnation.to_le_bytes());
            out.extend_from_slice(cluster);
        }
        Answer::Member { cluster, members } => {
            out.push(3);
            out.extend_from_slice(cluster);
            put_members(&mut out, members);
        }
    }
    out
}

/// What a node is.
///
/// # Errors
/// These bytes do not say.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, Malformed> {
    let mut reader = Reader::new(bytes);
    let answer = match reader.u8("answer")? {
        1 => Answer::Candidate {
            incarnation: reader.u64("answer")?,
            list: reader.take("answer")?,
        },
        2 => Answer::Planned {
            incarnation: reader.u64("answer")?,
            cluster: reader.take("answer")?,
        },
        3 => Answer::Member {
            cluster: reader.take("answer")?,
            members: take_members(&mut reader)?,
        },
        _ => return Err(Malformed("answer")),
    };
    reader.end("answer")?;
    Ok(answer)
}

/// A plan.
pub fn encode_plan(plan: &Plan) -> Vec<u8> {
    let mut out = plan.cluster.to_vec();
    out.extend_from_slice(&plan.list);
    put_members(&mut out, &plan.members);
    out
}

/// A plan.
///
/// # Errors
/// These bytes are none.
pub fn decode_plan(bytes: &[u8]) -> Result<Plan, Malformed> {
    let mut reader = Reader::new(bytes);
    let plan = Plan {
        cluster: reader.take("plan")?,
        list: reader.take("plan")?,
        members: take_members(&mut reader)?,
    };
    reader.end("plan")?;
    Ok(plan)
}

/// A wish to join.
pub fn encode_join(joiner: &Joiner) -> Vec<u8> {
    let mut out = joiner.incarnation.to_le_bytes().to_vec();
    out.extend_from_slice(&joiner.address.port.to_le_bytes());
    put_text(&mut out, joiner.address.name.as_str());
    put_text(&mut out, &joiner.address.host);
    out
}

/// A wish to join.
///
/// # Errors
/// These bytes are none.
pub fn decode_join(bytes: &[u8]) -> Result<Joiner, Malformed> {
    let mut reader = Reader::new(bytes);
    let incarnation = reader.u64("join")?;
    let port = reader.u16("join")?;
    let name = take_name(&mut reader)?;
    let host = take_text(&mut reader)?.to_owned();
    reader.end("join")?;
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed("host"));
    }
    let address = NodeAddress { name, host, port };
    Ok(Joiner {
        incarnation,
        address,
    })
}

/// A place was given.
pub fn encode_joined(joined: &Joined) -> Vec<u8> {
    let mut out = joined.cluster.to_vec();
    out.extend_from_slice(&joined.node.to_le_bytes());
    put_members(&mut out, &joined.members);
    // As many as members, also where the caller has not said.
    for at in 0..joined.members.len().min(MEMBERS_MAX) {
        let (host, port) = joined.places.get(at).map_or(("", 0), |(h, p)| (h, *p));
        out.extend_from_slice(&port.to_le_bytes());
        put_text(&mut out, host);
    }
    out
}

/// A question of a member whether it was forgotten.
pub fn encode_standing(node: NodeId, incarnation: u64) -> Vec<u8> {
    let mut out = node.to_le_bytes().to_vec();
    out.extend_from_slice(&incarnation.to_le_bytes());
    out
}

/// Node and incarnation of who asks.
///
/// # Errors
/// These bytes do not say.
pub fn decode_standing(bytes: &[u8]) -> Result<(NodeId, u64), Malformed> {
    let mut reader = Reader::new(bytes);
    let who = (reader.u64("standing")?, reader.u64("standing")?);
    reader.end("standing")?;
    Ok(who)
}

/// A place was given.
///
/// # Errors
/// These bytes give none.
pub fn decode_joined(bytes: &[u8]) -> Result<Joined, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut joined = Joined {
        cluster: reader.take("joined")?,
        node: reader.u64("joined")?,
        members: take_members(&mut reader)?,
        places: Vec::new(),
    };
    for _ in 0..joined.members.len() {
        let port = reader.u16("joined")?;
        joined
            .places
            .push((take_text(&mut reader)?.to_owned(), port));
    }
    reader.end("joined")?;
    if joined.cluster == [0; 16] || joined.node == 0 {
        return Err(Malformed("joined"));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("a name")
    }

    #[test]
    fn messages_keep_what_they_say() {
        let members = vec![
            Member {
                node: 1,
                name: name("a@h"),
                incarnation: 5,
            },
            Member {
                node: 2,
                name: name(&format!("b@{}", "h".repeat(253))),
                incarnation: u64::MAX,
            },
        ];
        let cluster = [3; 16];
        let answers = [
            Answer::Candidate {
                incarnation: 1,
                list: [9; 32],
            },
            Answer::Planned {
                incarnation: 2,
                cluster,
            },
            Answer::Member {
                cluster,
                members: members.clone(),
            },
        ];
        for answer in answers {
            let bytes = encode_answer(&answer);
            assert_eq!(decode_answer(&bytes), Ok(answer));
            for cut in 0..bytes.len() {
                assert!(decode_answer(&bytes[..cut]).is_err());
            }
        }
        let plan = Plan {
            cluster,
            list: [4; 32],
            members: members.clone(),
        };
        assert_eq!(decode_plan(&encode_plan(&plan)), Ok(plan));
        let address = NodeAddress::parse("c@[::1]:77", 1).expect("an address");
        let joiner = Joiner {
            incarnation: 8,
            address,
        };
        assert_eq!(decode_join(&encode_join(&joiner)), Ok(joiner));
        let joined = Joined {
            cluster,
            node: 3,
            members,
            places: vec![("h".to_owned(), 7), ("::1".to_owned(), 25672)],
        };
        let (_, address) = joined.addresses().nth(1).expect("two");
        assert_eq!((address.host.as_str(), address.port), ("::1", 25672));
        assert_eq!(decode_standing(&encode_standing(4, 9)), Ok((4, 9)));
        assert!(decode_standing(&[0; 15]).is_err());
        assert_eq!(decode_joined(&encode_joined(&joined)), Ok(joined));
    }
}
