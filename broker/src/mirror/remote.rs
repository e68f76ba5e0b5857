//! What nodes of a cluster tell and ask each other about what no group keeps: direct replies, alarms, what an operator wants to see.
//!
//! Over the `session` connections, as everything between nodes, in the order in which it is sent. A question is answered, or its answer
//! is `None` once the connection to the other node is gone. Owned by the [`Mirror`]; called by connections (direct replies), by the node
//! (alarms) and by the command line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leveret_cluster::METADATA_GROUP;
use leveret_cluster::wire::frame::Frame;
use leveret_cluster::wire::hello::Purpose;
use leveret_queue::{EntryBuf, Message};
use parking_lot::Mutex;

use super::Mirror;

/// Kinds of frames on `session` connections, besides those of sessions themselves.
pub(super) mod kind {
    /// A question: `id u64, matter u8`, then what it is about.
    pub const ASK: u8 = 32;
    /// The answer to one: `id u64, there u8`, then the answer if there is one.
    pub const ANSWER: u8 = 33;
    /// The sender's alarms: `memory u8, disk u8`.
    pub const ALARMS: u8 = 34;
    /// A direct reply: `length u8, token`, then the message.
    pub const REPLY: u8 = 35;
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Matter {
    /// Whether a consumer of direct replies is there: its token. The answer has one byte, 1 if it is.
    Reply = 1,
    /// A verb of the command line, to be done on that node alone: the request in JSON. The answer is the output in JSON.
    Verb = 2,
    /// A look at all queues that the node leads.
    Views = 3,
    /// What the API of another node asks: `management::everywhere::Ask` in JSON. The answer is JSON as well.
    Report = 4,
    /// A command line that names that node: the request in JSON, done as if it had come over that node's own socket. The answer is
    /// [`crate::ctl::protocol::Answer`] in JSON.
    Command = 5,
}

impl Matter {
    fn of(number: u8) -> Option<Matter> {
        let all = [
            Matter::Reply,
            Matter::Verb,
            Matter::Views,
            Matter::Report,
            Matter::Command,
        ];
        all.into_iter().find(|matter| *matter as u8 == number)
    }
}

/// Hears the answer; `None`: the node is gone, or has none.
pub type Told = Box<dyn FnOnce(Option<Bytes>) + Send>;

/// Questions that wait for their answers.
const OPEN_MAX: usize = 65_536;
/// Bytes of an answer at most; of what is larger there is none. A frame between nodes takes more.
const ANSWER_BYTES_MAX: usize = 48 << 20;
/// How long an operator's question waits for a node that is there and says nothing.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Inner {
    last: u64,
    /// Who was asked, and who hears the answer.
    open: BTreeMap<u64, (u64, Told)>,
}

/// See the module.
#[derive(Default)]
pub struct Remote(Mutex<Inner>);

impl Remote {
    fn open(&self, node: u64, told: Told) -> Result<u64, Told> {
        let mut inner = self.0.lock();
        if inner.open.len() >= OPEN_MAX {
            return Err(told);
        }
        inner.last += 1;
        let id = inner.last;
        inner.open.insert(id, (node, told));
        Ok(id)
    }

    fn take(&self, node: u64, id: u64) -> Option<Told> {
        let mut inner = self.0.lock();
        if inner.open.get(&id)?.0 != node {
            return None;
        }
        inner.open.remove(&id).map(|(_, told)| told)
    }

    fn take_of(&self, node: u64) -> Vec<Told> {
        let mut inner = self.0.lock();
        let ids: Vec<u64> = inner
            .open
            .iter()
            .filter(|(_, (asked, _))| *asked == node)
            .map(|(id, _)| *id)
            .collect();
        let told = ids.iter().filter_map(|id| inner.open.remove(id));
        told.map(|(_, told)| told).collect()
    }
}

impl Mirror {
    /// Asks another node. `told` hears the answer on whichever thread has it.
    pub fn ask(&self, node: u64, matter: Matter, body: &[u8], told: Told) {
        let link = self.peers().and_then(|p| p.link(node, Purpose::Session));
        let Some(link) = link else { return told(None) };
        let id = match self.remote().open(node, told) {
            Ok(id) => id,
            Err(told) => return told(None),
        };
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.push(matter as u8);
        bytes.extend_from_slice(body);
        self.push_on(&link, kind::ASK, METADATA_GROUP, bytes, None);
    }

    /// Asks all other nodes that are there, and waits for their answers. Not to be called on a thread that serves connections.
    pub fn ask_others(&self, matter: Matter, body: &[u8]) -> Vec<(u64, Bytes)> {
        let (tell, told) = std::sync::mpsc::channel();
        let mut asked = 0;
        for node in self.peers().map(|p| p.nodes()).unwrap_or_default() {
            let tell = tell.clone();
            asked += 1;
            let told = move |answer| {
                // Whoever asked may have given up.
                let _ = tell.send((node, answer));
            };
            self.ask(node, matter, body, Box::new(told));
        }
        let until = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        while asked > 0 {
            let left = until.saturating_duration_since(Instant::now());
            match told.recv_timeout(left) {
                Ok((node, answer)) => answers.extend(answer.map(|bytes| (node, bytes))),
                Err(_) => break,
            }
            asked -= 1;
        }
        answers.sort_unstable_by_key(|(node, _)| *node);
        answers
    }

