//! A disk in memory that can lose power. For tests; deterministic from the seeds it is given.
//!
//! Written and durable bytes are kept apart, by sectors of 512 bytes. A sync makes a file's bytes durable; [`SimDisk::crash`]
//! gives every sector that was written since any one of its versions since, so unsynced writes are lost, torn and
//! reordered. Names behave alike: a create, rename or removal is durable after the directory's sync, and before it may or may not
//! be. A failed sync is as a kernel's: an arbitrary part reached the disk, and the next sync believes that all did.
//! Handles from before a crash fail. Mappings copy.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Advice, DirLock, Disk, DiskFile, Mapping, Space};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Capacity of a disk that was given none.
const CAPACITY_BYTES: u64 = 1 << 40;

/// A fault that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write fails with this kind of error, after a part of it was done.
    Write(io::ErrorKind),
    /// A file's sync fails with an I/O error.
    Sync,
    /// The power goes: this operation and all after it fail, until [`SimDisk::crash`].
    PowerCut,
}

/// What an operation does, for faults that are counted by kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Write,
    Sync,
    Other,
}

/// A file's bytes: as read, as durable, and what lies between.
#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// All contents since the last sync of each sector written since, oldest first.
    versions: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Inode {
    fn resize(&mut self, len: usize) {
        self.current.resize(len, 0);
        self.versions
            .retain(|sector, _| sector * SECTOR_BYTES < len);
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let stop = self.current.len().min(start + SECTOR_BYTES);
            let content = self.current[start..stop].to_vec();
            self.versions.entry(sector).or_default().push(content);
        }
    }

    /// Writes the sectors that count as dirty; those of a failed sync do not any more.
    fn sync(&mut self) {
        let len = self.current.len();
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.versions).into_keys() {
            let start = (sector * SECTOR_BYTES).min(len);
            let stop = len.min(start + SECTOR_BYTES);
            self.durable[start..stop].copy_from_slice(&self.current[start..stop]);
        }
    }

    /// Puts an arbitrary choice of what is not durable into the durable bytes.
    fn settle(&mut self, random: &mut Random, keep: Keep) {
        let len = if keep.pick(random) {
            self.current.len()
        } else {
            self.durable.len()
        };
        self.durable.resize(len, 0);
        for (sector, mut versions) in std::mem::take(&mut self.versions) {
            if !keep.pick(random) {
                continue;
            }
            let index = if keep == Keep::All {
                versions.len() - 1
            } else {
                random.below(versions.len())
            };
            let content = versions.swap_remove(index);
            let start = sector * SECTOR_BYTES;
            let stop = len.min(start + content.len());
            if start < stop {
                self.durable[start..stop].copy_from_slice(&content[..stop - start]);
            }
        }
    }
}

/// How much of what is not durable a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    None,
    /// Of 256.
    Share(u8),
}

impl Keep {
    fn pick(self, random: &mut Random) -> bool {
        match self {
            Keep::All => true,
            Keep::None => false,
            Keep::Share(share) => random.below(256) < usize::from(share),
        }
    }
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

type Node = Arc<Mutex<Inode>>;
/// One change of names that happens as a whole: each name and what it names afterwards.
type NameChange = Vec<(PathBuf, Option<Node>)>;

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    unsynced_names: Vec<NameChange>,
    faults: Vec<(u64, Fault)>,
    /// Faults of the next operation on one file.
    file_faults: Vec<(Node, Fault)>,
    power_cut: bool,
    operations: u64,
    writes: u64,
    syncs: u64,
    locked: Vec<PathBuf>,
    /// Crashes so far; a handle belongs to one life.
    life: u64,
    capacity: Option<u64>,
}

impl State {
    /// Counts the operation, and fails it if a fault is due.
    fn step(&mut self, life: u64, operation: Operation) -> io::Result<()> {
        if life != self.life || self.power_cut {
            return Err(io::Error::other("the power is cut"));
        }
        self.operations += 1;
        self.writes += u64::from(operation == Operation::Write);
        self.syncs += u64::from(operation == Operation::Sync);
        let counts = (self.operations, self.writes, self.syncs);
        let due = self.faults.iter().position(|(at, fault)| match fault {
            Fault::PowerCut => *at == counts.0,
            Fault::Write(_) => operation == Operation::Write && *at == counts.1,
            Fault::Sync => operation == Operation::Sync && *at == counts.2,
        });
        match due.map(|index| self.faults.swap_remove(index).1) {
            None => Ok(()),
            Some(fault) => Err(self.fault(fault)),
        }
    }

    /// As [`State::step`], for an operation on a file that may have a fault of its own.
    fn step_on(&mut self, life: u64, operation: Operation, node: &Node) -> io::Result<()> {
        self.step(life, operation)?;
        let due = self.file_faults.iter().position(|(of, fault)| {
            Arc::ptr_eq(of, node)
                && match fault {
                    Fault::PowerCut => true,
                    Fault::Write(_) => operation == Operation::Write,
                    Fault::Sync => operation == Operation::Sync,
                }
        });
        match due.map(|index| self.file_faults.swap_remove(index).1) {
            None => Ok(()),
            Some(fault) => Err(self.fault(fault)),
        }
    }

