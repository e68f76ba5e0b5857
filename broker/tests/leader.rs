//! A group's leader, with sessions and a Raft that commits at once, when asked.
//!
//! Cases that seeds of the simulated cluster came upon (`tests/simulation`).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use leveret::mirror::lead::{Beginning, MirrorGroup, Surroundings};
use leveret::mirror::message::{Attach, Claim, Down, SettleSeqs, Up};
use leveret::mirror::session::Leader;
use leveret::node::{BodyStore, Settle};
use leveret_cluster::GroupId;
use leveret_queue::{
    DeadLetter, EntryBuilder, Location, NewMessage, QueueId, Replica, Seq, SessionId, Settings,
};
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::{Journal, JournalConfig};
use parking_lot::Mutex;

const QUEUE: QueueId = 5;
/// Of a single active consumer.
const SINGLE: QueueId = 6;
const NOW_MS: u64 = 1_000_000;

fn session(node: u64, incarnation: u64) -> SessionId {
    SessionId { node, incarnation }
}

#[derive(Default)]
struct World {
    proposed: Mutex<Vec<Bytes>>,
    told: Mutex<Vec<(SessionId, Down)>>,
}

impl Surroundings for World {
    fn propose(&self, _: GroupId, _: u64, payload: Bytes) {
        self.proposed.lock().push(payload);
    }

    fn tell(&self, to: SessionId, _: GroupId, _: Leader, down: Down) {
        self.told.lock().push((to, down));
    }

    fn dead_letter(&self, _: GroupId, _: DeadLetter) {}

    fn unused(&self, _: QueueId) {}

    fn is_sure(&self, _: GroupId) -> bool {
        true
    }

    fn timer(&self, _: GroupId, _: u64) {}
}

struct Group {
    group: MirrorGroup,
    world: Arc<World>,
    leader: Leader,
    index: Mutex<u64>,
}

impl Group {
    /// Leads on node 1, and awaits the claims of these nodes.
    fn leading(nodes: &[u64]) -> Group {
        let config = JournalConfig::new(Path::new("data"));
        let disk = Arc::new(SimDisk::new());
        let (journal, _) = Journal::open_manual(
            config,
            disk,
            Box::new(|_| ()),
            leveret_storage::Location::ZERO,
            &mut |_| Ok(()),
        )
        .expect("an empty journal");
        let world = Arc::new(World::default());
        let bodies = BodyStore::new(
            journal.clone(),
            journal,
            Arc::default(),
            u64::MAX >> 1,
            Box::new(|error| panic!("{error}")),
        );
        let surroundings = world.clone() as Arc<dyn Surroundings>;
        let replica = Replica::new();
        let group = MirrorGroup::new(256, 1, replica, 0, Arc::new(bodies), surroundings);
        let durable = Settings {
            durable: true,
            ..Settings::default()
        };
        let single = Settings {
            single_active_consumer: true,
            ..durable
        };
        let leader = group.lead(Beginning {
            term: 1,
            nodes: nodes.iter().copied().collect(),
            queues: vec![(QUEUE, durable), (SINGLE, single)],
            metadata: 100,
            lives: vec![session(1, 1), session(2, 1)],
            end: Location(0),
            now_ms: NOW_MS,
        });
        let group = Group {
            group,
            world,
            leader,
            index: Mutex::new(0),
        };
        group.commit();
        group
    }

    /// Everything that was proposed is committed and applied.
    fn commit(&self) {
        loop {
            // Settles wait a moment for a message.
            self.group.tick(NOW_MS + 10);
            let proposed = std::mem::take(&mut *self.world.proposed.lock());
            if proposed.is_empty() {
                return;
            }
            for payload in proposed {
                let mut index = self.index.lock();
                *index += 1;
                let applied =
                    self.group
                        .apply((1, *index), &payload, Location(*index), Location(0), NOW_MS);
                drop(index);
                applied.expect("a well-formed entry");
                self.group.proposal_ended();
            }
        }
    }

    fn hears(&self, from: SessionId, up: Up) {
        self.group.receive(from, self.leader, up, NOW_MS);
    }

    fn claims(&self, from: SessionId, last: u64, claims: Vec<Claim>) {
        let next = 1;
        self.hears(from, Up::Claim { next, last, claims });
    }

    fn publishes(&self, from: SessionId, number: u64) {
        self.publishes_to(QUEUE, from, number);
    }

    fn publishes_to(&self, queue: QueueId, from: SessionId, number: u64) {
        let mut entry = EntryBuilder::default();
        let message = NewMessage {
            exchange: b"",
            routing_key: b"",
            properties: &[0, 0],
            body: &[b"body"],
            persistent: true,
            expiration_ms: None,
            priority: 0,
            time_ms: NOW_MS,
        };
        entry.enqueue(&[queue], &message, true);
        let entry = entry.finish(None).to_bytes();
        let settles = Vec::new();
        self.hears(
            from,
            Up::Batch {
                number,
                settles,
                entry,
            },
        );
    }

