//! What openraft is told about our types.
//!
//! [`Types`] is generic over the async runtime, so that the same code runs on tokio ([`TokioTypes`]) and in the
//! deterministic simulation. Everything else is fixed:
//!
//! - a member is a [`MemberId`]: node id and log epoch in one integer, never used twice;
//! - a leader id is standard Raft's: one leader a term, so a log id is (term, index), as a journal record has it;
//! - the data of an entry is a [`Payload`]: counted bytes, encoded once, the same in the journal, in memory and on the wire;
//! - an [`Entry`] read from the log knows its [`Location`] in this node's journal;
//! - the result of an entry is `()`: who applies it tells what came of it. A [`Responder`] only says that a proposal was
//!   applied or refused.
//!
//! [`Responder`]: openraft::raft::responder::Responder

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use leveret_storage::Location;
use openraft::type_config::AsyncRuntime;
use openraft::{EntryPayload, LogId as RaftLogId, RaftTypeConfig};

/// A Raft term.
pub type Term = u64;

/// A member of a group: `generation << 32 | node id << 16 | log epoch`, see [`member_of`].
pub type MemberId = u64;

/// Who leads, or wants to, in which term. One leader a term.
pub type LeaderId = openraft::impls::leader_id_std::LeaderId<Term, MemberId>;

/// The leader of an entry: only its term.
pub type CommittedLeaderId = openraft::vote::leader_id_std::CommittedLeaderId<Term>;

/// A vote, or a granted one.
pub type Vote = openraft::impls::Vote<LeaderId>;

/// Term and index of an entry.
pub type LogId = RaftLogId<CommittedLeaderId>;

/// Who votes and who learns.
pub type Membership = openraft::Membership<MemberId, ()>;

/// A membership and the entry it came with.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, MemberId, ()>;

/// What an entry carries: data, nothing, or a membership.
pub type Body = EntryPayload<Payload, MemberId, ()>;

/// What a snapshot says about itself.
pub type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, MemberId, ()>;

/// The types of a group on the runtime `R`.
pub struct Types<R>(PhantomData<fn() -> R>);

/// The types of a group on tokio.
pub type TokioTypes = Types<openraft_rt_tokio::TokioRuntime>;

/// Generations end here: above them is a term's place, see [`lasting_term`].
pub const GENERATION_MAX: u32 = (1 << 23) - 1;

/// Bits of a lasting term that are Raft's own.
const TERM_BITS: u32 = 40;

/// The member that `node` (16 bits) is in the first generation of a group, with the log of `epoch`: a node that lost a group's log takes
/// part again under the next epoch.
pub const fn member_id(node: u64, epoch: u16) -> MemberId {
    member_of(0, node, epoch)
}

/// The member that `node` (16 bits) is in a generation of a group, with the log of `epoch`. A group whose log was lost by a majority is formed
/// anew, as the next generation.
pub const fn member_of(generation: u32, node: u64, epoch: u16) -> MemberId {
    (generation as u64) << 32 | node << 16 | epoch as u64
}

/// The node that a member is.
pub const fn node_of(member: MemberId) -> u64 {
    member >> 16 & 0xffff
}

/// The generation of its group that a member belongs to.
pub const fn generation_of(member: MemberId) -> u32 {
    (member >> 32) as u32
}

/// A term that grows over the generations of a group: Raft's term begins anew with each.
pub const fn lasting_term(generation: u32, term: Term) -> u64 {
    (generation as u64) << TERM_BITS | term
}

/// Raft's own part of a [`lasting_term`].
pub const fn raft_term(lasting: u64) -> Term {
    lasting & ((1 << TERM_BITS) - 1)
}

/// The log epoch of a member.
pub const fn epoch_of(member: MemberId) -> u16 {
    member as u16
}

