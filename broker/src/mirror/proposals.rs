//! This node's changes of the metadata, on their way through group 0.
//!
//! A command gets a number in this node's session, goes to the leader of group 0, and again to the next one until it is seen to be
//! applied here; the state machine applies each number of a session once ([`Applied`]). Its answer waits until every node that may serve
//! a publish has applied it too, so that after a `-ok` a publish through any of them sees the change.
//!
//! The payload of an entry: `1 u8, 0 u8, reserved u16, reserved u32, node u64, incarnation u64, number u64, JSON of the command`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use leveret_protocol::ReplyCode;
use leveret_queue::SessionId;
use leveret_topology::{Command, Outcome, Refusal};
use parking_lot::Mutex;

use super::session::Leader;

/// Commands of this node that are under way at most.
const UNDER_WAY_MAX: usize = 65_536;
/// Bytes before the command.
const HEAD: usize = 32;

/// Who is told what became of a command.
pub type Told = Box<dyn FnOnce(Result<Outcome, Refusal>) + Send>;

/// How commands reach the leader of group 0, in the order of the calls.
pub trait Carrier: Send + Sync {
    /// Sends, or drops what cannot be sent: everything is sent again to the next leader.
    fn carry(&self, to: Leader, payload: Bytes);
}

/// A command as an entry of group 0 has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    /// Whose.
    pub session: SessionId,
    /// Its number there.
    pub number: u64,
    /// The command.
    pub command: Command,
}

impl Numbered {
    /// The entry's payload.
    pub fn encode(session: SessionId, number: u64, command: &Command) -> Bytes {
        let mut out = vec![1, 0, 0, 0, 0, 0, 0, 0];
        for word in [session.node, session.incarnation, number] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&command.encode());
        Bytes::from(out)
    }

    /// Session and number of a payload, without a look at the command.
    pub fn head(payload: &[u8]) -> Option<(SessionId, u64)> {
        let word = |at: usize| {
            let bytes = payload.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if !payload.starts_with(&[1, 0, 0, 0, 0, 0, 0, 0]) {
            return None;
        }
        let session = SessionId {
            node: word(8)?,
            incarnation: word(16)?,
        };
        Some((session, word(24)?))
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// It is none, or a newer program wrote it.
    pub fn decode(payload: &[u8]) -> Result<Numbered, String> {
        let (session, number) = Self::head(payload).ok_or("not a command of the metadata")?;
        let json = payload.get(HEAD..).unwrap_or_default();
        let command = Command::decode(json).map_err(|e| e.to_string())?;
        Ok(Numbered {
            session,
            number,
            command,
        })
    }
}

struct UnderWay {
    number: u64,
    payload: Bytes,
    told: Option<Told>,
    /// Applied here at this index, with this outcome.
    applied: Option<(u64, Result<Outcome, Refusal>)>,
}

#[derive(Default)]
struct Inner {
    leader: Option<Leader>,
    last: u64,
    under_way: VecDeque<UnderWay>,
    /// Nodes that may serve a publish, and how far each has come.
    others: BTreeMap<u64, u64>,
}

/// See the module.
pub struct Proposals {
    session: SessionId,
    inner: Mutex<Inner>,
    carrier: Arc<dyn Carrier>,
}

impl std::fmt::Debug for Proposals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Proposals({} under way)",
            self.inner.lock().under_way.len()
        )
    }
}

impl Proposals {
    /// None so far.
    pub fn new(session: SessionId, carrier: Arc<dyn Carrier>) -> Proposals {
        Proposals {
            session,
            inner: Mutex::default(),
            carrier,
        }
    }

    /// Proposes; `told` hears what became of it, on whichever thread finds out.
    pub fn propose(&self, command: &Command, told: Told) {
        let mut inner = self.inner.lock();
        if inner.under_way.len() >= UNDER_WAY_MAX {
            drop(inner);
            let text = "too many changes of the metadata are under way";
            return told(Err(Refusal::new(ReplyCode::ResourceError, text)));
        }
        inner.last += 1;
        let payload = Numbered::encode(self.session, inner.last, command);
        let number = inner.last;
        inner.under_way.push_back(UnderWay {
            number,
            payload: payload.clone(),
            told: Some(told),
            applied: None,
        });
        // Under the lock: the leader takes numbers in their order only.
        if let Some(leader) = inner.leader {
            self.carrier.carry(leader, payload);
        }
    }

    /// Who leads group 0, as far as is known.
    pub fn leader(&self) -> Option<Leader> {
        self.inner.lock().leader
    }