    /// Asks another node and waits for its answer, for at most `patience`; `None`: none came. Not to be called on a thread that serves
    /// connections.
    pub fn ask_and_wait(
        &self,
        node: u64,
        matter: Matter,
        body: &[u8],
        patience: Duration,
    ) -> Option<Bytes> {
        let (tell, told) = std::sync::mpsc::channel();
        let told_once = move |answer| {
            // Whoever asked may have given up.
            let _ = tell.send(answer);
        };
        self.ask(node, matter, body, Box::new(told_once));
        told.recv_timeout(patience).ok().flatten()
    }

    /// Sends a direct reply to the node of its consumer.
    pub fn send_reply(&self, node: u64, token: &str, message: &Message) {
        let Ok(length) = u8::try_from(token.len()) else {
            return;
        };
        let mut head = vec![length];
        head.extend_from_slice(token.as_bytes());
        let body = Bytes::copy_from_slice(message.op_bytes());
        self.push(node, kind::REPLY, METADATA_GROUP, head, Some(body));
    }

    /// Tells the others of this node's alarms.
    pub fn tell_alarms(&self, memory: bool, disk: bool) {
        let alarms = [u8::from(memory), u8::from(disk)];
        self.broadcast(kind::ALARMS, METADATA_GROUP, &alarms);
    }

    /// The connection to a node is gone, or the one from it: nothing comes of what it was asked.
    pub(super) fn answers_lost(&self, node: u64) {
        for told in self.remote().take_of(node) {
            told(None);
        }
    }

    /// Takes a frame of this module's kinds.
    pub(super) fn take_remote(&self, from: u64, frame: &Frame) -> Result<(), &'static str> {
        const SHORT: &str = "a frame is too short";
        let body = &frame.body;
        match frame.header.kind {
            kind::ASK => {
                let (id, rest) = body.split_first_chunk::<8>().ok_or(SHORT)?;
                let matter = rest.first().ok_or(SHORT)?;
                let id = u64::from_le_bytes(*id);
                self.asked(from, id, Matter::of(*matter), body.slice(9..));
            }
            kind::ANSWER => {
                let (id, rest) = body.split_first_chunk::<8>().ok_or(SHORT)?;
                let there = *rest.first().ok_or(SHORT)?;
                if let Some(told) = self.remote().take(from, u64::from_le_bytes(*id)) {
                    told((there == 1).then(|| body.slice(9..)));
                }
            }
            kind::ALARMS => {
                let [memory, disk] = body[..] else {
                    return Err(SHORT);
                };
                if let Some(node) = self.node() {
                    node.set_alarms_of(from, memory == 1, disk == 1);
                }
            }
            kind::REPLY => {
                let (length, rest) = body.split_first().ok_or(SHORT)?;
                let (token, message) = rest.split_at_checked(usize::from(*length)).ok_or(SHORT)?;
                let token = std::str::from_utf8(token).map_err(|_| "a token that is no text")?;
                let entry = EntryBuf::shared(body.clone());
                let start = body.len() - message.len();
                let message = Message::in_buffer(&entry, start..body.len());
                let message = message.ok_or("a reply that is no message")?;
                if let Some(node) = self.node() {
                    node.take_reply(token, message);
                }
            }
            _ => return Err("a frame of an unknown kind"),
        }
        Ok(())
    }

    /// Answers a question; one that takes longer on a thread of its own.
    fn asked(&self, from: u64, id: u64, matter: Option<Matter>, body: Bytes) {
        let (Some(node), Some(runtime)) = (self.node(), self.runtime()) else {
            return;
        };
        if matter == Some(Matter::Reply) {
            let token = std::str::from_utf8(&body).ok();
            let there = token.is_some_and(|t| node.reply_routes().find(t).is_some());
            return self.answer(from, id, Some(vec![u8::from(there)]));
        }
        runtime.spawn_blocking(move || {
            let answer = match matter {
                Some(Matter::Verb) => crate::ctl::answer_here(&node, &body),
                Some(Matter::Views) => Some(node.encode_views()),
                Some(Matter::Report) => crate::management::everywhere::answer_here(&node, &body),
                Some(Matter::Command) => crate::ctl::answer_command(&node, &body),
                Some(Matter::Reply) | None => None,
            };
            if let Some(mirror) = node.mirror() {
                mirror.answer(from, id, answer);
            }
        });
    }

    fn answer(&self, to: u64, id: u64, answer: Option<Vec<u8>>) {
        let answer = answer.filter(|bytes| bytes.len() <= ANSWER_BYTES_MAX);
        let mut head = id.to_le_bytes().to_vec();
        head.push(u8::from(answer.is_some()));
        let tail = answer.map(Bytes::from);
        self.push(to, kind::ANSWER, METADATA_GROUP, head, tail);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_answer_counts_once_and_only_from_whom_was_asked() {
        let remote = Remote::default();
        let heard: Arc<Mutex<Vec<Option<Bytes>>>> = Arc::default();
        let hear = |heard: &Arc<Mutex<Vec<_>>>| -> Told {
            let heard = Arc::clone(heard);
            Box::new(move |answer| heard.lock().push(answer))
        };
        let first = remote.open(2, hear(&heard)).ok().expect("room");
        let second = remote.open(3, hear(&heard)).ok().expect("room");
        assert!(remote.take(3, first).is_none());
        remote.take(2, first).expect("asked")(Some(Bytes::from_static(b"x")));
        assert!(remote.take(2, first).is_none());
        assert_eq!(*heard.lock(), [Some(Bytes::from_static(b"x"))]);
        // Who is gone answers nothing any more.
        assert!(remote.take_of(2).is_empty());
        for told in remote.take_of(3) {
            told(None);
        }
        assert!(remote.take(3, second).is_none());
        assert_eq!(heard.lock().len(), 2);
    }
}
