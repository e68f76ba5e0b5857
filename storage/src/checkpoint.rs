//! Checkpoint files: a small state and the journal location that it covers, replaced atomically. `FORMAT.md` section 5.
//!
//! A checkpoint is one file, `NAME.checkpoint`. A new one is written beside it, synced, renamed over it, and the directory is
//! synced: after a crash there is the old one or the new one, whole. It names the journal that it belongs to by uuid.
//! What it covers must be durable in the journal before it is written; that is the caller's to see to.
//!
//! ```text
//!  0          8          12       16           32         40       44     48       56      64       72      76      80
//!  | magic    | version  | zero   | journal    | location | group  | zero | index  | term  | length | data  | head  | data
//!  | 8 bytes  | u32      | u32    | uuid, 16   | u64      | u32    | u32  | u64    | u64   | u64    | CRC   | CRC   |
//! ```

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::Location;
use crate::disk::Disk;
use crate::error::Damage;

/// The format written, and the only one read.
const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"LEVCHKP\n";
const HEADER_BYTES: usize = 80;
const SUFFIX: &str = ".checkpoint";
const TEMPORARY_SUFFIX: &str = ".checkpoint-new";
/// Bytes of a checkpoint's name.
const NAME_BYTES_MAX: usize = 100;

/// The largest data of a checkpoint: 1 GiB.
pub const DATA_BYTES_MAX: usize = 1 << 30;

/// What a checkpoint covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covers {
    /// [`crate::Journal::uuid`] of the journal.
    pub journal: [u8; 16],
    /// Exclusive: replay goes on here.
    pub location: Location,
    /// The group.
    pub group: u32,
    /// The group's last index that is in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// A checkpoint as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// What it covers.
    pub covers: Covers,
    /// The state.
    pub data: Bytes,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused. After an error of a write the old checkpoint is still the one that counts, but
    /// which of the two a crash would leave is not known.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// Written by another version of Leveret.
    #[error("{} has checkpoint format {found}, this version of leveret reads format {FORMAT_VERSION}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Names have 1 to 100 characters of `a-z 0-9 - _`.
    #[error("{0:?} is no name for a checkpoint")]
    Name(String),
    /// Over [`DATA_BYTES_MAX`].
    #[error("a checkpoint of {0} bytes is over the limit")]
    TooLarge(usize),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io {
        action,
        path,
        source,
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn path_of(dir: &Path, name: &str, suffix: &str) -> Result<PathBuf, CheckpointError> {
    if !is_name(name) {
        return Err(CheckpointError::Name(name.into()));
    }
    Ok(dir.join(format!("{name}{suffix}")))
}

/// Replaces the checkpoint `name` in `dir`; durable when this returns.
///
/// # Errors
/// The system's, a name or a size that is not allowed.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    covers: &Covers,
    data: &[u8],
) -> Result<(), CheckpointError> {
    if data.len() > DATA_BYTES_MAX {
        return Err(CheckpointError::TooLarge(data.len()));
    }
    let path = path_of(dir, name, SUFFIX)?;
    let temporary = path_of(dir, name, TEMPORARY_SUFFIX)?;
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &temporary)(e));
        }
        _ => {}
    }
    let header = encode_header(covers, data);
    let file = disk
        .create(&temporary)
        .map_err(failed("create", &temporary))?;
    let mut parts = [IoSlice::new(&header), IoSlice::new(data)];
    file.write_all_at(&mut parts, 0)
        .map_err(failed("write", &temporary))?;
    file.sync_data().map_err(failed("sync", &temporary))?;
    disk.rename(&temporary, &path)
        .map_err(failed("rename", &temporary))?;
    disk.sync_dir(dir).map_err(failed("sync", dir))
}

