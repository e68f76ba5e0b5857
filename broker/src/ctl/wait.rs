//! `wait`: until the node whose process a pid file names has started.

use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Console, STARTUP_POLL, print};
use super::dial::ask;
use super::protocol::{Answer, Failure, Reply, Request, exit};

/// How long it is waited if `--timeout` does not say: as long as RabbitMQ's does.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for the pid file, then for the node, as long as its process is there.
///
/// # Errors
/// The time is up, or the process is gone.
pub fn run(socket: &Path, request: &Request, console: &mut Console<'_>) -> Result<(), Failure> {
    let seconds = request.option("timeout").and_then(|t| t.parse().ok());
    let limit = seconds
        .filter(|s| *s > 0)
        .map_or(TIMEOUT, Duration::from_secs);
    let until = Instant::now() + limit;
    let late = || {
        let text = format!(
            "Error: operation wait on the node timed out. Timeout value used: {}",
            limit.as_millis()
        );
        Failure::plain(exit::TEMPORARY, text)
    };
    let pid = match request.arg(0) {
        None => request.option("pid").and_then(|pid| pid.parse().ok()),
        Some(path) => {
            print(
                console,
                &format!("Waiting for pid file '{path}' to appear\n"),
            )?;
            let pid = loop {
                if let Some(pid) = pid_in(Path::new(path)) {
                    break pid;
                }
                pause(until).ok_or_else(late)?;
            };
            print(console, &format!("pid is {pid}\n"))?;
            Some(pid)
        }
    };
    let gone = || Failure::new(exit::UNAVAILABLE, "process_not_running");
    let pid: u32 = pid.ok_or_else(gone)?;
    print(
        console,
        &format!(
            "Waiting for the node at '{}' while OS process '{pid}' is running\n",
            socket.display()
        ),
    )?;
    loop {
        if !Path::new("/proc").join(pid.to_string()).exists() {
            return Err(gone());
        }
        let left = until.saturating_duration_since(Instant::now());
        if let Ok(Reply {
            result: Answer::Ok(_),
            node,
            ..
        }) = ask(socket, request, left.max(Duration::from_millis(1)))
        {
            let text = format!("Applications 'rabbit_and_plugins' are running on node '{node}'\n");
            return print(console, &text);
        }
        pause(until).ok_or_else(late)?;
    }
}

/// The process number that a file holds; `None`: not yet.
fn pid_in(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A short time; `None`: there is none left.
fn pause(until: Instant) -> Option<()> {
    let left = until.saturating_duration_since(Instant::now());
    std::thread::sleep(STARTUP_POLL.min(left));
    (!left.is_zero()).then_some(())
}
