//! Inbound frames of an RPC connection, put together to events; and outbound messages with a
//! correlation id to fill in.

use crate::error::Result;
use crate::net::{Other, other_method};
use crate::wire::{
    Cursor, Frame, FrameKind, MessageTemplate, Properties, STAMP_BYTES, Stamp, WireError, id,
    method_id,
};

/// What a connection has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A message came.
    Delivered {
        /// Delivery tag.
        tag: u64,
        /// From the front of its body.
        stamp: Option<Stamp>,
    },
    /// Publishes were confirmed.
    Confirmed {
        /// Delivery tag.
        tag: u64,
        /// All up to the tag.
        multiple: bool,
    },
    /// It was refused.
    Nacked,
    /// It could not be routed.
    Returned,
}

/// Puts frames of one channel together.
#[derive(Debug, Default)]
pub struct Assembler {
    content: Option<Content>,
}

#[derive(Debug)]
struct Content {
    /// `None` for a returned message.
    tag: Option<u64>,
    remaining: u64,
    stamp: Option<Stamp>,
}

impl Assembler {
    /// Takes the next frame.
    ///
    /// # Errors
    /// The broker closed, or broke the protocol.
    pub fn frame(&mut self, frame: Frame<'_>) -> Result<Option<Event>> {
        match frame.kind {
            FrameKind::Method => return self.method(frame),
            FrameKind::Heartbeat => return Ok(None),
            FrameKind::Header => {
                let content = self.content.as_mut().ok_or(WireError::ContentOutOfPlace)?;
                let mut header = Cursor::new(frame.payload);
                header.u32()?;
                content.remaining = header.u64()?;
            }
            FrameKind::Body => {
                let content = self.content.as_mut().ok_or(WireError::ContentOutOfPlace)?;
                let len = frame.payload.len() as u64;
                content.remaining = content
                    .remaining
                    .checked_sub(len)
                    .ok_or(WireError::ContentOutOfPlace)?;
                content.stamp = content.stamp.or_else(|| Stamp::decode(frame.payload));
            }
        }
        if self.content.as_ref().is_some_and(|c| c.remaining > 0) {
            return Ok(None);
        }
        Ok(self.content.take().and_then(|content| {
            let tag = content.tag?;
            Some(Event::Delivered {
                tag,
                stamp: content.stamp,
            })
        }))
    }

    fn method(&mut self, frame: Frame<'_>) -> Result<Option<Event>> {
        let (method, mut arguments) = method_id(frame.payload)?;
        Ok(match method {
            id::BASIC_DELIVER => {
                arguments.short()?;
                let tag = Some(arguments.u64()?);
                self.content = Some(Content {
                    tag,
                    remaining: 0,
                    stamp: None,
                });
                None
            }
            id::BASIC_RETURN => {
                self.content = Some(Content {
                    tag: None,
                    remaining: 0,
                    stamp: None,
                });
                Some(Event::Returned)
            }
            id::BASIC_ACK => Some(Event::Confirmed {
                tag: arguments.u64()?,
                multiple: arguments.u8()? & 1 == 1,
            }),
            id::BASIC_NACK => Some(Event::Nacked),
            other => match other_method(other, arguments)? {
                Other::Blocked | Other::Unblocked | Other::Ignored => None,
            },
        })
    }
}

/// Stands in a template where the correlation id goes.
pub const CORRELATION_PLACE: &str = "CORRELATION-ID-0";

/// A publish with places for correlation id and stamp.
pub struct Envelope {
    template: MessageTemplate,
    correlation_at: usize,
}

impl Envelope {
    /// `properties` carry [`CORRELATION_PLACE`] as their correlation id.
    pub fn new(
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        properties: &Properties,
        size: usize,
        frame_max: usize,
    ) -> Self {
        let template = MessageTemplate::publish(
            1,
            exchange,
            routing_key,
            mandatory,
            properties,
            size,
            frame_max,
        );
        let place = CORRELATION_PLACE.as_bytes();
        let correlation_at = template
            .bytes
            .windows(place.len())
            .position(|window| window == place)
            .unwrap_or(template.body_at);
        Envelope {
            template,
            correlation_at,
        }
    }

    /// Appends the message with `stamp` in its body and the stamp's number as correlation id.
    pub fn put(&mut self, out: &mut Vec<u8>, stamp: Stamp) {
        let Envelope {
            template,
            correlation_at,
        } = self;
        let digits =
            (0..16).map(|i| b"0123456789abcdef"[(stamp.seq >> (60 - 4 * i)) as usize & 15]);
        let place = &mut template.bytes[*correlation_at..*correlation_at + 16];
        place
            .iter_mut()
            .zip(digits)
            .for_each(|(byte, digit)| *byte = digit);
        template.bytes[template.body_at..template.body_at + STAMP_BYTES]
            .copy_from_slice(&stamp.encode());
        out.extend_from_slice(&template.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::next_frame;

    fn events(bytes: &[u8]) -> Vec<Event> {
        let mut assembler = Assembler::default();
        let mut rest = bytes;
        let mut events = Vec::new();
        while let Some(frame) = next_frame(rest, 4096).unwrap() {
            events.extend(assembler.frame(frame).unwrap());
            rest = &rest[frame.wire_len()..];
        }
        events
    }

    #[test]
    fn a_delivery_in_many_frames_is_one_event() {
        let mut delivery = MessageTemplate::deliver(1, "0", 10_000, 4096);
        let stamp = Stamp {
            stream: 4,
            seq: 77,
            time_ns: 5,
        };
        delivery.bytes[delivery.body_at..][..16].copy_from_slice(&stamp.encode());
        assert_eq!(
            events(&delivery.bytes),
            [Event::Delivered {
                tag: 0,
                stamp: Some(stamp)
            }]
        );
    }

    #[test]
    fn the_correlation_id_is_the_number_in_hex() {
        let properties = Properties {
            correlation_id: Some(CORRELATION_PLACE.into()),
            ..Properties::default()
        };
        let mut envelope = Envelope::new("", "q", true, &properties, 16, 4096);
        let mut out = Vec::new();
        envelope.put(
            &mut out,
            Stamp {
                stream: 0,
                seq: 0xab12,
                time_ns: 0,
            },
        );
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("000000000000ab12") && !text.contains(CORRELATION_PLACE));
    }
}
