//! Segments ahead of use: the next file is ready, filled and named before the writer needs it.
//!
//! A fresh file is allocated, filled with zeros and synced, so that a later `fdatasync` of records has no metadata to
//! write; when the writer is faster than that and waits, the rest is left unfilled. The file of a removed segment is
//! reused as it is, since the checksums of its old records hold no more under the new number. Either way the file gets its header while it still has a spare's name, is synced, renamed, and the directory is synced.
//!
//! [`Supply`] is shared by the writer (which takes), the journal (which gives removed files back) and one thread (which
//! works). Without the thread the same work is done in line. A full disk is remembered and tried again; it becomes the
//! writer's failure only when an append needs the file. Until then there is a segment's time to stop whoever fills the
//! disk: [`Supply::is_starved`], and the hook that is called whenever room was taken or there was none.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::segment::{Identity, encode_header, segment_path, spare_path};
use crate::disk::{Disk, DiskFile};

/// Written at once when a file is filled.
const FILL_BYTES: usize = 1 << 20;
/// Synced at once when a file is filled: small enough not to hold up the journal's own syncs for long.
const FILL_SYNC_BYTES: u64 = 4 << 20;
/// How long after a failure to make a file ready it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A segment's file that holds no record yet.
pub(crate) struct Ready {
    pub id: u32,
    pub file: Arc<dyn DiskFile>,
    pub file_bytes: u64,
    pub recycled: bool,
}

/// The file of a removed segment.
pub(crate) struct Retired {
    pub path: PathBuf,
    pub file_bytes: u64,
    /// Nobody reads it any more, and it may be written to.
    pub reusable: bool,
}

#[derive(Default)]
struct State {
    ready: Option<Ready>,
    /// The segment to make ready, if it is not.
    wanted: Option<u32>,
    retired: Vec<Retired>,
    spares: Vec<PathBuf>,
    failed: Option<io::Error>,
    closing: bool,
}

/// Called by the supply's thread, without locks.
pub(crate) type Hook = Box<dyn Fn() + Send + Sync>;

