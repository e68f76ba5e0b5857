//! Listening sockets and the options of all sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use leveret_config::{ListenAddr, ListenHost, TcpOptions};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// The address as it was configured.
    pub address: String,
    /// What the system said.
    pub source: io::Error,
}

/// Listens on `address`: on each address of a name, on every interface for a port alone.
pub(crate) async fn bind(
    address: &ListenAddr,
    options: &TcpOptions,
) -> Result<Vec<TcpListener>, BindError> {
    let port = address.port;
    let bound = match &address.host {
        ListenHost::All => bind_all(port, options).map(|socket| vec![socket]),
        ListenHost::Ip(ip) => bind_one(SocketAddr::new(*ip, port), options).map(|s| vec![s]),
        ListenHost::Name(name) => bind_name(name, port, options).await,
    };
    bound.map_err(|source| BindError {
        address: address.to_string(),
        source,
    })
}

/// One socket for IPv6 and IPv4, or, on a machine without IPv6, for IPv4.
fn bind_all(port: u16, options: &TcpOptions) -> io::Result<TcpListener> {
    let both = bind_one(
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        options,
    );
    match both {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => bind_one(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            options,
        ),
        bound => bound,
    }
}

async fn bind_name(name: &str, port: u16, options: &TcpOptions) -> io::Result<Vec<TcpListener>> {
    let addresses = tokio::net::lookup_host((name, port)).await?;
    let sockets: Vec<_> = addresses
        .map(|address| bind_one(address, options))
        .collect::<io::Result<_>>()?;
    match sockets.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )),
        false => Ok(sockets),
    }
}

fn bind_one(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit the buffers; the window scale is fixed before `accept` returns.
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Sets the options of an accepted socket.
pub(crate) fn set_options(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    stream.set_nodelay(options.nodelay)?;
    match options.keepalive {
        true => socket2::SockRef::from(stream).set_keepalive(true),
        false => Ok(()),
    }
}
