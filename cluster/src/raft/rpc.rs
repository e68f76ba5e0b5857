//! Bytes of what members of a group ask each other.
//!
//! A request begins with the member that it is for, so that one for an earlier life of the node is refused. An entry is its
//! log id and its bytes as they are in the journal's record; these are counted on the way out and sliced out of the frame on the way
//! in, never copied.
//!
//! ```text
//! append        target u64 | stream u64 | vote | optional log id, before | optional log id, committed | entries u32
//!               | of each: log id, length u32 | the bytes of all
//! appended      0 u8 | optional log id, up to where        or 1 u8 | log id that conflicts        or 2 u8 | higher vote
//! vote          target u64 | vote | transfer u8 | optional log id, last
//! voted         vote | granted u8 | optional log id, last
//! transfer      target u64 | vote of the leader | to u64 | optional log id, last
//! transferred   0 u8     or 1 u8 | vote expected | vote there     or 2 u8 | optional log id expected | optional log id there
//! snapshot      target u64 | vote | optional log id, last | membership with its optional log id
//! wanted        transfer u64 | what the receiver has
//! chunk         transfer u64 | bytes                              answered with nothing
//! end, abort    transfer u64
//! installed     vote
//! ```

use bytes::Bytes;
use leveret_storage::Location;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::AsyncRuntime;

use super::codec::{
    Malformed, Reader, decode_body, encode_body, put_log_id, put_optional_log_id,
    put_stored_membership, put_vote, take_log_id, take_optional_log_id, take_stored_membership,
    take_vote,
};
use super::types::{Entry, LogId, MemberId, SnapshotMeta, Types, Vote};

/// Kinds of frames on `raft` connections. Never renumber.
pub mod kind {
    /// Entries, as part of a stream.
    pub const APPEND: u8 = 1;
    /// Entries, or none, by themselves: heartbeats.
    pub const APPEND_ONE: u8 = 2;
    /// A vote is wanted.
    pub const VOTE: u8 = 3;
    /// Would a vote be given?
    pub const PRE_VOTE: u8 = 4;
    /// Lead.
    pub const TRANSFER: u8 = 5;
    /// On `stream` connections: a snapshot is to come.
    pub const SNAPSHOT: u8 = 16;
    /// A part of it.
    pub const CHUNK: u8 = 17;
    /// There are no more.
    pub const END: u8 = 18;
    /// It will not be ended.
    pub const ABORT: u8 = 19;
}

/// Entries of one frame. The reader of the log gives far fewer.
const ENTRIES_MAX: usize = 1 << 16;

/// A request to append, as it is sent: what it says, and the entries' bytes.
///
/// The stream is a number of the sender's that grows; zero for a request by itself.
pub fn encode_append<R: AsyncRuntime>(
    target: MemberId,
    stream: u64,
    request: &AppendEntriesRequest<Types<R>>,
) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(80 + 20 * request.entries.len());
    let mut parts = Vec::with_capacity(1 + request.entries.len());
    parts.push(Bytes::new());
    head.extend_from_slice(&target.to_le_bytes());
    head.extend_from_slice(&stream.to_le_bytes());
    put_vote(&mut head, &request.vote);
    put_optional_log_id(&mut head, request.prev_log_id.as_ref());
    put_optional_log_id(&mut head, request.leader_commit.as_ref());
    head.extend_from_slice(&(request.entries.len() as u32).to_le_bytes());
    for entry in &request.entries {
        let body = encode_body(&entry.body);
        put_log_id(&mut head, &entry.log_id);
        head.extend_from_slice(&(body.len() as u32).to_le_bytes());
        parts.push(body);
    }
    parts[0] = Bytes::from(head);
    parts
}

