//! Start-up: reads every record from where replay starts, tells a torn tail from damage, leaves a journal to append to.
//!
//! The rule (`FORMAT.md` section 4): the first place that is no record ends the journal, if nothing proves that it was durable. The proof
//! is any believable header behind it, in its segment or a later one, that knows of a durable location past it. With
//! proof it is damage: refused with file and offset, and nothing was changed. Without proof it is what a crash left
//! of writes that nobody was told of: cut, and zeroed, so that none of it can follow a record that is written later.
//!
//! A unit of records that the end cuts in two is cut off whole, also where its first part lies in an earlier segment.
//!
//! What was read but is proven by nobody is written once more before it is synced: after a failed sync a
//! kernel may hold pages that it believes to be clean and that never reached the disk.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::Replay;
use super::config::JournalConfig;
use super::scan::{Scan, Stop, find_proof, scan};
use super::segment::{
    Identity, SEGMENT_HEADER_BYTES, Segment, is_spare_name, parse_segment_name, read_header,
    segment_path,
};
use super::supply::{Ready, Supply};
use crate::disk::{DirLock, Disk, DiskFile};
use crate::error::JournalError;
use crate::location::Location;
use crate::record::{FLAG_CONTINUES, FLAG_MORE, Fault, Parsed, Record};

/// Looked at together when the rest of a segment is zeroed.
const BLOCK_BYTES: usize = 4096;
/// Copied at once when unproven records are written again.
const REWRITE_BYTES: usize = 1 << 20;

/// What was cut off the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub path: PathBuf,
    /// The first place that was no record.
    pub location: Location,
    /// Why it was none.
    pub reason: String,
    /// Bytes behind it that had to be zeroed, in blocks of 4096.
    pub bytes: u64,
}

/// What start-up found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments with records.
    pub segments: usize,
    /// Records given to replay.
    pub records: u64,
    /// Bytes read, with headers and padding.
    pub bytes: u64,
    /// Where the journal goes on.
    pub end: Location,
    /// The last session was closed, not cut off.
    pub clean: bool,
    /// What lay behind the end, if it was not all zeros: the rest of a crash, or the past of a recycled file.
    pub cut: Option<Cut>,
}

/// All that is needed to go on.
pub(super) struct Recovered {
    pub report: RecoveryReport,
    pub identity: Identity,
    pub segments: BTreeMap<u32, Arc<Segment>>,
    pub active: Arc<Segment>,
    pub active_file: Arc<dyn DiskFile>,
    pub supply: Supply,
    pub lock: Box<dyn DirLock>,
}

/// Start-up's view of the directory: all segments with a good header.
struct Recovery<'a> {
    config: &'a JournalConfig,
    disk: &'a Arc<dyn Disk>,
    from: Location,
    segments: BTreeMap<u32, Arc<Segment>>,
    report: RecoveryReport,
}

/// Where the records end.
struct End {
    /// The segment to go on in; it may have to be made.
    active: u32,
    offset: usize,
    /// Why the place at `offset` is no record; nothing for a segment that has to be made.
    fault: Option<Fault>,
    /// The end is the start of a unit that is not complete; parts of it may lie in later segments.
    cut_unit: bool,
    /// The last stretch that was read and that no record proves: segment, and byte range.
    unproven: Option<(u32, usize, usize)>,
}

/// The records of a unit that was begun and is not complete yet.
#[derive(Default)]
struct Unit {
    start: Option<Location>,
    parts: Vec<Record>,
}

impl Unit {
    /// Takes the next record, and gives those that may be replayed: all of a unit with its last.
    fn take(&mut self, record: Record) -> impl Iterator<Item = Record> {
        let flags = record.header.flags;
        if flags & FLAG_CONTINUES == 0 {
            self.parts.clear();
            self.start = None;
        }
        let complete = flags & FLAG_MORE == 0;
        let (parts, last) = if complete {
            self.start = None;
            (std::mem::take(&mut self.parts), Some(record))
        } else {
            self.start.get_or_insert(record.location);
            self.parts.push(record);
            (Vec::new(), None)
        };
        parts.into_iter().chain(last)
    }
}

