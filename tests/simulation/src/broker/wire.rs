//! What goes over the session connections between two nodes. Little-endian words, then a message of the broker's as it encodes it.

use bytes::Bytes;
use leveret::mirror::message::{Down, Up};
use leveret::mirror::session::Leader;
use leveret_cluster::GroupId;

use crate::deliveries::Reign;

/// A frame.
#[derive(Debug)]
pub enum Frame {
    /// From a session, for a leader in this reign.
    Up(GroupId, Reign, Up),
    /// From a leader in this reign, for a session of this process.
    Down(GroupId, Reign, u64, Down),
    /// The sender leads.
    Leads(GroupId, Reign),
    /// The sender wants to know what the receiver leads.
    WhoLeads,
    /// The sender knows no leader of the group.
    WhoLeadsIt(GroupId),
}

/// Term and era.
pub fn reign(leader: Leader) -> Reign {
    (leader.term, leader.era)
}

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let (kind, group, (term, era), to) = match self {
            Frame::Up(group, reign, _) => (0u64, *group, *reign, 0),
            Frame::Down(group, reign, to, _) => (1, *group, *reign, *to),
            Frame::Leads(group, reign) => (2, *group, *reign, 0),
            Frame::WhoLeads => (3, 0, (0, 0), 0),
            Frame::WhoLeadsIt(group) => (4, *group, (0, 0), 0),
        };
        let words = [kind, u64::from(group), term, era, to];
        let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        match self {
            Frame::Up(_, _, up) => {
                let entry = up.encode(&mut out);
                out.extend_from_slice(&entry.unwrap_or_default());
            }
            Frame::Down(_, _, _, down) => down.encode(&mut out),
            _ => {}
        }
        out.into()
    }

    /// The frame of these bytes.
    pub fn decode(bytes: &Bytes) -> Option<Frame> {
        let word = |at: usize| {
            let word = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        let group = word(1)? as GroupId;
        let reign = (word(2)?, word(3)?);
        let rest = bytes.slice(40..);
        Some(match word(0)? {
            0 => Frame::Up(group, reign, Up::decode(&rest).ok()?),
            1 => Frame::Down(group, reign, word(4)?, Down::decode(&rest).ok()?),
            2 => Frame::Leads(group, reign),
            3 => Frame::WhoLeads,
            _ => Frame::WhoLeadsIt(group),
        })
    }
}
