//! Alarms: too little memory or disk blocks publishers (RabbitMQ extension, connection.blocked), never consumers.

use std::collections::BTreeMap;
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
    /// Alarms of other nodes, which block publishers here too: (memory, disk).
    others: Mutex<BTreeMap<u64, (bool, bool)>>,
    /// There are some.
    elsewhere: AtomicBool,
    limits: Mutex<Limits>,
}

impl Alarms {
    /// None is on. `machine_bytes`: the memory that relative limits are relative to.
    pub fn new(resources: &ResourcesConfig, machine_bytes: u64) -> Alarms {
        Alarms {
            memory: AtomicBool::new(false),
            disk: AtomicBool::new(false),
            minority: AtomicBool::new(false),
            others: Mutex::default(),
            elsewhere: AtomicBool::new(false),
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
            || self.elsewhere.load(Ordering::Acquire)
    }

    /// Sets another node's alarms; says whether they changed.
    pub fn set_of(&self, node: u64, memory: bool, disk: bool) -> bool {
        let mut others = self.others.lock();
        let before = match memory || disk {
            true => others.insert(node, (memory, disk)),
            false => others.remove(&node),
        };
        self.elsewhere.store(!others.is_empty(), Ordering::Release);
        before.unwrap_or_default() != (memory, disk)
    }

    /// Other nodes that have alarms: (node, memory, disk).
    pub fn others(&self) -> Vec<(u64, bool, bool)> {
        let others = self.others.lock();
        others
            .iter()
            .map(|(node, (m, d))| (*node, *m, *d))
            .collect()
    }

    /// Sets whether the node hears no majority of its cluster; says whether that changed.
    pub fn set_minority(&self, minority: bool) -> bool {
        self.minority.swap(minority, Ordering::AcqRel) != minority
    }

    /// The node hears no majority of its cluster.
    pub fn minority(&self) -> bool {
        self.minority.load(Ordering::Acquire)
    }

    /// Memory of this node is above the watermark.
    pub fn memory(&self) -> bool {
        self.memory.load(Ordering::Acquire)
    }

    /// Free disk space of this node is below the limit.
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
        let others = self.others();
        let disk = self.disk() || others.iter().any(|(_, _, disk)| *disk);
        let memory = self.memory() || others.iter().any(|(_, memory, _)| *memory);
        let resources = match (disk, memory) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_of_all_nodes_count_and_each_clears_its_own() {
        let alarms = Alarms::new(&ResourcesConfig::default(), 1 << 30);
        assert!(alarms.set_of(2, true, false));
        assert!(!alarms.set_of(2, true, false));
        assert!(alarms.set_of(3, false, true));
        assert!(alarms.any() && !alarms.memory() && !alarms.disk());
        assert_eq!(alarms.reason().as_deref(), Some("low on disk & memory"));
        assert!(alarms.set_of(2, false, false));
        assert_eq!(alarms.reason().as_deref(), Some("low on disk"));
        assert!(alarms.set_of(3, false, false));
        assert!(!alarms.set_of(3, false, false));
        assert!(!alarms.any() && alarms.reason().is_none());
    }
}