pub(super) fn recover(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    from: Location,
    replay: Replay<'_>,
) -> Result<Recovered, JournalError> {
    let dir = &config.dir;
    disk.create_dir_all(dir)
        .map_err(JournalError::io("make directory", dir))?;
    let lock = disk.lock(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => JournalError::InUse { dir: dir.clone() },
        _ => JournalError::Io {
            action: "lock",
            path: dir.clone(),
            source,
        },
    })?;
    let mut names = disk.list(dir).map_err(JournalError::io("list", dir))?;
    if !config.syncs() {
        clear_pager(config, disk, &names)?;
        names.retain(|name| parse_segment_name(name).is_none());
    }
    let (identity, segments) = read_headers(config, disk, &names)?;
    let supply = Supply::new(
        Arc::clone(disk),
        dir.clone(),
        identity,
        u64::from(config.segment_size_bytes),
        config.spare_segments_max,
    );
    let report = RecoveryReport::default();
    let mut recovery = Recovery {
        config,
        disk,
        from,
        segments,
        report,
    };
    let end = recovery.read(replay)?;
    remove_spares(config, disk, &names)?;
    let (active, active_file) = recovery.settle(end, &supply, &identity)?;
    let Recovery {
        segments, report, ..
    } = recovery;
    Ok(Recovered {
        report,
        identity,
        segments,
        active,
        active_file,
        supply,
        lock,
    })
}

/// Removes what an earlier pager left. Nothing of it was synced, so after a power cut it may hold anything; only what is clearly a
/// synced journal's is left alone.
fn clear_pager(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    names: &[String],
) -> Result<(), JournalError> {
    let left = || names.iter().filter_map(|name| parse_segment_name(name));
    for id in left() {
        let path = segment_path(&config.dir, id);
        let file = disk.open(&path).map_err(JournalError::io("open", &path))?;
        if let Ok(Identity {
            unsynced: false, ..
        }) = read_header(file.as_ref(), &path, id)
        {
            return Err(JournalError::PolicyMismatch {
                path,
                unsynced: false,
            });
        }
    }
    for id in left() {
        let path = segment_path(&config.dir, id);
        disk.remove(&path)
            .map_err(JournalError::io("remove", &path))?;
    }
    Ok(())
}

/// Reads the header of every segment; all must belong to one journal.
fn read_headers(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    names: &[String],
) -> Result<(Identity, BTreeMap<u32, Arc<Segment>>), JournalError> {
    let dir = &config.dir;
    let mut identity = None;
    let mut segments = BTreeMap::new();
    for id in names.iter().filter_map(|name| parse_segment_name(name)) {
        let path = segment_path(dir, id);
        let file = disk.open(&path).map_err(JournalError::io("open", &path))?;
        let file_bytes = file.len().map_err(JournalError::io("read", &path))?;
        let found = read_header(file.as_ref(), &path, id)?;
        if found.unsynced == config.syncs() {
            return Err(JournalError::PolicyMismatch {
                path,
                unsynced: found.unsynced,
            });
        }
        if found != *identity.get_or_insert(found) {
            return Err(JournalError::Foreign { path });
        }
        segments.insert(id, Arc::new(Segment::new(dir, id, file_bytes, &found.uuid)));
    }
    let uuid = config.uuid.unwrap_or_else(random_uuid);
    Ok((
        identity.unwrap_or(Identity {
            uuid,
            unsynced: !config.syncs(),
        }),
        segments,
    ))
}

