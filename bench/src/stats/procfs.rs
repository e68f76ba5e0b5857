//! What a process and its descendants cost, from `/proc`.
//!
//! CPU is utime + stime of every thread, and cutime + cstime of children that have ended, over the
//! process and all its living descendants: RabbitMQ does part of its work in helper processes.

use std::collections::HashMap;
use std::fs;

use serde::{Deserialize, Serialize};

/// USER_HZ: Linux shows process times in these units on every architecture it still supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds since a process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// In the program.
    pub user_s: f64,
    /// In the kernel on its behalf.
    pub system_s: f64,
}

impl Cpu {
    /// User and system together.
    pub fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was spent since `before`.
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            user_s: self.user_s - before.user_s,
            system_s: self.system_s - before.system_s,
        }
    }
}

/// Memory in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident now.
    pub rss_kib: u64,
    /// Resident now and not backed by a file.
    pub anon_kib: u64,
    /// Most that was resident since the last `reset_peak`.
    pub peak_kib: u64,
}

/// The processes that a broker consists of.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    /// Roots; descendants are looked up each time.
    pub pids: Vec<u32>,
}

impl Broker {
    /// One process and its descendants.
    pub fn of(pid: u32) -> Broker {
        Broker { pids: vec![pid] }
    }

    /// CPU of all processes.
    pub fn cpu(&self) -> Cpu {
        let mut sum = Cpu::default();
        for pid in self.family() {
            let Some([user, system, child_user, child_system]) = times(pid) else {
                continue;
            };
            sum.user_s += (user + child_user) as f64 / TICKS_PER_SECOND;
            sum.system_s += (system + child_system) as f64 / TICKS_PER_SECOND;
        }
        sum
    }

    /// Memory of all processes, added up.
    pub fn memory(&self) -> Memory {
        let mut sum = Memory::default();
        for pid in self.family() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name| status_field(&status, name).unwrap_or(0);
            sum.rss_kib += field("VmRSS:");
            sum.anon_kib += field("RssAnon:");
            sum.peak_kib += field("VmHWM:");
        }
        sum
    }

    /// Makes peaks count from now; false if the system does not allow it.
    pub fn reset_peaks(&self) -> bool {
        self.family()
            .iter()
            .all(|pid| fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok())
    }

    /// Open file descriptors of all processes.
    pub fn is_alive(&self) -> bool {
        self.pids.iter().all(|&pid| times(pid).is_some())
    }

    /// The processes themselves and all their living descendants.
    pub fn family(&self) -> Vec<u32> {
        if self.pids.is_empty() {
            return Vec::new();
        }
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in numbered("/proc") {
            if let Some(parent) = stat_fields(pid).and_then(|f| f.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut family = self.pids.clone();
        let mut next = 0;
        while let Some(&pid) = family.get(next) {
            next += 1;
            family.extend(children.remove(&pid).unwrap_or_default());
        }
        family
    }
}

/// CPU of the calling process.
pub fn own_cpu() -> Cpu {
    let mut cpu = Cpu::default();
    if let Some([user, system, ..]) = times(std::process::id()) {
        cpu.user_s = user as f64 / TICKS_PER_SECOND;
        cpu.system_s = system as f64 / TICKS_PER_SECOND;
    }
    cpu
}

/// The process on this machine that listens on a TCP port.
pub fn listener_of(port: u16) -> Option<u32> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    numbered("/proc").find(|pid| {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        fds.flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| {
                sockets
                    .iter()
                    .any(|socket| target.as_os_str() == socket.as_str())
            })
    })
}

fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN;
            listens.then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

fn numbered(folder: &str) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` from `state` on: those after the command, which may hold blanks.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    Some(after.split_whitespace().map(str::to_owned).collect())
}

/// utime, stime, cutime, cstime in ticks.
fn times(pid: u32) -> Option<[u64; 4]> {
    let fields = stat_fields(pid)?;
    let field = |n: usize| fields.get(n)?.parse().ok();
    Some([field(11)?, field(12)?, field(13)?, field(14)?])
}

fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn own_process_has_memory_and_burns_cpu() {
        let me = Broker {
            pids: vec![std::process::id()],
        };
        let before = me.cpu();
        let mut x = 1u64;
        while me.cpu().since(before).total_s() < 0.03 {
            for i in 0..1_000_000u64 {
                x = std::hint::black_box(x.wrapping_mul(i | 1));
            }
        }
        let memory = me.memory();
        assert!(
            memory.rss_kib > 100 && memory.peak_kib >= memory.rss_kib / 2,
            "{memory:?}"
        );
        assert!(me.is_alive());
    }

    #[test]
    fn finds_the_process_behind_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listener_of(port), Some(std::process::id()));
    }

    #[test]
    fn descendants_count() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let family = Broker {
            pids: vec![std::process::id()],
        }
        .family();
        assert!(family.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
