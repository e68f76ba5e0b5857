//! The number of a process's life: greater than that of every earlier life of the same node.
//!
//! Milliseconds since 1970 at the start, or one more than the last number if the clock went back. It is kept in the file `boot` of
//! the node's cluster folder: 8 bytes little-endian and their CRC-32C, replaced as a whole before it is used. Others tell by it which of
//! two lives is over.

use std::io::{self, IoSlice};
use std::path::Path;

use leveret_storage::disk::Disk;

/// Numbers have 48 bits: they are part of a connection's id.
pub const BOOT_MAX: u64 = (1 << 48) - 1;

const FILE: &str = "boot";
const TEMPORARY_FILE: &str = "boot-new";
const BYTES: usize = 12;

/// The number of the life that begins now. `now_ms`: milliseconds since 1970.
///
/// # Errors
/// The system's; the file is damaged; there are no more numbers.
pub fn next(disk: &dyn Disk, dir: &Path, now_ms: u64) -> io::Result<u64> {
    let path = dir.join(FILE);
    let last = match disk.open(&path) {
        Ok(file) => {
            let mut bytes = [0; BYTES];
            file.read_exact_at(&mut bytes, 0)?;
            decode(bytes).ok_or_else(|| io::Error::other("the file `boot` is damaged"))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let boot = now_ms.max(last + 1);
    if boot > BOOT_MAX {
        return Err(io::Error::other(
            "the file `boot` has the last number there is",
        ));
    }
    let temporary = dir.join(TEMPORARY_FILE);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(&mut [IoSlice::new(&encode(boot))], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &path)?;
    disk.sync_dir(dir)?;
    Ok(boot)
}

fn encode(boot: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (number, crc) = bytes.split_at_mut(8);
    number.copy_from_slice(&boot.to_le_bytes());
    crc.copy_from_slice(&crc32c::crc32c(&boot.to_le_bytes()).to_le_bytes());
    bytes
}

fn decode(bytes: [u8; BYTES]) -> Option<u64> {
    let (number, crc) = bytes.split_first_chunk::<8>()?;
    let sound = crc == crc32c::crc32c(number).to_le_bytes();
    sound.then_some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use leveret_storage::disk::sim::{Fault, SimDisk};

    use super::*;

    #[test]
    fn a_later_life_has_a_greater_number_whatever_the_clock_says() {
        let (disk, dir) = (SimDisk::new(), Path::new("d"));
        let numbers = [1000, 900, 0, 5000].map(|now| next(&disk, dir, now).unwrap());
        assert_eq!(numbers, [1000, 1001, 1002, 5000]);
        assert!(next(&disk, dir, BOOT_MAX + 1).is_err());
        disk.flip_bit(&dir.join(FILE), 9);
        assert!(next(&disk, dir, 6000).is_err());
    }

    #[test]
    fn a_number_that_was_given_is_never_given_again() {
        for cut in 1.. {
            let (disk, dir) = (SimDisk::new(), Path::new("d"));
            let first = next(&disk, dir, 1000).unwrap();
            disk.fail(cut, Fault::PowerCut);
            let second = next(&disk, dir, 0);
            let whole = !disk.power_is_cut();
            disk.crash(cut);
            let third = next(&disk, dir, 0).unwrap();
            assert!(third > second.unwrap_or(first));
            if whole {
                break;
            }
        }
    }
}
