//! A server: takes requests, acknowledges them at once, and sends replies over a pool.

use std::collections::VecDeque;

use super::content::{CORRELATION_PLACE, Envelope, Event};
use super::driver::{Figures, put_ack};
use super::plan::RpcPlan;
use crate::error::{Error, Result};
use crate::net::{Client, Socket};
use crate::wire::Stamp;

/// Position of the connection that takes requests; the pool follows.
const LISTENING: usize = 0;

/// One server.
pub struct Server {
    sockets: Vec<Socket>,
    /// Replies, by caller.
    replies: Vec<Envelope>,
    /// Pool connections without a reply under way; the last used one is used first.
    idle: Vec<usize>,
    waiting: VecDeque<Stamp>,
}

impl Server {
    /// Connects server `n`; its pool stands ready.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn connect(plan: &RpcPlan, n: usize) -> Result<Server> {
        let mut listening = Client::open(plan.uri(n))?;
        if plan.prefetch > 0 {
            listening.qos(plan.prefetch)?;
        }
        listening.consume(&plan.request_queue(), "1", false)?;
        let frame_max = listening.frame_max;
        let mut sockets = vec![Socket::new(listening)?];
        for _ in 0..plan.reply_connections {
            let mut client = Client::open(plan.uri(n))?;
            client.confirm_select()?;
            sockets.push(Socket::new(client)?);
        }
        let properties = plan.properties(CORRELATION_PLACE, None);
        let reply = |caller| {
            let queue = plan.reply_queue(caller);
            Envelope::new("", &queue, true, &properties, plan.size, frame_max)
        };
        Ok(Server {
            replies: (0..plan.callers).map(reply).collect(),
            idle: (1..sockets.len()).rev().collect(),
            sockets,
            waiting: VecDeque::new(),
        })
    }

    /// Its connections.
    pub fn sockets(&mut self) -> &mut [Socket] {
        &mut self.sockets
    }

    /// Deals with what came on connection `socket`.
    ///
    /// # Errors
    /// A reply was refused, or the connection ended.
    pub fn event(&mut self, socket: usize, event: Event, figures: &mut Figures) -> Result<()> {
        match event {
            Event::Delivered { tag, stamp } => {
                put_ack(self.sockets[LISTENING].queue(), tag);
                match stamp {
                    Some(stamp) if (stamp.stream as usize) < self.replies.len() => {
                        self.waiting.push_back(stamp);
                    }
                    _ => figures.misrouted += 1,
                }
            }
            // One reply at a time is under way on a connection, so a confirm can only be its own.
            Event::Confirmed { .. } => self.idle.push(socket),
            Event::Nacked | Event::Returned => {
                return Err(Error::Failed("the broker refused a reply".into()));
            }
        }
        while !self.waiting.is_empty() {
            let Some(connection) = self.idle.pop() else {
                break;
            };
            let Some(stamp) = self.waiting.pop_front() else {
                break;
            };
            let sending = &mut self.sockets[connection];
            self.replies[stamp.stream as usize].put(sending.queue(), stamp);
            sending.flush()?;
        }
        Ok(())
    }
}
