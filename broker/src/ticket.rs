//! What a method waits for that another node has to say.
//!
//! A method's handler asks ([`crate::connection::core::Core::ask`]); if the answer is not there at once, the handler ends with a fault that means
//! "not yet" and its frame stays unread. The answer wakes the connection, the frame is read again, and the handler, run from
//! its beginning, finds the answers that it was given. So a handler has no states of its own; what it does before it asks must be
//! checks only, and may be done twice.

use std::sync::Arc;

use leveret_queue::{ConsumerSlot, GetResult};
use leveret_storage::Location;
use leveret_topology::{Outcome, Refusal};
use parking_lot::Mutex;

use crate::node::Committed;
use crate::outbox::Outbox;

/// What became of a command of the metadata: its outcome, and what must be durable before anyone is told.
pub type Proposed = Result<(Outcome, Option<Location>), Refusal>;

/// An answer. Few are under way at a time, so their size does not matter.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one for each method that waits")]
pub enum Answer {
    /// Of a command of the metadata.
    Proposed(Proposed),
    /// Ready messages and consumers of a queue.
    Counts(u64, u32),
    /// Of an attached consumer; `None`: an exclusive one is in the way, or the queue is gone.
    Attached(Option<ConsumerSlot>),
    /// Of basic.get.
    Got(Option<GetResult>),
    /// Of queue.purge: how many messages went.
    Purged(u64),
    /// Of basic.cancel: nothing more is delivered.
    Ended,
    /// Of tx.commit.
    Committed(Committed),
    /// Of a look at another node's consumer of direct replies: whether it is there.
    Found(bool),
    /// The node that has it is gone, or gave no answer in time.
    Unavailable(String),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A change of the metadata.
    Proposal,
    /// Messages and consumers of a queue.
    Counts,
    /// A consumer is to be attached.
    Attach,
    /// A consumer is to get nothing more.
    Cancel,
    /// basic.get.
    Get,
    /// queue.purge.
    Purge,
    /// tx.commit.
    Commit,
    /// A consumer of direct replies.
    Reply,
}

/// One question that waits for its answer.
#[derive(Debug)]
pub struct Ticket {
    question: Question,
    answer: Mutex<Option<Answer>>,
    outbox: Arc<Outbox>,
}

impl Ticket {
    /// A question of the connection with this outbox.
    pub fn new(question: Question, outbox: Arc<Outbox>) -> Arc<Ticket> {
        Arc::new(Ticket {
            question,
            answer: Mutex::default(),
            outbox,
        })
    }

    /// Answers it while it is being asked: nobody waits yet.
    pub fn set(&self, answer: Answer) {
        self.answer.lock().get_or_insert(answer);
    }

    /// Answers it, and wakes the connection. A second answer counts for nothing.
    pub fn answer(&self, answer: Answer) {
        self.set(answer);
        self.outbox.wake();
    }

    /// The answer, if it is there.
    pub fn get(&self) -> Option<Answer> {
        self.answer.lock().clone()
    }

    /// Whether it is answered.
    pub fn is_answered(&self) -> bool {
        self.answer.lock().is_some()
    }
}

/// The questions of the method that is being handled, in the order in which it asks.
#[derive(Debug, Default)]
pub struct Asked {
    tickets: Vec<Arc<Ticket>>,
    /// Questions that this run of the handler has come to.
    at: usize,
}

impl Asked {
    /// The ticket of the next question, if it was asked in an earlier run. Questions that the handler has no need to ask again are
    /// passed over.
    pub fn next(&mut self, question: Question) -> Option<Arc<Ticket>> {
        let rest = self.tickets.get(self.at..)?;
        let found = rest.iter().position(|t| t.question == question)?;
        self.at += found + 1;
        rest.get(found).cloned()
    }

    /// Whether such a question was asked in an earlier run, which has done its checks.
    pub fn before(&self, question: Question) -> bool {
        self.tickets.iter().any(|t| t.question == question)
    }

    /// A question that was asked now.
    pub fn push(&mut self, ticket: Arc<Ticket>) {
        self.tickets.push(ticket);
        self.at = self.tickets.len();
    }

    /// Nothing was asked.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// The handler begins again.
    pub fn restart(&mut self) {
        self.at = 0;
    }

    /// The method is done.
    pub fn clear(&mut self) {
        self.tickets.clear();
        self.at = 0;
    }

    /// An answer is awaited.
    pub fn waits(&self) -> bool {
        self.tickets.last().is_some_and(|last| !last.is_answered())
    }
}
