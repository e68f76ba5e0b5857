//! Frames on their way out: two lanes, bounded in bytes, and the task that writes them.
//!
//! Frames of one lane leave in the order in which they were put. The urgent lane goes first: what it has to wait for is the
//! batch that is being written ([`BATCH_BYTES`], or one frame) and what the socket holds.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::frame::OutFrame;

/// What is handed to the stream at a time.
pub const BATCH_BYTES: usize = 128 << 10;
/// Slices of one vectored write (Linux takes 1024).
const SLICES_MAX: usize = 256;

/// Which frames go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Votes, heartbeats, short answers.
    Urgent,
    /// Everything else.
    Bulk,
}

/// Bytes that may wait in each lane. A frame is taken while its lane is below its bound, so one frame may exceed it.
#[derive(Clone, Copy, Debug)]
pub struct LaneBounds {
    /// Of the urgent lane.
    pub urgent_bytes: usize,
    /// Of the bulk lane.
    pub bulk_bytes: usize,
}

impl Default for LaneBounds {
    fn default() -> Self {
        LaneBounds {
            urgent_bytes: 4 << 20,
            bulk_bytes: 64 << 20,
        }
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The lane is full.
    #[error("too much waits for the peer already")]
    Full,
    /// The connection has ended.
    #[error("the connection is closed")]
    Closed,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<OutFrame>,
    /// Of `frames` and of those that are being written.
    bytes: usize,
}

#[derive(Default)]
struct State {
    urgent: Queue,
    bulk: Queue,
    /// The writer waits for frames.
    idle: bool,
    /// No more frames are taken; those there are still written.
    closing: bool,
    closed: bool,
}

impl State {
    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

struct Shared {
    state: Mutex<State>,
    bounds: LaneBounds,
    frames: Notify,
    room: Notify,
}

/// Puts frames into the lanes of one connection. Clones are the same lanes.
#[derive(Clone)]
pub struct FrameSender(Arc<Shared>);

impl FrameSender {
    /// Empty lanes, and the task that writes them to `stream`; it ends when the stream fails or the lanes are closed.
    pub fn new<W>(
        stream: W,
        bounds: LaneBounds,
    ) -> (
        FrameSender,
        impl Future<Output = io::Result<()>> + Send + use<W>,
    )
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let sender = FrameSender(Arc::new(Shared {
            state: Mutex::default(),
            bounds,
            frames: Notify::new(),
            room: Notify::new(),
        }));
        (sender.clone(), sender.write(stream))
    }

    fn bound(&self, lane: Lane) -> usize {
        match lane {
            Lane::Urgent => self.0.bounds.urgent_bytes,
            Lane::Bulk => self.0.bounds.bulk_bytes,
        }
    }

    /// Puts a frame behind those of its lane.
    ///
    /// # Errors
    /// The lane is full, or the connection closed.
    pub fn try_send(&self, lane: Lane, frame: OutFrame) -> Result<(), SendError> {
        let bound = self.bound(lane);
        let mut state = self.0.state.lock();
        if state.closing || state.closed {
            return Err(SendError::Closed);
        }
        let queue = state.queue(lane);
        if queue.bytes >= bound {
            return Err(SendError::Full);
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.0.frames.notify_one();
        }
        Ok(())
    }

    /// Waits until the lane takes a frame, or the connection is closed. Another sender may be faster. Cancel safe.
    pub async fn room(&self, lane: Lane) {
        loop {
            let notified = self.0.room.notified();
            let bound = self.bound(lane);
            {
                let mut state = self.0.state.lock();
                if state.closed || state.closing || state.queue(lane).bytes < bound {
                    return;
                }
            }
            notified.await;
        }
    }

    /// Puts a frame behind those of its lane as soon as there is room. Senders that wait at the same time are in no order.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&self, lane: Lane, frame: OutFrame) -> Result<(), SendError> {
        let mut frame = Some(frame);
        loop {
            self.room(lane).await;
            let Some(next) = frame.take() else {
                return Ok(());
            };
            match self.try_send(lane, next.clone()) {
                Err(SendError::Full) => frame = Some(next),
                outcome => return outcome,
            }
        }
    }

    /// Bytes that wait in a lane, with those that are being written.
    pub fn waiting_bytes(&self, lane: Lane) -> usize {
        self.0.state.lock().queue(lane).bytes
    }

