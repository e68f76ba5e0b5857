//! Who a node is, on its disk: written before anything else of a cluster, and never changed to somebody else.
//!
//! The file `identity` in the directory `cluster` of the data:
//!
//! ```text
//!  0          8         12      13            14     16        32        48     56             64
//!  | magic    | version | phase | name length | zero | cluster | journal | node | incarnation  | name | CRC-32C of all before
//!  | LEVIDENT | u32     | u8    | u8          | u16  | uuid    | uuid    | u64  | u64          |      | u32
//! ```
//!
//! Little-endian. A new one is written beside it, synced, renamed over it, and the directory is synced: after a crash
//! there is the old one or the new one, whole.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use leveret_storage::disk::Disk;

use crate::name::{NAME_BYTES_MAX, NodeName};
use crate::raft::codec::{Malformed, Reader};
use crate::wire::hello::{ClusterId, NodeId, random_u64};

const MAGIC: [u8; 8] = *b"LEVIDENT";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 64;
const FILE: &str = "identity";
const TEMPORARY_FILE: &str = "identity-new";

/// How far a node's membership has come. On disk: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// It belongs to no cluster yet.
    Candidate = 1,
    /// It has its place in a cluster that is being founded.
    Planned = 2,
    /// It is a member: the metadata of the cluster have it.
    Member = 3,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// How far it has come.
    pub phase: Phase,
    /// The cluster's uuid; zero for a candidate.
    pub cluster: ClusterId,
    /// The node's number there; zero for a candidate.
    pub node: NodeId,
    /// Of this disk: random, new for each empty one.
    pub incarnation: u64,
    /// The node's name.
    pub name: NodeName,
    /// [`leveret_storage::Journal::uuid`] of its journal.
    pub journal: [u8; 16],
}

/// An identity cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refused.
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
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        reason: Malformed,
    },
    /// The node is started under another name.
    #[error("these are the data of the node {found}, and this one is called {asked}")]
    Name {
        /// The name of the file.
        found: NodeName,
        /// The name of the configuration.
        asked: NodeName,
    },
    /// The journal is not the one that the identity was made with.
    #[error("{}: the journal beside it is another one; it was replaced or its files are missing", path.display())]
    Journal {
        /// The identity's file.
        path: PathBuf,
    },
}

