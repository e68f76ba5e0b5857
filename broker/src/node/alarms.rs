//! Alarms: too little memory or disk blocks publishers (RabbitMQ extension, connection.blocked), never consumers.

use std::sync::atomic::{AtomicBool, Ordering};

use leveret_config::{Limit, ResourcesConfig};
use parking_lot::{Mutex, MutexGuard};

/// Where alarms begin: as configured, until an operator says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Memory of the process above which publishers are blocked.
    pub memory: Limit,
    /// Free disk space under which publishers are blocked.
    pub disk: Limit,
    machine_bytes: u64,
}

impl Limits {
    /// The memory limit in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes(self.machine_bytes)
    }

    /// The disk limit in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.bytes(self.machine_bytes)
    }
}

/// The alarms that are on.
#[derive(Debug)]
pub struct Alarms {
    memory: AtomicBool,
    disk: AtomicBool,
    minority: AtomicBool,
    limits: Mutex<Limits>,
}

impl Alarms {
    /// None is on. `machine_bytes`: the memory that relative limits are relative to.
    pub fn new(resources: &ResourcesConfig, machine_bytes: u64) -> Alarms {
        Alarms {
            memory: AtomicBool::new(false),
            disk: AtomicBool::new(false),
            minority: AtomicBool::new(false),
            limits: Mutex::new(Limits {
                memory: resources.memory_high_watermark,
                disk: resources.disk_free_limit,
                machine_bytes,
            }),
        }
    }

    /// The limits, held while alarms are set by them: two checks at a time could tell connections in the wrong order.
    pub(super) fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock()
    }

    /// Whether publishers are blocked.
    #[inline]
    pub fn any(&self) -> bool {
        self.memory.load(Ordering::Acquire)
            || self.disk.load(Ordering::Acquire)
            || self.minority.load(Ordering::Acquire)
    }

    /// Sets whether the node hears no majority of its cluster; says whether that changed.
    pub fn set_minority(&self, minority: bool) -> bool {
        self.minority.swap(minority, Ordering::AcqRel) != minority
    }

    /// Memory is above the watermark.
    pub fn memory(&self) -> bool {
        self.memory.load(Ordering::Acquire)
    }

    /// Free disk space is below the limit.
    pub fn disk(&self) -> bool {
        self.disk.load(Ordering::Acquire)
    }

    /// Sets both; says whether anything changed.
    pub fn set(&self, memory: bool, disk: bool) -> bool {
        let before = (
            self.memory.swap(memory, Ordering::AcqRel),
            self.disk.swap(disk, Ordering::AcqRel),
        );
        before != (memory, disk)
    }

    /// RabbitMQ's reason in connection.blocked; `None`: nothing is on.
    pub fn reason(&self) -> Option<String> {
        let resources = match (self.disk(), self.memory()) {
            (true, true) => "disk & memory",
            (true, false) => "disk",
            (false, true) => "memory",
            (false, false) if self.minority.load(Ordering::Acquire) => {
                return Some("no majority of the cluster".to_owned());
            }
            (false, false) => return None,
        };
        Some(format!("low on {resources}"))
    }
}
