//! What runs beside the connections: timers, checkpoints and reclaim, alarms, memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leveret_cluster::reclaim::{self, RELOCATE_BYTES_MAX, Reclaim};
use leveret_config::Limit;
use leveret_storage::Location;
use parking_lot::{Condvar, Mutex};

use super::{Limits, Node};
use crate::outbox::Event;

/// The maintenance thread.
pub struct Maintenance {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl std::fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Maintenance")
    }
}

/// Journal bytes after which a round is worth while, whatever the interval.
const ROUND_BYTES: u64 = 256 << 20;
/// Between rounds while the disk is full.
const URGENT: Duration = Duration::from_secs(1);
/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(250);

impl Maintenance {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(node: Arc<Node>) -> std::io::Result<Maintenance> {
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("maintenance".into())
            .spawn(move || Keeper::new(node).run(&mine))?;
        Ok(Maintenance {
            shared,
            thread: Some(thread),
        })
    }

    /// Ends the thread.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Keeper {
    node: Arc<Node>,
    last_round: Instant,
    last_end: Location,
    last_bytes: u64,
    last_alarms: Instant,
}

impl Keeper {
    fn new(node: Arc<Node>) -> Self {
        let last_end = node.store().journal().end();
        // The journal may take the rest of a disk between two looks.
        let weak = Arc::downgrade(&node);
        node.store().journal().on_segment(move || {
            if let Some(node) = weak.upgrade() {
                node.check_alarms();
            }
        });
        Keeper {
            node,
            last_round: Instant::now(),
            last_end,
            last_bytes: 0,
            last_alarms: Instant::now() - Duration::from_secs(60),
        }
    }

    fn run(&mut self, shared: &Shared) {
        while !shared.stop.load(Ordering::Acquire) {
            let interval = Duration::from_millis(self.node.config().resources.monitor_interval_ms);
            if self.last_alarms.elapsed() >= interval.min(Duration::from_secs(10)) {
                self.last_alarms = Instant::now();
                self.node.check_alarms();
            }
            if leveret_queue::Store::memory_tight(&**self.node.bodies()) {
                for group in self.node.groups() {
                    group.unpin();
                }
            }
            self.node.bodies().trim_pager();
            self.reclaim();
            let mut guard = shared.lock.lock();
            if !shared.stop.load(Ordering::Acquire) {
                shared.bell.wait_for(&mut guard, LOOK);
            }
        }
    }

    /// A round of checkpoints when enough was written, or enough time went by since something was.
    fn reclaim(&mut self) {
        let journal = self.node.store().journal();
        let end = journal.end();
        if end == self.last_end {
            return;
        }
        let bytes = journal.stats().append_bytes;
        let mut interval = Duration::from_millis(self.node.config().journal.checkpoint_interval_ms);
        if self.node.alarms().disk() {
            // Publishers wait for the room that a round may make.
            interval = interval.min(URGENT);
        }
        if bytes - self.last_bytes < ROUND_BYTES && self.last_round.elapsed() < interval {
            return;
        }
        self.last_bytes = bytes;
        self.last_end = end;
        if let Some(mirror) = self.node.mirror() {
            match mirror.checkpoint() {
                Ok(removed) => tracing::debug!(removed, "checkpoint"),
                Err(error) => {
                    tracing::error!(%error, "checkpoint failed; the journal grows until one succeeds");
                }
            }
            self.last_round = Instant::now();
            return;
        }
        match self.node.checkpoint() {
            Ok(round) => tracing::debug!(?round, "checkpoint"),
            Err(error) => {
                tracing::error!(%error, "checkpoint failed; the journal grows until one succeeds")
            }
        }
        self.last_round = Instant::now();
    }
}

impl Node {
    /// Where alarms begin.
    pub fn limits(&self) -> Limits {
        *self.alarms.limits()
    }

    /// Moves the memory at which publishers are blocked, until the node stops. 0 blocks them, as in RabbitMQ.
    pub fn set_memory_high_watermark(&self, limit: Limit) {
        self.alarms.limits().memory = limit;
        let resources = &self.config.resources;
        if resources.memory_budget_bytes.is_none() {
            let bytes =
                Limit::Relative(resources.memory_paging_ratio).bytes(self.limits().memory_bytes());
            self.bodies.set_budget(bytes);
        }
        self.check_alarms();
    }

