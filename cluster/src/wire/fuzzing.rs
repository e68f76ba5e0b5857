//! What the fuzz targets of the wire in `fuzz/` call, and what their corpus is run through by `cargo test`.
//!
//! Each function takes any bytes, panics if the crate breaks one of its promises about them, and says how often they were accepted.

use bytes::Bytes;

use crate::founding::message;
use crate::identity::Identity;
use crate::raft::rpc;
use crate::wire::frame::{self, HEADER_BYTES, OutFrame};
use crate::wire::hello::Hello;

type Runtime = openraft_rt_tokio::TokioRuntime;

/// Bytes as a hello: never a panic, and one that is accepted is the one that was sent.
pub fn hello(data: &[u8]) -> usize {
    let Ok(hello) = Hello::decode(data) else {
        return 0;
    };
    assert_eq!(hello.encode()[2..], *data);
    1
}

/// Bytes as what came from a socket: frames are taken off it as long as they are some, however it came in pieces, and one that
/// is accepted is the one that was sent. The first byte says whether checksums are made good before, so that more gets past them.
pub fn frames(data: &[u8]) -> usize {
    let Some((mode, data)) = data.split_first() else {
        return 0;
    };
    let mut data = data.to_vec();
    if mode & 1 != 0 {
        repair(&mut data);
    }
    let mut rest = &data[..];
    let mut frames = Vec::new();
    let failed = loop {
        match frame::decode(rest) {
            Ok(Some((frame, taken))) => {
                let sent = OutFrame::new(frame.header, frame.body.clone());
                assert!(sent.is_ok_and(|sent| sent.to_vec() == rest[..taken]));
                rest = &rest[taken..];
                frames.push(frame);
            }
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    for piece in [1, 7, data.len().max(1)] {
        let mut reader = frame::FrameReader::new(Pieces(&data, piece));
        let read = futures_util::FutureExt::now_or_never(async {
            let mut read = Vec::new();
            loop {
                match reader.next().await {
                    Ok(Some(frame)) => read.push(frame),
                    Ok(None) => return (read, rest.is_empty()),
                    Err(_) => return (read, failed || !rest.is_empty()),
                }
            }
        });
        // It never waits, and finds the same.
        assert!(read.is_some_and(|(read, end)| end && read == frames));
    }
    frames.len()
}

/// Bytes as each kind of message: never a panic, and one that is accepted is the one that was sent.
pub fn messages(data: &[u8]) -> usize {
    let mut accepted = 0;
    let body = Bytes::copy_from_slice(data);
    if let Ok((target, stream, request)) = rpc::decode_append::<Runtime>(&body) {
        assert_eq!(rpc::encode_append(target, stream, &request).concat(), data);
        accepted += 1;
    }
    if let Ok(result) = rpc::decode_appended::<Runtime>(data) {
        assert_eq!(rpc::encode_appended::<Runtime>(&result), data);
        accepted += 1;
    }
    if let Ok((target, request)) = rpc::decode_vote::<Runtime>(data) {
        assert_eq!(rpc::encode_vote(target, &request), data);
        accepted += 1;
    }
    if let Ok(response) = rpc::decode_voted::<Runtime>(data) {
        assert_eq!(rpc::encode_voted(&response), data);
        accepted += 1;
    }
    if let Ok((target, request)) = rpc::decode_transfer::<Runtime>(data) {
        assert_eq!(rpc::encode_transfer(target, &request), data);
        accepted += 1;
    }
    if let Ok(response) = rpc::decode_transferred::<Runtime>(data) {
        assert_eq!(rpc::encode_transferred::<Runtime>(&response), data);
        accepted += 1;
    }
    if let Ok((target, vote, meta)) = rpc::decode_snapshot(data) {
        assert_eq!(rpc::encode_snapshot(target, &vote, &meta), data);
        accepted += 1;
    }
    if let Ok(answer) = message::decode_answer(data) {
        assert_eq!(message::encode_answer(&answer), data);
        accepted += 1;
    }
    if let Ok(plan) = message::decode_plan(data) {
        assert_eq!(message::encode_plan(&plan), data);
        accepted += 1;
    }
    if let Ok(joiner) = message::decode_join(data) {
        assert_eq!(message::encode_join(&joiner), data);
        accepted += 1;
    }
    if let Ok(joined) = message::decode_joined(data) {
        assert_eq!(message::encode_joined(&joined), data);
        accepted += 1;
    }
    if let Ok(identity) = Identity::decode(data) {
        assert_eq!(identity.encode(), data);
        accepted += 1;
    }
    accepted
}

/// Gives good checksums to frames one behind the other.
fn repair(mut data: &mut [u8]) {
    while data.len() >= HEADER_BYTES {
        let length = u32::from_le_bytes([data[0], data[1], data[2], data[3]]) as usize;
        let Some(end) = HEADER_BYTES
            .checked_add(length)
            .filter(|end| *end <= data.len())
        else {
            return;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&data[..16]), &data[HEADER_BYTES..end]);
        data[16..20].copy_from_slice(&crc.to_le_bytes());
        data = &mut data[end..];
    }
}

/// A stream that gives so many bytes at a time.
struct Pieces<'d>(&'d [u8], usize);

impl tokio::io::AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let count = self.1.min(self.0.len()).min(buffer.remaining());
        let (now, later) = self.0.split_at(count);
        buffer.put_slice(now);
        self.0 = later;
        std::task::Poll::Ready(Ok(()))
    }
}