    /// Who leads group 0: everything that is not applied is sent to it.
    pub fn lead_by(&self, leader: Option<Leader>) {
        let mut inner = self.inner.lock();
        if inner.leader == leader {
            return;
        }
        inner.leader = leader;
        let Some(leader) = leader else { return };
        for under_way in &inner.under_way {
            if under_way.applied.is_none() {
                self.carrier.carry(leader, under_way.payload.clone());
            }
        }
    }

    /// A command was applied here, whoever proposed it.
    pub fn applied(
        &self,
        index: u64,
        session: SessionId,
        number: u64,
        result: Result<Outcome, Refusal>,
    ) {
        if session != self.session {
            return;
        }
        let mut inner = self.inner.lock();
        let mut own = inner.under_way.iter_mut();
        if let Some(under_way) = own.find(|u| u.number == number) {
            under_way.applied = Some((index, result));
        }
        Self::tell(inner);
    }

    /// The state here was replaced by another member's as of `index`, which has the numbers of this session up to `last`. What became
    /// of those that were not applied here one by one is not known.
    pub fn replaced(&self, index: u64, last: u64) {
        let mut inner = self.inner.lock();
        for under_way in &mut inner.under_way {
            if under_way.number <= last && under_way.applied.is_none() {
                let text = "the change was decided while this node was behind; what came of it is not known here";
                let unknown = Refusal::new(ReplyCode::InternalError, text);
                under_way.applied = Some((index, Err(unknown)));
            }
        }
        Self::tell(inner);
    }

    /// Another node has applied everything up to an index.
    pub fn other_applied(&self, node: u64, index: u64) {
        let mut inner = self.inner.lock();
        let known = inner.others.entry(node).or_default();
        *known = index.max(*known);
        Self::tell(inner);
    }

    /// Another node serves nobody any more: nobody waits for it.
    pub fn other_gone(&self, node: u64) {
        let mut inner = self.inner.lock();
        inner.others.remove(&node);
        Self::tell(inner);
    }

    fn tell(mut inner: parking_lot::MutexGuard<'_, Inner>) {
        let everywhere = inner.others.values().copied().min().unwrap_or(u64::MAX);
        let mut done = Vec::new();
        while let Some(first) = inner.under_way.front_mut() {
            // A refusal has changed nothing that others would have to know.
            match &first.applied {
                Some((index, result)) if *index <= everywhere || result.is_err() => {}
                _ => break,
            }
            let told = first.told.take();
            let applied = first.applied.take();
            done.extend(told.zip(applied.map(|(_, result)| result)));
            inner.under_way.pop_front();
        }
        drop(inner);
        for (told, result) in done {
            told(result);
        }
    }
}

/// What group 0 has applied of each session: each number once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    sessions: BTreeMap<SessionId, u64>,
}

impl Applied {
    /// Whether a number is the session's next; it counts as applied then.
    pub fn take(&mut self, session: SessionId, number: u64) -> bool {
        let last = self.sessions.entry(session).or_default();
        let next = number == *last + 1;
        if next {
            *last = number;
        } else if *last == 0 {
            self.sessions.remove(&session);
        }
        next
    }

    /// A new life of a node has begun: what its earlier ones proposed will not come again.
    pub fn forget_before(&mut self, life: SessionId) {
        self.sessions.retain(|session, _| {
            session.node != life.node || session.incarnation >= life.incarnation
        });
    }

    /// The last number that was applied of a session.
    pub fn last(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).copied().unwrap_or(0)
    }

    /// Appends its bytes: `count u32`, then node, incarnation and number of each.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.sessions.len() as u32).to_le_bytes());
        for (session, number) in &self.sessions {
            for word in [session.node, session.incarnation, *number] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Decodes what [`Applied::encode`] wrote, and answers what is behind it.
    pub fn decode(bytes: &[u8]) -> Option<(Applied, &[u8])> {
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        let mut sessions = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let mut words = [0; 3];
            for word in &mut words {
                let (bytes, behind) = rest.split_first_chunk::<8>()?;
                *word = u64::from_le_bytes(*bytes);
                rest = behind;
            }
            let [node, incarnation, number] = words;
            sessions.insert(SessionId { node, incarnation }, number);
        }
        Some((Applied { sessions }, rest))
    }
}

#[cfg(test)]
mod tests {
    use leveret_topology::{CloseConnection, OwnerId};

    use super::*;

    const SESSION: SessionId = SessionId {
        node: 1,
        incarnation: 5,
    };

