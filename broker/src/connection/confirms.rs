//! Publisher confirms that wait for the journal (RabbitMQ extension, confirm.select).
//!
//! In order of submission: the front is the first to become durable, because the journal has one order. So a connection
//! waits for one place at a time, and answers everything up to the durable location with one basic.ack a channel.

use std::collections::VecDeque;

use leveret_cluster::GroupId;

use leveret_storage::Location;

use super::batch::InSession;

/// Confirms of one batch and one channel.
#[derive(Debug)]
pub struct Pending {
    /// Wait for this record; `Location::ZERO`: for none.
    pub at: Location,
    /// Wait for these sessions.
    pub sessions: Vec<InSession>,
    /// The channel.
    pub channel: u16,
    /// The incarnation of the channel: a number that was closed and opened again is another channel.
    pub generation: u32,
    /// The first tag.
    pub first: u64,
    /// The last tag.
    pub tag: u64,
    /// Tags among them that were refused, ascending.
    pub nacks: Vec<u64>,
    /// Bytes that the batch appended, for back-pressure.
    pub bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Confirms {
    queue: VecDeque<Pending>,
    bytes: usize,
}

impl Confirms {
    /// Adds what a batch left to be confirmed.
    pub fn push(&mut self, pending: Pending) {
        self.bytes += pending.bytes;
        self.queue.push_back(pending);
    }

    /// Takes the front if it need not wait any longer. `committed`: up to which number a group's session is committed.
    pub fn pop(
        &mut self,
        durable: Location,
        committed: impl Fn(GroupId) -> u64,
    ) -> Option<Pending> {
        let front = self.queue.front()?;
        if front.at >= durable && front.at != Location::ZERO {
            return None;
        }
        if front.sessions.iter().any(|s| committed(s.group) < s.number) {
            return None;
        }
        let pending = self.queue.pop_front()?;
        self.bytes -= pending.bytes;
        if self.queue.is_empty() && self.queue.capacity() > 256 {
            self.queue = VecDeque::new();
        }
        Some(pending)
    }

    /// The record that the front waits for. Sessions wake the connection by themselves.
    pub fn waits_for(&self) -> Option<Location> {
        let at = self.queue.front()?.at;
        (at != Location::ZERO).then_some(at)
    }

    /// Bytes that are appended and not known to be durable.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mirror::session::Refused;

    fn pending(at: Location, tag: u64) -> Pending {
        Pending {
            at,
            sessions: Vec::new(),
            channel: 1,
            generation: 1,
            first: tag,
            tag,
            nacks: Vec::new(),
            bytes: 10,
        }
    }

    #[test]
    fn nothing_overtakes_what_is_not_durable() {
        let (early, late) = (Location::new(1, 64), Location::new(1, 128));
        let mut confirms = Confirms::default();
        confirms.push(pending(early, 1));
        // A transient message waits for nothing itself.
        confirms.push(pending(Location::ZERO, 2));
        confirms.push(pending(late, 3));
        assert_eq!((confirms.waits_for(), confirms.bytes()), (Some(early), 30));
        // The durable location is where the next record would be: a record at it is not safe.
        assert!(confirms.pop(early, |_| 0).is_none());
        let mut popped = || confirms.pop(late, |_| 0).map(|p| p.tag);
        assert_eq!([popped(), popped(), popped()], [Some(1), Some(2), None]);
        assert_eq!((confirms.waits_for(), confirms.bytes()), (Some(late), 10));
        assert_eq!(
            confirms.pop(Location::new(2, 0), |_| 0).map(|p| p.tag),
            Some(3)
        );
        assert!(confirms.is_empty());
        assert_eq!((confirms.waits_for(), confirms.bytes()), (None, 0));
    }

    #[test]
    fn what_is_in_sessions_waits_for_all_of_them() {
        let mut confirms = Confirms::default();
        let sessions = [(3, 7), (4, 2)].map(|(group, number)| InSession {
            group,
            number,
            marks: Arc::default(),
            refused: Refused::default(),
        });
        confirms.push(Pending {
            sessions: sessions.to_vec(),
            ..pending(Location::ZERO, 1)
        });
        assert_eq!(confirms.waits_for(), None);
        let at = Location::new(1, 64);
        assert!(
            confirms
                .pop(at, |group| u64::from(group == 3) * 7)
                .is_none()
        );
        assert!(
            confirms
                .pop(at, |group| u64::from(group == 4) * 2)
                .is_none()
        );
        assert!(confirms.pop(at, |_| 7).is_some());
    }
}
