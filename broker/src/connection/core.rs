//! What the channels of a connection share: the output, the batch, the confirms, the routes.

use std::sync::Arc;

use leveret_cluster::GroupId;
use leveret_protocol::{Method, ReplyCode, encode};
use leveret_queue::{Delivery, EntryBuilder};
use leveret_storage::{AppendError, Location};
use leveret_topology::{Name, OwnerId, QueueInfo, Refusal};

use super::batch::{Batch, ENTRY_BYTES_MAX, InSession, Mark};
use super::confirms::{Confirms, Pending};
use super::routes::RouteCache;
use crate::mirror::session::Refused;
use crate::node::{Counts, Node};
use crate::outbox::{Event, Outbox};
use crate::ticket::{Answer, Asked, Question, Ticket};

/// A method was refused: a channel or a connection exception, by the code.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The reply code; decides whether it is a soft or a hard error.
    pub code: ReplyCode,
    /// The explanation, without the code's name.
    pub text: String,
    /// A soft code that closes the connection all the same.
    pub hard: bool,
    /// It is no fault: an answer is awaited, and the method is to be handled again when it is there.
    pub waits: bool,
}

impl Fault {
    /// A fault of this code.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Fault {
        Fault {
            code,
            text: text.into(),
            hard: code.is_hard(),
            waits: false,
        }
    }

    /// A fault that closes the connection whatever its code.
    pub fn hard(code: ReplyCode, text: impl Into<String>) -> Fault {
        Fault {
            code,
            text: text.into(),
            hard: true,
            waits: false,
        }
    }

    /// An answer is not there yet.
    fn wait() -> Fault {
        Fault {
            code: ReplyCode::InternalError,
            text: String::new(),
            hard: false,
            waits: true,
        }
    }

    /// The answer is of another kind than the question: a bug, or a peer that lies.
    pub fn mixed_up(answer: &Answer) -> Fault {
        tracing::error!(?answer, "an answer of the wrong kind");
        Fault::new(ReplyCode::InternalError, "unexpected answer")
    }

    /// 406 PRECONDITION_FAILED.
    pub fn precondition(text: impl Into<String>) -> Fault {
        Fault::new(ReplyCode::PreconditionFailed, text)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault::new(refusal.reply_code, refusal.text)
    }
}

impl From<AppendError> for Fault {
    fn from(error: AppendError) -> Self {
        Fault::new(ReplyCode::InternalError, error.to_string())
    }
}

/// Who is at the other end, once the handshake is over.
#[derive(Debug, Clone)]
pub struct Session {
    /// The user.
    pub user: Name,
    /// The virtual host.
    pub vhost: Name,
    /// The user may publish under another name.
    pub impersonator: bool,
    /// The client understands basic.cancel from the server.
    pub cancel_notify: bool,
    /// The client understands connection.blocked.
    pub blocked_notify: bool,
    /// For the topic permissions' `{client_id}`.
    pub client_id: Option<String>,
}

/// Bytes that the journal has taken and not written at which publishers without confirms are paced.
const PACE_BYTES: u64 = 2 << 20;

/// A reply that must not leave before the journal is durable up to a place. The input waits meanwhile.
#[derive(Debug)]
pub struct Hold {
    /// The record to wait for.
    pub at: Location,
    /// The frames to send then.
    pub reply: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    /// The node.
    pub node: Arc<Node>,
    /// Where others put things for this connection.
    pub outbox: Arc<Outbox>,
    /// The connection's identity, as owner of exclusive queues.
    pub id: OwnerId,
    /// Who is at the other end.
    pub session: Session,
    /// Encoded frames that are to be written.
    pub out: Vec<u8>,
    /// What was read and is not submitted yet.
    pub batch: Batch,
    /// What waits for the journal.
    pub confirms: Confirms,
    /// Where messages went lately.
    pub routes: RouteCache,
    /// A reply that waits for the journal.
    pub hold: Option<Hold>,
    /// What the method that is being handled has asked for.
    pub asked: Asked,
    /// Agreed size of a frame, octets with overhead; 0 is no limit.
    pub frame_max: u32,
    /// The time of this turn, milliseconds since 1970.
    pub now_ms: u64,
    /// The connection published something: an alarm blocks it.
    pub published: bool,
    /// Seconds of the node's uptime in this turn.
    pub uptime_s: u32,
    /// Numbers that are added to the node's at the end of the turn.
    pub counts: Counts,
    /// Deliveries taken from the outbox and not encoded yet.
    pub deliveries: Vec<Delivery>,
    events: Vec<Event>,
    generation: u32,
}

