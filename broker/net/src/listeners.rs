//! The accept loops, and what a connection goes through before AMQP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leveret_config::{Config, NetConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::bind::{BindError, bind, set_options};
use crate::proxy;
use crate::stats::{ConnectionSlot, Counters, Stats};
use crate::stream::Stream;
use crate::tls::{Reload, TlsError, TlsInfo, TlsState, info};

/// A connection on which AMQP can begin.
#[derive(Debug)]
pub struct Accepted {
    /// Its bytes.
    pub stream: Stream,
    /// The client's address: the PROXY header's, or the socket's.
    pub peer: SocketAddr,
    /// The address that the client connected to, likewise.
    pub local: SocketAddr,
    /// The proxy's own address, when a PROXY header gave the others.
    pub proxy: Option<SocketAddr>,
    /// The TLS session, if it is one.
    pub tls: Option<TlsInfo>,
    /// The place among the open connections. To be kept as long as the connection.
    pub slot: ConnectionSlot,
}

/// The listeners could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificates cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
}

/// An address that is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddr {
    /// With the port that the system chose, if it was to choose.
    pub address: SocketAddr,
    /// Whether connections to it begin with TLS.
    pub tls: bool,
}

/// Bound sockets that nothing is accepted from yet.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<(TcpListener, bool)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    net: NetConfig,
    /// There whenever a socket is a TLS one.
    tls: Option<TlsState>,
    reload_interval: Duration,
    stats: Arc<Stats>,
}

impl Listeners {
    /// Listens on every address of `config`, and reads the certificates if any is for TLS.
    ///
    /// # Errors
    /// The first address or file that cannot be used.
    pub async fn bind(config: &Config) -> Result<Self, ListenError> {
        let net = config.net.clone();
        let tls = match net.tls_listeners.is_empty() {
            true => None,
            false => Some(TlsState::load(&config.tls)?),
        };
        let mut sockets = Vec::new();
        for (addresses, tls) in [(&net.tcp_listeners, false), (&net.tls_listeners, true)] {
            for address in addresses {
                let bound = bind(address, &net.tcp).await?;
                sockets.extend(bound.into_iter().map(|socket| (socket, tls)));
            }
        }
        let reload_interval = Duration::from_millis(config.tls.reload_interval_ms);
        let shared = Shared {
            net,
            tls,
            reload_interval,
            stats: Arc::default(),
        };
        Ok(Self {
            sockets,
            shared: Arc::new(shared),
        })
    }

    /// The addresses that are listened on.
    pub fn local_addrs(&self) -> Vec<LocalAddr> {
        let local = |(socket, tls): &(TcpListener, bool)| {
            Some(LocalAddr {
                address: socket.local_addr().ok()?,
                tls: *tls,
            })
        };
        self.sockets.iter().filter_map(local).collect()
    }

    /// Begins to accept. `handler` is called once for every connection that AMQP can begin on, and
    /// what it returns runs in the connection's own task. With TLS, the files of certificates are
    /// watched, and read again on SIGHUP.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time.
    pub fn serve<H, F>(self, handler: H) -> Serving
    where
        H: Fn(Accepted) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let addresses = self.local_addrs();
        let (stop, stopped) = watch::channel(());
        let handler = Arc::new(handler);
        let mut tasks = Vec::with_capacity(self.sockets.len() + 1);
        for (socket, tls) in self.sockets {
            let (shared, handler) = (Arc::clone(&self.shared), Arc::clone(&handler));
            tasks.push(tokio::spawn(accept_loop(
                socket,
                tls,
                shared,
                handler,
                stopped.clone(),
            )));
        }
        if self.shared.tls.is_some() {
            // Before anything is spawned: until it is there, the signal ends the process.
            let hangup = Hangup::new();
            let shared = Arc::clone(&self.shared);
            tasks.push(tokio::spawn(watch_files(shared, hangup, stopped)));
        }
        Serving {
            addresses,
            shared: self.shared,
            stop,
            tasks,
        }
    }
}

/// Listeners that accept. Dropping it stops them without waiting.
#[derive(Debug)]
pub struct Serving {
    addresses: Vec<LocalAddr>,
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    /// The addresses that are listened on.
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.addresses
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.shared.stats.counters()
    }

    /// Stops accepting: closes the listening sockets and what is before AMQP. Returns when the sockets
    /// are closed. Connections that were handed over are not touched.
    pub async fn stop(self) {
        drop(self.stop);
        for task in self.tasks {
            // An accept loop does not panic and is not aborted; if it were, it has ended as well.
            let _ = task.await;
        }
    }
}

async fn accept_loop<H, F>(
    socket: TcpListener,
    tls: bool,
    shared: Arc<Shared>,
    handler: Arc<H>,
    mut stopped: watch::Receiver<()>,
) where
    H: Fn(Accepted) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures = 0;
                begin(stream, peer, tls, &shared, &handler, &stopped);
            }
            Err(error) => {
                shared.stats.accept_errors.fetch_add(1, Ordering::Relaxed);
                failures += 1;
                let pause = pause_after(&error, failures);
                if failures.is_power_of_two() {
                    tracing::error!(%error, failures, "cannot accept connections");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stopped.changed() => return,
                }
            }
        }
    }
}

