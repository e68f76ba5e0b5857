//! The loop of a load thread: wait for sockets and schedules, give each its turn.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::consumer::Consumer;
use super::counters::{Counts, Shared};
use super::producer::{Producer, Refused};
use crate::clock::now_ns;
use crate::error::{Context, Result};
use crate::integrity::SubscriptionLog;
use crate::stats::Latency;

/// How soon a thread sees that it is to end.
const POLL_MS: u64 = 20;
/// How often the producers that are still at work are counted.
const RECOUNT_NS: u64 = 5_000_000;
const TIMER: Token = Token(usize::MAX);

/// A connection of a load thread.
pub enum Link {
    /// Publishes.
    Producer(Box<Producer>),
    /// Consumes.
    Consumer(Box<Consumer>),
}

/// What a connection leaves behind for the judgement.
pub enum LinkEnd {
    /// Messages by stream, and what the broker refused of them.
    Producer {
        /// Stream and number of messages.
        sent: Vec<(u32, u64)>,
        /// Stream and sequence number.
        refused: Refused,
    },
    /// Queue number and what was seen of it.
    Consumer(Vec<(usize, SubscriptionLog)>),
}

/// A thread's own figures.
pub struct Local {
    /// Messages so far.
    pub counts: Counts,
    /// Publish to confirm.
    pub confirm: Latency,
    /// Publish to delivery.
    pub end_to_end: Latency,
    /// When something was last sent, confirmed or delivered.
    pub progress_last_ns: u64,
    /// Connections that the broker has blocked.
    pub blocked: u64,
}

/// What a thread hands back.
pub struct ThreadEnd {
    /// Its figures.
    pub local: Local,
    /// Its connections.
    pub links: Vec<LinkEnd>,
}

impl Link {
    fn turn(&mut self, readable: bool, shared: &Shared, local: &mut Local) -> Result<bool> {
        match self {
            Link::Producer(p) => p.turn(readable, shared, local),
            Link::Consumer(c) => c.turn(readable, shared, local),
        }
    }

    fn is_active(&self, now: u64, shared: &Shared) -> bool {
        match self {
            Link::Producer(p) => p.is_active(now, shared),
            Link::Consumer(_) => false,
        }
    }

    fn due_ns(&self) -> Option<u64> {
        match self {
            Link::Producer(p) => p.due_ns(),
            Link::Consumer(_) => None,
        }
    }
}

/// Runs `links` as thread `number` until the watcher says finish.
///
/// # Errors
/// A connection failed; the others are dropped.
pub fn run_thread(number: usize, links: Vec<Link>, shared: &Shared) -> Result<ThreadEnd> {
    let mut thread = LoadThread::new(links, shared)?;
    while !shared.finishing() {
        thread.turn()?;
        shared.thread(number).store(
            &thread.local.counts,
            thread.local.progress_last_ns,
            thread.active,
            thread.local.blocked,
        );
    }
    thread.end()
}

struct LoadThread<'a> {
    shared: &'a Shared,
    links: Vec<Link>,
    local: Local,
    poll: Poll,
    events: Events,
    schedule: Schedule,
    /// Connections that have more to do without waiting, and whether that is reading.
    runnable: Vec<(usize, bool)>,
    /// Those whose turn it is.
    ready: Vec<(usize, bool)>,
    /// Producers at work, and when they are counted again.
    active: u64,
    recount_ns: u64,
}

