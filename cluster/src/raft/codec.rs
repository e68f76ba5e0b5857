//! Bytes of votes, memberships and entries: in the journal's records, in checkpoints and on the wire.
//!
//! Little-endian, every count with a bound, nothing accepted that would not be written: `decode(encode(x)) == x` and
//! `encode(decode(b)) == b`. Decoding is total: any bytes give a value or [`Malformed`], never a panic.
//!
//! ```text
//! vote        committed u8 (0, 1) | zero, 7 | term u64 | member u64                       24 bytes
//! log id      term u64 | index u64                                                        16 bytes
//! optional    0 u8, or 1 u8 | log id
//! membership  configs u8 | of each: voters u16, member u64 each, ascending | members u16 | member u64 each, ascending
//! stored      optional log id | membership
//! body        1 u8 | the state machine's bytes, or 2 u8, or 3 u8 | membership
//! ```
//!
//! A group's records in the journal; index and term are the record header's:
//!
//! | kind | index, term | payload |
//! |---|---|---|
//! | Entry | the entry's | body |
//! | Vote | 0, the vote's term | vote |
//! | Truncate | of the last entry that stays | empty; or 1 u8, and index and term 0: none stays |
//! | Purge | of the last entry that goes | empty |
//! | Commit | of an entry that is committed; a hint | empty |
//! | GroupCreated | 0, 0 | member u64: whose log it is from here on |
//! | GroupDropped | 0, 0 | empty: nothing of the group before counts any more |

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::types::{
    Body, LeaderId, LogId, MemberId, Membership, Payload, StoredMembership, Vote, body_kind, log_id,
};

/// Bytes of a vote.
pub const VOTE_BYTES: usize = 24;
/// Configurations of one membership: two while it changes.
pub const CONFIGS_MAX: usize = 8;
/// Members of one group.
pub const MEMBERS_MAX: usize = 256;

/// Bytes that nobody encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Takes values off the front of bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// There are fewer; `what` was to be read.
    pub fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(*first)
    }

    /// The next byte.
    ///
    /// # Errors
    /// There is none.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.take::<1>(what).map(|[byte]| byte)
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.take(what).map(u16::from_le_bytes)
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (first, rest) = self.0.split_at_checked(count).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(first)
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(self, what: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed(what))
        }
    }
}

/// Puts a vote behind `out`.
pub fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.extend_from_slice(&[u8::from(vote.committed), 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
}

/// Takes a vote.
///
/// # Errors
/// It is none.
pub fn take_vote(reader: &mut Reader<'_>) -> Result<Vote, Malformed> {
    let committed = match reader.u64("vote")? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("vote")),
    };
    let (term, voted_for) = (reader.u64("vote")?, reader.u64("vote")?);
    let leader_id = LeaderId { term, voted_for };
    Ok(Vote {
        leader_id,
        committed,
    })
}

/// Puts a log id behind `out`.
pub fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    out.extend_from_slice(&id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

/// Takes a log id.
///
/// # Errors
/// It is none.
pub fn take_log_id(reader: &mut Reader<'_>) -> Result<LogId, Malformed> {
    Ok(log_id(reader.u64("log id")?, reader.u64("log id")?))
}

/// Puts a log id, or that there is none, behind `out`.
pub fn put_optional_log_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

/// Takes a log id, or that there is none.
///
/// # Errors
/// It is neither.
pub fn take_optional_log_id(reader: &mut Reader<'_>) -> Result<Option<LogId>, Malformed> {
    match reader.u8("log id")? {
        0 => Ok(None),
        1 => take_log_id(reader).map(Some),
        _ => Err(Malformed("log id")),
    }
}

/// Puts a membership behind `out`. One beyond [`CONFIGS_MAX`] or [`MEMBERS_MAX`] cannot be read again; groups see to it that
/// there is none.
pub fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.push(configs.len() as u8);
    for config in configs {
        put_members(out, config.iter());
    }
    let members: Vec<&MemberId> = membership.nodes().map(|(id, ())| id).collect();
    put_members(out, members.into_iter());
}

fn put_members<'a>(out: &mut Vec<u8>, members: impl ExactSizeIterator<Item = &'a MemberId>) {
    out.extend_from_slice(&(members.len() as u16).to_le_bytes());
    for member in members {
        out.extend_from_slice(&member.to_le_bytes());
    }
}

/// Takes a membership.
///
/// # Errors
/// It is none, or beyond its bounds.
pub fn take_membership(reader: &mut Reader<'_>) -> Result<Membership, Malformed> {
    let what = "membership";
    let count = usize::from(reader.u8(what)?);
    if count > CONFIGS_MAX {
        return Err(Malformed(what));
    }
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        configs.push(take_members(reader)?);
    }
    let members: BTreeMap<MemberId, ()> = take_members(reader)?
        .into_iter()
        .map(|id| (id, ()))
        .collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|_| Malformed(what))
}