impl Core {
    /// The shared part of a connection that is about to open its first channel.
    pub fn new(
        node: Arc<Node>,
        outbox: Arc<Outbox>,
        id: OwnerId,
        session: Session,
        frame_max: u32,
    ) -> Core {
        let now_ms = node.now_ms();
        Core {
            node,
            outbox,
            id,
            session,
            out: Vec::new(),
            batch: Batch::default(),
            confirms: Confirms::default(),
            routes: RouteCache::default(),
            hold: None,
            asked: Asked::default(),
            frame_max,
            now_ms,
            published: false,
            uptime_s: 0,
            counts: Counts::default(),
            deliveries: Vec::new(),
            events: Vec::new(),
            generation: 0,
        }
    }

    /// A turn of the task begins: reads the clock.
    pub fn begin_turn(&mut self) {
        self.now_ms = self.node.now_ms();
        self.uptime_s = self.node.uptime_s();
    }

    /// A turn ends: adds what was counted to the node's numbers.
    pub fn end_turn(&mut self) {
        if self.counts != Counts::default() {
            self.node.counters().add(&mut self.counts);
        }
    }

    /// Asks for something that may not be known at once: `start` answers, or keeps the ticket and answers it later.
    ///
    /// # Errors
    /// The answer is not there yet ([`Fault::waits`]): the handler must end, and runs again from its beginning. Or there will be none:
    /// 541 INTERNAL_ERROR.
    pub fn ask(
        &mut self,
        question: Question,
        start: impl FnOnce(&Node, &Arc<Ticket>) -> Option<Answer>,
    ) -> Result<Answer, Fault> {
        let ticket = match self.asked.next(question) {
            Some(ticket) => ticket,
            None => {
                let ticket = Ticket::new(question, Arc::clone(&self.outbox));
                if let Some(answer) = start(&self.node, &ticket) {
                    ticket.set(answer);
                }
                self.asked.push(Arc::clone(&ticket));
                ticket
            }
        };
        match ticket.get() {
            Some(Answer::Unavailable(text)) => Err(Fault::new(ReplyCode::InternalError, text)),
            Some(answer) => Ok(answer),
            None => Err(Fault::wait()),
        }
    }

    /// Takes what is in the outbox.
    pub fn take_outbox(&mut self) {
        if self.deliveries.is_empty() && self.events.is_empty() {
            self.outbox.take(&mut self.deliveries, &mut self.events);
        } else {
            let (mut deliveries, mut events) = (Vec::new(), Vec::new());
            self.outbox.take(&mut deliveries, &mut events);
            self.deliveries.append(&mut deliveries);
            self.events.append(&mut events);
        }
    }

    /// Whether events were taken with the deliveries.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Hands the events over. `urgent`: only those that need not come after what was sent before.
    pub fn take_events(&mut self, events: &mut Vec<Event>, urgent: bool) {
        if urgent {
            events.extend(self.events.extract_if(.., |event| event.is_urgent()));
        } else {
            events.append(&mut self.events);
        }
    }

    /// Deliveries of these bytes have left the outbox: their queues may go on.
    pub fn left(&mut self, bytes: usize) {
        let waiters = self.outbox.left(bytes);
        if !waiters.is_empty() {
            self.node.resume(waiters, self.now_ms);
        }
    }

    /// Takes the events that do not wait for the output to drain.
    pub fn take_urgent(&mut self) {
        self.outbox.take_urgent(&mut self.events);
    }

