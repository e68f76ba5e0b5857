//! A connection: the state machine between a socket and the node (AMQP 0-9-1 section 2.2.4).
//!
//! [`Connection`] takes bytes and gives bytes: the server's task reads the socket, calls [`Connection::input`], asks for what came
//! from elsewhere ([`Connection::turn`]), and writes [`Connection::output`]. There is no socket and no clock in here but the
//! node's; time-outs are answers to [`Connection::tick`].

pub mod batch;
pub mod confirms;
pub mod core;
mod dispatch;
mod handshake;
pub mod routes;
pub mod unacked;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_protocol::method::{
    ConnectionBlocked, ConnectionClose, ConnectionCloseOk, ConnectionUnblocked,
};
use leveret_protocol::{ReplyCode, ShortStr};
use leveret_queue::Delivery;
use leveret_topology::Name;

use self::core::{Core, Fault};
use crate::channel::Channel;
use crate::node::{ConnectionInfo, Node};
use crate::outbox::{Event, Outbox};
use crate::ticket::Question;

pub use handshake::Peer;

/// Bytes of unwritten output at which the socket is not read any more.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Bytes of unwritten output at which deliveries wait in the outbox.
const DELIVER_BYTES_MAX: usize = 256 << 10;
/// Bytes appended to the journal and not durable at which the socket is not read any more.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

/// A text of the wire as a name.
pub fn name(text: &ShortStr) -> Name {
    Name::from(text.to_string_lossy().as_ref())
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The protocol header is awaited.
    Header,
    /// connection.start-ok is awaited.
    Start,
    /// connection.tune-ok is awaited.
    Tune,
    /// connection.open is awaited.
    Open,
    /// Open.
    Running,
    /// connection.close was sent; its close-ok is awaited and nothing else counts.
    Closing,
    /// Over: write what is left, then hang up.
    Closed,
}

/// What the server's task should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Read the socket.
    Yes,
    /// Do not read: output, the journal or an alarm holds the connection back.
    No,
    /// It is over: write the output and hang up.
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    core: Core,
    channels: Vec<Option<Box<Channel>>>,
    open_channels: usize,
    channel_max: u16,
    heartbeat_s: u16,
    handshake: Option<Box<handshake::Handshake>>,
    info: Option<Arc<ConnectionInfo>>,
    /// Why publishers have to wait, while an alarm is on.
    blocked: Option<String>,
    told_blocked: bool,
    asked_for: leveret_storage::Location,
    checked_s: u32,
    /// The input cannot be followed any more: it is read and thrown away.
    deaf: bool,
    /// Input was left over because the connection had to wait.
    waited: bool,
}

impl Connection {
    /// A socket was accepted.
    pub fn new(node: Arc<Node>, peer: Peer) -> Connection {
        let id = node.new_owner();
        let outbox = Arc::new(Outbox::default());
        let session = handshake::nobody();
        let frame_max = node.config().limits.initial_frame_max.max(4096);
        Connection {
            phase: Phase::Header,
            core: Core::new(node, outbox, id, session, frame_max),
            channels: Vec::new(),
            open_channels: 0,
            channel_max: 0,
            heartbeat_s: 0,
            handshake: Some(Box::new(handshake::Handshake::new(peer))),
            info: None,
            blocked: None,
            told_blocked: false,
            asked_for: leveret_storage::Location::ZERO,
            checked_s: 0,
            deaf: false,
            waited: false,
        }
    }