impl Identity {
    /// A candidate with a new incarnation, not written yet.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn candidate(name: NodeName, journal: [u8; 16]) -> io::Result<Identity> {
        Ok(Identity {
            phase: Phase::Candidate,
            cluster: [0; 16],
            node: 0,
            incarnation: random_u64()?,
            name,
            journal,
        })
    }

    /// The identity of the data in `dir`; a candidate, written, if there is none.
    ///
    /// # Errors
    /// [`IdentityError`]; also if it has another name or journal.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: &NodeName,
        journal: [u8; 16],
    ) -> Result<Identity, IdentityError> {
        let path = dir.join(FILE);
        let Some(identity) = Identity::read(disk, dir)? else {
            let candidate =
                Identity::candidate(name.clone(), journal).map_err(failed("make", &path))?;
            candidate.write(disk, dir)?;
            return Ok(candidate);
        };
        if identity.name != *name {
            return Err(IdentityError::Name {
                found: identity.name,
                asked: name.clone(),
            });
        }
        if identity.journal != journal {
            return Err(IdentityError::Journal { path });
        }
        Ok(identity)
    }

    /// Reads the identity in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// Damage, the system's errors.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = dir.join(FILE);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let damaged = |reason| IdentityError::Damaged {
            path: path.clone(),
            reason,
        };
        let length = file.len().map_err(failed("read", &path))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FIXED_BYTES + NAME_BYTES_MAX + 4 {
            return Err(damaged(Malformed("it is too long")));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)
            .map_err(failed("read", &path))?;
        Identity::decode(&bytes).map(Some).map_err(damaged)
    }

    /// Replaces the identity in `dir`, which is made if there is none; durable when this returns.
    ///
    /// # Errors
    /// The system's. Which of the two a crash would leave is not known then.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
        let (path, temporary) = (dir.join(FILE), dir.join(TEMPORARY_FILE));
        disk.create_dir_all(dir).map_err(failed("make", dir))?;
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            _ => {}
        }
        let file = disk
            .create(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all_at(&mut [IoSlice::new(&self.encode())], 0)
            .map_err(failed("write", &temporary))?;
        file.sync_data().map_err(failed("sync", &temporary))?;
        disk.rename(&temporary, &path)
            .map_err(failed("rename", &temporary))?;
        disk.sync_dir(dir).map_err(failed("sync", dir))
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        let mut out = Vec::with_capacity(FIXED_BYTES + name.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.phase as u8, name.len() as u8, 0, 0]);
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&self.journal);
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(name);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The identity that these bytes are.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(bytes: &[u8]) -> Result<Identity, Malformed> {
        let (rest, crc) = bytes
            .split_last_chunk()
            .ok_or(Malformed("it is too short"))?;
        if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
            return Err(Malformed("its checksum is wrong"));
        }
        let what = "it is no identity of this version";
        let mut reader = Reader::new(rest);
        let version = VERSION.to_le_bytes();
        if reader.take(what)? != MAGIC || reader.take(what)? != version {
            return Err(Malformed(what));
        }
        let phase = match reader.u8(what)? {
            1 => Phase::Candidate,
            2 => Phase::Planned,
            3 => Phase::Member,
            _ => return Err(Malformed(what)),
        };
        let length = usize::from(reader.u8(what)?);
        if reader.u16(what)? != 0 {
            return Err(Malformed(what));
        }
        let (cluster, journal) = (reader.take(what)?, reader.take(what)?);
        let (node, incarnation) = (reader.u64(what)?, reader.u64(what)?);
        let name = reader.rest();
        let named = phase == Phase::Candidate;
        if name.len() != length || named != (cluster == [0; 16]) || named != (node == 0) {
            return Err(Malformed(what));
        }
        let name = std::str::from_utf8(name).ok().map(NodeName::parse);
        let Some(Ok(name)) = name else {
            return Err(Malformed("its name is none"));
        };
        Ok(Identity {
            phase,
            cluster,
            node,
            incarnation,
            name,
            journal,
        })
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |source| IdentityError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_storage::disk::sim::{Fault, SimDisk};

    fn identity(phase: Phase, incarnation: u64) -> Identity {
        let candidate = phase == Phase::Candidate;
        Identity {
            phase,
            cluster: if candidate { [0; 16] } else { [7; 16] },
            node: if candidate { 0 } else { 2 },
            incarnation,
            name: NodeName::parse("rabbit@host-2").expect("a name"),
            journal: *b"a journal's uuid",
        }
    }

    #[test]
    fn the_layout_stays() {
        let bytes = identity(Phase::Planned, 0x0102).encode();
        assert_eq!(bytes[..16], *b"LEVIDENT\x01\0\0\0\x02\x0d\0\0");
        assert_eq!(
            bytes[48..64],
            [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes[64..77], *b"rabbit@host-2");
        assert_eq!(bytes.len(), 81);
        assert_eq!(
            Identity::decode(&bytes),
            Ok(identity(Phase::Planned, 0x0102))
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = identity(Phase::Member, 5).encode();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bytes).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            assert!(Identity::decode(&whole[..cut]).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_power_cut_leaves_the_old_or_the_new_one() {
        let dir = Path::new("data/cluster");
        let (old, new) = (identity(Phase::Candidate, 5), identity(Phase::Planned, 5));
        let mut seen = [0; 2];
        for first in [false, true] {
            for cut in 1..12 {
                for seed in 0..60 {
                    let disk = SimDisk::new();
                    if !first {
                        old.write(&disk, dir).expect("no fault yet");
                    }
                    disk.fail(cut, Fault::PowerCut);
                    let done = new.write(&disk, dir).is_ok();
                    disk.crash(seed);
                    let read = Identity::read(&disk, dir).expect("whole");
                    assert!(
                        read.as_ref() == Some(&new) || !done,
                        "a written one was lost"
                    );
                    match &read {
                        Some(read) if *read == new => seen[1] += 1,
                        Some(read) => assert!(!first && *read == old),
                        None => assert!(first),
                    }
                    seen[0] += usize::from(read.as_ref() == Some(&old));
                    new.write(&disk, dir).expect("the next try");
                    assert_eq!(
                        Identity::read(&disk, dir).expect("whole"),
                        Some(new.clone())
                    );
                }
            }
        }
        assert!(seen[0] > 50 && seen[1] > 50, "{seen:?}");
    }

    #[test]
    fn failing_writes_and_syncs_are_errors() {
        let dir = Path::new("c");
        for fault in [Fault::Sync, Fault::Write(io::ErrorKind::StorageFull)] {
            let disk = SimDisk::new();
            identity(Phase::Candidate, 1)
                .write(&disk, dir)
                .expect("no fault yet");
            disk.fail(1, fault);
            assert!(identity(Phase::Planned, 1).write(&disk, dir).is_err());
            let read = Identity::read(&disk, dir).expect("whole");
            assert_eq!(read, Some(identity(Phase::Candidate, 1)));
        }
    }

    #[test]
    fn an_identity_stays_with_its_name_and_journal() {
        let (disk, dir) = (SimDisk::new(), Path::new("c"));
        let name = NodeName::parse("a@h").expect("a name");
        let first = Identity::open(&disk, dir, &name, [1; 16]).expect("a new one");
        disk.crash(1);
        let again = Identity::open(&disk, dir, &name, [1; 16]).expect("the same one");
        assert_eq!(first, again);
        let other = NodeName::parse("b@h").expect("a name");
        let wrong = Identity::open(&disk, dir, &other, [1; 16]);
        assert!(matches!(wrong, Err(IdentityError::Name { .. })));
        let wrong = Identity::open(&disk, dir, &name, [2; 16]);
        assert!(matches!(wrong, Err(IdentityError::Journal { .. })));
        let empty = SimDisk::new();
        let wiped = Identity::open(&empty, dir, &name, [1; 16]).expect("a new one");
        assert_ne!(wiped.incarnation, first.incarnation);
    }
}
