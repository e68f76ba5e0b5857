//! Names, keys and identities, and how RabbitMQ speaks of entities in texts.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a vhost, queue, exchange, user or policy: UTF-8, cheap to clone.
///
/// AMQP bounds the names of queues and exchanges at 255 octets; whoever reads
/// them from a socket has checked that.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name(text.into())
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Name(text.into())
    }
}

impl Default for Name {
    fn default() -> Self {
        Name::from("")
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Name::from)
    }
}

/// A name as RabbitMQ takes it from a declaration: without line ends.
pub fn strip_cr_lf(name: &str) -> Cow<'_, str> {
    if name.contains(['\r', '\n']) {
        Cow::Owned(name.replace(['\r', '\n'], ""))
    } else {
        Cow::Borrowed(name)
    }
}

/// The key of a binding, or a dead-letter routing key: octets, mostly UTF-8.
///
/// In JSON it is a string, or an object `{"base64": "..."}` when it is not
/// UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The octets.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, with replacement characters where it is not UTF-8.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Key(bytes.into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(text.as_bytes().into())
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Key(bytes.into())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum KeyJson<'a> {
    Text(Cow<'a, str>),
    Octets { base64: String },
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => KeyJson::Text(Cow::Borrowed(text)),
            Err(_) => KeyJson::Octets {
                base64: STANDARD.encode(&self.0),
            },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match KeyJson::deserialize(deserializer)? {
            KeyJson::Text(text) => Ok(Key::from(text.as_ref())),
            KeyJson::Octets { base64 } => STANDARD
                .decode(base64)
                .map(Key::from)
                .map_err(serde::de::Error::custom),
        }
    }
}

/// The identity of a queue: the index of the command that created it. It is
/// never used again, not even for a queue of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueId(pub u64);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The identity of a connection that owns exclusive queues, chosen by the
/// caller and never used again, in a cluster by [`OwnerId::of_node`]. In JSON: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(pub u128);

impl OwnerId {
    /// The identity of a connection of a node: 16 bits of the node's id, 48 of the incarnation of its process, and a number that is
    /// used once in it.
    pub fn of_node(node: u64, incarnation: u64, number: u64) -> OwnerId {
        let high = node << 48 | incarnation & ((1 << 48) - 1);
        OwnerId(u128::from(high) << 64 | u128::from(number))
    }

    /// The node.
    pub fn node(self) -> u64 {
        (self.0 >> 112) as u64
    }

    /// The incarnation of the node's process.
    pub fn incarnation(self) -> u64 {
        (self.0 >> 64) as u64 & ((1 << 48) - 1)
    }
}

impl Serialize for OwnerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for OwnerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16)
            .map(OwnerId)
            .map_err(serde::de::Error::custom)
    }
}

/// An entity as reply texts name it: `queue 'q' in vhost '/'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource<'a> {
    /// What it is.
    pub kind: ResourceKind,
    /// Its vhost.
    pub vhost: &'a str,
    /// Its name; that of the default exchange is empty.
    pub name: &'a str,
}

/// What a [`Resource`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl<'a> Resource<'a> {
    /// The queue of this name.
    pub fn queue(vhost: &'a str, name: &'a str) -> Resource<'a> {
        Resource {
            kind: ResourceKind::Queue,
            vhost,
            name,
        }
    }

    /// The exchange of this name.
    pub fn exchange(vhost: &'a str, name: &'a str) -> Resource<'a> {
        Resource {
            kind: ResourceKind::Exchange,
            vhost,
            name,
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceKind::Queue => "queue",
            ResourceKind::Exchange => "exchange",
        })
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_json_with_and_without_utf8() {
        for bytes in [&b"a.b"[..], b"", b"\xff\x00a"] {
            let key = Key::from(bytes);
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key, "{json}");
        }
        assert_eq!(
            serde_json::to_string(&Key::from("a.b")).unwrap(),
            r#""a.b""#
        );
    }

    #[test]
    fn owners_keep_all_their_bits() {
        let owner = OwnerId(u128::MAX - 1);
        let json = serde_json::to_string(&owner).unwrap();
        assert_eq!(serde_json::from_str::<OwnerId>(&json).unwrap(), owner);
    }

    #[test]
    fn line_ends_are_dropped_from_names() {
        assert_eq!(strip_cr_lf("a\r\nb"), "ab");
        assert!(matches!(strip_cr_lf("ab"), Cow::Borrowed("ab")));
    }
}
