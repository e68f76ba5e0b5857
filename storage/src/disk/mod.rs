//! What the journal asks of a disk: the real file system, and a simulated one that can lose power.
//!
//! The journal and the checkpoints reach files only through [`Disk`]. Two implementations: [`RealDisk`] and, for tests,
//! [`sim::SimDisk`], which keeps written and durable bytes apart. Paths are plain files in one directory; there are no links.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

mod mapping;
mod real;
pub mod sim;

pub use real::RealDisk;

/// Bytes of the file system that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this process may still use.
    pub available_bytes: u64,
    /// The whole.
    pub total_bytes: u64,
}

/// Held as long as the directory is in use by this process.
pub trait DirLock: Send + Sync {}

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Makes the directory and its parents; durable when this returns.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names of the plain files in `dir`, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// A new empty file, open to read and write. Fails with `AlreadyExists`.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, open to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing what `to` named; durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name; open files and mappings stay valid. Durable only after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How full the file system of `dir` is.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes the directory for this process; `WouldBlock` if another has it.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// An open file.
#[allow(
    clippy::len_without_is_empty,
    reason = "a question to the system, with an error"
)]
pub trait DiskFile: Send + Sync {
    /// Bytes of the file.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends the file, all zeros, and takes the space for it where the file system can.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes all the buffers, one after the other, from `offset` on.
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file is shorter.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes written bytes durable, with what of the metadata is needed to read them.
    fn sync_data(&self) -> io::Result<()>;
    /// A view of the first `len` bytes, which the file must have. The view outlives the file and its name.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>>;
}

/// What will happen with a part of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Will be read soon: start reading it from disk.
    WillNeed,
    /// Is read now: bring it in, and report what cannot be read as an error instead of a signal.
    Populate,
    /// Not needed soon: give the memory back; the bytes stay readable.
    DontNeed,
}

/// A read-only view of a file. Bytes handed out are never written again by the journal.
pub trait Mapping: Send + Sync {
    /// The bytes of `range`, without a copy where the disk can; `None` outside the view.
    fn slice(&self, range: Range<usize>) -> Option<Bytes>;
    /// A hint about `range` (rounded to pages); ignored where the disk knows no such thing.
    fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()>;
    /// Whether any [`Bytes`] of this view is still held.
    fn in_use(&self) -> bool;
}
