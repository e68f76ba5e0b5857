//! What leaves a queue without being delivered: expired messages, those beyond its length, its own expiry.

use super::{Ctx, Queue};
use crate::ready::Hot;
use crate::{DeadReason, Seq, StoreError};

/// Expired messages that leave in one go, so that a million of them that fall due together hold nobody up, and their dead letters
/// are not in memory at once. The timer takes the next.
pub(super) const EXPIRE_SLICE: usize = 2048;
/// The same for messages over a length limit; more than one entry can bring, so that a limit holds after every publish.
const DROP_SLICE: usize = 32 * 1024;

/// The queue's `message-ttl` for each message. A message keeps the one that held when it came, as in RabbitMQ, until the node is
/// started again.
#[derive(Debug, Default)]
pub(super) struct Ttls {
    /// For messages that come now.
    now_ms: Option<u64>,
    /// For messages below a number, ascending, that came before the last changes.
    before: Vec<(Seq, Option<u64>)>,
}

impl Ttls {
    /// Changes that are remembered; of more than these the oldest are forgotten.
    const CHANGES_MAX: usize = 16;

    pub(super) fn new(ttl_ms: Option<u64>) -> Ttls {
        Ttls {
            now_ms: ttl_ms,
            before: Vec::new(),
        }
    }

    pub(super) fn set(&mut self, ttl_ms: Option<u64>, next_seq: Seq, is_empty: bool) {
        if is_empty {
            self.before.clear();
        } else if ttl_ms != self.now_ms {
            if self.before.len() >= Self::CHANGES_MAX {
                self.before.remove(0);
            }
            self.before.push((next_seq, self.now_ms));
        }
        self.now_ms = ttl_ms;
    }

    pub(super) fn any(&self) -> bool {
        self.now_ms.is_some() || !self.before.is_empty()
    }

    #[inline]
    fn of(&self, seq: Seq) -> Option<u64> {
        let found = self.before.iter().find(|(end, _)| seq < *end);
        found.map_or(self.now_ms, |(_, ttl)| *ttl)
    }

    /// When a message expires, milliseconds since 1970.
    #[inline]
    pub(super) fn deadline(&self, hot: &Hot) -> Option<u64> {
        let message = hot.message.as_ref()?;
        let ttl = match (self.of(hot.seq), message.expiration_ms()) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) => a,
            (None, Some(b)) => b,
            (None, None) => return None,
        };
        Some(message.time_ms().saturating_add(ttl))
    }
}

impl Queue {
    pub(super) fn expires(&self) -> bool {
        self.has_expiration || self.ttls.any()
    }

    /// Takes expired messages from the front, at most `max`. `strictly`: only those past their deadline, not those that reach it
    /// now, nor those that have not been offered to a consumer yet. `false`: there may be more.
    pub(super) fn expire(
        &mut self,
        ctx: &mut Ctx<'_>,
        strictly: bool,
        max: usize,
    ) -> Result<bool, StoreError> {
        if self.ready.is_empty() {
            return Ok(true);
        }
        let now = ctx.now_ms;
        for _ in 0..max {
            let fresh_from = self.fresh_from;
            let (ready, refill, ttls) = self.refill(ctx.store);
            let due = |hot: &Hot| {
                ttls.deadline(hot).is_some_and(|at| {
                    if strictly {
                        at < now && hot.seq < fresh_from
                    } else {
                        at <= now
                    }
                })
            };
            let Some(hot) = ready.pop_expired(&refill, due)? else {
                return Ok(true);
            };
            self.counters.expired += 1;
            self.discard(hot, DeadReason::Expired, ctx);
        }
        Ok(false)
    }

    /// Drops from the front what is over the limits. `false`: there is more.
    pub(super) fn drop_excess(&mut self, ctx: &mut Ctx<'_>) -> Result<bool, StoreError> {
        let max = self.settings.max_length.unwrap_or(u64::MAX);
        let max_bytes = self.settings.max_length_bytes.unwrap_or(u64::MAX);
        let mut slice = DROP_SLICE;
        while self.ready.messages() > max || self.ready.bytes() > max_bytes {
            if slice == 0 {
                return Ok(false);
            }
            slice -= 1;
            let (ready, refill, _) = self.refill(ctx.store);
            if ready.front(&refill)?.is_none() {
                break;
            }
            let Some(hot) = ready.pop() else { break };
            self.counters.dropped += 1;
            self.discard(hot, DeadReason::MaxLen, ctx);
        }
        Ok(true)
    }

    /// `unfinished`: a slice ended before its work did; the timer goes on with it.
    pub(super) fn set_timer(
        &mut self,
        ctx: &mut Ctx<'_>,
        unfinished: bool,
    ) -> Result<(), StoreError> {
        // Not now: others get the group first.
        let soon = ctx.now_ms.saturating_add(1);
        let mut at = if unfinished { soon } else { u64::MAX };
        if self.expires() && !self.ready.is_empty() {
            let (ready, refill, ttls) = self.refill(ctx.store);
            for hot in ready.fronts(&refill)? {
                if let Some(deadline) = ttls.deadline(hot) {
                    at = at.min(deadline.max(soon));
                }
            }
        }
        if let Some(expires) = self.settings.expires_ms
            && self.consumers.attached == 0
        {
            at = at.min(self.last_used_ms.saturating_add(expires));
        }
        if at < self.timer_ms {
            self.timer_ms = at;
            ctx.effects.timers.push((at, self.id));
        }
        Ok(())
    }

    /// The timer rang.
    pub fn tick(&mut self, ctx: &mut Ctx<'_>) {
        self.timer_ms = u64::MAX;
        if let Some(expires) = self.settings.expires_ms
            && self.consumers.attached == 0
            && self.last_used_ms.saturating_add(expires) <= ctx.now_ms
        {
            ctx.effects.unused.push(self.id);
            // Should the deletion not come about, look again after a while.
            self.last_used_ms = ctx.now_ms;
        }
        self.run(ctx);
    }
}