    /// Where others put things for it.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.core.outbox
    }

    /// Bytes to be written to the socket.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.core.out
    }

    /// Whether input was left over because a reply waited for the journal, or because of too much output. Asked once.
    pub fn take_waited(&mut self) -> bool {
        std::mem::take(&mut self.waited)
    }

    /// Agreed heartbeat in seconds, 0 for none.
    pub fn heartbeat_s(&self) -> u16 {
        self.heartbeat_s
    }

    /// The handshake is done.
    pub fn is_open(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Header | Phase::Start | Phase::Tune | Phase::Open
        )
    }

    /// It was closed by an error of the handshake that RabbitMQ answers with silence.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// It waits for the peer's close-ok, or for it to hang up.
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// An alarm keeps it from publishing.
    pub fn is_blocked(&self) -> bool {
        self.blocked.is_some() && self.core.published && self.phase == Phase::Running
    }

    /// Tells what went over the socket until now: bytes and reads, bytes and writes. Nobody asks before the connection is open.
    #[inline]
    pub fn set_traffic(&self, received: (u64, u64), sent: (u64, u64)) {
        if let Some(info) = &self.info {
            info.traffic.set(received, sent, self.is_blocked());
        }
    }

    /// A reply waits for the journal, or a method for an answer from elsewhere.
    #[inline]
    fn is_held(&self) -> bool {
        self.core.hold.is_some() || self.core.asked.waits()
    }

    /// Whether the socket should be read.
    pub fn reading(&self) -> Reading {
        if self.phase == Phase::Closed {
            Reading::Over
        } else if self.is_held()
            || self.core.out.len() >= OUTPUT_BYTES_MAX
            || self.core.confirms.bytes() >= UNSYNCED_BYTES_MAX
            || self.is_blocked()
        {
            Reading::No
        } else {
            Reading::Yes
        }
    }

    /// The opening of each channel, 0 if it is not open: nothing is sent to one after channel.close.
    fn generations(channels: &[Option<Box<Channel>>]) -> impl Fn(u16) -> u32 + '_ {
        |number| {
            channels
                .get(usize::from(number))
                .and_then(|c| c.as_deref())
                .filter(|channel| !channel.is_closing())
                .map_or(0, Channel::generation)
        }
    }

    /// Submits what was read; called at the end of a read.
    fn flush(&mut self) {
        self.core.flush(Self::generations(&self.channels));
        self.settle_up();
    }

    /// Sends what the journal has made safe.
    fn settle_up(&mut self) {
        let confirmed = self.core.send_confirms(Self::generations(&self.channels));
        self.core.counts.messages_confirmed += confirmed;
        let durable = self.core.node.durable();
        if self
            .core
            .hold
            .as_ref()
            .is_some_and(|hold| hold.at < durable)
            && let Some(hold) = self.core.hold.take()
        {
            self.core.out.extend_from_slice(&hold.reply);
        }
    }

    /// Takes what came from elsewhere: deliveries, events, the journal's progress. Called on every turn of the task, after input.
    pub fn turn(&mut self) {
        self.core.begin_turn();
        self.settle_up();
        // What a method waits for may change what a delivery is for: a consumer is there once its consume-ok is.
        if self.phase == Phase::Running
            && self.core.out.len() < DELIVER_BYTES_MAX
            && self.core.asked.is_empty()
        {
            self.deliver();
        } else {
            // A peer that does not read must not keep the connection from being closed.
            self.core.take_urgent();
        }
        if self.core.has_events() {
            self.take_events();
        }
        self.await_journal();
        self.core.end_turn();
    }

    /// Asks to be woken when the journal reaches what is waited for.
    fn await_journal(&mut self) {
        loop {
            let hold = self.core.hold.as_ref().map(|hold| hold.at);
            let at = match (self.core.confirms.waits_for(), hold) {
                (Some(a), Some(b)) => a.min(b),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return,
            };
            if at != self.asked_for {
                self.asked_for = at;
                self.core.node.wait_durable(at, self.core.outbox.clone());
            }
            if at >= self.core.node.durable() {
                return;
            }
            self.settle_up();
        }
    }

    fn deliver(&mut self) {
        self.core.take_outbox();
        let mut bytes = 0;
        let mut deliveries = std::mem::take(&mut self.core.deliveries);
        for delivery in deliveries.drain(..) {
            bytes += Outbox::weight(&delivery);
            self.deliver_one(&delivery);
        }
        if deliveries.capacity() <= 1024 {
            self.core.deliveries = deliveries;
        }
        if bytes > 0 {
            self.core.left(bytes);
        }
    }

    #[inline]
    fn deliver_one(&mut self, delivery: &Delivery) {
        let (number, opening, index) = Channel::split_handle(delivery.handle);
        let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) else {
            return;
        };
        if channel.generation() as u16 != opening || channel.is_closing() {
            return;
        }
        channel.deliver_any(&mut self.core, index, delivery);
    }

    fn take_events(&mut self) {
        // A cancelled consumer is told after the answer to the method that cancelled it.
        let mut events = Vec::new();
        let held = self.is_held();
        self.core.take_events(&mut events, held);
        for event in events {
            match event {
                Event::ConsumerCancelled { handle } => self.consumer_cancelled(handle),
                Event::Blocked(reason) => self.set_blocked(reason),
                Event::Close(text) => {
                    self.close(Fault::hard(ReplyCode::ConnectionForced, text), 0, 0);
                }
                Event::Report(asker) => {
                    let open = self.channels.iter().flatten();
                    let open = open.filter(|channel| !channel.is_closing());
                    let channels = open.map(|channel| channel.report()).collect();
                    // Nobody waits for it any more, if it fails.
                    let _ = asker.send((self.core.id, channels));
                }
            }
        }
    }

    fn consumer_cancelled(&mut self, handle: u64) {
        let (number, opening, index) = Channel::split_handle(handle);
        if let Some(Some(channel)) = self.channels.get_mut(usize::from(number))
            && channel.generation() as u16 == opening
            && !channel.is_closing()
        {
            channel.consumer_lost(&mut self.core, index);
        }
    }

    /// An alarm began or ended (RabbitMQ extension, connection.blocked).
    fn set_blocked(&mut self, reason: Option<String>) {
        self.blocked = reason;
        if self.blocked.is_some() {
            return self.tell_blocked();
        }
        if std::mem::take(&mut self.told_blocked) && self.phase == Phase::Running {
            self.core.send(0, ConnectionUnblocked {});
        }
    }

    /// Tells the client of an alarm, once. As in RabbitMQ only those are told, and kept from publishing, that have published.
    fn tell_blocked(&mut self) {
        if !self.is_blocked() || self.told_blocked || !self.core.session.blocked_notify {
            return;
        }
        if let Some(reason) = &self.blocked {
            let reason = ShortStr::truncated(reason.as_bytes());
            self.core.send(0, ConnectionBlocked { reason });
            self.told_blocked = true;
        }
    }

    /// Once a second: whether a consumer has kept a delivery for too long.
    pub fn tick(&mut self) {
        let now_s = self.core.node.uptime_s();
        if now_s == self.checked_s || self.phase != Phase::Running {
            return;
        }
        self.checked_s = now_s;
        let Some(timeout_ms) = self.core.node.config().queues.consumer_timeout_ms else {
            return;
        };
        let timeout_s = u32::try_from(timeout_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        for number in 0..self.channels.len() {
            let Some(Some(channel)) = self.channels.get(number) else {
                continue;
            };
            if let Some(tag) = channel.overdue(now_s, timeout_s) {
                let text = format!(
                    "delivery acknowledgement on channel {number} timed out. Timeout value used: \
                     {timeout_ms} ms. This timeout value can be configured, see consumers doc guide \
                     to learn more"
                );
                tracing::warn!(connection = self.log_name(), tag, "{text}");
                self.close_channel(number as u16, &Fault::precondition(text), 0, 0);
            }
        }
    }

    /// How logs name it.
    pub fn log_name(&self) -> String {
        match (&self.info, &self.handshake) {
            (Some(info), _) => info.name.clone(),
            (None, Some(handshake)) => handshake.peer().name(),
            (None, None) => String::new(),
        }
    }

    /// Ends the connection with an error; the peer's close-ok is awaited.
    fn close(&mut self, fault: Fault, class_id: u16, method_id: u16) {
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        let text = fault.code.text(&fault.text);
        if self.phase == Phase::Running {
            tracing::warn!(connection = self.log_name(), %text, "closing");
        } else {
            tracing::info!(connection = self.log_name(), %text, "handshake failed");
        }
        self.release();
        let close = ConnectionClose {
            reply_code: fault.code.code(),
            reply_text: text,
            class_id,
            method_id,
        };
        self.core.send(0, close);
        self.phase = Phase::Closing;
    }

    /// Gives back what the connection has: channels, consumers, exclusive queues. The output stays.
    pub fn release(&mut self) {
        if self.release_all_but_queues() {
            self.core.node.close_owner(self.core.id);
        }
    }

    /// Gives back channels and consumers; says whether exclusive queues are left to be given back.
    fn release_all_but_queues(&mut self) -> bool {
        self.core.hold = None;
        self.core.asked.clear();
        self.core.now_ms = self.core.node.now_ms();
        self.core.outbox.close();
        // First no consumer is left, so that nothing that returns is delivered to another one of this connection.
        for channel in self.channels.iter_mut().flatten() {
            channel.release_consumers(&mut self.core);
        }
        for number in 0..self.channels.len() {
            let channel = self.channels.get_mut(number).and_then(Option::take);
            if let Some(mut channel) = channel {
                channel.release(&mut self.core);
                self.core.counts.channels_closed += 1;
            }
        }
        self.open_channels = 0;
        self.core.flush(|_| 0);
        let info = self.info.take();
        if let Some(info) = &info {
            self.core.node.connections().remove(info.id);
            self.core.counts.connections_closed += 1;
        }
        self.core.end_turn();
        info.is_some()
    }

    /// connection.close of the client: its exclusive queues are gone everywhere before it is answered.
    fn close_for_client(&mut self) -> Result<(), Fault> {
        if !self.core.asked.before(Question::Proposal) {
            self.flush();
            self.release_all_but_queues();
        }
        let id = self.core.id;
        self.core.ask(Question::Proposal, |node, ticket| {
            node.close_owner_for(id, ticket)
        })?;
        self.core.send(0, ConnectionCloseOk {});
        self.phase = Phase::Closed;
        Ok(())
    }

    fn count_channels(&mut self, change: isize) {
        self.open_channels = self.open_channels.saturating_add_signed(change);
        if let Some(info) = &self.info {
            info.channels.store(self.open_channels, Ordering::Relaxed);
        }
    }

    /// The peer has hung up, or was silent for too long.
    pub fn lost(&mut self, why: &str) {
        if self.phase == Phase::Running {
            tracing::info!(connection = self.log_name(), "{why}");
        }
        self.release();
        self.phase = Phase::Closed;
    }
}
