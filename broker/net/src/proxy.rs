//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`).
//!
//! A header is at most 107 bytes (version 1) or 16 + 65535 (version 2, of which 36 are kept); nothing
//! after it is read. Checksums and other extensions of version 2 are passed over.
//!
//! ```text
//! version 1   PROXY TCP4 192.0.2.1 192.0.2.2 56324 5672\r\n
//! version 2   0    signature, 12 bytes
//!             12   version (high 4 bits, 2) | command (low 4 bits: 0 LOCAL, 1 PROXY)
//!             13   family (high: 1 IPv4, 2 IPv6, 3 Unix) | transport (low: 1 stream)
//!             14   length of what follows, big-endian
//!             16   source address, destination address, source port, destination port, extensions
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{io, str};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The addresses of the connection that the proxy accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// The proxy's, that the client connected to.
    pub destination: SocketAddr,
}

/// The connection does not begin with a PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The bytes are not a header, with the reason.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// The connection ended in it.
    #[error("no PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Longest header of version 1, its line end included.
pub const V1_BYTES_MAX: usize = 107;
/// What version 2 begins with.
pub const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of IPv6 addresses and ports: the longest that is understood.
const V2_ADDRESSES_MAX: usize = 36;

/// Reads the header that `stream` begins with, and not a byte more. `None` is a connection of the proxy
/// itself, or of a family that has no IP address: the socket's own addresses hold.
///
/// Unlimited in time; the caller limits it. Not cancel safe.
///
/// # Errors
/// [`ProxyError`]; the connection is of no use then.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Addresses>, ProxyError> {
    // No header of either version is shorter.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    match start {
        V2_SIGNATURE => read_v2(stream).await,
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..] => read_v1(start, stream).await,
        _ => Err(ProxyError::Malformed("neither version's first bytes")),
    }
}

async fn read_v1(
    start: [u8; 12],
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Addresses>, ProxyError> {
    let mut line = start.to_vec();
    // A byte at a time: the header has no length, and what follows it is not ours.
    while !line.ends_with(b"\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(ProxyError::Malformed("longer than 107 bytes"));
        }
        line.push(stream.read_u8().await?);
    }
    parse_v1(&line).map_err(ProxyError::Malformed)
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Addresses>, ProxyError> {
    let version_command = stream.read_u8().await?;
    let family = stream.read_u8().await?;
    let length = usize::from(stream.read_u16().await?);
    let mut addresses = [0; V2_ADDRESSES_MAX];
    let kept = addresses
        .get_mut(..length.min(V2_ADDRESSES_MAX))
        .unwrap_or_default();
    stream.read_exact(kept).await?;
    let parsed = parse_v2(version_command, family, kept);
    let mut rest = length - kept.len();
    let mut passed_over = [0; 256];
    while rest > 0 {
        let part = passed_over.get_mut(..rest.min(256)).unwrap_or_default();
        stream.read_exact(part).await?;
        rest -= part.len();
    }
    parsed.map_err(ProxyError::Malformed)
}

/// Parses a header of version 1, its line end included.
///
/// # Errors
/// The reason, when it is none.
pub fn parse_v1(line: &[u8]) -> Result<Option<Addresses>, &'static str> {
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or("the line does not end with CR LF")?;
    let line = str::from_utf8(line).map_err(|_| "not text")?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err("the line does not begin with PROXY");
    }
    let parse_ip: fn(&str) -> Option<IpAddr> = match words.next() {
        Some("TCP4") => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some("UNKNOWN") => return Ok(None),
        _ => return Err("the protocol is none of TCP4, TCP6 and UNKNOWN"),
    };
    let mut ip = || {
        words
            .next()
            .and_then(parse_ip)
            .ok_or("not an address of the protocol")
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || words.next().and_then(parse_port).ok_or("not a port");
    let (source_port, destination_port) = (port()?, port()?);
    match words.next() {
        Some(_) => Err("text after the ports"),
        None => Ok(Some(Addresses {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
        })),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Parses what follows the signature of version 2; `body` may be cut after its addresses.
///
/// # Errors
/// The reason, when it is no header.
pub fn parse_v2(
    version_command: u8,
    family: u8,
    body: &[u8],
) -> Result<Option<Addresses>, &'static str> {
    match version_command {
        0x20 => return Ok(None),
        0x21 => {}
        0x22..=0x2f => return Err("the command is neither LOCAL nor PROXY"),
        _ => return Err("the version is not 2"),
    }
    match family {
        0x11 => v2_addresses::<4>(body).map(Some),
        0x21 => v2_addresses::<16>(body).map(Some),
        // Unspecified, datagrams, Unix sockets: accepted, their addresses are not for us.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(None),
        _ => Err("the address family is unknown"),
    }
}

fn v2_addresses<const WIDTH: usize>(body: &[u8]) -> Result<Addresses, &'static str>
where
    IpAddr: From<[u8; WIDTH]>,
{
    const SHORT: &str = "shorter than its addresses";
    let (source, rest) = body.split_first_chunk::<WIDTH>().ok_or(SHORT)?;
    let (destination, rest) = rest.split_first_chunk::<WIDTH>().ok_or(SHORT)?;
    let (source_port, rest) = rest.split_first_chunk::<2>().ok_or(SHORT)?;
    let destination_port = rest.first_chunk::<2>().ok_or(SHORT)?;
    Ok(Addresses {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes(*destination_port)),
    })
}

#[cfg(test)]
mod tests;
