//! basic.publish as it lies in the receive buffer.
//!
//! Read for every message; nothing is allocated. Acknowledgements need no such
//! form: [`crate::method::BasicAck`], `BasicNack` and `BasicReject` are `Copy`.

use crate::method::{BasicPublish, MethodError};
use crate::wire::{ArgError, ArgReader};

/// The arguments of basic.publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicPublishRef<'a> {
    /// Name of the exchange, up to 255 octets.
    pub exchange: &'a [u8],
    /// Routing key, up to 255 octets; they need not be UTF-8.
    pub routing_key: &'a [u8],
    /// Return the message when no queue takes it.
    pub mandatory: bool,
    /// Return the message when no consumer takes it at once.
    pub immediate: bool,
}

impl<'a> BasicPublishRef<'a> {
    /// Decodes the arguments: the payload of the frame without the four octets
    /// of the ids (see [`crate::method::split_method`]).
    ///
    /// # Errors
    /// [`MethodError::Arguments`] when they are not exactly the arguments of
    /// basic.publish.
    #[inline]
    pub fn decode(args: &'a [u8]) -> Result<Self, MethodError> {
        Self::read(args).map_err(|error| MethodError::new(BasicPublish::ID, args, error))
    }

    #[inline]
    fn read(args: &'a [u8]) -> Result<Self, ArgError> {
        let mut read = ArgReader::new(args);
        let _ticket = read.short()?;
        let exchange = read.short_bytes()?;
        let routing_key = read.short_bytes()?;
        let mandatory = read.bit()?;
        let immediate = read.bit()?;
        read.finish()?;
        Ok(BasicPublishRef {
            exchange,
            routing_key,
            mandatory,
            immediate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::split_method;
    use crate::short_str::ShortStr;

    #[test]
    fn reads_what_the_owned_method_writes() {
        for flags in 0..4 {
            let owned = BasicPublish {
                ticket: 1,
                exchange: ShortStr::truncated(b"amq.topic"),
                routing_key: ShortStr::truncated(b"a.\xff.c"),
                mandatory: flags & 1 != 0,
                immediate: flags & 2 != 0,
            };
            let mut payload = Vec::new();
            owned.encode_payload(&mut payload);
            let (id, args) = split_method(&payload).unwrap();
            assert_eq!(id, BasicPublish::ID);
            let borrowed = BasicPublishRef::decode(args).unwrap();
            assert_eq!(borrowed.exchange, b"amq.topic");
            assert_eq!(borrowed.routing_key, b"a.\xff.c");
            assert_eq!(borrowed.mandatory, owned.mandatory);
            assert_eq!(borrowed.immediate, owned.immediate);
            for cut in 0..args.len() {
                assert!(BasicPublishRef::decode(&args[..cut]).is_err());
            }
            let mut longer = args.to_vec();
            longer.push(0);
            assert!(matches!(
                BasicPublishRef::decode(&longer),
                Err(MethodError::Arguments {
                    class_id: 60,
                    method_id: 40,
                    ..
                })
            ));
        }
    }
}