/// The log id of the entry `index` of `term`.
pub fn log_id(term: Term, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// The first byte of every entry's bytes. Also on disk and on the wire: never renumber.
pub mod body_kind {
    /// Data of the state machine.
    pub const NORMAL: u8 = 1;
    /// Nothing: the first entry of a leader.
    pub const BLANK: u8 = 2;
    /// A membership.
    pub const MEMBERSHIP: u8 = 3;
}

/// The data of an entry, as they are in the journal and on the wire: [`body_kind::NORMAL`], then the state machine's bytes.
///
/// Cloning counts a reference. Formatting prints the length only: openraft puts entries into traces.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// Bytes that begin with [`body_kind::NORMAL`]; nothing for others.
    pub fn new(encoded: Bytes) -> Option<Payload> {
        (encoded.first() == Some(&body_kind::NORMAL)).then_some(Payload(encoded))
    }

    /// A copy of the state machine's bytes with their kind before them.
    pub fn copied(data: &[u8]) -> Payload {
        let mut encoded = Vec::with_capacity(data.len() + 1);
        encoded.push(body_kind::NORMAL);
        encoded.extend_from_slice(data);
        Payload(Bytes::from(encoded))
    }

    /// All bytes, with the kind.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// The state machine's bytes.
    pub fn data(&self) -> Bytes {
        self.0.slice(1..)
    }

    /// Bytes of the whole, with the kind.
    #[allow(clippy::len_without_is_empty, reason = "a payload has its kind")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// An entry of a group's log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its term and index.
    pub log_id: LogId,
    /// What it carries.
    pub body: Body,
    /// Where it is in this node's journal; [`Location::ZERO`] while it is not.
    pub location: Location,
}

impl PartialEq for Entry {
    /// The same entry, wherever it lies.
    fn eq(&self, other: &Self) -> bool {
        self.log_id == other.log_id && self.body == other.body
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log_id, self.body)
    }
}

impl openraft::entry::RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeaderId;
    type Payload = Body;

    fn new(log_id: LogId, body: Body) -> Self {
        let location = Location::ZERO;
        Entry {
            log_id,
            body,
            location,
        }
    }

    fn log_id_parts(&self) -> (&CommittedLeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Membership> {
        match &self.body {
            Body::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}

/// Who hears what became of a proposal: called once, on the core's task. It must not block.
///
/// A core that ends drops it uncalled; whoever must know has a guard in the closure.
pub struct Answer<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Answer<T> {
    /// Calls `tell` with the result.
    pub fn new(tell: impl FnOnce(T) + Send + 'static) -> Self {
        Answer(Box::new(tell))
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl<C: RaftTypeConfig, T: Send + 'static> openraft::raft::responder::Responder<C, T>
    for Answer<T>
{
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Payload;
    type R = ();
    type NodeId = MemberId;
    type Node = ();
    type Term = Term;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Body;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = Answer<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

// By hand: a derive would ask the same of the runtime.
impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Types(PhantomData)
    }
}

impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_a_node_and_an_epoch() {
        let member = member_id(7, 3);
        assert_eq!((node_of(member), epoch_of(member)), (7, 3));
        assert!(member_id(7, 4) > member);
        let later = member_of(2, 7, 3);
        assert_eq!(
            (generation_of(later), node_of(later), epoch_of(later)),
            (2, 7, 3)
        );
        assert!(member_of(GENERATION_MAX, 0xffff, 0xffff) > later && later > member);
    }

    #[test]
    fn a_term_of_a_later_generation_is_a_later_term() {
        let early = lasting_term(0, 900);
        assert_eq!(early, 900);
        let late = lasting_term(GENERATION_MAX, 3);
        assert!(late > lasting_term(1, 900) && lasting_term(1, 1) > early);
        assert_eq!(raft_term(late), 3);
    }

    #[test]
    fn payloads_print_their_length_only() {
        let payload = Payload::copied(b"secret");
        assert_eq!(format!("{payload} {payload:?}"), "7 bytes 7 bytes");
        assert_eq!(payload.data(), b"secret"[..]);
        assert_eq!(Payload::new(payload.encoded().clone()), Some(payload));
        assert_eq!(Payload::new(Bytes::from_static(&[2, 1])), None);
        assert_eq!(Payload::new(Bytes::new()), None);
    }
}