/// The next segment and the spare files.
pub(crate) struct Supply {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    segment_size_bytes: u64,
    spares_max: usize,
    spare_number: AtomicU64,
    /// The writer waits.
    hurry: AtomicBool,
    /// The last try to make a file ready failed.
    starved: AtomicBool,
    hook: OnceLock<Hook>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Supply {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        identity: Identity,
        segment_size_bytes: u64,
        spares_max: usize,
    ) -> Supply {
        Supply {
            disk,
            dir,
            identity,
            segment_size_bytes,
            spares_max,
            spare_number: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            hook: OnceLock::new(),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Asks for segment `id` to be made ready in the background.
    pub(crate) fn want(&self, id: u32) {
        let mut state = self.state.lock();
        state.wanted = Some(id);
        self.changed.notify_all();
    }

    /// There was no room for the next segment when it was last tried.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
    }

    /// Sets what to call after each try to make a segment ready. Only the first one counts.
    pub(crate) fn on_try(&self, hook: Hook) {
        let _ = self.hook.set(hook);
    }

    /// Puts a file that start-up found ready.
    pub(crate) fn put_ready(&self, ready: Ready) {
        self.state.lock().ready = Some(ready);
    }

    /// Segment `id`, at least `bytes` long. Waits for the thread if `threaded`; the flag in the answer says whether it had to.
    pub(crate) fn take(&self, id: u32, bytes: u64, threaded: bool) -> io::Result<(Ready, bool)> {
        let mut waited = false;
        let mut state = self.state.lock();
        let ready = loop {
            match state.ready.take() {
                Some(ready) if ready.id == id => break Some(ready),
                // A file that was made ready for a number that is not used next cannot be: numbers have no gaps.
                Some(_) | None => {}
            }
            if !threaded || state.failed.is_some() || state.closing || state.wanted != Some(id) {
                break None;
            }
            waited = true;
            self.hurry.store(true, Ordering::Relaxed);
            self.changed.wait(&mut state);
        };
        self.hurry.store(false, Ordering::Relaxed);
        state.wanted = None;
        state.failed = None;
        drop(state);
        let mut ready = match ready {
            Some(ready) => ready,
            // The last try: its error is final.
            None => self.prepare(id)?,
        };
        if ready.file_bytes < bytes {
            // For one oversize record, which will fill it and is synced with the file's new size.
            ready.file.set_len(bytes)?;
            ready.file_bytes = bytes;
        }
        Ok((ready, waited))
    }

    /// Gives the file of a removed segment back.
    pub(crate) fn retire(&self, retired: Retired) {
        self.state.lock().retired.push(retired);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// The thread's loop; returns after [`Supply::close`].
    pub(crate) fn run(&self) {
        loop {
            let mut state = self.state.lock();
            loop {
                if state.closing {
                    return;
                }
                if !state.retired.is_empty() || (state.wanted.is_some() && state.failed.is_none()) {
                    break;
                }
                if state.failed.is_some() {
                    if self.changed.wait_for(&mut state, RETRY).timed_out() {
                        state.failed = None;
                    }
                } else {
                    self.changed.wait(&mut state);
                }
            }
            drop(state);
            self.work();
        }
    }

    /// Does what there is to do, once; what [`Supply::run`] does, and what a journal without threads calls.
    pub(crate) fn work(&self) {
        let (retired, wanted) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.retired), state.wanted)
        };
        if let Err(e) = self.put_away(retired) {
            tracing::warn!(dir = %self.dir.display(), "cannot remove journal segments: {e}");
        }
        let Some(id) = wanted else { return };
        let prepared = self.prepare(id);
        let starved_before = self.starved.swap(prepared.is_err(), Ordering::AcqRel);
        let mut state = self.state.lock();
        match prepared {
            Ok(ready) => {
                state.ready = Some(ready);
                state.wanted = None;
            }
            Err(e) => {
                // It is tried again every second: said once.
                if !starved_before {
                    tracing::warn!(dir = %self.dir.display(), "cannot prepare journal segment {id}: {e}");
                }
                state.failed = Some(e);
            }
        }
        self.changed.notify_all();
        drop(state);
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }

    /// Turns files of removed segments into spares, or removes them.
    fn put_away(&self, retired: Vec<Retired>) -> io::Result<()> {
        if retired.is_empty() {
            return Ok(());
        }
        let mut spares = Vec::new();
        let room = self
            .spares_max
            .saturating_sub(self.state.lock().spares.len());
        let mut result = Ok(());
        for file in retired {
            let fits = file.reusable && file.file_bytes == self.segment_size_bytes;
            let done = if fits && spares.len() < room {
                let spare = self.next_spare_path();
                let renamed = self.disk.rename(&file.path, &spare);
                if renamed.is_ok() {
                    spares.push(spare);
                }
                renamed
            } else {
                self.disk.remove(&file.path)
            };
            result = result.and(done);
        }
        // A spare gets another number in its header only when its old name is gone for good.
        self.disk.sync_dir(&self.dir)?;
        self.state.lock().spares.append(&mut spares);
        result
    }

    fn next_spare_path(&self) -> PathBuf {
        spare_path(&self.dir, self.spare_number.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the file of segment `id`, durable under its name and without records.
    pub(crate) fn prepare(&self, id: u32) -> io::Result<Ready> {
        let spare = self.state.lock().spares.pop();
        let recycled = spare.is_some();
        let path = spare.unwrap_or_else(|| self.next_spare_path());
        let made = self.prepare_at(&path, id, recycled);
        if made.is_err() {
            // Half of a file is of no use, and may be what fills the disk.
            let _ = self.disk.remove(&path);
        }
        Ok(Ready {
            id,
            file: made?,
            file_bytes: self.segment_size_bytes,
            recycled,
        })
    }

    fn prepare_at(&self, path: &Path, id: u32, recycled: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = if recycled {
            self.disk.open(path)?
        } else {
            let file = self.disk.create(path)?;
            if self.identity.unsynced {
                file.set_len(self.segment_size_bytes)?;
            } else {
                file.allocate(self.segment_size_bytes)?;
                let hurry = || self.hurry.load(Ordering::Relaxed);
                fill(file.as_ref(), 0, self.segment_size_bytes, &hurry)?;
            }
            file
        };
        let header = encode_header(&self.identity, id);
        file.write_all_at(&mut [IoSlice::new(&header)], 0)?;
        if !self.identity.unsynced {
            file.sync_data()?;
        }
        self.disk.rename(path, &segment_path(&self.dir, id))?;
        if !self.identity.unsynced {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(file)
    }
}

/// Writes zeros from `start` to `end`, or until `stop`, and syncs them.
pub(crate) fn fill(
    file: &dyn DiskFile,
    start: u64,
    end: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min(end.saturating_sub(start) as usize)];
    let mut at = start;
    let mut synced = start;
    while at < end && !stop() {
        let len = (end - at).min(zeros.len() as u64) as usize;
        let part = zeros.get(..len).unwrap_or_default();
        file.write_all_at(&mut [IoSlice::new(part)], at)?;
        at += len as u64;
        if at - synced >= FILL_SYNC_BYTES {
            file.sync_data()?;
            synced = at;
        }
    }
    file.sync_data()
}
