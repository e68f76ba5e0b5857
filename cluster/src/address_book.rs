//! Where the members of the cluster are, as this node last knew: what it needs to find them after a restart, before it has
//! their metadata again.
//!
//! The file `members` beside the identity, text: a line `leveret members 1`, then for each member its number, the incarnation of its
//! disk (0: not known), and `name@host:port`, with a blank between. It is replaced as the identity is: after a crash there is the old one
//! or the new one, whole.

use std::io::{self, IoSlice};
use std::path::Path;

use leveret_storage::disk::Disk;

use crate::founding::MEMBERS_MAX;
use crate::name::{NAME_BYTES_MAX, NodeAddress};
use crate::peers::Peer;

const FILE: &str = "members";
const TEMPORARY_FILE: &str = "members-new";
const HEAD: &str = "leveret members 1";
/// Bytes of a line at most: two numbers, a name and a port.
const LINE_BYTES_MAX: usize = 2 * 21 + NAME_BYTES_MAX + 8;

/// Reads the members in `dir`; nothing if they were never written.
///
/// # Errors
/// The system's, and a file that is none.
pub fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Vec<Peer>>> {
    let file = match disk.open(&dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the list of members is damaged");
    let length = usize::try_from(file.len()?).map_err(|_| damaged())?;
    if length > HEAD.len() + 1 + (MEMBERS_MAX + 1) * LINE_BYTES_MAX {
        return Err(damaged());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    let text = String::from_utf8(bytes).map_err(|_| damaged())?;
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(damaged());
    }
    let place = |line: &str| {
        let mut words = line.split(' ');
        let (node, incarnation) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let address = NodeAddress::parse(words.next()?, 0).ok()?;
        words.next().is_none().then_some(Peer {
            node,
            incarnation: Some(incarnation).filter(|i| *i > 0),
            address,
        })
    };
    let places = lines.map(|line| place(line).ok_or_else(damaged));
    places.collect::<io::Result<Vec<Peer>>>().map(Some)
}

/// Replaces the members in `dir`, which is there; durable when this returns.
///
/// # Errors
/// The system's. Which of the two a crash would leave is not known then.
pub fn write(disk: &dyn Disk, dir: &Path, places: &[Peer]) -> io::Result<()> {
    let (path, temporary) = (dir.join(FILE), dir.join(TEMPORARY_FILE));
    let mut text = format!("{HEAD}\n");
    for place in places.iter().take(MEMBERS_MAX + 1) {
        let incarnation = place.incarnation.unwrap_or(0);
        text.push_str(&format!("{} {incarnation} {}\n", place.node, place.address));
    }
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(&mut [IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, &path)?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use leveret_storage::disk::sim::{Fault, SimDisk};

    use super::*;

    fn place(node: u64, incarnation: Option<u64>, address: &str) -> Peer {
        Peer {
            node,
            incarnation,
            address: NodeAddress::parse(address, 1).expect("an address"),
        }
    }

    #[test]
    fn members_are_what_was_written_last_also_after_a_power_cut() {
        let dir = Path::new("cluster");
        let old = vec![place(1, Some(7), "a@h:2"), place(2, None, "b@[::1]:3")];
        let new = vec![place(4, Some(u64::MAX), "c@h:4")];
        for cut in 1..10 {
            let disk = SimDisk::new();
            disk.create_dir_all(dir).expect("a folder");
            assert_eq!(read(&disk, dir).expect("no fault"), None);
            write(&disk, dir, &old).expect("no fault yet");
            disk.fail(cut, Fault::PowerCut);
            let done = write(&disk, dir, &new).is_ok();
            disk.crash(cut);
            let found = read(&disk, dir).expect("whole").expect("one of them");
            assert!(found == new || (found == old && !done), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_members_is_an_error() {
        let dir = Path::new("cluster");
        for text in [
            "",
            "x\n",
            "leveret members 1\n1 2\n",
            "leveret members 1\n1 2 a@h:1 x\n",
        ] {
            let disk = SimDisk::new();
            disk.create_dir_all(dir).expect("a folder");
            let file = disk.create(&dir.join(FILE)).expect("a file");
            file.write_all_at(&mut [IoSlice::new(text.as_bytes())], 0)
                .expect("written");
            assert!(read(&disk, dir).is_err(), "{text:?}");
        }
    }
}