/// Sixteen bytes from the system's randomness, by way of the keys of the standard hash.
fn random_uuid() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let mut uuid = [0; 16];
    for half in uuid.chunks_mut(8) {
        half.copy_from_slice(
            &RandomState::new()
                .hash_one(std::process::id())
                .to_le_bytes(),
        );
    }
    uuid
}

/// Spares of an earlier session: nobody knows how far they were filled.
fn remove_spares(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    names: &[String],
) -> Result<(), JournalError> {
    for name in names.iter().filter(|name| is_spare_name(name)) {
        let path = config.dir.join(name);
        disk.remove(&path)
            .map_err(JournalError::io("remove", &path))?;
    }
    Ok(())
}

impl Recovery<'_> {
    /// Reads and replays; changes nothing.
    fn read(&mut self, replay: Replay<'_>) -> Result<End, JournalError> {
        let mut unit = Unit::default();
        let mut end = self.read_to_end(&mut unit, replay)?;
        // The end cuts a unit in two. (A checkpoint that covers a part of it would say that it was complete.)
        if let Some(start) = unit.start.filter(|start| *start >= self.from) {
            let (active, offset) = (start.segment(), start.offset() as usize);
            let unproven = end.unproven.filter(|(id, ..)| *id == active);
            end = End {
                unproven: unproven.map(|(id, from, _)| (id, from, offset)),
                fault: end.fault,
                cut_unit: true,
                active,
                offset,
            };
        }
        Ok(end)
    }

    fn read_to_end(&mut self, unit: &mut Unit, replay: Replay<'_>) -> Result<End, JournalError> {
        let newest = self.segments.keys().next_back().copied().unwrap_or(0);
        let first = self.from.segment().max(1);
        let fresh = newest == 0 && self.from == Location::ZERO;
        let mut end = End {
            active: first,
            offset: SEGMENT_HEADER_BYTES as usize,
            fault: None,
            cut_unit: false,
            unproven: None,
        };
        while let Some(segment) = self.segments.get(&end.active).cloned() {
            let scan = self.read_segment(&segment, unit, replay)?;
            if scan.used {
                // Records here prove everything in the segments before.
                end.unproven = Some((segment.id, scan.proven, scan.end));
                self.report.segments += 1;
                self.report.clean = scan.marked;
            }
            if let Stop::Bad(fault) = scan.stop {
                self.judge(&segment, &scan, fault)?;
                end.offset = scan.end;
                end.fault = Some(fault);
                return Ok(end);
            }
            segment.seal(scan.end as u32);
            end.active = end.active.saturating_add(1);
        }
        // The one behind a sealed last segment may not have been made yet.
        let follows = end.active > first && end.active == newest.saturating_add(1);
        if follows || fresh {
            return Ok(end);
        }
        let (dir, from, segment) = (self.config.dir.clone(), self.from, end.active);
        Err(JournalError::MissingSegment {
            dir,
            segment,
            from,
            newest,
        })
    }

    fn read_segment(
        &mut self,
        segment: &Segment,
        unit: &mut Unit,
        replay: Replay<'_>,
    ) -> Result<Scan, JournalError> {
        let from = self.from;
        let report = &mut self.report;
        scan(segment, self.disk.as_ref(), |offset, parsed, bytes| {
            report.bytes += (parsed.next - offset) as u64;
            let location = Location::new(segment.id, offset as u32);
            let next = Location::new(segment.id, parsed.next as u32);
            // Behind a seal is a former end.
            if location < from && next > from && from.offset() > SEGMENT_HEADER_BYTES {
                let path = segment.path.clone();
                return Err(JournalError::NotARecordBoundary { path, from });
            }
            if location < from || parsed.header.kind.is_internal() {
                return Ok(());
            }
            for record in unit.take(record_at(location, parsed, bytes)) {
                report.records += 1;
                let location = record.location;
                replay(record).map_err(|source| JournalError::Replay { location, source })?;
            }
            Ok(())
        })
    }

    /// Whether the place where the records end is the end, or damage.
    fn judge(&self, segment: &Segment, scan: &Scan, fault: Fault) -> Result<(), JournalError> {
        let disk = self.disk.as_ref();
        let refuse = |proof: String| {
            let reason = format!("{fault}, but {proof}");
            Err(JournalError::Damaged(
                segment.damage(scan.end as u64, reason),
            ))
        };
        if let Fault::Kind(_) | Fault::Fields = fault {
            return refuse("the header's checksum is good".into());
        }
        if let Some(at) = find_proof(segment, &scan.bytes, disk, scan.end, Some(scan.end))? {
            return refuse(format!(
                "the record at offset {at} was written when this was durable"
            ));
        }
        for later in self
            .segments
            .range(segment.id.saturating_add(1)..)
            .map(|(_, later)| later)
        {
            let scan = super::scan::whole(later, disk)?;
            let start = SEGMENT_HEADER_BYTES as usize;
            if find_proof(later, &scan, disk, start, None)?.is_some() {
                return refuse(format!(
                    "segment {} was begun when this was durable",
                    later.id
                ));
            }
        }
        let end = Location::new(segment.id, scan.end as u32);
        if self.from > end && self.from.offset() > SEGMENT_HEADER_BYTES {
            let (dir, from) = (self.config.dir.clone(), self.from);
            return Err(JournalError::ReplayBeyondEnd { dir, from, end });
        }
        Ok(())
    }

    /// Makes what was read durable, and what lies behind it zero; gives the segment to go on in.
    fn settle(
        &mut self,
        end: End,
        supply: &Supply,
        identity: &Identity,
    ) -> Result<(Arc<Segment>, Arc<dyn DiskFile>), JournalError> {
        if let Some((id, start, stop)) = end.unproven
            && let Some(segment) = self.segments.get(&id)
        {
            rewrite(self.disk.as_ref(), segment, start, stop)?;
        }
        if end.cut_unit {
            self.wipe_behind(end.active)?;
        }
        let location = Location::new(end.active, end.offset as u32);
        self.report.end = location;
        self.settle_ahead(end.active, supply)?;
        let Some(segment) = self.segments.get(&end.active).cloned() else {
            let dir = &self.config.dir;
            let ready = supply
                .prepare(end.active)
                .map_err(JournalError::io("make a segment in", dir))?;
            let segment = Arc::new(Segment::new(
                dir,
                end.active,
                ready.file_bytes,
                &identity.uuid,
            ));
            self.segments.insert(end.active, Arc::clone(&segment));
            return Ok((segment, ready.file));
        };
        let (file, zeroed) = zero_rest(self.disk.as_ref(), &segment, end.offset)?;
        if zeroed > 0 {
            let reason = match end.fault {
                _ if end.cut_unit => "a unit of records is not complete".into(),
                Some(fault) => fault.to_string(),
                None => String::new(),
            };
            self.report.cut = Some(Cut {
                path: segment_path(&self.config.dir, end.active),
                location,
                reason,
                bytes: zeroed,
            });
        }
        Ok((segment, file))
    }

    /// Zeroes all segments behind `active`, in which a unit goes on that is cut off; the last one first, as records in a later
    /// segment prove the earlier ones. Then `active` is not sealed any more.
    fn wipe_behind(&mut self, active: u32) -> Result<(), JournalError> {
        let behind = self.segments.range(active.saturating_add(1)..);
        for (_, segment) in behind.rev().filter(|(id, _)| **id > active) {
            zero_rest(self.disk.as_ref(), segment, SEGMENT_HEADER_BYTES as usize)?;
            segment.seal(0);
        }
        if let Some(segment) = self.segments.get(&active) {
            segment.seal(0);
        }
        Ok(())
    }

    /// Takes the segment that an earlier session made ready into use again, and removes what else was ahead.
    fn settle_ahead(&mut self, active: u32, supply: &Supply) -> Result<(), JournalError> {
        let next = active.saturating_add(1);
        let ahead = self.segments.split_off(&next);
        let size = u64::from(self.config.segment_size_bytes);
        let mut ready = None;
        for (id, segment) in ahead {
            let path = &segment.path;
            if id == next && segment.file_bytes == size && next > active {
                let file = self
                    .disk
                    .open(path)
                    .map_err(JournalError::io("open", path))?;
                ready = Some(Ready {
                    id,
                    file,
                    file_bytes: size,
                    recycled: false,
                });
            } else {
                self.disk
                    .remove(path)
                    .map_err(JournalError::io("remove", path))?;
            }
        }
        match ready {
            Some(ready) => supply.put_ready(ready),
            None => supply.want(next),
        }
        Ok(())
    }
}

