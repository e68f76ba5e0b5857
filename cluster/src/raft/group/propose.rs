//! Entries that a leader proposes, in order, without waiting for the earlier ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::poll_fn;
use leveret_storage::{Histogram, HistogramCell};
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::rt::AsyncRuntime;
use parking_lot::Mutex;

use crate::raft::state_machine::Machine;
use crate::raft::types::{Answer, LogId, MemberId, Payload, Term, Types};

use super::{BoxFuture, RaftGroup};

/// What became of a proposal that was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many or too large proposals in flight: come again when one of them is answered. Nothing was proposed.
    #[error("too many proposals in flight")]
    Full,
    /// This member does not lead, or not in that term. It will never be committed.
    #[error("this member does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<MemberId>,
    },
    /// It was appended here, and another leader's log replaced it: it may be committed or not.
    #[error("the entry was replaced by another leader's; it may be committed or not")]
    Replaced {
        /// Who leads now, if that is known.
        leader: Option<MemberId>,
    },
    /// The group has stopped: it may be committed or not.
    #[error("the group has stopped; the entry may be committed or not")]
    Stopped,
}

/// Proposals in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub(super) count: AtomicU64,
    bytes: AtomicU64,
    /// Microseconds from proposing to having applied.
    commit_us: HistogramCell,
    /// A mean of these that forgets.
    commit_recent_us: AtomicU64,
}

impl InFlight {
    /// An entry was applied so long after it was proposed.
    fn committed(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commit_us.record(us);
        // Two at once may count as one.
        let mean = self.commit_recent_us.load(Ordering::Relaxed);
        let next = match mean {
            0 => us,
            mean => mean.saturating_mul(7).saturating_add(us) / 8,
        };
        self.commit_recent_us.store(next.max(1), Ordering::Relaxed);
    }
}

/// Tells a proposer, at the latest when it is dropped.
struct Told<F: FnOnce(Result<LogId, ProposeError>)> {
    answer: Option<F>,
    flight: Arc<InFlight>,
    bytes: u64,
}

impl<F: FnOnce(Result<LogId, ProposeError>)> Told<F> {
    fn tell(&mut self, result: Result<LogId, ProposeError>) {
        if let Some(answer) = self.answer.take() {
            self.flight.count.fetch_sub(1, Ordering::AcqRel);
            self.flight.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
            answer(result);
        }
    }
}

impl<F: FnOnce(Result<LogId, ProposeError>)> Drop for Told<F> {
    fn drop(&mut self) {
        self.tell(Err(ProposeError::Stopped));
    }
}

/// Proposals that openraft's channel did not take at once, in order.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: VecDeque<BoxFuture<'static, ()>>,
    /// One of them is being sent.
    busy: bool,
    closed: bool,
    waker: Option<Waker>,
}

impl<R: AsyncRuntime, M: Machine> RaftGroup<R, M> {
    /// Microseconds from proposing an entry here to having applied it: counts, and a mean that forgets.
    pub fn commit_us(&self) -> (Histogram, u64) {
        let recent = self.flight.commit_recent_us.load(Ordering::Relaxed);
        (self.flight.commit_us.read(), recent)
    }

    /// Proposes an entry as the leader of `term`, behind all that were proposed before; does not wait. `answer` is called once,
    /// on a task of the group, when the entry is applied here, or will not be; it must not block, and not call the group.
    ///
    /// # Errors
    /// [`ProposeError::Full`]: nothing is proposed, and `answer` is not called.
    pub fn propose(
        &self,
        term: Term,
        payload: Payload,
        answer: impl FnOnce(Result<LogId, ProposeError>) + Send + 'static,
    ) -> Result<(), ProposeError> {
        let bytes = payload.len() as u64;
        let count_before = self.flight.count.fetch_add(1, Ordering::AcqRel);
        let bytes_before = self.flight.bytes.fetch_add(bytes, Ordering::AcqRel);
        // One alone is taken whatever its size.
        if count_before >= self.config.in_flight_max
            || (count_before > 0 && bytes_before + bytes > self.config.in_flight_bytes_max)
        {
            self.flight.count.fetch_sub(1, Ordering::AcqRel);
            self.flight.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(ProposeError::Full);
        }
        let mut told = Told {
            answer: Some(answer),
            flight: Arc::clone(&self.flight),
            bytes,
        };
        let begun = <R::Instant as openraft::Instant>::now();
        let answer = Answer::new(move |result: ClientWriteResult<Types<R>>| {
            told.tell(match result {
                Ok(response) => {
                    let took = openraft::Instant::elapsed(&begun);
                    told.flight.committed(took);
                    Ok(response.log_id)
                }
                Err(ClientWriteError::LogEntryDiscarded(to)) => {
                    let leader = to.leader_id;
                    Err(ProposeError::Replaced { leader })
                }
                Err(ClientWriteError::ForwardToLeader(to)) => {
                    let leader = to.leader_id;
                    Err(ProposeError::NotLeader { leader })
                }
                Err(_) => Err(ProposeError::NotLeader { leader: None }),
            });
        });
        let raft = self.raft.clone();
        let mut send: BoxFuture<'static, ()> = Box::pin(async move {
            // If the core has stopped, the answer is dropped with the message, and tells so.
            let _ = raft
                .write(payload)
                .with_leader(term)
                .responder(answer)
                .await;
        });
        let mut backlog = self.backlog.lock();
        if backlog.closed {
            return Ok(());
        }
        // The channel has room, as a rule: then the message is in it at once.
        if !backlog.busy && backlog.waiting.is_empty() {
            let mut context = Context::from_waker(Waker::noop());
            if send.as_mut().poll(&mut context).is_ready() {
                return Ok(());
            }
        }
        backlog.waiting.push_back(send);
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(super) fn close_backlog(&self) {
        let mut backlog = self.backlog.lock();
        backlog.closed = true;
        let waiting = std::mem::take(&mut backlog.waiting);
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
        // Answers those proposals; not under the lock.
        drop(waiting);
    }
}

/// Sends what could not be sent at once, in order, until the group stops.
pub(super) async fn send_backlog(backlog: Arc<Mutex<Backlog>>) {
    loop {
        let next = poll_fn(|context| {
            let mut backlog = backlog.lock();
            backlog.busy = false;
            if let Some(next) = backlog.waiting.pop_front() {
                backlog.busy = true;
                return Poll::Ready(Some(next));
            }
            if backlog.closed {
                return Poll::Ready(None);
            }
            backlog.waker = Some(context.waker().clone());
            Poll::Pending
        });
        match next.await {
            Some(send) => send.await,
            None => return,
        }
    }
}