impl<'a> LoadThread<'a> {
    fn new(mut links: Vec<Link>, shared: &'a Shared) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let schedule = Schedule::new(&poll)?;
        let mut local = Local {
            counts: Counts::default(),
            confirm: Latency::new(),
            end_to_end: Latency::new(),
            progress_last_ns: 0,
            blocked: 0,
        };
        for (n, link) in links.iter_mut().enumerate() {
            let source = match link {
                Link::Producer(p) => p.socket().source(),
                Link::Consumer(c) => {
                    c.take_in(shared, &mut local)?;
                    c.socket().source()
                }
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(source, Token(n), interest)
                .context("epoll")?;
        }
        Ok(LoadThread {
            shared,
            runnable: (0..links.len()).map(|n| (n, true)).collect(),
            ready: Vec::new(),
            links,
            local,
            poll,
            events: Events::with_capacity(1024),
            schedule,
            active: 1,
            recount_ns: 0,
        })
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) -> Result<()> {
        let wait = if self.runnable.is_empty() { POLL_MS } else { 0 };
        match self
            .poll
            .poll(&mut self.events, Some(Duration::from_millis(wait)))
        {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            other => other.context("epoll")?,
        }
        std::mem::swap(&mut self.ready, &mut self.runnable);
        for event in &self.events {
            match event.token() {
                TIMER => self.schedule.fired = true,
                Token(n) => self
                    .ready
                    .push((n, event.is_readable() || event.is_read_closed())),
            }
        }
        if self.schedule.fired {
            let now = now_ns();
            let due = |link: &Link| link.due_ns().is_some_and(|due| due <= now);
            let links = self.links.iter().enumerate();
            self.ready
                .extend(links.filter(|(_, link)| due(link)).map(|(n, _)| (n, false)));
        }
        for (n, readable) in self.ready.drain(..) {
            let Some(link) = self.links.get_mut(n) else {
                continue;
            };
            if link.turn(readable, self.shared, &mut self.local)? {
                self.runnable.push((n, matches!(link, Link::Consumer(_))));
            }
            self.schedule.want(link.due_ns());
        }
        self.schedule.arm(&self.links)?;
        self.recount();
        Ok(())
    }

    fn recount(&mut self) {
        let now = now_ns();
        if now >= self.recount_ns {
            self.recount_ns = now + RECOUNT_NS;
            let at_work = |link: &&Link| link.is_active(now, self.shared);
            self.active = self.links.iter().filter(at_work).count() as u64;
        }
    }

    fn end(mut self) -> Result<ThreadEnd> {
        for link in &mut self.links {
            if let Link::Consumer(c) = link {
                c.settle()?;
            }
        }
        let links = self.links.into_iter().map(|link| match link {
            Link::Producer(p) => p.end(),
            Link::Consumer(c) => c.end(),
        });
        Ok(ThreadEnd {
            local: self.local,
            links: links.collect(),
        })
    }
}

/// The timer that wakes the thread when a message is due: finer than epoll's milliseconds.
struct Schedule {
    timer: OwnedFd,
    /// What the timer is set to; `u64::MAX` if it is not.
    armed_ns: u64,
    /// The earliest message that a turn has left due.
    wanted_ns: u64,
    /// The timer went off: who is next must be looked up.
    fired: bool,
}

impl Schedule {
    fn new(poll: &Poll) -> Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).context("timer")?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .context("epoll")?;
        Ok(Schedule {
            timer,
            armed_ns: u64::MAX,
            wanted_ns: u64::MAX,
            fired: false,
        })
    }

    #[inline]
    fn want(&mut self, due: Option<u64>) {
        self.wanted_ns = self.wanted_ns.min(due.unwrap_or(u64::MAX));
    }

    /// Sets the timer to the earliest message that is due, unless it stands there already.
    fn arm(&mut self, links: &[Link]) -> Result<()> {
        if std::mem::take(&mut self.fired) {
            self.armed_ns = u64::MAX;
            self.wanted_ns = links
                .iter()
                .filter_map(Link::due_ns)
                .min()
                .unwrap_or(u64::MAX);
        }
        let due = std::mem::replace(&mut self.wanted_ns, u64::MAX);
        if due >= self.armed_ns {
            return Ok(());
        }
        self.armed_ns = due;
        // Zero would disarm it; a time that has passed goes off at once.
        let due = due.max(1);
        let value = Timespec {
            tv_sec: (due / 1_000_000_000) as i64,
            tv_nsec: (due % 1_000_000_000) as i64,
        };
        let setting = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting).context("timer")?;
        Ok(())
    }
}