fn record_at(location: Location, parsed: &Parsed, bytes: &Bytes) -> Record {
    let end = parsed.payload_start + parsed.header.len as usize;
    Record {
        header: parsed.header,
        location,
        payload: bytes.slice(parsed.payload_start..end),
    }
}

/// Writes a stretch of a segment over itself, and syncs the file.
fn rewrite(
    disk: &dyn Disk,
    segment: &Segment,
    start: usize,
    stop: usize,
) -> Result<(), JournalError> {
    let path = &segment.path;
    let file = disk.open(path).map_err(JournalError::io("open", path))?;
    let mut buffer = vec![0; REWRITE_BYTES.min(stop.saturating_sub(start))];
    let mut at = start;
    while at < stop {
        let len = buffer.len().min(stop - at);
        let Some(part) = buffer.get_mut(..len) else {
            break;
        };
        file.read_exact_at(part, at as u64)
            .map_err(|source| JournalError::Unreadable {
                path: path.clone(),
                offset: at as u64,
                source,
            })?;
        file.write_all_at(&mut [IoSlice::new(part)], at as u64)
            .map_err(JournalError::io("write", path))?;
        at += len;
    }
    file.sync_data().map_err(JournalError::io("sync", path))
}

/// Zeroes what is not zero from `offset` to the segment's end, and syncs the file if there was any. Gives the file, and the bytes
/// that were zeroed.
fn zero_rest(
    disk: &dyn Disk,
    segment: &Segment,
    offset: usize,
) -> Result<(Arc<dyn DiskFile>, u64), JournalError> {
    let path = &segment.path;
    let file = disk.open(path).map_err(JournalError::io("open", path))?;
    let mut stretches = Vec::new();
    let bytes = super::scan::whole(segment, disk)?;
    let mut at = offset;
    while at < bytes.len() {
        let end = bytes.len().min((at / BLOCK_BYTES + 1) * BLOCK_BYTES);
        if bytes
            .get(at..end)
            .is_some_and(|block| block.iter().any(|byte| *byte != 0))
        {
            match stretches.last_mut() {
                Some((_, last)) if *last == at => *last = end,
                _ => stretches.push((at, end)),
            }
        }
        at = end;
    }
    drop(bytes);
    let _ = segment.advise(disk, 0..usize::MAX, crate::disk::Advice::DontNeed);
    let mut zeroed = 0;
    for (start, end) in stretches {
        super::supply::fill(file.as_ref(), start as u64, end as u64, &|| false)
            .map_err(JournalError::io("zero the end of", path))?;
        zeroed += (end - start) as u64;
    }
    Ok((file, zeroed))
}

/// Reads a sealed segment whole; the first fault is damage.
pub(super) fn verify_sealed(segment: &Segment, disk: &dyn Disk) -> Result<(), JournalError> {
    let scan = scan(segment, disk, |_, _, _| Ok(()))?;
    match scan.stop {
        Stop::Sealed => Ok(()),
        Stop::Bad(fault) => Err(JournalError::Damaged(
            segment.damage(scan.end as u64, format!("{fault}, in a sealed segment")),
        )),
    }
}
