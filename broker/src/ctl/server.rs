//! The node's side: the socket, one task for each client.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leveret_storage::Location;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::dial::reachable;
use super::elsewhere::passed_on;
use super::handlers::{self, Handled};
use super::protocol::{Answer, Failure, REQUEST_BYTES_MAX, Reply, Request, VERSION, exit};
use crate::node::Node;

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "ctl.sock";

/// Clients served at a time; more wait.
const SESSIONS_MAX: usize = 16;
/// How long a client may take to send its request, and to take the reply.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a change may take to become durable.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How verbs begin that change nothing: they are not worth a line in the log.
const READ_ONLY: &[&str] = &[
    "list",
    "ping",
    "status",
    "cluster_status",
    "await_",
    "is_",
    "check_",
    "alarms",
    "wait",
    "server_version",
    "environment",
    "memory_breakdown",
    "os_env",
    "log_location",
    "quorum_status",
    "directories",
    "node_health_check",
];

/// The socket of a running node. Dropping it removes the socket.
#[derive(Debug)]
pub struct CtlServer {
    path: PathBuf,
    stop: Arc<Notify>,
    accepting: JoinHandle<()>,
}

impl CtlServer {
    /// Opens the socket in the node's data directory.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(node: &Arc<Node>) -> Result<CtlServer, String> {
        let path = node.config().node.data_dir.join(SOCKET_NAME);
        let listener = listen(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let stop = Arc::new(Notify::new());
        let accepting = tokio::spawn(accept(listener, Arc::clone(node), Arc::clone(&stop)));
        Ok(CtlServer {
            path,
            stop,
            accepting,
        })
    }

    /// Waits until a client asks the node to stop. That client's connection stays open until the process ends.
    pub async fn stop_requested(&self) {
        self.stop.notified().await;
    }
}

impl Drop for CtlServer {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was not removed");
        }
    }
}

/// The data directory is this process's alone, so a socket that is there is left from an earlier one.
fn listen(path: &std::path::Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (short, _dir) = reachable(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The user that this process runs as: whoever owns what it has just made.
fn own_uid(path: &std::path::Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.uid())
}

async fn accept(listener: UnixListener, node: Arc<Node>, stop: Arc<Notify>) {
    /// After a failure to accept: too many open files, most likely.
    const PAUSE: Duration = Duration::from_millis(200);
    let uid = own_uid(&node.config().node.data_dir.join(SOCKET_NAME));
    let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&sessions).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let peer = stream.peer_cred().ok().map(|peer| peer.uid());
        if peer.is_none() || (peer != uid && peer != Some(0)) {
            tracing::warn!(uid = peer, "refused on the control socket");
            continue;
        }
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop));
        tokio::spawn(async move {
            serve(stream, node, &stop).await;
            drop(permit);
        });
    }
}

async fn serve(mut stream: UnixStream, node: Arc<Node>, stop: &Notify) {
    let own = node.name().to_owned();
    let handled = match read(&mut stream).await {
        Ok(Some(request)) => answer(node, request).await,
        Ok(None) => return,
        Err(failure) => Err(failure),
    };
    let stopping = handled.as_ref().is_ok_and(|(_, handled)| handled.stop);
    let (name, result) = match handled {
        Ok((other, handled)) => (other.unwrap_or(own), Answer::Ok(handled.output)),
        Err(failure) => (own, Answer::Error(failure)),
    };
    let reply = Reply {
        v: VERSION,
        node: name,
        result,
    };
    let Ok(mut line) = serde_json::to_vec(&reply) else {
        return;
    };
    line.push(b'\n');
    let written = timeout(CLIENT_TIMEOUT, stream.write_all(&line)).await;
    if stopping {
        stop.notify_one();
        std::future::pending::<()>().await;
    }
    if !matches!(written, Ok(Ok(()))) {
        tracing::debug!("a client of the control socket did not take its reply");
    }
}

/// Reads the request; `None` if the client hangs up before it has said anything.
async fn read(stream: &mut UnixStream) -> Result<Option<Request>, Failure> {
    let malformed = |why: String| Failure::new(exit::SOFTWARE, format!("bad request: {why}"));
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES_MAX as u64));
    match timeout(CLIENT_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Err(_) => return Err(malformed("it did not come in time".to_owned())),
        Ok(Err(error)) => return Err(malformed(error.to_string())),
        Ok(Ok(0)) => return Ok(None),
        Ok(Ok(_)) => {}
    }
    if !line.ends_with(b"\n") {
        let why = match line.len() >= REQUEST_BYTES_MAX {
            true => format!("longer than {REQUEST_BYTES_MAX} bytes"),
            false => "it has no end".to_owned(),
        };
        return Err(malformed(why));
    }
    // The error of the parser would repeat what it read.
    let request: Request =
        serde_json::from_slice(&line).map_err(|_| malformed("not a request".to_owned()))?;
    if request.v != VERSION {
        let why = format!("version {} where {VERSION} is spoken", request.v);
        return Err(malformed(why));
    }
    Ok(Some(request))
}

/// What comes of a request, and the name of the node that did it if it was another one.
async fn answer(node: Arc<Node>, request: Request) -> Result<(Option<String>, Handled), Failure> {
    let verb = request.verb.clone();
    // Never the arguments: they may be passwords.
    if READ_ONLY.iter().any(|start| verb.starts_with(start)) {
        tracing::debug!(verb, "control command");
    } else {
        tracing::info!(verb, "control command");
    }
    let worker = Arc::clone(&node);
    // Lists of many queues and large imports take their time.
    let handled = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        Ok(match passed_on(&worker, &request)? {
            Some((name, handled)) => (Some(name), handled),
            None => (None, handlers::handle(&worker, &request)?),
        })
    });
    let (other, handled) = handled.await.map_err(|error| {
        tracing::error!(verb, %error, "control request failed");
        Failure::new(exit::SOFTWARE, "the command failed; see the node's log")
    })??;
    if let Some(at) = handled.durable {
        durable(&node, at).await?;
    }
    Ok((other, handled))
}

/// Woken when something is durable.
#[derive(Default)]
struct Bell(Notify);

impl leveret_cluster::Notify for Bell {
    fn notify(&self) {
        self.0.notify_one();
    }
}

/// Waits until the record at `at` is durable.
async fn durable(node: &Node, at: Location) -> Result<(), Failure> {
    let bell = Arc::new(Bell::default());
    node.wait_durable(at, bell.clone());
    if node.durable() <= at && timeout(DURABLE_TIMEOUT, bell.0.notified()).await.is_err() {
        let text = "the change was made but is not on disk yet";
        return Err(Failure::new(exit::TEMPORARY, text));
    }
    if node.durable() <= at {
        let text = "the change is not on disk: the node must stop";
        return Err(Failure::new(exit::SOFTWARE, text));
    }
    Ok(())
}
