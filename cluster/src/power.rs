//! Whether this node's machine may have lost power since the node ran last, and under which epoch it takes part because of it.
//!
//! What the journal has written and not synced outlives the process, but not the machine. A group that does not wait for the disk counts what is
//! written; so after a power cut its log here may lack the end of what this node has acknowledged. Such a log must not vote: the node
//! takes part with an empty one, as another member, under the next epoch.
//!
//! The file `power` of the node's cluster folder has the machine's boot id (the system's, new at each of its starts), the epoch, and whether the last
//! life of the process ended with everything synced:
//!
//! ```text
//! epoch u16 | clean u8 | length u8 | boot id | CRC-32C of all before u32      little-endian
//! ```
//!
//! It is replaced as a whole, before anything is written under what it says. Another boot id and no clean end: the epoch grows. A copy
//! of the folder on another machine has another boot id as well.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_storage::disk::Disk;

const FILE: &str = "power";
const TEMPORARY_FILE: &str = "power-new";
/// Bytes of a boot id at most; the system's has 36.
pub const BOOT_ID_MAX: usize = 64;
const HEAD: usize = 4;
const CRC: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    epoch: u16,
    clean: bool,
    boot_id: Vec<u8>,
}

/// What is known of the machine's power, for as long as the process lives.
pub struct Power {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    now: Kept,
    lost: bool,
}

impl std::fmt::Debug for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Power(epoch {}, lost: {})", self.now.epoch, self.lost)
    }
}

impl Power {
    /// Reads what the last life left, and says durably what holds for this one. `boot_id`: of the machine; what is empty is known to nobody,
    /// and equal to nothing. `found`: the highest epoch of the logs that are here, if there are any.
    ///
    /// # Errors
    /// The system's; the file is damaged; there are no more epochs.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        boot_id: &[u8],
        found: Option<u16>,
    ) -> io::Result<Power> {
        let boot_id = boot_id
            .get(..boot_id.len().min(BOOT_ID_MAX))
            .unwrap_or_default();
        let kept = read(&*disk, dir)?;
        let lost = match &kept {
            Some(kept) => {
                let same = !boot_id.is_empty() && kept.boot_id == boot_id;
                !same && !kept.clean
            }
            // Nobody knows how those logs ended.
            None => found.is_some(),
        };
        let last = kept.as_ref().map_or(0, |kept| kept.epoch);
        let last = last.max(found.unwrap_or(0));
        let epoch = match lost {
            true => last
                .checked_add(1)
                .ok_or_else(|| io::Error::other("the file `power` has the last epoch there is"))?,
            false => last,
        };
        let now = Kept {
            epoch,
            clean: false,
            boot_id: boot_id.to_vec(),
        };
        write(&*disk, dir, &now)?;
        Ok(Power {
            disk,
            dir: dir.to_path_buf(),
            now,
            lost,
        })
    }

    /// The epoch of this node's logs that do not wait for the disk.
    pub fn epoch(&self) -> u16 {
        self.now.epoch
    }

    /// Such logs may have lost their end since the last life.
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// Everything that this process wrote is synced, and it writes no more: whatever becomes of the machine.
    ///
    /// # Errors
    /// The system's: then the next start goes by the boot id.
    pub fn end_clean(&self) -> io::Result<()> {
        let kept = Kept {
            clean: true,
            ..self.now.clone()
        };
        write(&*self.disk, &self.dir, &kept)
    }
}

fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Kept>> {
    let file = match disk.open(&dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::other("the file `power` is damaged");
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0)?;
    let [.., length] = head;
    let length = usize::from(length);
    if length > BOOT_ID_MAX {
        return Err(damaged());
    }
    let mut bytes = vec![0; HEAD + length + CRC];
    file.read_exact_at(&mut bytes, 0)?;
    decode(&bytes).map(Some).ok_or_else(damaged)
}

fn write(disk: &dyn Disk, dir: &Path, kept: &Kept) -> io::Result<()> {
    let temporary = dir.join(TEMPORARY_FILE);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(&mut [IoSlice::new(&encode(kept))], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

fn encode(kept: &Kept) -> Vec<u8> {
    let mut out = kept.epoch.to_le_bytes().to_vec();
    out.push(u8::from(kept.clean));
    out.push(kept.boot_id.len() as u8);
    out.extend_from_slice(&kept.boot_id);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Kept> {
    let (content, crc) = bytes.split_last_chunk::<CRC>()?;
    if *crc != crc32c::crc32c(content).to_le_bytes() {
        return None;
    }
    let (head, boot_id) = content.split_first_chunk::<HEAD>()?;
    let [low, high, clean, _] = *head;
    Some(Kept {
        epoch: u16::from_le_bytes([low, high]),
        clean: clean == 1,
        boot_id: boot_id.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use leveret_storage::disk::sim::{Fault, SimDisk};

    use super::*;

    fn open(disk: &SimDisk, boot_id: &str, found: Option<u16>) -> Power {
        let disk = Arc::new(disk.clone());
        Power::open(disk, Path::new("d"), boot_id.as_bytes(), found).unwrap()
    }

    #[test]
    fn only_a_machine_that_started_again_loses_what_was_written() {
        let disk = SimDisk::new();
        let epochs = ["a", "a", "b", "b", "a"].map(|boot_id| open(&disk, boot_id, None).epoch());
        assert_eq!(epochs, [0, 0, 1, 1, 2]);
        // Who does not know its boot id is never sure.
        assert_eq!(["", ""].map(|id| open(&disk, id, None).epoch()), [3, 4]);
    }

    #[test]
    fn what_was_synced_before_the_end_outlives_the_machine_once() {
        let disk = SimDisk::new();
        open(&disk, "a", None).end_clean().unwrap();
        assert!(!open(&disk, "b", Some(0)).lost());
        assert!(open(&disk, "c", Some(0)).lost());
    }

    #[test]
    fn logs_without_the_file_are_not_trusted() {
        assert_eq!(open(&SimDisk::new(), "a", Some(7)).epoch(), 8);
        assert_eq!(open(&SimDisk::new(), "a", None).epoch(), 0);
    }

    #[test]
    fn damage_is_refused() {
        let disk = SimDisk::new();
        open(&disk, "a", None);
        disk.flip_bit(&Path::new("d").join(FILE), 9);
        let again = Power::open(Arc::new(disk), Path::new("d"), b"a", None);
        assert!(again.unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn an_epoch_that_was_given_is_never_taken_back() {
        for cut in 1.. {
            let disk = SimDisk::new();
            let first = open(&disk, "a", None).epoch();
            disk.fail(cut, Fault::PowerCut);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let second = Power::open(shared, Path::new("d"), b"b", None).map(|p| p.epoch());
            let whole = !disk.power_is_cut();
            disk.crash(cut);
            let third = open(&disk, "c", None).epoch();
            assert!(third > second.unwrap_or(first));
            if whole {
                break;
            }
        }
    }
}