    /// What an operation that meets this fault returns.
    fn fault(&mut self, fault: Fault) -> io::Error {
        match fault {
            Fault::Write(kind) => kind.into(),
            Fault::Sync => io::Error::other("simulated I/O error"),
            Fault::PowerCut => {
                self.power_cut = true;
                io::Error::other("the power is cut")
            }
        }
    }

    fn change_names(&mut self, change: NameChange) {
        apply_names(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn available(&self) -> u64 {
        let Some(capacity) = self.capacity else {
            return CAPACITY_BYTES;
        };
        let used: u64 = self
            .names
            .values()
            .map(|node| node.lock().current.len() as u64)
            .sum();
        capacity.saturating_sub(used)
    }
}

fn apply_names(names: &mut BTreeMap<PathBuf, Node>, change: &NameChange) {
    for (path, node) in change {
        match node {
            Some(node) => names.insert(path.clone(), Arc::clone(node)),
            None => names.remove(path),
        };
    }
}

/// The simulated disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Cuts the power and turns it on again. What was not durable is there, or not, as `seed` decides: all of it (as after the
    /// kill of a process) for some seeds, nothing for others, any part for most.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let keep = match random.below(8) {
            0 => Keep::All,
            1 => Keep::None,
            _ => Keep::Share(random.next() as u8),
        };
        let mut state = self.state.lock();
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.unsynced_names) {
            if keep.pick(&mut random) {
                apply_names(&mut names, &change);
            }
        }
        for node in names.values() {
            let mut node = node.lock();
            node.settle(&mut random, keep);
            node.current = node.durable.clone();
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.faults.clear();
        state.power_cut = false;
        state.locked.clear();
        state.life += 1;
    }

    /// Ends the process that uses the disk, and no more: what it wrote can be read, and is as durable as it was. Faults that were to
    /// come do not.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.file_faults.clear();
        state.locked.clear();
        state.life += 1;
    }

    /// Faults that were to come do not.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.file_faults.clear();
    }

    /// Makes the `n`-th operation from now fail, counted from 1: the `n`-th write, sync, or (power cut) change of any kind.
    pub fn fail(&self, n: u64, fault: Fault) {
        let mut state = self.state.lock();
        let done = match fault {
            Fault::PowerCut => state.operations,
            Fault::Write(_) => state.writes,
            Fault::Sync => state.syncs,
        };
        state.faults.push((done + n, fault));
    }

    /// Makes the next operation of the fault's kind on the file at `path` fail, whatever other files see meanwhile; `false`
    /// if there is no such file.
    pub fn fail_next_on(&self, path: &Path, fault: Fault) -> bool {
        let mut state = self.state.lock();
        let Some(node) = state.names.get(path).cloned() else {
            return false;
        };
        state.file_faults.push((node, fault));
        true
    }

    /// Changes so far: writes, syncs, creates, renames, removals.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Whether a [`Fault::PowerCut`] happened and no [`SimDisk::crash`] since.
    pub fn power_is_cut(&self) -> bool {
        self.state.lock().power_cut
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// The bytes of a file, as they would be read.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let node = self.state.lock().names.get(path).cloned()?;
        let content = node.lock().current.clone();
        Some(content)
    }

    /// Replaces the bytes of a file, durably; makes the file if there is none.
    pub fn set_content(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let node = state.names.entry(path.to_path_buf()).or_default().clone();
        state
            .durable_names
            .insert(path.to_path_buf(), Arc::clone(&node));
        let mut node = node.lock();
        node.current = bytes.to_vec();
        node.durable = bytes.to_vec();
        node.versions.clear();
    }

    /// Flips one bit of a file's durable bytes; `false` if the file is not there or shorter.
    pub fn flip_bit(&self, path: &Path, bit: usize) -> bool {
        let Some(mut content) = self.content(path) else {
            return false;
        };
        let Some(byte) = content.get_mut(bit / 8) else {
            return false;
        };
        *byte ^= 1 << (bit % 8);
        self.set_content(path, &content);
        true
    }

    fn file(&self, node: Node, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            node,
            life,
        })
    }

    /// Counts an operation of the present life.
    fn step(&self, operation: Operation) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        let life = state.life;
        state.step(life, operation)?;
        Ok(state)
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.step(Operation::Other)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Node::default();
        state.change_names(vec![(path.to_path_buf(), Some(Arc::clone(&node)))]);
        Ok(self.file(node, state.life))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let node = state
            .names
            .get(path)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(node, state.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step(Operation::Other)?;
        let node = state
            .names
            .get(from)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        state.change_names(vec![
            (from.to_path_buf(), None),
            (to.to_path_buf(), Some(node)),
        ]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(Operation::Other)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(vec![(path.to_path_buf(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.step(Operation::Other)?;
        let (inside, outside): (Vec<_>, Vec<_>) = std::mem::take(&mut state.unsynced_names)
            .into_iter()
            .partition(|change| change.iter().all(|(path, _)| path.parent() == Some(dir)));
        for change in inside {
            apply_names(&mut state.durable_names, &change);
        }
        state.unsynced_names = outside;
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        let total_bytes = state.capacity.unwrap_or(CAPACITY_BYTES);
        Ok(Space {
            available_bytes: state.available(),
            total_bytes,
        })
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state.lock();
        if state.locked.iter().any(|locked| locked == dir) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked.push(dir.to_path_buf());
        let (disk, life) = (self.clone(), state.life);
        Ok(Box::new(SimLock {
            disk,
            dir: dir.to_path_buf(),
            life,
        }))
    }
}

struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
    life: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.life == self.life {
            state.locked.retain(|locked| *locked != self.dir);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    node: Node,
    life: u64,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.node.lock().current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state.lock().step(self.life, Operation::Other)?;
        self.node.lock().resize(len as usize);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let grows = len.saturating_sub(self.node.lock().current.len() as u64);
        if grows > state.available() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.step(self.life, Operation::Other)?;
        self.node.lock().resize(len as usize);
        Ok(())
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = buffers
            .iter()
            .flat_map(|buffer| buffer.iter().copied())
            .collect();
        let mut state = self.disk.state.lock();
        let offset = offset as usize;
        let len = self.node.lock().current.len();
        let grows = (offset + bytes.len()).saturating_sub(len) as u64;
        let outcome = if grows > state.available() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            state.step_on(self.life, Operation::Write, &self.node)
        };
        if outcome.is_err() && self.life == state.life && bytes.len() <= len.saturating_sub(offset)
        {
            // A part of it: as much as the operation's number says.
            let part = Random(state.operations).below(bytes.len() + 1);
            self.node.lock().write(&bytes[..part], offset);
        } else if outcome.is_ok() {
            self.node.lock().write(&bytes, offset);
        }
        outcome
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let node = self.node.lock();
        let start = offset as usize;
        let part = node.current.get(start..start + buffer.len());
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let outcome = state.step_on(self.life, Operation::Sync, &self.node);
        let mut node = self.node.lock();
        match &outcome {
            Ok(()) => node.sync(),
            // After a power cut the crash decides.
            Err(_) if state.power_cut || self.life != state.life => {}
            Err(_) => node.settle(&mut Random(state.operations), Keep::Share(128)),
        }
        outcome
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        if len > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Arc::new(SimMapping {
            node: Arc::clone(&self.node),
        }))
    }
}

struct SimMapping {
    node: Node,
}

impl Mapping for SimMapping {
    fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        self.node
            .lock()
            .current
            .get(range)
            .map(Bytes::copy_from_slice)
    }

    fn advise(&self, _range: Range<usize>, _advice: Advice) -> io::Result<()> {
        Ok(())
    }

    fn in_use(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(&mut [IoSlice::new(bytes)], offset)
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_may_not() {
        let path = Path::new("d/f");
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = SimDisk::new();
            let file = disk.create(path).unwrap();
            write(&*file, &[1; 1024], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("d")).unwrap();
            write(&*file, &[2; 1024], 0).unwrap();
            write(&*file, &[3; 512], 512).unwrap();
            disk.crash(seed);
            let content = disk.content(path).unwrap();
            assert!(content[..512].iter().all(|b| *b == content[0]));
            assert!(content[512..].iter().all(|b| *b == content[512]));
            outcomes.insert((content[0], content[512]));
            assert!(
                write(&*file, &[4], 0).is_err(),
                "a handle of the life before"
            );
        }
        let all = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
        assert_eq!(outcomes, all.into());
    }

    #[test]
    fn names_are_durable_with_their_directory() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = SimDisk::new();
            disk.set_content(Path::new("d/a"), b"old");
            let file = disk.create(Path::new("d/b")).unwrap();
            write(&*file, b"new", 0).unwrap();
            file.sync_data().unwrap();
            disk.rename(Path::new("d/b"), Path::new("d/a")).unwrap();
            if seed % 2 == 0 {
                disk.sync_dir(Path::new("d")).unwrap();
            }
            disk.crash(seed);
            let content = disk.content(Path::new("d/a")).unwrap();
            outcomes.insert((seed % 2 == 0, content));
        }
        let (old, new) = (b"old".to_vec(), b"new".to_vec());
        assert_eq!(
            outcomes,
            [(true, new.clone()), (false, new), (false, old)].into()
        );
    }

    #[test]
    fn a_failed_sync_lies_afterwards() {
        let disk = SimDisk::new();
        let file = disk.create(Path::new("d/f")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        write(&*file, &[1; 64 * 512], 0).unwrap();
        disk.fail(1, Fault::Sync);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.content(Path::new("d/f")).unwrap(), [1; 64 * 512]);
        disk.crash(1);
        let content = disk.content(Path::new("d/f")).unwrap();
        assert!(
            content.len() != 64 * 512 || content.contains(&0),
            "the second sync did not help"
        );
    }
}