/// Reads the checkpoint `name` in `dir`; `None` if there is none.
///
/// # Errors
/// Damage, another format, the system's errors.
pub fn read(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
) -> Result<Option<Checkpoint>, CheckpointError> {
    let path = path_of(dir, name, SUFFIX)?;
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path)(e)),
    };
    let len = file.len().map_err(failed("read", &path))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > HEADER_BYTES + DATA_BYTES_MAX {
        return Err(CheckpointError::TooLarge(len));
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)
        .map_err(failed("read", &path))?;
    decode(Bytes::from(bytes), &path).map(Some)
}

/// Names of the checkpoints in `dir`, sorted.
///
/// # Errors
/// The system's.
pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let files = disk.list(dir).map_err(failed("list", dir))?;
    let mut names: Vec<String> = files
        .iter()
        .filter_map(|file| file.strip_suffix(SUFFIX))
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes the checkpoint `name` in `dir`, if there is one; durable when this returns.
///
/// # Errors
/// The system's.
pub fn remove(disk: &dyn Disk, dir: &Path, name: &str) -> Result<(), CheckpointError> {
    let path = path_of(dir, name, SUFFIX)?;
    match disk.remove(&path) {
        Ok(()) => disk.sync_dir(dir).map_err(failed("sync", dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", &path)(e)),
    }
}

fn encode_header(covers: &Covers, data: &[u8]) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..32].copy_from_slice(&covers.journal);
    out[32..40].copy_from_slice(&covers.location.to_u64().to_le_bytes());
    out[40..44].copy_from_slice(&covers.group.to_le_bytes());
    out[48..56].copy_from_slice(&covers.index.to_le_bytes());
    out[56..64].copy_from_slice(&covers.term.to_le_bytes());
    out[64..72].copy_from_slice(&(data.len() as u64).to_le_bytes());
    out[72..76].copy_from_slice(&crc32c::crc32c(data).to_le_bytes());
    let crc = crc32c::crc32c(&out[..76]);
    out[76..80].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Judges the bytes of a checkpoint file; `path` is for errors only.
///
/// # Errors
/// Damage, another format.
pub fn decode(bytes: Bytes, path: &Path) -> Result<Checkpoint, CheckpointError> {
    let damaged = |offset: usize, reason: &str| {
        CheckpointError::Damaged(Damage {
            path: path.to_path_buf(),
            offset: offset as u64,
            reason: reason.to_owned(),
        })
    };
    let header: &[u8; HEADER_BYTES] = bytes
        .first_chunk()
        .ok_or_else(|| damaged(0, "the checkpoint's header is cut off"))?;
    let u32_at = |at: usize| {
        let mut field = [0; 4];
        field.copy_from_slice(&header[at..at + 4]);
        u32::from_le_bytes(field)
    };
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if header[0..8] != MAGIC {
        return Err(damaged(0, "no checkpoint magic"));
    }
    // Before the checksum: another version may keep it elsewhere.
    if u32_at(8) != FORMAT_VERSION {
        let path = path.to_path_buf();
        return Err(CheckpointError::UnsupportedVersion {
            path,
            found: u32_at(8),
        });
    }
    if u32_at(76) != crc32c::crc32c(&header[..76]) {
        return Err(damaged(0, "the header's checksum does not match"));
    }
    if u64_at(64) != (bytes.len() - HEADER_BYTES) as u64 {
        return Err(damaged(
            HEADER_BYTES,
            "the file is not as long as its header says",
        ));
    }
    let mut journal = [0; 16];
    journal.copy_from_slice(&header[16..32]);
    let covers = Covers {
        journal,
        location: Location::from_u64(u64_at(32)),
        group: u32_at(40),
        index: u64_at(48),
        term: u64_at(56),
    };
    if u32_at(72) != crc32c::crc32c(&bytes[HEADER_BYTES..]) {
        return Err(damaged(HEADER_BYTES, "the data's checksum does not match"));
    }
    Ok(Checkpoint {
        covers,
        data: bytes.slice(HEADER_BYTES..),
    })
}