fn take_members(reader: &mut Reader<'_>) -> Result<BTreeSet<MemberId>, Malformed> {
    let what = "membership";
    let count = usize::from(reader.u16(what)?);
    if count > MEMBERS_MAX {
        return Err(Malformed(what));
    }
    let mut members = BTreeSet::new();
    for _ in 0..count {
        let member = reader.u64(what)?;
        if members.last().is_some_and(|last| *last >= member) {
            return Err(Malformed(what));
        }
        members.insert(member);
    }
    Ok(members)
}

/// Puts a membership and the entry it came with behind `out`.
pub fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_optional_log_id(out, stored.log_id().as_ref());
    put_membership(out, stored.membership());
}

/// Takes a membership and the entry it came with.
///
/// # Errors
/// It is none.
pub fn take_stored_membership(reader: &mut Reader<'_>) -> Result<StoredMembership, Malformed> {
    let id = take_optional_log_id(reader)?;
    Ok(StoredMembership::new(id, take_membership(reader)?))
}

/// The bytes of an entry's body. Those of data are counted, not copied.
pub fn encode_body(body: &Body) -> Bytes {
    match body {
        Body::Normal(payload) => payload.encoded().clone(),
        Body::Blank => Bytes::from_static(&[body_kind::BLANK]),
        Body::Membership(membership) => {
            let mut out = vec![body_kind::MEMBERSHIP];
            put_membership(&mut out, membership);
            Bytes::from(out)
        }
    }
}

/// The body that these bytes are. Data are counted, not copied.
///
/// # Errors
/// They are none.
pub fn decode_body(bytes: Bytes) -> Result<Body, Malformed> {
    let mut reader = Reader::new(&bytes);
    match reader.u8("entry")? {
        body_kind::NORMAL => Payload::new(bytes)
            .map(Body::Normal)
            .ok_or(Malformed("entry")),
        body_kind::BLANK => reader.end("entry").map(|()| Body::Blank),
        body_kind::MEMBERSHIP => {
            let membership = take_membership(&mut reader)?;
            reader.end("entry")?;
            Ok(Body::Membership(membership))
        }
        _ => Err(Malformed("entry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4 << 16])];
        Membership::new_with_defaults(configs, [9])
    }

    #[test]
    fn what_is_put_is_taken() {
        let vote = Vote::new_committed(7, 3);
        let stored = StoredMembership::new(Some(log_id(2, 5)), membership());
        let mut out = Vec::new();
        put_vote(&mut out, &vote);
        assert_eq!(out.len(), VOTE_BYTES);
        put_stored_membership(&mut out, &stored);
        put_optional_log_id(&mut out, None);
        let mut reader = Reader::new(&out);
        assert_eq!(take_vote(&mut reader), Ok(vote));
        assert_eq!(take_stored_membership(&mut reader), Ok(stored));
        assert_eq!(take_optional_log_id(&mut reader), Ok(None));
        reader.end("").expect("all of it was read");
    }

    #[test]
    fn bodies_keep_their_bytes() {
        for body in [
            Body::Blank,
            Body::Membership(membership()),
            Body::Membership(Membership::default()),
            Body::Normal(Payload::copied(b"abc")),
        ] {
            let bytes = encode_body(&body);
            assert_eq!(decode_body(bytes.clone()), Ok(body));
            for cut in 0..bytes.len() {
                let cut = bytes.slice(..cut);
                assert!(cut.first() == Some(&1) || decode_body(cut).is_err());
            }
        }
    }

    #[test]
    fn the_layout_stays() {
        let mut out = Vec::new();
        put_vote(&mut out, &Vote::new(0x0102, 0x0304));
        assert_eq!(
            out,
            [
                &[0; 8][..],
                &[2, 1, 0, 0, 0, 0, 0, 0],
                &[4, 3, 0, 0, 0, 0, 0, 0]
            ]
            .concat()
        );
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([5])], [6]);
        let bytes = encode_body(&Body::Membership(membership));
        let expected: &[&[u8]] = &[
            &[3, 1, 1, 0, 5],
            &[0; 7],
            &[2, 0, 5],
            &[0; 7],
            &[6],
            &[0; 7],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn bounds_hold() {
        let mut many = vec![body_kind::MEMBERSHIP, 200];
        many.extend_from_slice(&[0; 2000]);
        assert!(decode_body(many.into()).is_err());
        let unordered = [&[3, 0, 2, 0, 5][..], &[0; 7], &[5], &[0; 7]].concat();
        assert!(decode_body(unordered.into()).is_err());
        assert!(decode_body(Bytes::from_static(&[2, 0])).is_err());
        assert!(decode_body(Bytes::from_static(&[9])).is_err());
        assert!(take_vote(&mut Reader::new(&[2; 24])).is_err());
    }
}
