//! Appends on their way to one member, up to 64 and 16 MiB of them unanswered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use openraft::errors::NetworkError;
use openraft::network::RPCTypes;
use openraft::raft::AppendEntriesRequest;
use tokio::time::Instant;

use crate::METADATA_GROUP;
use crate::peers::{Answer, Link, RequestError};
use crate::raft::rpc::{self, kind};
use crate::raft::types::LogId;
use crate::wire::frame::Frame;
use crate::wire::sender::Lane;

use super::client::Client;
use super::{AppendResult, C, RpcError, WINDOW_REQUESTS};

/// How long news of what is committed waits for entries to go with.
const COMMIT_HOLD: Duration = Duration::from_millis(10);
/// Their bytes; one more may go.
const WINDOW_BYTES: usize = 16 << 20;

/// Appends on their way to one member, and the answers in the same order.
pub(super) struct Pipeline<'c, S> {
    client: &'c Client,
    link: Link,
    stream: u64,
    /// Nothing when it has ended.
    input: Option<S>,
    /// Taken from the input; its lane was full.
    staged: Option<AppendEntriesRequest<C>>,
    /// Has only news of what is committed, and goes by then if nothing else does before.
    held: Option<(AppendEntriesRequest<C>, Instant)>,
    /// Id of the last entry that was sent; nothing before anything was.
    sent: Option<Option<LogId>>,
    window: VecDeque<(Answer, usize)>,
    window_bytes: usize,
    /// When an answer last came, or something was sent with nothing in flight.
    progress: Instant,
}

impl<'c, S: Stream<Item = AppendEntriesRequest<C>> + Unpin> Pipeline<'c, S> {
    pub(super) fn new(client: &'c Client, link: Link, stream: u64, input: S) -> Self {
        Pipeline {
            client,
            link,
            stream,
            input: Some(input),
            staged: None,
            held: None,
            sent: None,
            window: VecDeque::new(),
            window_bytes: 0,
            progress: Instant::now(),
        }
    }

    pub(super) async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        let client = self.client;
        let failed = |error| Some(Err(client.error(RPCTypes::AppendEntries, error)));
        let idle = client.network.shared.config.append;
        loop {
            if let Some(request) = self.staged.take() {
                match self.send(&request) {
                    Ok(()) => {}
                    Err(RequestError::Full) => self.staged = Some(request),
                    Err(error) => return failed(error),
                }
            }
            if self.input.is_none() && self.staged.is_none() {
                self.staged = self.held.take().map(|(request, _)| request);
                if self.staged.is_some() {
                    continue;
                }
            }
            let full = self.window.len() >= WINDOW_REQUESTS || self.window_bytes >= WINDOW_BYTES;
            let takes = !full && self.staged.is_none() && self.input.is_some();
            let waits = !self.window.is_empty();
            if !waits && !takes && self.staged.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                answered = front(&mut self.window), if waits => {
                    if let Some((_, bytes)) = self.window.pop_front() {
                        self.window_bytes -= bytes;
                    }
                    self.progress = Instant::now();
                    return match answered.map(|frame| rpc::decode_appended(&frame.body)) {
                        Ok(Ok(result)) => Some(Ok(result)),
                        Ok(Err(error)) => Some(Err(NetworkError::new(&error).into())),
                        Err(error) => failed(error),
                    };
                }
                request = next_of(&mut self.input), if takes => match request {
                    Some(request) => self.take(request),
                    None => self.input = None,
                },
                () = until(self.held.as_ref()), if takes && self.held.is_some() => {
                    self.staged = self.held.take().map(|(request, _)| request);
                }
                () = self.link.sender().room(Lane::Bulk), if self.staged.is_some() => {}
                () = tokio::time::sleep_until(self.progress + idle), if waits => {
                    return failed(RequestError::TimedOut);
                }
            }
        }
    }

    /// What is committed goes along with the next entries, if some come soon: a follower needs it for nothing but its own state. Of
    /// the metadata all nodes have to know it at once. openraft counts an answer for everything that was asked before.
    fn take(&mut self, request: AppendEntriesRequest<C>) {
        let group = self.client.network.group;
        let news = request.entries.is_empty() && self.sent == Some(request.prev_log_id);
        if news && u32::from(group) != METADATA_GROUP {
            let by = self.held.take().map(|(_, by)| by);
            self.held = Some((request, by.unwrap_or_else(|| Instant::now() + COMMIT_HOLD)));
        } else {
            self.held = None;
            self.staged = Some(request);
        }
    }

    fn send(&mut self, request: &AppendEntriesRequest<C>) -> Result<(), RequestError> {
        let parts = rpc::encode_append(self.client.target, self.stream, request);
        let bytes = parts.iter().map(Bytes::len).sum();
        let group = self.client.network.group;
        let answer = self.link.begin(Lane::Bulk, kind::APPEND, group, parts)?;
        if self.window.is_empty() {
            self.progress = Instant::now();
        }
        self.window.push_back((answer, bytes));
        self.window_bytes += bytes;
        let last = request.entries.last().map(|entry| entry.log_id);
        self.sent = Some(last.or(request.prev_log_id));
        Ok(())
    }
}

async fn front(window: &mut VecDeque<(Answer, usize)>) -> Result<Frame, RequestError> {
    match window.front_mut() {
        Some((answer, _)) => answer.await,
        None => std::future::pending().await,
    }
}

async fn until<T>(held: Option<&(T, Instant)>) {
    match held {
        Some((_, by)) => tokio::time::sleep_until(*by).await,
        None => std::future::pending().await,
    }
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}