    /// Takes no more frames; what waits is written, then the stream is shut down.
    pub fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.frames.notify_one();
        self.0.room.notify_waiters();
    }

    /// Waits until the writer is gone: everything was written, or it failed. Cancel safe.
    pub async fn ended(&self) {
        loop {
            let notified = self.0.room.notified();
            if self.0.state.lock().closed {
                return;
            }
            notified.await;
        }
    }

    /// Whether frames are no longer taken.
    pub fn is_closed(&self) -> bool {
        let state = self.0.state.lock();
        state.closing || state.closed
    }

    /// Takes no more frames and drops what waits.
    pub fn abort(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        for lane in [Lane::Urgent, Lane::Bulk] {
            *state.queue(lane) = Queue::default();
        }
        drop(state);
        self.0.frames.notify_one();
        self.0.room.notify_waiters();
    }

    /// The next frames to write, into `batch`; false when there will be none.
    async fn gather(&self, batch: &mut Vec<(Lane, OutFrame)>) -> bool {
        loop {
            {
                let mut state = self.0.state.lock();
                if state.closed {
                    return false;
                }
                let (mut bytes, mut slices) = (0, 0);
                for lane in [Lane::Urgent, Lane::Bulk] {
                    let queue = state.queue(lane);
                    while let Some(frame) = queue.frames.front() {
                        bytes += frame.len();
                        slices += 1 + frame.body.parts().len();
                        let full = bytes > BATCH_BYTES || slices > SLICES_MAX;
                        if full && !batch.is_empty() {
                            break;
                        }
                        batch.extend(queue.frames.pop_front().map(|frame| (lane, frame)));
                    }
                }
                if !batch.is_empty() {
                    return true;
                }
                if state.closing {
                    return false;
                }
                state.idle = true;
            }
            self.0.frames.notified().await;
        }
    }

    async fn write<W: AsyncWrite + Send + Unpin>(self, mut stream: W) -> io::Result<()> {
        let _end = AbortOnDrop(&self);
        let mut batch = Vec::new();
        while self.gather(&mut batch).await {
            let mut slices = Vec::with_capacity(2 * batch.len());
            for (_, frame) in &batch {
                slices.push(IoSlice::new(&frame.head));
                let parts = frame.body.parts().iter();
                slices.extend(
                    parts
                        .filter(|part| !part.is_empty())
                        .map(|part| IoSlice::new(part)),
                );
            }
            write_all(&mut stream, &mut slices).await?;
            stream.flush().await?;
            let mut state = self.0.state.lock();
            for (lane, frame) in batch.drain(..) {
                let queue = state.queue(lane);
                queue.bytes = queue.bytes.saturating_sub(frame.len());
            }
            drop(state);
            self.0.room.notify_waiters();
        }
        stream.shutdown().await
    }
}

/// Whoever waits for room must hear that the writer is gone, however it ended.
struct AbortOnDrop<'s>(&'s FrameSender);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    stream: &mut W,
    mut slices: &mut [IoSlice<'_>],
) -> io::Result<()> {
    while !slices.is_empty() {
        let written = stream.write_vectored(slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameReader, Header};
    use super::*;
    use bytes::Bytes;

    fn frame(id: u64, bytes: usize) -> OutFrame {
        let header = Header {
            id,
            ..Header::default()
        };
        OutFrame::new(header, Bytes::from(vec![0; bytes])).expect("a frame")
    }

    #[tokio::test]
    async fn the_urgent_lane_goes_first_and_lanes_keep_their_order() {
        let (write, read) = tokio::io::duplex(1 << 20);
        let (sender, writer) = FrameSender::new(write, LaneBounds::default());
        for id in 0..100 {
            sender
                .try_send(Lane::Bulk, frame(id, 10_000))
                .expect("room");
        }
        for id in 100..103 {
            sender.try_send(Lane::Urgent, frame(id, 0)).expect("room");
        }
        sender.close();
        assert_eq!(
            sender.try_send(Lane::Bulk, frame(0, 0)),
            Err(SendError::Closed)
        );
        let written = tokio::spawn(writer);
        let mut reader = FrameReader::new(read);
        let mut ids = Vec::new();
        while let Some(frame) = reader.next().await.expect("frames") {
            ids.push(frame.header.id);
        }
        written.await.expect("the writer").expect("no error");
        let expected: Vec<u64> = (100..103).chain(0..100).collect();
        assert_eq!(ids, expected);
    }

    #[tokio::test]
    async fn lanes_are_bounded_in_bytes_and_senders_wait() {
        let (write, read) = tokio::io::duplex(1000);
        let bounds = LaneBounds {
            urgent_bytes: 100,
            bulk_bytes: 5000,
        };
        let (sender, writer) = FrameSender::new(write, bounds);
        for id in 0..3 {
            sender.try_send(Lane::Bulk, frame(id, 2000)).expect("room");
        }
        assert_eq!(
            sender.try_send(Lane::Bulk, frame(3, 0)),
            Err(SendError::Full)
        );
        sender
            .try_send(Lane::Urgent, frame(4, 200))
            .expect("its own bound");
        assert_eq!(
            sender.try_send(Lane::Urgent, frame(5, 0)),
            Err(SendError::Full)
        );
        let other = sender.clone();
        let waits = tokio::spawn(async move { other.send(Lane::Bulk, frame(6, 2000)).await });
        tokio::spawn(writer);
        let mut reader = FrameReader::new(read);
        let mut ids = Vec::new();
        for _ in 0..5 {
            let frame = reader.next().await.expect("frames").expect("a frame");
            ids.push(frame.header.id);
        }
        assert_eq!(ids, [4, 0, 1, 2, 6]);
        assert_eq!(waits.await.expect("the task"), Ok(()));
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_end() {
        let (write, read) = tokio::io::duplex(10);
        let bounds = LaneBounds {
            urgent_bytes: 1,
            bulk_bytes: 1,
        };
        let (sender, writer) = FrameSender::new(write, bounds);
        sender.try_send(Lane::Bulk, frame(1, 1000)).expect("room");
        let other = sender.clone();
        let waits = tokio::spawn(async move { other.send(Lane::Bulk, frame(2, 0)).await });
        let writer = tokio::spawn(writer);
        drop(read);
        assert!(writer.await.expect("the task").is_err());
        assert_eq!(waits.await.expect("the task"), Err(SendError::Closed));
        assert_eq!(sender.waiting_bytes(Lane::Bulk), 0);
    }
}