    /// A number for the next channel that is opened.
    pub fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Appends a method frame to the output.
    pub fn send(&mut self, channel: u16, method: impl Into<Method>) {
        encode::put_method(&mut self.out, channel, &method.into());
    }

    /// Appends a method frame once the journal is durable up to `at`; until then the connection reads nothing.
    pub fn send_durably(&mut self, channel: u16, method: Option<Method>, at: Option<Location>) {
        let waits = at.filter(|at| *at >= self.node.durable());
        match (waits, method) {
            (None, None) => {}
            (None, Some(method)) => encode::put_method(&mut self.out, channel, &method),
            (Some(at), method) => {
                let mut reply = Vec::new();
                if let Some(method) = method {
                    encode::put_method(&mut reply, channel, &method);
                }
                match &mut self.hold {
                    // Several replies of one turn: the later record is the later place.
                    Some(hold) => {
                        hold.at = hold.at.max(at);
                        hold.reply.extend_from_slice(&reply);
                    }
                    None => self.hold = Some(Hold { at, reply }),
                }
            }
        }
    }

    /// Enqueues a routed message in the batch; `mark`: channel and tag of a publish to be confirmed.
    #[inline]
    pub fn enqueue(
        &mut self,
        queues: &[Arc<QueueInfo>],
        message: &leveret_queue::NewMessage<'_>,
        mark: Option<(u16, u64)>,
    ) -> Result<(), Fault> {
        if let [queue] = queues {
            let journal = message.persistent && queue.durable;
            self.enqueue_in(queue.group, &[queue.id.0], message, journal, mark);
        } else {
            self.enqueue_many(queues, message, mark);
        }
        Ok(())
    }

    #[inline]
    fn enqueue_in(
        &mut self,
        group: GroupId,
        queues: &[u64],
        message: &leveret_queue::NewMessage<'_>,
        journal: bool,
        mark: Option<(u16, u64)>,
    ) {
        let batch = self.batch.group(group);
        if batch
            .entry
            .as_ref()
            .is_some_and(|e| e.len() >= ENTRY_BYTES_MAX || !e.has_slots(queues.len()))
        {
            self.submit_group(group);
        }
        let batch = self.batch.group(group);
        let gauge = self.node.bodies().gauge();
        let op = batch.entry(gauge).enqueue(queues, message, journal);
        if let Some((channel, tag)) = mark {
            batch.marks.push(Mark { op, channel, tag });
        }
    }

    /// A message for several queues: one op for each group that owns some of them.
    fn enqueue_many(
        &mut self,
        queues: &[Arc<QueueInfo>],
        message: &leveret_queue::NewMessage<'_>,
        mark: Option<(u16, u64)>,
    ) {
        /// Queues named by one op.
        const QUEUES_MAX: usize = 0x4000;
        let mut groups: Vec<GroupId> = queues.iter().map(|q| q.group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let mine = || queues.iter().filter(|q| q.group == group);
            let journal = message.persistent && mine().any(|q| q.durable);
            let ids: Vec<u64> = mine().map(|q| q.id.0).collect();
            for ids in ids.chunks(QUEUES_MAX) {
                self.enqueue_in(group, ids, message, journal, mark);
            }
        }
    }

    /// Submits what is collected for one group, before the rest of the batch: its entry is full.
    fn submit_group(&mut self, group: GroupId) {
        let batch = self.batch.group(group);
        let entry = batch.entry.take();
        let marks = std::mem::take(&mut batch.marks);
        let sync = !self.batch.confirms.is_empty();
        let bytes = entry.as_ref().map_or(0, EntryBuilder::len);
        if let Some(session) = self.node.session(group) {
            let refused = Refused::default();
            let number = session.submit(entry, &[], Some(self.outbox.clone()), Some(&refused));
            let marks = marks.into();
            return self.in_session(
                InSession {
                    group,
                    number,
                    marks,
                    refused,
                },
                bytes,
            );
        }
        match self.node.submit(group, entry, &[], sync, self.now_ms) {
            Ok(submitted) => {
                self.refused(&submitted.refused, &marks);
                // Its confirms go with the rest of the batch, which has a later place; without a record there is none to wait for.
                if let Some(at) = submitted.location {
                    self.batch.note(at, bytes);
                }
            }
            Err(_) => self.batch.failed = true,
        }
    }

