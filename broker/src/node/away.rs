//! Whether this node serves clients, as its operator wants it: `stop_app`, and `drain` on a node alone.
//!
//! Of a node in a cluster, that it is drained is in the metadata (`mirror::drain`); this is of the process and ends with it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;

/// What an operator wants of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Presence {
    /// To serve clients.
    Here = 0,
    /// To serve none, before it is stopped.
    Drained = 1,
    /// To be as if stopped.
    Stopped = 2,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Away {
    presence: AtomicU8,
    listening: AtomicBool,
    bell: Notify,
}

impl Away {
    /// What is wanted.
    pub fn presence(&self) -> Presence {
        match self.presence.load(Ordering::Acquire) {
            0 => Presence::Here,
            1 => Presence::Drained,
            _ => Presence::Stopped,
        }
    }

    /// Wants something else; the server follows.
    pub fn set(&self, presence: Presence) {
        self.presence.store(presence as u8, Ordering::Release);
        self.bell.notify_one();
    }

    /// Waits until something else is wanted.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Whether the server takes clients.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// The server takes clients now, or does not.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Release);
    }
}