    /// What was delivered, and to whom.
    fn delivered(&self) -> Vec<(SessionId, Seq)> {
        let told = std::mem::take(&mut *self.world.told.lock());
        let deliveries = told.into_iter().filter_map(|(to, down)| match down {
            Down::Deliver { items } => Some((to, items)),
            _ => None,
        });
        deliveries
            .flat_map(|(to, items)| items.into_iter().map(move |(_, item)| (to, item.seq)))
            .collect()
    }

    fn messages(&self) -> u64 {
        let replica = self.group.lend();
        replica.queue(QUEUE).map_or(0, |queue| queue.messages())
    }
}

fn consumer(key: u64) -> Attach {
    Attach {
        key,
        queue: QUEUE,
        no_ack: false,
        exclusive: false,
        passive: false,
        cancelled: false,
        priority: 0,
        prefetch: 0,
        shared: false,
        before: None,
        credit: 1 << 20,
    }
}

/// Seed 318: its consumer held what it was given until another leader came.
#[test]
fn what_a_process_asked_for_before_it_ended_is_not_done_when_the_leader_goes() {
    let group = Group::leading(&[1, 2]);
    let (dead, alive) = (session(2, 1), session(1, 1));
    group.claims(dead, 0, Vec::new());
    let (request, attach) = (1, consumer(7));
    group.hears(dead, Up::Attach { request, attach });
    group.group.node_up(session(2, 2), NOW_MS);
    group.claims(alive, 0, Vec::new());
    group.hears(alive, Up::Attach { request, attach });
    group.publishes(alive, 1);
    group.publishes(alive, 2);
    group.commit();
    assert_eq!(group.delivered(), [(alive, 1), (alive, 2)]);
}

/// Its numbers are forgotten: a batch that was applied would count as new.
#[test]
fn what_a_process_sent_before_it_ended_is_void_once_its_next_life_is_known() {
    let group = Group::leading(&[1, 2]);
    let (dead, alive) = (session(2, 1), session(1, 1));
    group.claims(alive, 0, Vec::new());
    group.claims(dead, 0, Vec::new());
    group.publishes(dead, 1);
    group.commit();
    assert_eq!(group.messages(), 1);
    group.group.node_up(session(2, 2), NOW_MS);
    group.commit();
    group.claims(dead, 1, Vec::new());
    group.publishes(dead, 1);
    group.commit();
    assert_eq!(group.messages(), 1);
    // The next life's own first batch is not that one.
    group.claims(session(2, 2), 0, Vec::new());
    group.publishes(session(2, 2), 1);
    group.commit();
    assert_eq!(group.messages(), 2);
}

/// Seed 268: the first that went left its place to the second, which was given what waited.
#[test]
fn consumers_that_go_together_leave_each_other_nothing() {
    let group = Group::leading(&[1, 2]);
    let (publisher, again) = (session(1, 1), session(2, 1));
    group.claims(publisher, 0, Vec::new());
    group.claims(again, 0, Vec::new());
    let closed = |key| Attach {
        queue: SINGLE,
        // The first has no room.
        credit: if key == 7 { 0 } else { 1 << 20 },
        ..consumer(key)
    };
    for key in 7..10 {
        let (request, attach) = (key, closed(key));
        group.hears(again, Up::Attach { request, attach });
    }
    group.publishes_to(SINGLE, publisher, 1);
    group.commit();
    assert_eq!(group.delivered(), []);
    group.group.node_down(2, NOW_MS);
    assert_eq!(group.delivered(), []);
}

/// Seed 1067: it was given what it had given back, and lost it again to its own batch.
#[test]
fn who_claims_late_gets_nothing_before_what_it_has_settled_is_done() {
    let group = Group::leading(&[1]);
    let (publisher, late) = (session(1, 1), session(2, 1));
    group.claims(publisher, 0, Vec::new());
    group.publishes(publisher, 1);
    group.publishes(publisher, 2);
    group.commit();
    let (attach, held) = (consumer(7), Vec::new());
    group.claims(late, 1, vec![Claim { attach, held }]);
    assert_eq!(group.delivered(), []);
    let settles = [(Settle::Ack, 1), (Settle::Requeue, 2)].map(|(how, seq)| SettleSeqs {
        queue: QUEUE,
        consumer: Some(7),
        how,
        items: vec![(seq, seq, 1)],
    });
    group.hears(
        late,
        Up::Batch {
            number: 1,
            settles: settles.to_vec(),
            entry: Bytes::new(),
        },
    );
    group.commit();
    assert_eq!(group.delivered(), [(late, 2)]);
    assert_eq!(group.messages(), 1);
}