    /// Remembers what a session has taken of the batch.
    fn in_session(&mut self, part: InSession, bytes: usize) {
        if part.number > 0 {
            self.batch.bytes += bytes;
            self.batch.sessions.push(part);
        }
    }

    fn refused(&mut self, ops: &[u32], marks: &[Mark]) {
        for op in ops {
            if let Ok(at) = marks.binary_search_by_key(op, |m| m.op)
                && let Some(mark) = marks.get(at)
            {
                self.batch.nacks.push((mark.channel, mark.tag));
            }
        }
    }

    /// Submits the batch. Called when a read is parsed, and before whatever must see its effects.
    pub fn flush(&mut self, generation_of: impl Fn(u16) -> u32) {
        if self.batch.is_empty() {
            return;
        }
        let sync = !self.batch.confirms.is_empty();
        let mut touched = std::mem::take(&mut self.batch.touched);
        if touched.len() > 1 {
            // Groups without messages first: a confirm waits for the acknowledgements of its batch too, and for less then.
            touched.sort_by_key(|group| self.batch.submitting(*group).entry.is_some());
        }
        for group in touched.drain(..) {
            let (entry, marks, settles, bytes) = {
                let batch = self.batch.submitting(group);
                let entry = batch.entry.take();
                let bytes = entry.as_ref().map_or(0, EntryBuilder::len);
                if bytes > 0 {
                    batch.taken(bytes);
                }
                (
                    entry,
                    std::mem::take(&mut batch.marks),
                    std::mem::take(&mut batch.settles),
                    bytes,
                )
            };
            if entry.is_none() && settles.is_empty() {
                continue;
            }
            if let Some(session) = self.node.session(group) {
                let refused = Refused::default();
                let number =
                    session.submit(entry, &settles, Some(self.outbox.clone()), Some(&refused));
                let marks = marks.into();
                self.in_session(
                    InSession {
                        group,
                        number,
                        marks,
                        refused,
                    },
                    bytes,
                );
                self.batch.give_back(group, Vec::new(), settles);
                continue;
            }
            match self.node.submit(group, entry, &settles, sync, self.now_ms) {
                Ok(submitted) => {
                    self.refused(&submitted.refused, &marks);
                    self.batch.settled = self.batch.settled.max(submitted.settled);
                    if let Some(at) = submitted.location {
                        self.batch.note(at, bytes);
                    }
                }
                Err(_) => self.batch.failed = true,
            }
            self.batch.give_back(group, marks, settles);
        }
        self.batch.touched = touched;
        self.confirm_batch(generation_of);
    }