/// How long to wait after the `failures`-th error in a row. One of the connection that was about to be
/// accepted says nothing about the next; the others (no file descriptors, no memory) stay for a while.
fn pause_after(error: &io::Error, failures: u32) -> Duration {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    match error.kind() {
        ConnectionAborted | ConnectionReset | Interrupted if failures < 100 => Duration::ZERO,
        _ => Duration::from_millis(10 << failures.saturating_sub(1).min(7)).min(PAUSE_MAX),
    }
}

const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Gives a connection its place and its task.
fn begin<H, F>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: bool,
    shared: &Arc<Shared>,
    handler: &Arc<H>,
    stopped: &watch::Receiver<()>,
) where
    H: Fn(Accepted) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    shared.stats.accepted.fetch_add(1, Ordering::Relaxed);
    let Some(slot) = shared.stats.open(shared.net.connection_max) else {
        tracing::warn!(%peer, "connection closed: there are connection_max of them already");
        return;
    };
    let (shared, handler, mut stopped) = (Arc::clone(shared), Arc::clone(handler), stopped.clone());
    tokio::spawn(async move {
        // In a box, so that the task of an open connection does not keep the room for it.
        let prepared = Box::pin(prepare(stream, peer, tls, &shared, slot));
        let prepared = tokio::select! {
            prepared = prepared => prepared,
            _ = stopped.changed() => return,
        };
        match prepared {
            Ok(accepted) => {
                drop((stopped, shared));
                handler(accepted).await;
            }
            Err(failure) => {
                shared.stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%peer, "connection closed before AMQP: {failure}");
            }
        }
    });
}

/// Why a connection did not get to AMQP.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Proxy(#[from] proxy::ProxyError),
    #[error("PROXY headers are not believed from this address")]
    NotTrusted,
    #[error("TLS handshake: {0}")]
    Tls(io::Error),
    #[error("{0} took longer than {1} ms")]
    Slow(&'static str, u128),
}

async fn prepare(
    mut stream: TcpStream,
    socket_peer: SocketAddr,
    tls: bool,
    shared: &Shared,
    slot: ConnectionSlot,
) -> Result<Accepted, Failure> {
    let net = &shared.net;
    let limit = Duration::from_millis(net.tls_handshake_timeout_ms);
    set_options(&stream, &net.tcp)?;
    let (mut peer, mut local, mut proxy) = (socket_peer, stream.local_addr()?, None);
    if net.proxy_protocol {
        let trusted = &net.proxy_trusted;
        if !trusted.is_empty() && !trusted.iter().any(|net| net.contains(socket_peer.ip())) {
            return Err(Failure::NotTrusted);
        }
        let header = timeout(limit, proxy::read_header(&mut stream)).await;
        let header = header.map_err(|_| Failure::Slow("the PROXY header", limit.as_millis()))?;
        if let Some(addresses) = header? {
            (peer, local) = (addresses.source, addresses.destination);
            proxy = Some(socket_peer);
        }
    }
    let (stream, tls) = match shared.tls.as_ref().filter(|_| tls) {
        None => (Stream::Tcp(stream), None),
        Some(state) => {
            let acceptor = TlsAcceptor::from(state.current());
            let handshake = timeout(limit, acceptor.accept(stream)).await;
            let handshake =
                handshake.map_err(|_| Failure::Slow("the TLS handshake", limit.as_millis()))?;
            let stream = handshake.map_err(Failure::Tls)?;
            let info = info(stream.get_ref().1, state.config());
            (Stream::Tls(Box::new(stream)), Some(info))
        }
    };
    Ok(Accepted {
        stream,
        peer,
        local,
        proxy,
        tls,
        slot,
    })
}

/// Looks at the files of certificates, now and then and on SIGHUP, until stopped.
async fn watch_files(shared: Arc<Shared>, mut hangup: Hangup, mut stopped: watch::Receiver<()>) {
    loop {
        let always = tokio::select! {
            () = tokio::time::sleep(shared.reload_interval) => false,
            () = hangup.received() => true,
            _ = stopped.changed() => return,
        };
        let shared = Arc::clone(&shared);
        let look = move || shared.tls.as_ref().map(|tls| tls.reload(always));
        match tokio::task::spawn_blocking(look).await {
            Ok(Some(Reload::Replaced)) => tracing::info!("TLS: certificates were read again"),
            Ok(Some(Reload::Failed(reason))) => {
                tracing::error!(
                    "TLS: changed certificates cannot be used, the old ones stay: {reason}"
                );
            }
            Ok(Some(Reload::Unchanged) | None) | Err(_) => {}
        }
    }
}

/// SIGHUP, where there are signals.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok(),
        }
    }

    /// Returns when it was received; never, where it cannot be.
    async fn received(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_no_further() {
        let full = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> = (1..=9).map(|n| pause_after(&full, n).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(pause_after(&full, u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn an_aborted_connection_costs_no_pause_until_it_never_ends() {
        let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(pause_after(&aborted, 1), Duration::ZERO);
        assert_eq!(pause_after(&aborted, 1000), PAUSE_MAX);
    }
}
