//! Frames written straight into an output buffer.
//!
//! The connection's writer calls these for every frame it sends. A delivery of
//! a small message is a handful of copies into a buffer whose room is reserved
//! once; nothing is allocated besides.
//!
//! For a large body, `put_*_head` writes the method frame and the header frame,
//! and [`BodyFrames`] gives what comes before each part of the body, so that
//! the caller can write the parts from where they lie (a vectored write).
//!
//! Names and tags are short strings; octets past the 255th are left out rather
//! than the frame be spoilt.

use crate::frame::{
    BODY, FRAME_END, FRAME_HEAD, FRAME_MIN_SIZE, FRAME_OVERHEAD, HEADER, HEARTBEAT_FRAME, METHOD,
    PAYLOAD_SIZE_CAP,
};
use crate::method::{
    BasicAck, BasicDeliver, BasicGetOk, BasicNack, BasicReturn, Method, method_id,
};
use crate::wire::{put_sized, short_parts};

/// The arguments of basic.deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// The consumer.
    pub consumer_tag: &'a [u8],
    /// Number of the delivery on the channel.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key it was published with.
    pub routing_key: &'a [u8],
}

/// The arguments of basic.get-ok.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetOk<'a> {
    /// Number of the delivery on the channel.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key it was published with.
    pub routing_key: &'a [u8],
    /// Messages that are still ready in the queue.
    pub message_count: u32,
}

/// The arguments of basic.return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return<'a> {
    /// Why, such as 312.
    pub reply_code: u16,
    /// Why, such as `NO_ROUTE`.
    pub reply_text: &'a [u8],
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key it was published with.
    pub routing_key: &'a [u8],
}

/// A method that carries a message to a client: [`Deliver`], [`GetOk`] or
/// [`Return`].
pub trait ContentMethod {
    /// Upper bound of the size of the method frame in octets.
    fn frame_size_max(&self) -> usize;
    /// Appends the method frame.
    fn put_frame(&self, channel: u16, out: &mut Vec<u8>);
}

/// The head of a frame.
#[inline]
fn frame_head(kind: u8, channel: u16, size: u32) -> [u8; FRAME_HEAD] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size.to_be_bytes();
    [kind, c0, c1, s0, s1, s2, s3]
}

/// The head of a method frame and the ids of the method.
#[inline]
fn method_head(channel: u16, id: u32, args: u32) -> [u8; FRAME_HEAD + 4] {
    let [k, c0, c1, s0, s1, s2, s3] = frame_head(METHOD, channel, args + 4);
    let [i0, i1, i2, i3] = id.to_be_bytes();
    [k, c0, c1, s0, s1, s2, s3, i0, i1, i2, i3]
}

impl ContentMethod for Deliver<'_> {
    #[inline]
    fn frame_size_max(&self) -> usize {
        FRAME_OVERHEAD
            + 4
            + 12
            + self.consumer_tag.len()
            + self.exchange.len()
            + self.routing_key.len()
    }

    #[inline]
    fn put_frame(&self, channel: u16, out: &mut Vec<u8>) {
        let (tag_len, tag) = short_parts(self.consumer_tag);
        let (exchange_len, exchange) = short_parts(self.exchange);
        let (key_len, key) = short_parts(self.routing_key);
        let args = 12 + u32::from(tag_len) + u32::from(exchange_len) + u32::from(key_len);
        out.extend_from_slice(&method_head(channel, BasicDeliver::ID, args));
        out.push(tag_len);
        out.extend_from_slice(tag);
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.delivery_tag.to_be_bytes();
        let redelivered = u8::from(self.redelivered);
        out.extend_from_slice(&[d0, d1, d2, d3, d4, d5, d6, d7, redelivered, exchange_len]);
        out.extend_from_slice(exchange);
        out.push(key_len);
        out.extend_from_slice(key);
        out.push(FRAME_END);
    }
}