    /// Queues the confirms of the batch, and sends those that need not wait.
    fn confirm_batch(&mut self, generation_of: impl Fn(u16) -> u32) {
        let settled = self.batch.settled.take();
        let mut at = self.batch.at.take();
        if at.is_some() && settled > at && !self.batch.confirms.is_empty() {
            // A later publish on the channel of an acknowledgement confirms that too; nobody has asked for its sync so far.
            at = settled;
            self.node.store().journal().request_sync();
        }
        let mut bytes = std::mem::take(&mut self.batch.bytes);
        let sessions = std::mem::take(&mut self.batch.sessions);
        if self.batch.failed {
            // The journal is poisoned: nothing of this is safe, so nothing is confirmed. The node is about to stop.
            self.batch.failed = false;
            self.batch.confirms.clear();
            self.batch.nacks.clear();
            return;
        }
        let mut nacks = std::mem::take(&mut self.batch.nacks);
        nacks.sort_unstable();
        nacks.dedup();
        let mut confirms = std::mem::take(&mut self.batch.confirms);
        for confirmed in confirms.drain(..) {
            let mine = nacks
                .iter()
                .filter(|(c, _)| *c == confirmed.channel)
                .map(|(_, t)| *t);
            self.confirms.push(Pending {
                at: at.unwrap_or(Location::ZERO),
                // Each channel finds its own tags in the marks.
                sessions: sessions.clone(),
                channel: confirmed.channel,
                generation: generation_of(confirmed.channel),
                first: confirmed.first,
                tag: confirmed.tag,
                nacks: mine.collect(),
                bytes: std::mem::take(&mut bytes),
            });
        }
        self.batch.confirms = confirms;
        if bytes > 0 && !sessions.is_empty() {
            // Nobody waits for a confirm, but what is not committed counts against the connection.
            self.confirms.push(Pending {
                at: at.unwrap_or(Location::ZERO),
                sessions,
                channel: 0,
                generation: u32::MAX,
                first: 0,
                tag: 0,
                nacks: Vec::new(),
                bytes,
            });
            return;
        }
        if bytes > 0
            && let Some(at) = at
            && self.node.store().journal().pending_bytes() >= PACE_BYTES
        {
            // A publisher that waits for no confirm is held to the disk's pace all the same.
            self.node.store().journal().request_sync();
            self.confirms.push(Pending {
                at,
                sessions: Vec::new(),
                channel: 0,
                generation: u32::MAX,
                first: 0,
                tag: 0,
                nacks: Vec::new(),
                bytes,
            });
        }
    }

    /// Sends the confirms whose place is durable; says how many publishes that were. `generation_of`: an open channel's.
    pub fn send_confirms(&mut self, generation_of: impl Fn(u16) -> u32) -> u64 {
        if self.confirms.is_empty() {
            return 0;
        }
        let durable = self.node.durable();
        let mut confirmed = 0;
        // Several batches of one channel become one ack: (channel, first, last).
        let mut open: Option<(u16, u64, u64)> = None;
        let node = Arc::clone(&self.node);
        let committed = |group| node.session(group).map_or(u64::MAX, |s| s.committed());
        while let Some(mut pending) = self.confirms.pop(durable, committed) {
            let channel = pending.channel;
            if generation_of(channel) != pending.generation {
                continue;
            }
            if !pending.sessions.is_empty() {
                pending.nacks = refused_in(&pending);
            }
            confirmed += pending.tag + 1 - pending.first;
            let mut first = match open.take() {
                Some((c, first, _)) if c == channel => first,
                Some((c, first, last)) => {
                    encode::put_ack(&mut self.out, c, last, last > first);
                    pending.first
                }
                None => pending.first,
            };
            let mut nacks = pending.nacks.iter().copied().peekable();
            while let Some(tag) = nacks.next() {
                if tag > first {
                    encode::put_ack(&mut self.out, channel, tag - 1, tag - 1 > first);
                }
                first = tag + 1;
                if nacks.peek() != Some(&first) {
                    // Everything before it is settled: RabbitMQ sets `multiple` then, even for a single one.
                    encode::put_nack(&mut self.out, channel, tag, true);
                }
            }
            if first <= pending.tag {
                open = Some((channel, first, pending.tag));
            }
        }
        if let Some((channel, first, last)) = open {
            encode::put_ack(&mut self.out, channel, last, last > first);
        }
        confirmed
    }
}

/// Tags of a channel that queues refused after they were taken by sessions, ascending.
fn refused_in(pending: &Pending) -> Vec<u64> {
    let mut tags = pending.nacks.clone();
    for part in &pending.sessions {
        for op in part.refused.lock().iter() {
            let at = part.marks.binary_search_by_key(op, |m| m.op);
            let mark = at.ok().and_then(|at| part.marks.get(at));
            tags.extend(mark.filter(|m| m.channel == pending.channel).map(|m| m.tag));
        }
    }
    tags.sort_unstable();
    tags.dedup();
    tags
}
