//! What a checkpoint of a Raft group has before the state machine's bytes.
//!
//! ```text
//! version u8 = 1 | member u64 | optional vote | optional log id purged | optional log id applied | stored membership
//! ```
//!
//! It stands for all of the group's records below the checkpoint's location. The vote and the purged id may be newer than
//! that; records that are replayed bring them there again.

use bytes::Bytes;

use super::codec::{self, Malformed, Reader};
use super::types::{LogId, MemberId, StoredMembership, Vote};

const VERSION: u8 = 1;

/// The group's part of its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Whose log it is.
    pub member: MemberId,
    /// The vote.
    pub vote: Option<Vote>,
    /// Up to where the log is purged.
    pub purged: Option<LogId>,
    /// The last entry that is in the state.
    pub applied: Option<LogId>,
    /// The membership as of that entry.
    pub membership: StoredMembership,
}

impl Head {
    /// The head's bytes and the state behind them.
    pub fn encode(&self, state: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + state.len());
        out.push(VERSION);
        out.extend_from_slice(&self.member.to_le_bytes());
        out.push(u8::from(self.vote.is_some()));
        if let Some(vote) = &self.vote {
            codec::put_vote(&mut out, vote);
        }
        codec::put_optional_log_id(&mut out, self.purged.as_ref());
        codec::put_optional_log_id(&mut out, self.applied.as_ref());
        codec::put_stored_membership(&mut out, &self.membership);
        out.extend_from_slice(state);
        out
    }

    /// The head and the state, a slice of `bytes`.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn decode(bytes: &Bytes) -> Result<(Head, Bytes), Malformed> {
        let what = "checkpoint of a group";
        let mut reader = Reader::new(bytes);
        if reader.u8(what)? != VERSION {
            return Err(Malformed(what));
        }
        let member = reader.u64(what)?;
        let vote = match reader.u8(what)? {
            0 => None,
            1 => Some(codec::take_vote(&mut reader)?),
            _ => return Err(Malformed(what)),
        };
        let head = Head {
            member,
            vote,
            purged: codec::take_optional_log_id(&mut reader)?,
            applied: codec::take_optional_log_id(&mut reader)?,
            membership: codec::take_stored_membership(&mut reader)?,
        };
        let start = bytes.len() - reader.rest().len();
        Ok((head, bytes.slice(start..)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Membership, log_id};
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_cuts_are_refused() {
        let membership = Membership::new_with_defaults(vec![[1, 2].into()], [3]);
        let head = Head {
            member: 7,
            vote: Some(Vote::new_committed(3, 7)),
            purged: Some(log_id(1, 4)),
            applied: Some(log_id(2, 9)),
            membership: StoredMembership::new(Some(log_id(1, 0)), membership),
        };
        let bytes = Bytes::from(head.encode(b"state"));
        let decoded = Head::decode(&bytes).expect("a head");
        assert_eq!(decoded, (head, Bytes::from_static(b"state")));
        for cut in 0..bytes.len() - 5 {
            assert!(Head::decode(&bytes.slice(..cut)).is_err());
        }
        let empty = Bytes::from(Head::default().encode(b""));
        assert_eq!(Head::decode(&empty), Ok((Head::default(), Bytes::new())));
    }
}
