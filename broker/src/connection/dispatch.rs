//! From frames to channels.

use leveret_protocol::content::ContentHeaderRef;
use leveret_protocol::frame::{FRAME_HEAD, METHOD, unexpected_frame_text, unknown_frame_text};
use leveret_protocol::method::{
    self, BasicAck, BasicNack, BasicPublish, BasicReject, ChannelClose, ChannelCloseOk,
    ChannelOpenOk, ConnectionCloseOk, ConnectionUpdateSecretOk, split_method,
};
use leveret_protocol::{
    BasicPublishRef, FrameKind, FrameRef, Method, MethodError, ReplyCode, parse_frame,
};

use super::core::Fault;
use super::{Connection, OUTPUT_BYTES_MAX, Phase};
use crate::channel::{Channel, Publish};

/// A fault and the method that it is about.
struct Failed {
    fault: Fault,
    id: (u16, u16),
}

impl Failed {
    fn of(id: u32) -> impl FnOnce(Fault) -> Failed {
        move |fault| Failed {
            fault,
            id: ((id >> 16) as u16, id as u16),
        }
    }

    fn plain(fault: Fault) -> Failed {
        Failed { fault, id: (0, 0) }
    }
}

impl From<MethodError> for Failed {
    fn from(error: MethodError) -> Self {
        Failed {
            fault: Fault::hard(error.reply_code(), error.to_string()),
            id: error.ids(),
        }
    }
}

