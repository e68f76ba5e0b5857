//! The loop of an RPC thread.

use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use super::caller::Caller;
use super::content::{Assembler, Event};
use super::server::Server;
use crate::clock::now_ns;
use crate::error::{Context, Result};
use crate::load::{Counts, Shared};
use crate::net::{ReadOutcome, Socket};
use crate::stats::Latency;
use crate::wire::{MethodWriter, id};

/// How soon a thread sees that it is to end.
const POLL: Duration = Duration::from_millis(20);
/// How often calls that take too long are looked for.
const CHECK_NS: u64 = 20_000_000;

/// A caller or a server.
pub enum Peer {
    /// Makes calls.
    Caller(Caller),
    /// Answers them.
    Server(Server),
}

impl Peer {
    fn sockets(&mut self) -> &mut [Socket] {
        match self {
            Peer::Caller(c) => c.sockets(),
            Peer::Server(s) => s.sockets(),
        }
    }
}

/// What a thread hands back.
pub struct Figures {
    /// `sent` counts calls begun, `received` calls completed.
    pub counts: Counts,
    /// Request to confirm.
    pub confirm: Latency,
    /// Request to reply and confirm, whichever is later.
    pub calls: Latency,
    /// When a call was last completed.
    pub progress_last_ns: u64,
    /// Replies to a call that had its reply.
    pub duplicated: u64,
    /// Messages of others.
    pub misrouted: u64,
}

/// A thread's peers and the sockets among them.
pub struct PeerThread {
    peers: Vec<Peer>,
    poll: Poll,
    /// By token: peer, its socket, and that socket's unfinished content.
    places: Vec<(usize, usize, Assembler)>,
    figures: Figures,
}

impl PeerThread {
    /// Registers all sockets.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(mut peers: Vec<Peer>) -> Result<PeerThread> {
        let poll = Poll::new().context("epoll")?;
        let mut places = Vec::new();
        for (p, peer) in peers.iter_mut().enumerate() {
            for (s, socket) in peer.sockets().iter_mut().enumerate() {
                let interest = Interest::READABLE | Interest::WRITABLE;
                let token = Token(places.len());
                poll.registry()
                    .register(socket.source(), token, interest)
                    .context("epoll")?;
                places.push((p, s, Assembler::default()));
            }
        }
        let figures = Figures {
            counts: Counts::default(),
            confirm: Latency::new(),
            calls: Latency::new(),
            progress_last_ns: 0,
            duplicated: 0,
            misrouted: 0,
        };
        Ok(PeerThread {
            peers,
            poll,
            places,
            figures,
        })
    }

    /// Runs as thread `number` until the watcher says finish.
    ///
    /// # Errors
    /// A connection failed.
    pub fn run(mut self, number: usize, shared: &Shared) -> Result<Figures> {
        for peer in &mut self.peers {
            if let Peer::Caller(caller) = peer {
                caller.start(shared, &mut self.figures)?;
            }
        }
        let mut epoll_events = Events::with_capacity(256);
        let mut events = Vec::new();
        let mut check_ns = 0;
        while !shared.finishing() {
            match self.poll.poll(&mut epoll_events, Some(POLL)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.context("epoll")?,
            }
            for event in &epoll_events {
                let readable = event.is_readable() || event.is_read_closed();
                self.turn(event.token().0, readable, shared, &mut events)?;
            }
            let now = now_ns();
            if now >= check_ns {
                check_ns = now + CHECK_NS;
                for peer in &mut self.peers {
                    if let Peer::Caller(caller) = peer {
                        caller.check(now, shared, &mut self.figures)?;
                    }
                }
            }
            let calling = |peer: &&Peer| matches!(peer, Peer::Caller(c) if c.is_calling());
            let active = self.peers.iter().filter(calling).count() as u64;
            let last_ns = self.figures.progress_last_ns;
            shared
                .thread(number)
                .store(&self.figures.counts, last_ns, active, 0);
        }
        Ok(self.figures)
    }

    fn turn(
        &mut self,
        token: usize,
        readable: bool,
        shared: &Shared,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let Some((p, s, assembler)) = self.places.get_mut(token) else {
            return Ok(());
        };
        let Some(peer) = self.peers.get_mut(*p) else {
            return Ok(());
        };
        let Some(socket) = peer.sockets().get_mut(*s) else {
            return Ok(());
        };
        socket.flush()?;
        let mut more = readable;
        while more {
            more = socket.read()? == ReadOutcome::More;
            socket.frames(|frame, _| {
                events.extend(assembler.frame(frame)?);
                Ok(())
            })?;
        }
        for event in events.drain(..) {
            match &mut *peer {
                Peer::Caller(c) => c.event(*s, event, shared, &mut self.figures)?,
                Peer::Server(server) => server.event(*s, event, &mut self.figures)?,
            }
        }
        // Acks of a whole batch of requests leave together.
        if let Some(socket) = peer.sockets().get_mut(*s) {
            socket.flush()?;
        }
        Ok(())
    }
}

/// Acknowledges one delivery.
pub fn put_ack(out: &mut Vec<u8>, tag: u64) {
    MethodWriter::frame(out, 1, id::BASIC_ACK, |m| m.u64(tag).u8(0));
}