    /// Moves the free disk space at which publishers are blocked, until the node stops.
    pub fn set_disk_free_limit(&self, limit: Limit) {
        self.alarms.limits().disk = limit;
        self.check_alarms();
    }

    /// Sets and clears alarms by what is used and free now.
    pub fn check_alarms(&self) {
        let limits = self.alarms.limits();
        let memory = process_memory().anonymous_bytes > limits.memory_bytes();
        let disk = match self.store.journal().space() {
            // A limit of 0 turns the alarm off. Otherwise less room than a segment needs is too little, whatever the limit.
            Ok(space) => {
                let starved = limits.disk_bytes() > 0 && self.store.journal().is_starved();
                starved || space.available_bytes < limits.disk_bytes()
            }
            Err(_) => self.alarms.disk(),
        };
        self.set_alarms(memory, disk);
    }

    /// Writes a checkpoint of every group and removes what nobody needs any more.
    ///
    /// # Errors
    /// The system's.
    pub fn checkpoint(&self) -> Result<reclaim::Round, reclaim::ReclaimError> {
        let mut groups: Vec<&dyn Reclaim> = vec![self];
        groups.extend(self.groups.iter().map(|g| &**g as &dyn Reclaim));
        reclaim::round(&self.store, &groups, RELOCATE_BYTES_MAX)
    }

    /// Blocks publishers while this node hears no majority of its cluster: others do not wait for it any more.
    pub fn set_minority(&self, minority: bool) {
        let limits = self.alarms.limits();
        if self.alarms.set_minority(minority) {
            self.tell_alarms();
        }
        drop(limits);
    }

    /// Sets or clears alarms and tells all connections if anything changed.
    pub fn set_alarms(&self, memory: bool, disk: bool) {
        if self.alarms.set(memory, disk) {
            self.tell_alarms();
            if let Some(mirror) = self.mirror() {
                mirror.tell_alarms(memory, disk);
            }
        }
    }

    /// Another node of the cluster has told its alarms, or is gone with them. As in RabbitMQ they block publishers everywhere.
    pub fn set_alarms_of(&self, node: u64, memory: bool, disk: bool) {
        let limits = self.alarms.limits();
        if self.alarms.set_of(node, memory, disk) {
            self.tell_alarms();
        }
        drop(limits);
    }

    fn tell_alarms(&self) {
        let reason = self.alarms.reason();
        match &reason {
            Some(reason) => tracing::warn!(%reason, "publishers are blocked"),
            None => tracing::info!("publishers are not blocked any more"),
        }
        self.connections.tell(|| Event::Blocked(reason.clone()));
    }

    /// Does what timers are due for, for as long as the node runs.
    pub async fn run_timers(self: Arc<Self>) {
        loop {
            let now_ms = self.now_ms();
            let mut next = u64::MAX;
            for group in &self.groups {
                if group.next_timer_ms() <= now_ms {
                    let after = group.tick(now_ms);
                    self.after(after, now_ms);
                }
                next = next.min(group.next_timer_ms());
            }
            for mirrored in self.mirror().map_or(&[][..], |m| m.groups()) {
                if mirrored.group.next_timer_ms() <= now_ms {
                    mirrored.group.tick(now_ms);
                }
                next = next.min(mirrored.group.next_timer_ms());
            }
            // A rung bell is remembered, so a timer that was set meanwhile is not missed.
            let wait = next.saturating_sub(self.now_ms()).min(60_000);
            if wait == 0 {
                tokio::task::yield_now().await;
                continue;
            }
            let sleep = tokio::time::sleep(Duration::from_millis(wait));
            tokio::select! {
                () = sleep => {}
                () = self.timer.notified() => {}
            }
        }
    }
}

/// Memory of the process; 0 where the system does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessMemory {
    /// Memory that no file backs: what the system cannot take back by itself.
    pub anonymous_bytes: u64,
    /// That and what is mapped of files.
    pub resident_bytes: u64,
}

/// What the process uses now.
pub fn process_memory() -> ProcessMemory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    ProcessMemory {
        anonymous_bytes: bytes("RssAnon:").unwrap_or(0),
        resident_bytes: bytes("VmRSS:").unwrap_or(0),
    }
}

/// Memory of the machine, or of the control group that the process is in if that has less.
pub fn machine_memory_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:"))?
            .trim()
            .to_owned();
        Some(line.strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    total.unwrap_or(4 << 30).min(group.unwrap_or(u64::MAX))
}
