//! The wire between nodes: connections that both sides have proved, and frames on them. `docs/cluster.md` section 3.
//!
//! - [`hello`]: who somebody says that it is, and the proof that it knows the cookie: pure bytes.
//! - [`handshake`]: both of these over a stream, within its bounds.
//! - [`frame`]: the bytes of a frame, and [`frame::FrameReader`], which takes them off a stream.
//! - [`sender`]: two lanes of frames that wait for a stream, and the task that writes them.
//! - [`tls`]: a stream from a socket, optionally TLS with certificates on both sides.
//!
//! Everything that came from a peer is bounded before it is believed. After the handshake a connection is not protected
//! against somebody in the middle unless it is TLS: the cookie says who may connect, as Erlang's does.

pub mod frame;
pub mod fuzzing;
pub mod handshake;
pub mod hello;
pub mod sender;
pub mod tls;

/// Bytes that are read, in the order in which they are read.
pub type ReadHalf = Box<dyn tokio::io::AsyncRead + Send + Unpin>;

/// Where bytes are written.
pub type WriteHalf = Box<dyn tokio::io::AsyncWrite + Send + Unpin>;