impl ContentMethod for GetOk<'_> {
    fn frame_size_max(&self) -> usize {
        FRAME_OVERHEAD + 4 + 15 + self.exchange.len() + self.routing_key.len()
    }

    fn put_frame(&self, channel: u16, out: &mut Vec<u8>) {
        let (exchange_len, exchange) = short_parts(self.exchange);
        let (key_len, key) = short_parts(self.routing_key);
        let args = 15 + u32::from(exchange_len) + u32::from(key_len);
        out.extend_from_slice(&method_head(channel, BasicGetOk::ID, args));
        out.extend_from_slice(&self.delivery_tag.to_be_bytes());
        out.extend_from_slice(&[u8::from(self.redelivered), exchange_len]);
        out.extend_from_slice(exchange);
        out.push(key_len);
        out.extend_from_slice(key);
        let [m0, m1, m2, m3] = self.message_count.to_be_bytes();
        out.extend_from_slice(&[m0, m1, m2, m3, FRAME_END]);
    }
}

impl ContentMethod for Return<'_> {
    fn frame_size_max(&self) -> usize {
        FRAME_OVERHEAD
            + 4
            + 5
            + self.reply_text.len()
            + self.exchange.len()
            + self.routing_key.len()
    }

    fn put_frame(&self, channel: u16, out: &mut Vec<u8>) {
        let (text_len, text) = short_parts(self.reply_text);
        let (exchange_len, exchange) = short_parts(self.exchange);
        let (key_len, key) = short_parts(self.routing_key);
        let args = 5 + u32::from(text_len) + u32::from(exchange_len) + u32::from(key_len);
        out.extend_from_slice(&method_head(channel, BasicReturn::ID, args));
        out.extend_from_slice(&self.reply_code.to_be_bytes());
        out.push(text_len);
        out.extend_from_slice(text);
        out.push(exchange_len);
        out.extend_from_slice(exchange);
        out.push(key_len);
        out.extend_from_slice(key);
        out.push(FRAME_END);
    }
}

/// Octets of a header frame besides the properties.
const HEADER_FRAME_OVERHEAD: usize = FRAME_OVERHEAD + 12;

/// Appends a content header frame of class basic. `properties` are flags and
/// list as they came.
#[inline]
fn put_header_frame(channel: u16, properties: &[u8], body_size: u64, out: &mut Vec<u8>) {
    let size = u32::try_from(properties.len() + 12).unwrap_or(u32::MAX);
    let [k, c0, c1, s0, s1, s2, s3] = frame_head(HEADER, channel, size);
    let [b0, b1, b2, b3, b4, b5, b6, b7] = body_size.to_be_bytes();
    let [class0, class1] = BasicDeliver::CLASS_ID.to_be_bytes();
    out.extend_from_slice(&[
        k, c0, c1, s0, s1, s2, s3, class0, class1, 0, 0, b0, b1, b2, b3, b4, b5, b6, b7,
    ]);
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}

/// Most octets of body in one frame. `frame_max` is the agreed size in octets
/// with the overhead, 0 for no limit; less than [`FRAME_MIN_SIZE`] counts as
/// that, as peers may not agree on less.
#[inline]
pub const fn body_part_max(frame_max: u32) -> usize {
    let payload = if frame_max == 0 || frame_max > PAYLOAD_SIZE_CAP {
        PAYLOAD_SIZE_CAP
    } else if frame_max < FRAME_MIN_SIZE {
        FRAME_MIN_SIZE
    } else {
        frame_max
    };
    payload as usize - FRAME_OVERHEAD
}

/// Appends a message for a client: method frame, header frame, body frames.
///
/// `properties` are flags and list as they came; `frame_max` is the agreed size
/// in octets with the overhead, 0 for no limit.
#[inline]
pub fn put_content(
    out: &mut Vec<u8>,
    channel: u16,
    method: &impl ContentMethod,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    let part_max = body_part_max(frame_max);
    let body_frames = body.len() / part_max + 1;
    out.reserve(
        method.frame_size_max()
            + HEADER_FRAME_OVERHEAD
            + properties.len()
            + body.len()
            + body_frames * FRAME_OVERHEAD,
    );
    method.put_frame(channel, out);
    put_header_frame(channel, properties, body.len() as u64, out);
    for part in body.chunks(part_max) {
        // A part is not larger than PAYLOAD_SIZE_CAP, which is an u32.
        out.extend_from_slice(&frame_head(BODY, channel, part.len() as u32));
        out.extend_from_slice(part);
        out.push(FRAME_END);
    }
}