/// Target, stream and request of the frame's body.
///
/// # Errors
/// It is none.
#[allow(clippy::type_complexity, reason = "a triple")]
pub fn decode_append<R: AsyncRuntime>(
    body: &Bytes,
) -> Result<(MemberId, u64, AppendEntriesRequest<Types<R>>), Malformed> {
    let what = "append";
    let mut reader = Reader::new(body);
    let (target, stream) = (reader.u64(what)?, reader.u64(what)?);
    let vote = take_vote(&mut reader)?;
    let prev_log_id = take_optional_log_id(&mut reader)?;
    let leader_commit = take_optional_log_id(&mut reader)?;
    let count = u32::from_le_bytes(reader.take(what)?) as usize;
    if count > ENTRIES_MAX {
        return Err(Malformed(what));
    }
    let mut heads = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let id = take_log_id(&mut reader)?;
        heads.push((id, u32::from_le_bytes(reader.take(what)?) as usize));
    }
    let mut at = body.len() - reader.rest().len();
    let mut entries = Vec::with_capacity(heads.len());
    for (log_id, length) in heads {
        let end = at.checked_add(length).filter(|end| *end <= body.len());
        let end = end.ok_or(Malformed(what))?;
        entries.push(Entry {
            log_id,
            body: decode_body(body.slice(at..end))?,
            location: Location::ZERO,
        });
        at = end;
    }
    if at != body.len() {
        return Err(Malformed(what));
    }
    let request = AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    };
    Ok((target, stream, request))
}

/// What came of an append whose last entry (or, without any, the one before) is `last`, as openraft asks for it of a lone one.
pub fn response_of<R: AsyncRuntime>(
    last: Option<LogId>,
    result: StreamAppendResult<Types<R>>,
) -> AppendEntriesResponse<Types<R>> {
    match result {
        Ok(matching) if matching == last => AppendEntriesResponse::Success,
        Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
        Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
        Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
    }
}

/// What came of an append.
pub fn encode_appended<R: AsyncRuntime>(result: &StreamAppendResult<Types<R>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(25);
    match result {
        Ok(last) => {
            out.push(0);
            put_optional_log_id(&mut out, last.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.push(1);
            put_log_id(&mut out, at);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.push(2);
            put_vote(&mut out, vote);
        }
    }
    out
}

/// What came of an append.
///
/// # Errors
/// It is no answer to one.
pub fn decode_appended<R: AsyncRuntime>(
    body: &[u8],
) -> Result<StreamAppendResult<Types<R>>, Malformed> {
    let mut reader = Reader::new(body);
    let result = match reader.u8("answer")? {
        0 => Ok(take_optional_log_id(&mut reader)?),
        1 => Err(StreamAppendError::Conflict(take_log_id(&mut reader)?)),
        2 => Err(StreamAppendError::HigherVote(take_vote(&mut reader)?)),
        _ => return Err(Malformed("answer")),
    };
    reader.end("answer")?;
    Ok(result)
}

/// A request for a vote, or for what would become of one.
pub fn encode_vote<R: AsyncRuntime>(target: MemberId, request: &VoteRequest<Types<R>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&target.to_le_bytes());
    put_vote(&mut out, &request.vote);
    out.push(u8::from(request.leadership_transfer));
    put_optional_log_id(&mut out, request.last_log_id.as_ref());
    out
}

/// Target and request.
///
/// # Errors
/// It is none.
pub fn decode_vote<R: AsyncRuntime>(
    body: &[u8],
) -> Result<(MemberId, VoteRequest<Types<R>>), Malformed> {
    let mut reader = Reader::new(body);
    let target = reader.u64("vote")?;
    let vote = take_vote(&mut reader)?;
    let leadership_transfer = take_bool(&mut reader)?;
    let last_log_id = take_optional_log_id(&mut reader)?;
    reader.end("vote")?;
    let mut request = VoteRequest::new(vote, last_log_id);
    request.leadership_transfer = leadership_transfer;
    Ok((target, request))
}

/// The answer to a request for a vote.
pub fn encode_voted<R: AsyncRuntime>(response: &VoteResponse<Types<R>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    put_vote(&mut out, &response.vote);
    out.push(u8::from(response.vote_granted));
    put_optional_log_id(&mut out, response.last_log_id.as_ref());
    out
}

/// The answer to a request for a vote.
///
/// # Errors
/// It is none.
pub fn decode_voted<R: AsyncRuntime>(body: &[u8]) -> Result<VoteResponse<Types<R>>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = take_vote(&mut reader)?;
    let vote_granted = take_bool(&mut reader)?;
    let last_log_id = take_optional_log_id(&mut reader)?;
    reader.end("answer")?;
    Ok(VoteResponse {
        vote,
        vote_granted,
        last_log_id,
    })
}

