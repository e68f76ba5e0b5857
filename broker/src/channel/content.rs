//! A message that arrives in several reads, or in several body frames.

use leveret_protocol::content::{ContentHeaderError, ContentHeaderRef};
use leveret_protocol::frame::unknown_frame_text;
use leveret_protocol::{BasicPublishRef, FrameKind, FrameRef, ReplyCode};

use super::{Channel, Publish};
use crate::connection::core::{Core, Fault};

/// What has arrived of it.
#[derive(Debug)]
pub struct Incoming {
    exchange: Box<[u8]>,
    routing_key: Box<[u8]>,
    mandatory: bool,
    immediate: bool,
    properties: Vec<u8>,
    body: Vec<u8>,
    /// The body's size, once the header is there.
    size: Option<usize>,
}

/// What is said when content comes without a method.
pub const METHOD_EXPECTED: &str = "expected method frame, got non method frame instead";

/// Room made for a body before its bytes are there: a size that is only announced costs nothing.
const BODY_RESERVE_MAX: usize = 1 << 20;

impl Channel {
    /// basic.publish whose content is still to come.
    pub fn begin_content(&mut self, publish: &BasicPublishRef<'_>) {
        self.incoming = Some(Box::new(Incoming {
            exchange: publish.exchange.into(),
            routing_key: publish.routing_key.into(),
            mandatory: publish.mandatory,
            immediate: publish.immediate,
            properties: Vec::new(),
            body: Vec::new(),
            size: None,
        }));
    }

    /// Whether a content frame is expected next.
    pub fn expects_content(&self) -> bool {
        self.incoming.is_some()
    }

    /// What is said when another frame comes than the one that is expected.
    pub fn unexpected_text(&self) -> &'static str {
        match self.incoming.as_ref().map(|i| i.size) {
            None => METHOD_EXPECTED,
            Some(None) => {
                "expected content header for class 60, got non content header frame instead"
            }
            Some(Some(_)) => "expected content body, got non content body frame instead",
        }
    }

    /// A header or body frame.
    ///
    /// # Errors
    /// It is not the one that is expected, or the message is too large or malformed.
    pub fn content_frame(&mut self, core: &mut Core, frame: &FrameRef<'_>) -> Result<(), Fault> {
        let unexpected = Fault::hard(ReplyCode::UnexpectedFrame, self.unexpected_text());
        let Some(incoming) = &mut self.incoming else {
            return Err(unexpected);
        };
        let payload = frame.payload;
        match (frame.kind, incoming.size) {
            (FrameKind::Header, None) => {
                let header = ContentHeaderRef::parse(payload).map_err(|error| match error {
                    ContentHeaderError::TooShort => {
                        Fault::hard(ReplyCode::FrameError, unknown_frame_text(frame))
                    }
                    error => Fault::hard(error.reply_code(), error.to_string()),
                })?;
                Self::check_header(core, &header)?;
                let size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
                incoming.properties = header.properties.to_vec();
                incoming.body = Vec::with_capacity(size.min(BODY_RESERVE_MAX));
                incoming.size = Some(size);
            }
            (FrameKind::Body, Some(size)) => {
                if incoming.body.len() + payload.len() > size {
                    return Err(Fault::hard(ReplyCode::UnexpectedFrame, METHOD_EXPECTED));
                }
                incoming.body.extend_from_slice(payload);
            }
            _ => return Err(unexpected),
        }
        if incoming.size == Some(incoming.body.len())
            && let Some(mut incoming) = self.incoming.take()
        {
            let published = self.publish(
                core,
                &Publish {
                    exchange: &incoming.exchange,
                    routing_key: &incoming.routing_key,
                    mandatory: incoming.mandatory,
                    immediate: incoming.immediate,
                    properties: &incoming.properties,
                    body: &incoming.body,
                },
            );
            if published.as_ref().is_err_and(|fault| fault.waits) {
                // The frame comes once more.
                match frame.kind {
                    FrameKind::Header => incoming.size = None,
                    _ => incoming.body.truncate(incoming.body.len() - payload.len()),
                }
                self.incoming = Some(incoming);
            }
            published?;
        }
        Ok(())
    }

    /// What must hold for every content header.
    pub fn check_header(core: &Core, header: &ContentHeaderRef<'_>) -> Result<(), Fault> {
        if header.class_id != 60 {
            return Err(Fault::hard(
                ReplyCode::UnexpectedFrame,
                format!(
                    "expected content header for class 60, got one for class {} instead",
                    header.class_id
                ),
            ));
        }
        let max = core.node.message_bytes_max();
        if header.body_size > max {
            return Err(Fault::precondition(format!(
                "message size {} is larger than configured max size {max}",
                header.body_size
            )));
        }
        Ok(())
    }
}