impl Connection {
    /// Takes bytes from the socket; says how many were used. The rest is to be given again, with more behind it, unless
    /// the connection must wait or is over (see [`Connection::reading`]).
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        if self.deaf {
            return bytes.len();
        }
        self.core.begin_turn();
        let mut used = 0;
        while let Some(rest) = bytes.get(used..) {
            if rest.is_empty() || self.phase == Phase::Closed {
                break;
            }
            if self.is_held() || self.core.out.len() >= OUTPUT_BYTES_MAX {
                self.waited = true;
                break;
            }
            if self.phase == Phase::Header {
                match self.protocol_header(rest) {
                    0 => break,
                    n => used += n,
                }
                continue;
            }
            if self.blocked.is_some() && self.phase == Phase::Running && is_publish(rest) {
                // The first publish during an alarm is the last frame that is looked at until the alarm is over.
                self.core.published = true;
                self.waited = true;
                break;
            }
            match self.frames(rest) {
                0 => break,
                n => used += n,
            }
        }
        self.flush();
        self.tell_blocked();
        self.core.end_turn();
        used
    }

    /// Parses one frame, or the three of a message; 0: more bytes are needed.
    #[inline]
    fn frames(&mut self, bytes: &[u8]) -> usize {
        let (frame, size) = match parse_frame(bytes, self.core.frame_max) {
            Ok(Some(found)) => found,
            Ok(None) => return 0,
            Err(error) => {
                let fault = Fault::hard(error.reply_code(), error.to_string());
                self.refuse_frame(fault);
                return bytes.len();
            }
        };
        self.core.asked.restart();
        let done = match self.frame(&frame, bytes.get(size..).unwrap_or_default()) {
            Ok(more) => size + more,
            Err(failed) if failed.fault.waits => {
                // The frame stays, and is handled again when the answer is there.
                self.waited = true;
                return 0;
            }
            Err(failed) => {
                self.fail(frame.channel, failed);
                size
            }
        };
        if !self.core.asked.is_empty() {
            self.core.asked.clear();
        }
        done
    }

    /// A frame that cannot be told from garbage: nothing behind it can be trusted.
    fn refuse_frame(&mut self, fault: Fault) {
        if self.is_open() {
            self.flush();
            self.close(fault, 0, 0);
            // There is no telling where the next frame begins.
            self.deaf = true;
        } else {
            self.lost("malformed frame in the handshake");
        }
    }

    /// A fault closes the channel or the connection.
    fn fail(&mut self, number: u16, failed: Failed) {
        let (class_id, method_id) = failed.id;
        if failed.fault.hard || number == 0 {
            self.flush();
            self.close(failed.fault, class_id, method_id);
        } else {
            self.close_channel(number, &failed.fault, class_id, method_id);
        }
    }

    /// Closes a channel with an error; the peer's close-ok is awaited.
    pub(super) fn close_channel(
        &mut self,
        number: u16,
        fault: &Fault,
        class_id: u16,
        method_id: u16,
    ) {
        // What came before on the channel counts, and is confirmed.
        self.flush();
        let Some(Some(channel)) = self.channels.get_mut(usize::from(number)) else {
            return;
        };
        let text = fault.code.text(&fault.text);
        tracing::debug!(channel = number, %text, "closing channel");
        channel.release(&mut self.core);
        channel.set_closing();
        self.flush();
        self.core.send(
            number,
            ChannelClose {
                reply_code: fault.code.code(),
                reply_text: text,
                class_id,
                method_id,
            },
        );
    }

    /// One frame; `rest` is what follows it. Answers how many bytes of `rest` were used, too.
    #[inline]
    fn frame(&mut self, frame: &FrameRef<'_>, rest: &[u8]) -> Result<usize, Failed> {
        if self.phase == Phase::Closing {
            return self.frame_while_closing(frame).map(|()| 0);
        }
        if frame.kind == FrameKind::Heartbeat {
            return self.heartbeat(frame).map(|()| 0);
        }
        if frame.channel == 0 {
            return self.connection_frame(frame).map(|()| 0);
        }
        if self.phase != Phase::Running {
            self.lost("frame on a channel before the connection was open");
            return Ok(0);
        }
        let number = usize::from(frame.channel);
        let Some(mut channel) = self.channels.get_mut(number).and_then(Option::take) else {
            return self.frame_without_channel(frame).map(|()| 0);
        };
        let result = if channel.is_closing() {
            Ok(self.frame_of_closing(frame))
        } else {
            self.channel_frame(&mut channel, frame, rest)
                .map(|used| (used, true))
        };
        match result {
            Ok((used, keep)) => {
                if keep
                    && !channel.is_released()
                    && let Some(place) = self.channels.get_mut(number)
                {
                    *place = Some(channel);
                }
                Ok(used)
            }
            Err(failed) => {
                if let Some(place) = self.channels.get_mut(number) {
                    *place = Some(channel);
                }
                Err(failed)
            }
        }
    }

    fn heartbeat(&mut self, frame: &FrameRef<'_>) -> Result<(), Failed> {
        let fault = match (frame.channel, frame.payload.is_empty()) {
            (0, true) => return Ok(()),
            (_, true) => Fault::hard(ReplyCode::UnexpectedFrame, unexpected_frame_text(frame)),
            (_, false) => Fault::hard(ReplyCode::FrameError, unknown_frame_text(frame)),
        };
        if self.phase != Phase::Running {
            self.lost("malformed heartbeat in the handshake");
            return Ok(());
        }
        Err(Failed::plain(fault))
    }

    /// After channel.close was sent everything is passed over but its answer, or a close that crossed it.
    fn frame_of_closing(&mut self, frame: &FrameRef<'_>) -> (usize, bool) {
        if frame.kind != FrameKind::Method {
            return (0, true);
        }
        match split_method(frame.payload) {
            Ok((ChannelCloseOk::ID, _)) => {
                self.channel_gone();
                (0, false)
            }
            Ok((ChannelClose::ID, _)) => {
                self.core.send(frame.channel, ChannelCloseOk {});
                (0, true)
            }
            _ => (0, true),
        }
    }

    fn channel_gone(&mut self) {
        self.count_channels(-1);
        self.core.counts.channels_closed += 1;
    }

    #[inline]
    fn channel_frame(
        &mut self,
        channel: &mut Channel,
        frame: &FrameRef<'_>,
        rest: &[u8],
    ) -> Result<usize, Failed> {
        match frame.kind {
            FrameKind::Method => {
                let (id, args) = split_method(frame.payload).map_err(|e| too_short(frame, e))?;
                if channel.expects_content() {
                    let fault = Fault::hard(ReplyCode::UnexpectedFrame, channel.unexpected_text());
                    return Err(Failed::of(BasicPublish::ID)(fault));
                }
                match id {
                    BasicPublish::ID => {
                        let publish = BasicPublishRef::decode(args)?;
                        self.publish(channel, frame.channel, &publish, rest)
                    }
                    BasicAck::ID => {
                        let ack = BasicAck::decode(args)?;
                        channel.ack(&mut self.core, ack).map_err(Failed::of(id))?;
                        self.core.counts.messages_acknowledged += 1;
                        Ok(0)
                    }
                    BasicReject::ID => {
                        let reject = BasicReject::decode(args)?;
                        channel
                            .reject(&mut self.core, reject)
                            .map_err(Failed::of(id))?;
                        Ok(0)
                    }
                    BasicNack::ID => {
                        let nack = BasicNack::decode(args)?;
                        channel.nack(&mut self.core, nack).map_err(Failed::of(id))?;
                        Ok(0)
                    }
                    _ => self.channel_method(channel, frame).map(|()| 0),
                }
            }
            FrameKind::Header | FrameKind::Body => {
                // Without a method before it, there is none to name.
                let expected = channel.expects_content();
                channel
                    .content_frame(&mut self.core, frame)
                    .map_err(|fault| match expected {
                        true => Failed::of(BasicPublish::ID)(fault),
                        false => Failed::plain(fault),
                    })?;
                Ok(0)
            }
            FrameKind::Heartbeat => Ok(0),
        }
    }

    /// basic.publish. When header and body are there already, nothing of it is kept in between.
    #[inline]
    fn publish(
        &mut self,
        channel: &mut Channel,
        number: u16,
        publish: &BasicPublishRef<'_>,
        rest: &[u8],
    ) -> Result<usize, Failed> {
        let Some((header, body, used)) = self.whole_content(number, rest) else {
            channel.begin_content(publish);
            return Ok(0);
        };
        Channel::check_header(&self.core, &header).map_err(Failed::of(BasicPublish::ID))?;
        channel
            .publish(
                &mut self.core,
                &Publish {
                    exchange: publish.exchange,
                    routing_key: publish.routing_key,
                    mandatory: publish.mandatory,
                    immediate: publish.immediate,
                    properties: header.properties,
                    body,
                },
            )
            .map_err(Failed::of(BasicPublish::ID))?;
        Ok(used)
    }

    /// Header and body of a message, if both follow in one frame each.
    #[inline]
    fn whole_content<'b>(
        &self,
        number: u16,
        rest: &'b [u8],
    ) -> Option<(ContentHeaderRef<'b>, &'b [u8], usize)> {
        let (frame, size) = parse_frame(rest, self.core.frame_max).ok()??;
        if frame.kind != FrameKind::Header || frame.channel != number {
            return None;
        }
        let header = ContentHeaderRef::parse(frame.payload).ok()?;
        if header.body_size == 0 {
            return Some((header, &[], size));
        }
        let (body, body_size) = parse_frame(rest.get(size..)?, self.core.frame_max).ok()??;
        let whole = body.kind == FrameKind::Body
            && body.channel == number
            && body.payload.len() as u64 == header.body_size;
        whole.then_some((header, body.payload, size + body_size))
    }

    /// A method off the hot path.
    fn channel_method(
        &mut self,
        channel: &mut Channel,
        frame: &FrameRef<'_>,
    ) -> Result<(), Failed> {
        // Its effects, or its answer, come after all that was sent before it.
        let method = Method::decode(frame.payload)?;
        let (class_id, method_id) = method.id();
        let id = method::method_id(class_id, method_id);
        let generation = channel.generation();
        let number = frame.channel;
        let channels = &self.channels;
        self.core.flush(|n| {
            if n == number {
                generation
            } else {
                Self::generations(channels)(n)
            }
        });
        match method {
            Method::ChannelOpen(_) => Err(Failed::of(id)(Fault::hard(
                ReplyCode::ChannelError,
                "second 'channel.open' seen",
            ))),
            Method::ChannelClose(_) => {
                channel.release(&mut self.core);
                self.core.flush(|_| 0);
                self.core.send(number, ChannelCloseOk {});
                channel.set_released();
                self.channel_gone();
                Ok(())
            }
            method if !method.is_client_sent() || class_id == 10 => {
                Err(Failed::of(id)(unimplemented()))
            }
            Method::ChannelCloseOk(_) | Method::BasicCancelOk(_) => {
                Err(Failed::of(id)(unimplemented()))
            }
            method => channel
                .handle(&mut self.core, method)
                .map_err(Failed::of(id)),
        }
    }

    /// A frame on a number that is not open.
    fn frame_without_channel(&mut self, frame: &FrameRef<'_>) -> Result<(), Failed> {
        if frame.kind != FrameKind::Method {
            let text = crate::channel::METHOD_EXPECTED;
            return Err(Failed::plain(Fault::hard(ReplyCode::UnexpectedFrame, text)));
        }
        let method = Method::decode(frame.payload).map_err(|e| too_short(frame, e))?;
        let (class_id, method_id) = method.id();
        let id = method::method_id(class_id, method_id);
        match method {
            Method::ChannelOpen(_) => self.open_channel(frame.channel),
            method if !method.is_client_sent() || class_id == 10 => {
                Err(Failed::of(id)(unimplemented()))
            }
            _ => Err(Failed::of(id)(Fault::hard(
                ReplyCode::ChannelError,
                "expected 'channel.open'",
            ))),
        }
    }

    fn open_channel(&mut self, number: u16) -> Result<(), Failed> {
        if self.channel_max > 0 && self.open_channels >= usize::from(self.channel_max) {
            return Err(Failed::plain(Fault::hard(
                ReplyCode::NotAllowed,
                format!(
                    "number of channels opened ({}) has reached the negotiated channel_max ({})",
                    self.open_channels, self.channel_max
                ),
            )));
        }
        let user = self.core.session.user.clone();
        let node = self.core.node.clone();
        let limited = node
            .topology()
            .user(&user)
            .is_some_and(|u| u.limits.max_channels.is_some());
        if limited {
            let open = node.connections().channels_of(&user);
            let checked = node.topology().check_channel_limit(&user, open);
            checked.map_err(|refusal| Failed::plain(refusal.into()))?;
        }
        let at = usize::from(number);
        if at >= self.channels.len() {
            self.channels.resize_with(at + 1, || None);
        }
        let generation = self.core.next_generation();
        if let Some(place) = self.channels.get_mut(at) {
            *place = Some(Box::new(Channel::new(number, generation)));
        }
        self.count_channels(1);
        self.core.counts.channels_opened += 1;
        self.core.send(number, ChannelOpenOk::default());
        Ok(())
    }

    /// A frame on channel 0 of an open connection.
    fn connection_frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Failed> {
        if frame.kind != FrameKind::Method {
            if self.phase != Phase::Running {
                self.lost("content in the handshake");
                return Ok(());
            }
            let text = unexpected_frame_text(frame);
            return Err(Failed::plain(Fault::hard(ReplyCode::UnexpectedFrame, text)));
        }
        let method = match Method::decode(frame.payload) {
            Ok(method) => method,
            Err(error) if self.phase == Phase::Running => return Err(too_short(frame, error)),
            Err(error) => {
                self.lost(&format!("malformed method in the handshake: {error}"));
                return Ok(());
            }
        };
        let (class_id, method_id) = method.id();
        if self.phase != Phase::Running {
            self.handshake_method(method);
            return Ok(());
        }
        match method {
            Method::ConnectionClose(_) => {
                let id = method::ConnectionClose::ID;
                self.close_for_client().map_err(Failed::of(id))
            }
            // A password is asked for at the login only, so there is nothing to renew, whatever it is (RabbitMQ's internal users).
            Method::ConnectionUpdateSecret(_) => {
                self.core.send(0, ConnectionUpdateSecretOk {});
                Ok(())
            }
            _ => {
                let id = method::method_id(class_id, method_id);
                Err(Failed::of(id)(Fault::hard(
                    ReplyCode::ChannelError,
                    "unexpected method in connection state running",
                )))
            }
        }
    }

    /// After connection.close was sent only its answer counts, or a close that crossed it.
    fn frame_while_closing(&mut self, frame: &FrameRef<'_>) -> Result<(), Failed> {
        if frame.channel != 0 || frame.kind != FrameKind::Method {
            return Ok(());
        }
        match split_method(frame.payload) {
            Ok((ConnectionCloseOk::ID, _)) => self.phase = Phase::Closed,
            Ok((method::ConnectionClose::ID, _)) => self.core.send(0, ConnectionCloseOk {}),
            _ => {}
        }
        Ok(())
    }
}

/// Whether the next frame is a basic.publish, as far as can be seen.
fn is_publish(bytes: &[u8]) -> bool {
    let id = BasicPublish::ID.to_be_bytes();
    bytes.first() == Some(&METHOD) && bytes.get(FRAME_HEAD..FRAME_HEAD + 4) == Some(&id)
}

/// A method that cannot be decoded; one without ids is no method at all to RabbitMQ.
fn too_short(frame: &FrameRef<'_>, error: MethodError) -> Failed {
    match error {
        MethodError::TooShort => {
            let text = unknown_frame_text(frame);
            Failed::plain(Fault::hard(ReplyCode::FrameError, text))
        }
        error => error.into(),
    }
}

fn unimplemented() -> Fault {
    Fault::hard(ReplyCode::CommandInvalid, "unimplemented method")
}