/// A request to lead.
pub fn encode_transfer<R: AsyncRuntime>(
    target: MemberId,
    request: &TransferLeaderRequest<Types<R>>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&target.to_le_bytes());
    put_vote(&mut out, request.from_leader());
    out.extend_from_slice(&request.to_node_id().to_le_bytes());
    put_optional_log_id(&mut out, request.last_log_id());
    out
}

/// Target and request.
///
/// # Errors
/// It is none.
pub fn decode_transfer<R: AsyncRuntime>(
    body: &[u8],
) -> Result<(MemberId, TransferLeaderRequest<Types<R>>), Malformed> {
    let mut reader = Reader::new(body);
    let target = reader.u64("transfer")?;
    let from = take_vote(&mut reader)?;
    let to = reader.u64("transfer")?;
    let last = take_optional_log_id(&mut reader)?;
    reader.end("transfer")?;
    Ok((target, TransferLeaderRequest::new(from, to, last)))
}

/// The answer to a request to lead.
pub fn encode_transferred<R: AsyncRuntime>(response: &TransferLeaderResponse<Types<R>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match response {
        Ok(()) => out.push(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.push(1);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.push(2);
            put_optional_log_id(&mut out, expected.as_ref());
            put_optional_log_id(&mut out, actual.as_ref());
        }
    }
    out
}

/// The answer to a request to lead.
///
/// # Errors
/// It is none.
pub fn decode_transferred<R: AsyncRuntime>(
    body: &[u8],
) -> Result<TransferLeaderResponse<Types<R>>, Malformed> {
    let mut reader = Reader::new(body);
    let response = match reader.u8("answer")? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: take_vote(&mut reader)?,
            actual: take_vote(&mut reader)?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: take_optional_log_id(&mut reader)?,
            actual: take_optional_log_id(&mut reader)?,
        }),
        _ => return Err(Malformed("answer")),
    };
    reader.end("answer")?;
    Ok(response)
}

/// A snapshot is to come.
pub fn encode_snapshot(target: MemberId, vote: &Vote, meta: &SnapshotMeta) -> Vec<u8> {
    let mut out = target.to_le_bytes().to_vec();
    put_vote(&mut out, vote);
    put_optional_log_id(&mut out, meta.last_log_id.as_ref());
    put_stored_membership(&mut out, &meta.last_membership);
    out
}

/// Target, the sender's vote, and what the snapshot is.
///
/// # Errors
/// It is none.
pub fn decode_snapshot(body: &[u8]) -> Result<(MemberId, Vote, SnapshotMeta), Malformed> {
    let mut reader = Reader::new(body);
    let target = reader.u64("snapshot")?;
    let vote = take_vote(&mut reader)?;
    let last_log_id: Option<LogId> = take_optional_log_id(&mut reader)?;
    let last_membership = take_stored_membership(&mut reader)?;
    reader.end("snapshot")?;
    let meta = SnapshotMeta {
        last_log_id,
        last_membership,
    };
    Ok((target, vote, meta))
}

/// The number of a transfer, and bytes behind it: what the receiver has, or a chunk. They are not copied.
pub fn encode_part(transfer: u64, bytes: Bytes) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(&transfer.to_le_bytes()), bytes]
}

/// The number of a transfer, and the bytes behind it.
///
/// # Errors
/// There is no number.
pub fn decode_part(body: &Bytes) -> Result<(u64, Bytes), Malformed> {
    let transfer = Reader::new(body).u64("chunk")?;
    Ok((transfer, body.slice(8..)))
}

