//! `ShortStr`: the short string of AMQP 0-9-1 (section 4.2.5.3), owned.

use std::borrow::{Borrow, Cow};
use std::fmt;

/// Up to 255 octets. They are mostly UTF-8, but AMQP does not promise it:
/// RabbitMQ checks the names in most methods, and neither routing keys of
/// basic.publish nor properties.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShortStr(Box<[u8]>);

/// A string of more than 255 octets was to become a [`ShortStr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("short string of {len} octets, more than 255")]
pub struct ShortStrTooLong {
    /// Length in octets of what was offered.
    pub len: usize,
}

impl ShortStr {
    /// Longest short string in octets.
    pub const LEN_MAX: usize = 255;

    /// Copies `bytes`.
    ///
    /// # Errors
    /// When there are more than 255 of them.
    pub fn new(bytes: &[u8]) -> Result<ShortStr, ShortStrTooLong> {
        if bytes.len() > Self::LEN_MAX {
            return Err(ShortStrTooLong { len: bytes.len() });
        }
        Ok(ShortStr(bytes.into()))
    }

    /// Copies the first 255 octets of `bytes`.
    pub fn truncated(bytes: &[u8]) -> ShortStr {
        ShortStr(bytes.get(..Self::LEN_MAX).unwrap_or(bytes).into())
    }

    /// The octets.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string, when it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The string, with replacement characters where it is not UTF-8.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Length in octets.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<&[u8]> for ShortStr {
    type Error = ShortStrTooLong;
    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        ShortStr::new(bytes)
    }
}

impl TryFrom<&str> for ShortStr {
    type Error = ShortStrTooLong;
    fn try_from(text: &str) -> Result<Self, Self::Error> {
        ShortStr::new(text.as_bytes())
    }
}

impl TryFrom<String> for ShortStr {
    type Error = ShortStrTooLong;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        ShortStr::new(text.as_bytes())
    }
}

impl AsRef<[u8]> for ShortStr {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ShortStr {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for ShortStr {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortStr {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<[u8]> for ShortStr {
    fn eq(&self, other: &[u8]) -> bool {
        self.as_bytes() == other
    }
}

impl PartialEq<&[u8]> for ShortStr {
    fn eq(&self, other: &&[u8]) -> bool {
        self.as_bytes() == *other
    }
}

impl fmt::Display for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string_lossy())
    }
}

impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn holds_255_octets_and_no_more() {
        assert_eq!(ShortStr::new(&[7; 255]).unwrap().len(), 255);
        assert_eq!(ShortStr::new(&[7; 256]), Err(ShortStrTooLong { len: 256 }));
        assert_eq!(ShortStr::truncated(&[7; 300]).len(), 255);
        assert_eq!(ShortStr::truncated(b"ab"), "ab");
    }

    #[test]
    fn is_found_in_a_map_by_its_octets() {
        let mut map = HashMap::new();
        map.insert(ShortStr::truncated(b"key"), 1);
        assert_eq!(map.get(b"key".as_slice()), Some(&1));
    }

    #[test]
    fn shows_octets_that_are_not_utf8() {
        let odd = ShortStr::truncated(b"a\xff");
        assert_eq!(odd.as_str(), None);
        assert_eq!(odd.to_string(), "a\u{fffd}");
        assert_eq!(format!("{odd:?}"), "\"a\\xff\"");
    }
}
