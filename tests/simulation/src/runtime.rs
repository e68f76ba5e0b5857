//! openraft's simulated runtime, with processes: tasks that can be stopped, and killed where they stand.
//!
//! Tasks are polled in order, on one thread, on a clock that leaps to the next timer; what openraft draws comes from the seed. Whatever a task
//! spawns belongs to its process. A killed process's tasks are dropped between two polls, as the system would; a stopped one's are not
//! polled, while its timers run out, so its clock leaps when it goes on.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::rt::AsyncRuntime;
use openraft_rt_sim::{SimJoinError, SimJoinHandle, SimRuntime};
use parking_lot::Mutex;

/// Called after each step of a process.
pub type AfterStep = Box<dyn Fn() + Send + Sync>;

/// One life of a node.
#[derive(Default)]
pub struct Process {
    dead: AtomicBool,
    stopped: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    after_step: Mutex<Option<AfterStep>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

impl Process {
    /// Sets what is called after each step.
    pub fn after_step(&self, after: AfterStep) {
        *self.after_step.lock() = Some(after);
    }

    /// It ends here: each of its tasks is dropped as it is.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.after_step.lock().take();
        self.wake();
    }

    /// It stands still, or goes on.
    pub fn stop(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
        if !stopped {
            self.wake();
        }
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Whether it stands still.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        let wakers = match self.is_dead() {
            true => std::mem::take(&mut *self.wakers.lock()),
            false => self.wakers.lock().clone(),
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Begins a task of this process.
    pub fn spawn<T>(self: &Arc<Self>, future: T) -> SimJoinHandle<Option<T::Output>>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        SimRuntime::spawn(Task {
            process: Some(Arc::clone(self)),
            future: Some(Box::pin(future)),
            known: false,
        })
    }
}

/// A task of a process; nothing comes of it if it is killed.
struct Task<F> {
    process: Option<Arc<Process>>,
    future: Option<Pin<Box<F>>>,
    /// Its waker is with its process.
    known: bool,
}

/// Gives the thread back to whoever had it.
struct Restore(Option<Arc<Process>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

fn enter(process: Option<&Arc<Process>>) -> Restore {
    Restore(CURRENT.replace(process.cloned()))
}

impl<F: Future> Future for Task<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(process) = self.process.clone() else {
            return match self.future.as_mut() {
                Some(future) => future.as_mut().poll(context).map(Some),
                None => Poll::Ready(None),
            };
        };
        let entered = enter(Some(&process));
        if process.is_dead() {
            self.future = None;
            return Poll::Ready(None);
        }
        if !self.known {
            self.known = true;
            process.wakers.lock().push(context.waker().clone());
        }
        if process.is_stopped() {
            return Poll::Pending;
        }
        let Some(future) = self.future.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = future.as_mut().poll(context);
        drop(entered);
        if let Some(after) = &*process.after_step.lock() {
            after();
        }
        polled.map(Some)
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        let _entered = enter(self.process.as_ref());
        self.future = None;
    }
}

/// What a task came to.
pub struct Joined<T>(SimJoinHandle<Option<T>>);

impl<T> Future for Joined<T> {
    type Output = Result<T, SimJoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|joined| {
            let killed = Err(SimJoinError::Cancelled);
            joined.and_then(|output| output.map_or(killed, Ok))
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct NodeRuntime(SimRuntime);

impl NodeRuntime {
    /// A runtime that draws from `seed`.
    pub fn with_seed(seed: u64) -> NodeRuntime {
        NodeRuntime(SimRuntime::with_seed(seed))
    }

    /// openraft's own.
    pub fn inner(&mut self) -> &mut SimRuntime {
        &mut self.0
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = SimJoinError;
    type JoinHandle<T: openraft::OptionalSend + 'static> = Joined<T>;
    type Sleep = <SimRuntime as AsyncRuntime>::Sleep;
    type Instant = <SimRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <SimRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + openraft::OptionalSend> =
        <SimRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: openraft::OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Joined<T::Output>
    where
        T: Future + openraft::OptionalSend + 'static,
        T::Output: openraft::OptionalSend + 'static,
    {
        Joined(SimRuntime::spawn(Task {
            process: CURRENT.with_borrow(Clone::clone),
            future: Some(Box::pin(future)),
            known: false,
        }))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        SimRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + openraft::OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        SimRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + openraft::OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &SimJoinError) -> bool {
        SimRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        NodeRuntime(SimRuntime::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        SimRuntime::spawn_blocking(work)
    }
}

/// Begins what belongs to no process: a packet on its way.
pub fn in_flight(future: impl Future<Output = ()> + Send + 'static) {
    drop(SimRuntime::spawn(future));
}