    #[derive(Default)]
    struct Carried(Mutex<Vec<(Leader, u64)>>);

    impl Carrier for Carried {
        fn carry(&self, to: Leader, payload: Bytes) {
            let (_, number) = Numbered::head(&payload).expect("a head");
            self.0.lock().push((to, number));
        }
    }

    fn command() -> Command {
        Command::CloseConnection(CloseConnection {
            connection: OwnerId(7),
        })
    }

    fn leader(node: u64, term: u64) -> Leader {
        Leader { node, term, era: 0 }
    }

    type Heard = Arc<Mutex<Vec<u64>>>;

    fn proposals(heard: &Heard, count: u64) -> (Proposals, Arc<Carried>) {
        let carried = Arc::new(Carried::default());
        let proposals = Proposals::new(SESSION, carried.clone());
        for number in 1..=count {
            let heard = Arc::clone(heard);
            let told = Box::new(move |_| heard.lock().push(number));
            proposals.propose(&command(), told);
        }
        (proposals, carried)
    }

    #[test]
    fn a_payload_is_what_it_was() {
        let payload = Numbered::encode(SESSION, 9, &command());
        let numbered = Numbered::decode(&payload).expect("a command");
        assert_eq!(
            (numbered.session, numbered.number, numbered.command),
            (SESSION, 9, command())
        );
        for end in 0..HEAD {
            assert!(Numbered::decode(&payload[..end]).is_err());
        }
    }

    #[test]
    fn everything_that_is_not_applied_goes_to_the_next_leader_in_order() {
        let heard = Heard::default();
        let (proposals, carried) = proposals(&heard, 3);
        proposals.lead_by(Some(leader(2, 4)));
        proposals.applied(10, SESSION, 1, Ok(Outcome::default()));
        proposals.lead_by(None);
        proposals.lead_by(Some(leader(3, 5)));
        let to = |l: Leader, numbers: &[u64]| numbers.iter().map(|n| (l, *n)).collect::<Vec<_>>();
        let mut want = to(leader(2, 4), &[1, 2, 3]);
        want.extend(to(leader(3, 5), &[2, 3]));
        assert_eq!(*carried.0.lock(), want);
        assert_eq!(*heard.lock(), [1]);
    }

    #[test]
    fn an_answer_waits_until_all_that_serve_have_applied_it() {
        let heard = Heard::default();
        let (proposals, _) = proposals(&heard, 2);
        proposals.other_applied(2, 9);
        proposals.other_applied(3, 9);
        proposals.applied(10, SESSION, 1, Ok(Outcome::default()));
        assert!(heard.lock().is_empty());
        proposals.other_applied(2, 10);
        assert!(heard.lock().is_empty());
        // The last one is gone: nobody waits for it.
        proposals.other_gone(3);
        assert_eq!(*heard.lock(), [1]);
        let refused = Refusal::new(ReplyCode::NotFound, "no");
        proposals.applied(11, SESSION, 2, Err(refused));
        assert_eq!(*heard.lock(), [1, 2]);
    }

    #[test]
    fn what_a_snapshot_brought_is_answered_and_holds_nothing_up() {
        let heard = Heard::default();
        let (proposals, _) = proposals(&heard, 3);
        proposals.other_applied(2, 20);
        proposals.replaced(20, 2);
        assert_eq!(*heard.lock(), [1, 2]);
        proposals.applied(20, SESSION, 3, Ok(Outcome::default()));
        assert_eq!(*heard.lock(), [1, 2, 3]);
    }

    #[test]
    fn what_others_proposed_is_not_ours() {
        let heard = Heard::default();
        let (proposals, _) = proposals(&heard, 1);
        let other = SessionId {
            node: 2,
            incarnation: 5,
        };
        proposals.applied(10, other, 1, Ok(Outcome::default()));
        assert!(heard.lock().is_empty());
    }

    #[test]
    fn a_number_is_applied_once_and_in_order() {
        let mut applied = Applied::default();
        assert!(!applied.take(SESSION, 2));
        assert!(applied.take(SESSION, 1));
        assert!(!applied.take(SESSION, 1));
        assert!(applied.take(SESSION, 2));
        let mut bytes = Vec::new();
        applied.encode(&mut bytes);
        bytes.push(9);
        assert_eq!(Applied::decode(&bytes), Some((applied.clone(), &[9][..])));
        applied.forget_before(SESSION);
        assert!(!applied.take(SESSION, 2));
        applied.forget_before(SessionId {
            node: 1,
            incarnation: 6,
        });
        assert!(applied.take(SESSION, 1));
    }
}
