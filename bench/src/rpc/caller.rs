//! A caller: one call at a time, over a sending and a reply connection.

use super::content::{CORRELATION_PLACE, Envelope, Event};
use super::driver::{Figures, put_ack};
use super::plan::RpcPlan;
use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::load::Shared;
use crate::net::{Client, Socket};
use crate::wire::Stamp;

/// Position of the sending connection among a caller's.
const SENDING: usize = 0;
/// Position of the connection that reads the reply queue.
const REPLIES: usize = 1;

/// One caller.
pub struct Caller {
    number: u32,
    sockets: Vec<Socket>,
    request: Envelope,
    /// Number of the last request; its delivery tag too, as every publish is a request.
    seq: u64,
    call: Option<Call>,
    /// Calls that were given up and whose reply may still come.
    given_up: Vec<u64>,
    timeout_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Call {
    started_ns: u64,
    confirmed: bool,
    replied: bool,
}

impl Caller {
    /// Connects caller `n`; its reply queue is there.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn connect(plan: &RpcPlan, n: usize) -> Result<Caller> {
        let mut sending = Client::open(plan.uri(n))?;
        sending.confirm_select()?;
        let mut replies = Client::open(plan.uri(n))?;
        replies.consume(&plan.reply_queue(n), "1", false)?;
        let request = Envelope::new(
            &plan.exchange(),
            &plan.request_queue(),
            false,
            &plan.properties(CORRELATION_PLACE, Some(plan.reply_queue(n))),
            plan.size,
            sending.frame_max,
        );
        let sockets = vec![Socket::new(sending)?, Socket::new(replies)?];
        Ok(Caller {
            number: n as u32,
            sockets,
            request,
            seq: 0,
            call: None,
            given_up: Vec::new(),
            timeout_ns: (plan.timeout_s * 1e9) as u64,
        })
    }

    /// Its connections.
    pub fn sockets(&mut self) -> &mut [Socket] {
        &mut self.sockets
    }

    /// True while a call is under way.
    pub fn is_calling(&self) -> bool {
        self.call.is_some()
    }

    /// Makes the next call, unless the time is over.
    ///
    /// # Errors
    /// The connection ended.
    pub fn start(&mut self, shared: &Shared, figures: &mut Figures) -> Result<()> {
        let now = now_ns();
        if now >= shared.deadline_ns {
            return Ok(());
        }
        self.seq += 1;
        let stamp = Stamp {
            stream: self.number,
            seq: self.seq,
            time_ns: now,
        };
        let sending = &mut self.sockets[SENDING];
        self.request.put(sending.queue(), stamp);
        sending.flush()?;
        figures.counts.sent += 1;
        self.call = Some(Call {
            started_ns: now,
            confirmed: false,
            replied: false,
        });
        Ok(())
    }

    /// Gives a call up that takes too long, and makes the next. It counts as lost.
    ///
    /// # Errors
    /// The connection ended.
    pub fn check(&mut self, now: u64, shared: &Shared, figures: &mut Figures) -> Result<()> {
        let late = |call: &Call| now.saturating_sub(call.started_ns) > self.timeout_ns;
        if self.call.as_ref().is_some_and(late) {
            self.call = None;
            self.given_up.push(self.seq);
            figures.progress_last_ns = now;
            self.start(shared, figures)?;
        }
        Ok(())
    }

    /// Deals with what came on connection `socket`.
    ///
    /// # Errors
    /// A request was refused, or the connection ended.
    pub fn event(
        &mut self,
        socket: usize,
        event: Event,
        shared: &Shared,
        figures: &mut Figures,
    ) -> Result<()> {
        let now = now_ns();
        match (event, &mut self.call) {
            (Event::Confirmed { tag, multiple }, call) if socket == SENDING => {
                let mine = tag == self.seq || multiple && tag >= self.seq;
                let Some(call) = call.as_mut().filter(|call| mine && !call.confirmed) else {
                    return Ok(());
                };
                call.confirmed = true;
                figures.counts.confirmed += 1;
                if call.started_ns >= shared.measure_from_ns {
                    figures.confirm.record(now - call.started_ns);
                }
            }
            (Event::Delivered { tag, stamp }, call) => {
                let replies = &mut self.sockets[REPLIES];
                put_ack(replies.queue(), tag);
                replies.flush()?;
                match (stamp, call) {
                    (Some(stamp), _) if stamp.stream != self.number => figures.misrouted += 1,
                    (Some(stamp), Some(call)) if stamp.seq == self.seq && !call.replied => {
                        call.replied = true;
                    }
                    (Some(stamp), _) if self.given_up.contains(&stamp.seq) => {
                        self.given_up.retain(|&seq| seq != stamp.seq);
                    }
                    _ => figures.duplicated += 1,
                }
            }
            (Event::Nacked | Event::Returned, _) => {
                return Err(Error::Failed("the broker refused a request".into()));
            }
            (Event::Confirmed { .. }, _) => {
                return Err(Error::Failed("a confirm for nothing".into()));
            }
        }
        if let Some(call) = self.call
            && call.confirmed
            && call.replied
        {
            figures.counts.received += 1;
            figures.progress_last_ns = now;
            if call.started_ns >= shared.measure_from_ns {
                figures.calls.record(now - call.started_ns);
            }
            self.call = None;
            self.start(shared, figures)?;
        }
        Ok(())
    }
}
