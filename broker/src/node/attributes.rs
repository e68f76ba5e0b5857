//! What exchanges may ask of a message besides its routing key.

use std::cell::OnceCell;

use leveret_protocol::{FieldTable, PropertiesRef};
use leveret_topology::MessageAttributes;

/// Decodes nothing before it is asked.
#[derive(Debug)]
pub struct Attributes<'a> {
    properties: &'a PropertiesRef<'a>,
    headers: OnceCell<Option<FieldTable>>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a message with these properties.
    pub fn new(properties: &'a PropertiesRef<'a>) -> Self {
        Attributes {
            properties,
            headers: OnceCell::new(),
        }
    }
}

impl MessageAttributes for Attributes<'_> {
    fn headers(&self) -> Option<&FieldTable> {
        self.headers
            .get_or_init(|| {
                self.properties.headers()?;
                self.properties.decode_headers().ok()
            })
            .as_ref()
    }

    fn correlation_id(&self) -> Option<&[u8]> {
        self.properties.correlation_id()
    }

    fn message_id(&self) -> Option<&[u8]> {
        self.properties.message_id()
    }

    fn timestamp(&self) -> Option<u64> {
        self.properties.timestamp()
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher, RandomState};
        RandomState::new().build_hasher().finish()
    }
}