fn take_bool(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8("answer")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("answer")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::types::{Body, Membership, Payload, StoredMembership, TokioTypes, log_id};
    use super::*;

    type Runtime = openraft_rt_tokio::TokioRuntime;

    fn joined(parts: Vec<Bytes>) -> Bytes {
        parts.iter().flat_map(|part| part.iter().copied()).collect()
    }

    fn request() -> AppendEntriesRequest<TokioTypes> {
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [3]);
        let bodies = [
            Body::Blank,
            Body::Normal(Payload::copied(&[7; 5000])),
            Body::Membership(membership),
        ];
        let entries = bodies.into_iter().enumerate().map(|(at, body)| Entry {
            log_id: log_id(3, 10 + at as u64),
            body,
            location: Location::ZERO,
        });
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(2, 9)),
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn appends_keep_what_they_say_and_share_their_bytes() {
        let request = request();
        let parts = encode_append(5, 6, &request);
        let Body::Normal(payload) = &request.entries[1].body else {
            unreachable!("the second one is data");
        };
        assert_eq!(parts[2].as_ptr(), payload.encoded().as_ptr());
        let body = joined(parts);
        let (target, stream, got) = decode_append::<Runtime>(&body).expect("a request");
        assert_eq!((target, stream), (5, 6));
        assert_eq!(got.vote, request.vote);
        assert_eq!(got.prev_log_id, request.prev_log_id);
        assert_eq!(got.leader_commit, request.leader_commit);
        assert!(got.entries == request.entries);
        let Body::Normal(payload) = &got.entries[1].body else {
            unreachable!("the second one is data");
        };
        assert!(body.as_ptr_range().contains(&payload.encoded().as_ptr()));
        for cut in 0..body.len() {
            assert!(decode_append::<Runtime>(&body.slice(..cut)).is_err());
        }
        let longer = joined(vec![body, Bytes::from_static(&[0])]);
        assert!(decode_append::<Runtime>(&longer).is_err());
    }

    #[test]
    fn answers_keep_what_they_say() {
        let vote = Vote::new(4, 2);
        let results: [StreamAppendResult<TokioTypes>; 4] = [
            Ok(None),
            Ok(Some(log_id(1, 2))),
            Err(StreamAppendError::Conflict(log_id(3, 4))),
            Err(StreamAppendError::HigherVote(vote)),
        ];
        for result in results {
            let bytes = encode_appended::<Runtime>(&result);
            assert_eq!(decode_appended::<Runtime>(&bytes), Ok(result));
            assert!(decode_appended::<Runtime>(&bytes[..bytes.len() - 1]).is_err());
        }
        let mut asked = VoteRequest::<TokioTypes>::new(vote, Some(log_id(1, 2)));
        asked.leadership_transfer = true;
        let bytes = encode_vote::<Runtime>(9, &asked);
        assert_eq!(decode_vote::<Runtime>(&bytes), Ok((9, asked)));
        let voted = VoteResponse::<TokioTypes>::new(vote, None, true);
        assert_eq!(
            decode_voted::<Runtime>(&encode_voted::<Runtime>(&voted)),
            Ok(voted)
        );
        let lead = TransferLeaderRequest::<TokioTypes>::new(vote, 7, None);
        let bytes = encode_transfer::<Runtime>(9, &lead);
        assert_eq!(decode_transfer::<Runtime>(&bytes), Ok((9, lead)));
        let responses: [TransferLeaderResponse<TokioTypes>; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged {
                expected: vote,
                actual: Vote::new_committed(5, 1),
            }),
            Err(TransferLeaderError::LogNotFlushed {
                expected: Some(log_id(1, 2)),
                actual: None,
            }),
        ];
        for response in responses {
            let bytes = encode_transferred::<Runtime>(&response);
            assert_eq!(decode_transferred::<Runtime>(&bytes), Ok(response));
        }
    }

    #[test]
    fn snapshots_keep_what_they_say() {
        let vote = Vote::new_committed(4, 2);
        let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], []);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(3, 8)),
            last_membership: StoredMembership::new(Some(log_id(1, 1)), membership),
        };
        let bytes = encode_snapshot(3, &vote, &meta);
        assert_eq!(decode_snapshot(&bytes), Ok((3, vote, meta)));
        let have = Bytes::from_static(b"something");
        let bytes = joined(encode_part(4, have.clone()));
        assert_eq!(decode_part(&bytes), Ok((4, have)));
        assert!(decode_part(&bytes.slice(..7)).is_err());
    }
}
