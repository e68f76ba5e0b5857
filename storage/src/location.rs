//! Where a record lies.

use std::fmt;

/// A place in the journal: `segment << 32 | offset`, the offset in bytes from the start of the segment's file.
///
/// Locations order all records of a node by the order of their appends. Segments are numbered from 1, so
/// [`Location::ZERO`] lies before every record. As a watermark a location is an exclusive end: what lies below it is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location(u64);

impl Location {
    /// Before every record.
    pub const ZERO: Location = Location(0);
    /// No location; sorts after every record, so that a minimum over locations ignores it.
    pub const NONE: Location = Location(u64::MAX);

    /// The place `offset` bytes into `segment`.
    pub const fn new(segment: u32, offset: u32) -> Location {
        Location(((segment as u64) << 32) | offset as u64)
    }

    /// From the integer of [`Location::to_u64`].
    pub const fn from_u64(value: u64) -> Location {
        Location(value)
    }

    /// As one integer that orders as the location does.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The segment's number.
    pub const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The byte offset in the segment's file.
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Location::NONE {
            return f.write_str("none");
        }
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
