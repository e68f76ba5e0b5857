//! When a leader proposes: at once if somebody waits, a little later if nobody does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_queue::entry::MemoryGauge;
use leveret_queue::{
    DeadLetter, EntryBuilder, Location, NewMessage, QueueId, Replica, SessionId, Settings,
};
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::{Journal, JournalConfig};
use parking_lot::Mutex;

use super::{Beginning, MirrorGroup, SETTLES_HELD_BYTES, SETTLES_HELD_MS, Surroundings};
use crate::mirror::message::{Down, Up};
use crate::mirror::session::Leader;
use crate::node::BodyStore;

const GROUP: GroupId = 256;
const QUEUE: QueueId = 7;
const TERM: u64 = 3;
const SESSION: SessionId = SessionId {
    node: 2,
    incarnation: 9,
};

#[derive(Default)]
struct Around {
    proposed: Mutex<Vec<Bytes>>,
    timer: Mutex<Option<u64>>,
}

impl Surroundings for Around {
    fn propose(&self, _: GroupId, _: u64, payload: Bytes) {
        self.proposed.lock().push(payload);
    }

    fn tell(&self, _: SessionId, _: GroupId, _: Leader, _: Down) {}

    fn dead_letter(&self, _: GroupId, _: DeadLetter) {}

    fn unused(&self, _: QueueId) {}

    fn is_sure(&self, _: GroupId) -> bool {
        true
    }

    fn timer(&self, _: GroupId, at_ms: u64) {
        *self.timer.lock() = Some(at_ms);
    }
}

struct Led {
    group: MirrorGroup,
    around: Arc<Around>,
    leader: Leader,
    now_ms: u64,
    index: u64,
    number: u64,
}

impl Led {
    /// A group that leads, with one queue, and a session that has claimed.
    fn new() -> Led {
        let open = |name: &str| {
            let config = JournalConfig::new(name);
            let disk = Arc::new(SimDisk::new());
            let events = Box::new(|_| {});
            let opened = Journal::open_manual(
                config,
                disk,
                events,
                leveret_storage::Location::ZERO,
                &mut |_| Ok(()),
            );
            opened.expect("a journal").0
        };
        let store = BodyStore::new(
            open("journal"),
            open("pager"),
            Arc::new(MemoryGauge::default()),
            1 << 20,
            Box::new(|reason| panic!("{reason}")),
        );
        let around = Arc::new(Around::default());
        let replica = Replica::default();
        let surroundings = Arc::clone(&around) as Arc<dyn Surroundings>;
        let group = MirrorGroup::new(GROUP, 1, replica, 0, Arc::new(store), surroundings);
        let leader = group.lead(Beginning {
            term: TERM,
            nodes: BTreeSet::from([SESSION.node]),
            queues: vec![(QUEUE, Settings::default())],
            metadata: QUEUE,
            lives: Vec::new(),
            end: Location::START,
            now_ms: 1000,
        });
        let mut led = Led {
            group,
            around,
            leader,
            now_ms: 1000,
            index: 0,
            number: 0,
        };
        led.commit();
        led.receive(Up::Claim {
            next: 1,
            last: 0,
            claims: Vec::new(),
        });
        led.commit();
        led
    }

    fn receive(&self, up: Up) {
        self.group.receive(SESSION, self.leader, up, self.now_ms);
    }

    fn proposed(&self) -> usize {
        self.around.proposed.lock().len()
    }

    /// Everything that was proposed is applied.
    fn commit(&mut self) {
        let proposed = std::mem::take(&mut *self.around.proposed.lock());
        for payload in proposed {
            self.index += 1;
            let at = (TERM, self.index);
            let applied =
                self.group
                    .apply(at, &payload, Location::START, Location::START, self.now_ms);
            applied.expect("well formed");
            self.group.proposal_ended();
        }
    }

    /// A batch with `messages`; without any it is as one of acknowledgements.
    fn batch(&mut self, messages: usize) {
        let mut builder = EntryBuilder::default();
        for _ in 0..messages {
            let new = NewMessage {
                exchange: b"",
                routing_key: b"q",
                properties: &[0, 0],
                body: &[b"body"],
                persistent: true,
                expiration_ms: None,
                priority: 0,
                time_ms: self.now_ms,
            };
            builder.enqueue(&[QUEUE], &new, false);
        }
        let entry = match messages {
            0 => Bytes::new(),
            _ => builder.finish(None).to_bytes(),
        };
        self.number += 1;
        self.receive(Up::Batch {
            number: self.number,
            settles: Vec::new(),
            entry,
        });
    }
}

#[test]
fn a_message_is_proposed_at_once_and_takes_waiting_settles_along() {
    let mut led = Led::new();
    led.batch(0);
    assert_eq!(led.proposed(), 0);
    led.batch(1);
    assert_eq!(led.proposed(), 1);
    led.commit();
    assert_eq!(led.group.state.lock().replica.last_number(SESSION), 2);
    // What comes alone again waits again.
    led.batch(0);
    assert_eq!(led.proposed(), 0);
}

#[test]
fn settles_alone_wait_no_longer_than_their_time() {
    let mut led = Led::new();
    led.batch(0);
    led.now_ms += SETTLES_HELD_MS - 1;
    led.batch(0);
    led.group.tick(led.now_ms);
    assert_eq!(led.proposed(), 0);
    let due = led.now_ms + 1;
    assert_eq!(*led.around.timer.lock(), Some(due));
    led.now_ms = due;
    led.group.tick(led.now_ms);
    assert_eq!(led.proposed(), 1);
    led.commit();
    assert_eq!(led.group.state.lock().replica.last_number(SESSION), 2);
    // Nothing is left that a timer would be for.
    assert_eq!(led.group.next_timer_ms(), u64::MAX);
}

#[test]
fn many_settles_do_not_wait() {
    let mut led = Led::new();
    let mut batches = 0;
    while led.proposed() == 0 {
        led.batch(0);
        batches += 1;
        assert!(batches < SETTLES_HELD_BYTES, "never proposed");
    }
    assert!(batches > 1);
}
