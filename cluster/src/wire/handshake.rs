//! Both sides prove that they know the cookie, then agree that they are meant for each other.
//!
//! ```text
//! dialler   hello                  proof                    verdict
//! acceptor          hello                  proof, verdict
//! verdict   length u8 | reason, text; no reason: agreed
//! ```
//!
//! The acceptor proves after the dialler has, and a dialler that cannot is told nothing. No side reads more than what it has
//! to: at most [`BYTES_MAX`]. The time is the caller's to bound ([`TIME_MAX`]).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::hello::{Cookie, HELLO_BYTES_MAX, Hello, PROOF_BYTES, Role};
use crate::raft::codec::Malformed;

/// The time that a handshake may take, TLS with it.
pub const TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes that one side reads.
pub const BYTES_MAX: usize = 2 + HELLO_BYTES_MAX + PROOF_BYTES + 1 + REASON_BYTES_MAX;
const REASON_BYTES_MAX: usize = 255;

const _: () = assert!(BYTES_MAX <= 4096);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream failed or ended. A peer whose cookie is another one ends it without a word.
    #[error("the connection ended in the handshake: {0} (is the cookie the same on both nodes?)")]
    Stream(#[from] io::Error),
    /// What came is no hello.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The peer does not know the cookie.
    #[error("{0} has another cookie")]
    Cookie(crate::name::NodeName),
    /// This side does not want the peer.
    #[error("{peer} does not fit: {reason}")]
    Unfit {
        /// The peer, as it says.
        peer: crate::name::NodeName,
        /// Why.
        reason: String,
    },
    /// The peer does not want this side.
    #[error("{peer} refuses: {reason}")]
    Refused {
        /// The peer.
        peer: crate::name::NodeName,
        /// What it says.
        reason: String,
    },
    /// It took too long.
    #[error("the handshake took too long")]
    TimedOut,
}

/// The dialling side. Gives the peer's hello once both have agreed; `judge` says why not, if not.
///
/// # Errors
/// [`HandshakeError`]; the stream is of no use then.
pub async fn dial<R, W>(
    read: &mut R,
    write: &mut W,
    me: &Hello,
    cookie: &Cookie,
    judge: impl FnOnce(&Hello) -> Result<(), String>,
) -> Result<Hello, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mine = me.encode();
    put(write, &mine).await?;
    let theirs = read_hello(read).await?;
    let peer = Hello::decode(&theirs[2..])?;
    put(write, &cookie.prove(Role::Dialler, &mine, &theirs)).await?;
    let mut proof = [0; PROOF_BYTES];
    read.read_exact(&mut proof).await?;
    if !cookie.verify(Role::Acceptor, &mine, &theirs, &proof) {
        return Err(HandshakeError::Cookie(peer.name));
    }
    let their_verdict = read_verdict(read).await?;
    let verdict = judge(&peer);
    put(write, &encode_verdict(&verdict)).await?;
    agree(peer, verdict, their_verdict)
}

/// The accepting side, as [`dial`]. `me` gives this side's hello for the peer's, which is not proved at that time.
///
/// # Errors
/// [`HandshakeError`]; the stream is of no use then.
pub async fn accept<R, W>(
    read: &mut R,
    write: &mut W,
    me: impl FnOnce(&Hello) -> io::Result<Hello>,
    cookie: &Cookie,
    judge: impl FnOnce(&Hello) -> Result<(), String>,
) -> Result<Hello, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let theirs = read_hello(read).await?;
    let peer = Hello::decode(&theirs[2..])?;
    let mine = me(&peer)?.encode();
    put(write, &mine).await?;
    let mut proof = [0; PROOF_BYTES];
    read.read_exact(&mut proof).await?;
    if !cookie.verify(Role::Dialler, &theirs, &mine, &proof) {
        return Err(HandshakeError::Cookie(peer.name));
    }
    let verdict = judge(&peer);
    let mut answer = cookie.prove(Role::Acceptor, &theirs, &mine).to_vec();
    answer.extend_from_slice(&encode_verdict(&verdict));
    put(write, &answer).await?;
    let their_verdict = match &verdict {
        Ok(()) => read_verdict(read).await?,
        Err(_) => None,
    };
    agree(peer, verdict, their_verdict)
}

fn agree(
    peer: Hello,
    mine: Result<(), String>,
    theirs: Option<String>,
) -> Result<Hello, HandshakeError> {
    match (mine, theirs) {
        (Ok(()), None) => Ok(peer),
        (_, Some(reason)) => Err(HandshakeError::Refused {
            peer: peer.name,
            reason,
        }),
        (Err(reason), None) => Err(HandshakeError::Unfit {
            peer: peer.name,
            reason,
        }),
    }
}

async fn put<W: AsyncWrite + Unpin>(write: &mut W, bytes: &[u8]) -> io::Result<()> {
    write.write_all(bytes).await?;
    write.flush().await
}

/// A hello with the length before it.
async fn read_hello<R: AsyncRead + Unpin>(read: &mut R) -> Result<Vec<u8>, HandshakeError> {
    let mut length = [0; 2];
    read.read_exact(&mut length).await?;
    let bytes = usize::from(u16::from_le_bytes(length));
    if bytes > HELLO_BYTES_MAX {
        return Err(Malformed("hello: it is too long").into());
    }
    let mut hello = vec![0; 2 + bytes];
    hello[..2].copy_from_slice(&length);
    read.read_exact(&mut hello[2..]).await?;
    Ok(hello)
}

fn encode_verdict(verdict: &Result<(), String>) -> Vec<u8> {
    let reason = verdict.as_ref().err().map_or("", String::as_str);
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    // An empty reason would agree.
    let reason = match (&verdict, &reason[..end]) {
        (Err(_), "") => "refused",
        (_, reason) => reason,
    };
    let mut out = vec![reason.len() as u8];
    out.extend_from_slice(reason.as_bytes());
    out
}

async fn read_verdict<R: AsyncRead + Unpin>(read: &mut R) -> io::Result<Option<String>> {
    let length = read.read_u8().await?;
    let mut reason = vec![0; usize::from(length)];
    read.read_exact(&mut reason).await?;
    // It goes into logs.
    let text = String::from_utf8_lossy(&reason);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    Ok((length > 0).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_cut_at_a_character() {
        assert_eq!(encode_verdict(&Ok(())), [0]);
        assert_eq!(encode_verdict(&Err(String::new())), *b"\x07refused");
        let long = encode_verdict(&Err("é".repeat(200)));
        assert_eq!((long[0], long.len()), (254, 255));
    }
}