/// Appends the method frame and the header frame of a message for a client. The
/// body has to follow: see [`BodyFrames`].
#[inline]
pub fn put_content_head(
    out: &mut Vec<u8>,
    channel: u16,
    method: &impl ContentMethod,
    properties: &[u8],
    body_size: u64,
) {
    out.reserve(method.frame_size_max() + HEADER_FRAME_OVERHEAD + properties.len());
    method.put_frame(channel, out);
    put_header_frame(channel, properties, body_size, out);
}

/// A body frame in three parts: `head`, `part`, and the octet of
/// [`BodyFrame::END`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFrame<'a> {
    /// The octets before the part of the body.
    pub head: [u8; FRAME_HEAD],
    /// The part of the body.
    pub part: &'a [u8],
}

impl BodyFrame<'_> {
    /// The octet after the part of the body.
    pub const END: &'static [u8; 1] = &[FRAME_END];
}

/// The body frames of a message, without copying the body. None for an empty
/// body.
#[derive(Debug, Clone)]
pub struct BodyFrames<'a> {
    channel: u16,
    parts: std::slice::Chunks<'a, u8>,
}

impl<'a> BodyFrames<'a> {
    /// Splits `body` by `frame_max`, the agreed size in octets with the
    /// overhead, 0 for no limit.
    pub fn new(channel: u16, body: &'a [u8], frame_max: u32) -> Self {
        BodyFrames {
            channel,
            parts: body.chunks(body_part_max(frame_max)),
        }
    }
}

impl<'a> Iterator for BodyFrames<'a> {
    type Item = BodyFrame<'a>;

    #[inline]
    fn next(&mut self) -> Option<BodyFrame<'a>> {
        let part = self.parts.next()?;
        Some(BodyFrame {
            head: frame_head(BODY, self.channel, part.len() as u32),
            part,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.parts.size_hint()
    }
}

impl ExactSizeIterator for BodyFrames<'_> {}

/// Appends basic.ack: a publisher confirm.
#[inline]
pub fn put_ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    put_settle(out, channel, BasicAck::ID, delivery_tag, u8::from(multiple));
}

/// Appends basic.nack: a negative publisher confirm. `requeue` means nothing in it and is set, as RabbitMQ sets it.
#[inline]
pub fn put_nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    const REQUEUE: u8 = 2;
    let bits = REQUEUE | u8::from(multiple);
    put_settle(out, channel, BasicNack::ID, delivery_tag, bits);
}

#[inline]
fn put_settle(out: &mut Vec<u8>, channel: u16, id: u32, delivery_tag: u64, bits: u8) {
    let [k, c0, c1, s0, s1, s2, s3, i0, i1, i2, i3] = method_head(channel, id, 9);
    let [d0, d1, d2, d3, d4, d5, d6, d7] = delivery_tag.to_be_bytes();
    out.extend_from_slice(&[
        k, c0, c1, s0, s1, s2, s3, i0, i1, i2, i3, d0, d1, d2, d3, d4, d5, d6, d7, bits, FRAME_END,
    ]);
}

/// Appends a heartbeat frame.
#[inline]
pub fn put_heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&HEARTBEAT_FRAME);
}

/// Appends the frame of any method. Those with a content need it to follow.
pub fn put_method(out: &mut Vec<u8>, channel: u16, method: &Method) {
    let [c0, c1] = channel.to_be_bytes();
    out.extend_from_slice(&[METHOD, c0, c1]);
    put_sized(out, |out| method.encode_payload(out));
    out.push(FRAME_END);
}

// The ids above are of one class; the header frame relies on it.
const _: () = assert!(BasicDeliver::ID == method_id(BasicGetOk::CLASS_ID, 60));
const _: () = assert!(BasicReturn::CLASS_ID == BasicDeliver::CLASS_ID);

#[cfg(test)]
mod tests;
