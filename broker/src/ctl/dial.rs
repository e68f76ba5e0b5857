//! Reaching the node: where its socket is, and one question and answer over it.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::SOCKET_NAME;
use super::args::Invocation;
use super::protocol::{Answer, REPLY_BYTES_MAX, Reply, Request};
use super::tools::Tool;

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "LEVERET_CTL_SOCKET";
/// The environment variable that names the data directory.
pub const DATA_VARIABLE: &str = "LEVERET_DATA_DIR";
/// Where packages keep the data.
const PACKAGED: &str = "/var/lib/leveret";
/// Where a node keeps its data that was told nothing.
const DEFAULT: &str = "./leveret-data";
/// Paths of sockets up to this long are used as they are (`sun_path` has 108 bytes).
const SOCKET_PATH_MAX: usize = 100;

/// Whether the command line says where the node is: the environment does not count then.
pub fn is_told(invocation: &Invocation) -> bool {
    invocation.has("socket") || invocation.has("data-dir")
}

/// `--socket`, else `--data-dir`, else the environment, else the default data directory: of `leveret ctl` the one in the working directory
/// if it is there, of RabbitMQ's names and otherwise that of the package.
pub fn socket_path(tool: Tool, invocation: &Invocation) -> PathBuf {
    if let Some(path) = invocation.option("socket") {
        return PathBuf::from(path);
    }
    if let Some(dir) = invocation.option("data-dir") {
        return Path::new(dir).join(SOCKET_NAME);
    }
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE) {
        return PathBuf::from(path);
    }
    if let Some(dir) = std::env::var_os(DATA_VARIABLE) {
        return Path::new(&dir).join(SOCKET_NAME);
    }
    let own = tool == Tool::Leveret;
    let dir = match own && (Path::new(DEFAULT).exists() || !Path::new(PACKAGED).exists()) {
        true => DEFAULT,
        false => PACKAGED,
    };
    Path::new(dir).join(SOCKET_NAME)
}

/// The path to give to the system, and a handle that must live as long as it is used: a path that is too long for a
/// socket is reached through the open directory it is in.
pub fn reachable(path: &Path) -> std::io::Result<(PathBuf, Option<File>)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_path_buf(), None));
    };
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((path.to_path_buf(), None));
    }
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((short, Some(dir)))
}

/// Why there is no reply.
pub enum NoReply {
    /// Nobody listens there.
    Unreachable(PathBuf, std::io::Error),
    /// It took too long.
    Late,
    /// What came is no reply.
    Garbled(String),
}

/// Asks the node, for at most `limit`.
///
/// # Errors
/// There is no reply.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Reply, NoReply> {
    let started = Instant::now();
    let unreachable = |error| NoReply::Unreachable(socket.to_path_buf(), error);
    let (path, _dir) = reachable(socket).map_err(unreachable)?;
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => NoReply::Late,
        _ => NoReply::Garbled(error.to_string()),
    };
    stream.set_write_timeout(Some(limit)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|e| NoReply::Garbled(e.to_string()))?;
    line.push(b'\n');
    // A node that refuses the request while it is written has said why.
    let sent = stream.write_all(&line);
    let mut reply = Vec::new();
    let mut reader = BufReader::new((&stream).take(REPLY_BYTES_MAX as u64));
    let left = limit.saturating_sub(started.elapsed());
    let left = left.max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).map_err(failed)?;
    reader.read_until(b'\n', &mut reply).map_err(failed)?;
    if !reply.ends_with(b"\n") {
        sent.map_err(failed)?;
        return Err(NoReply::Garbled("the node hung up".to_owned()));
    }
    let reply: Reply =
        serde_json::from_slice(&reply).map_err(|e| NoReply::Garbled(e.to_string()))?;
    let ends = matches!(request.verb.as_str(), "stop" | "shutdown" | "join_cluster");
    if ends && matches!(reply.result, Answer::Ok(_)) {
        // The node holds the connection until its process ends.
        reader.read_to_end(&mut Vec::new()).map_err(failed)?;
    }
    Ok(reply)
}
