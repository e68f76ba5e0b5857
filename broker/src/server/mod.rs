//! The server: a node, its listeners, and the signals that end it.

pub mod logging;
mod pid_file;
mod task;

pub use task::serve_stream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use leveret_config::Config;
use leveret_net::{Listeners, Serving};
use pid_file::PidFile;
use tokio::signal::unix::{SignalKind, signal};

use crate::ctl::CtlServer;
use crate::management;
use crate::node::{Maintenance, Node, Presence, machine_memory_bytes};

/// Runs a node until it is told to stop.
///
/// # Errors
/// The text says why the node did not start.
pub fn run(config: Config) -> Result<ExitCode, String> {
    let threads = config.node.worker_threads.unwrap_or_else(worker_threads);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name("leveret")
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime: {e}"))?;
    let memory_bytes = config
        .resources
        .total_memory_bytes
        .unwrap_or_else(machine_memory_bytes);
    for ignored in &config.ignored {
        tracing::info!(
            key = ignored.key,
            origin = ignored.origin,
            "setting has no effect: {}",
            ignored.why
        );
    }
    let pid_file = config.node.pid_file.as_deref().map(PidFile::write);
    let _pid_file = pid_file.transpose()?;
    let started = std::time::Instant::now();
    let mut config = config;
    crate::mirror::join::apply(&mut config)?;
    let (node, report) = if config.cluster.nodes.is_empty() {
        let (node, report) = Node::start(config, memory_bytes).map_err(|e| e.to_string())?;
        (Arc::new(node), report)
    } else {
        runtime.block_on(crate::mirror::start::run(config, memory_bytes))?
    };
    // Behind the end of a journal that was closed lies at most the past of a recycled segment.
    if let Some(cut) = report
        .recovery
        .cut
        .as_ref()
        .filter(|_| !report.recovery.clean)
    {
        tracing::warn!(
            file = %cut.path.display(),
            offset = cut.location.offset(),
            bytes = cut.bytes,
            "torn end of the journal was cut: {}",
            cut.reason
        );
    }
    tracing::info!(
        node = node.name(),
        data_dir = %node.config().node.data_dir.display(),
        queues = report.queues,
        messages = report.messages,
        records = report.recovery.records,
        clean = report.recovery.clean,
        ms = started.elapsed().as_millis() as u64,
        "store is open"
    );
    let again = Arc::clone(node.stop());
    let code = runtime.block_on(serve(node));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if code.is_ok() && again.is_restart() {
        return Err(format!("cannot begin anew: {}", begin_anew()));
    }
    code
}

/// This program in place of this process, as it was called; answers why not.
fn begin_anew() -> std::io::Error {
    use std::os::unix::process::CommandExt;
    match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .exec(),
        Err(error) => error,
    }
}

/// Half of the cores, at least one. Connections that meet on one thread wake each other without a system call: on two
/// cores one thread moves more messages than two, for a third of the CPU time, and the journal's writer has a core of its own.
fn worker_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |n| n.get() / 2)
        .max(1)
}

/// RabbitMQ's text when a node stops.
pub const STOPPED: &str = "broker forced connection closure with reason 'shutdown'";

async fn serve(node: Arc<Node>) -> Result<ExitCode, String> {
    let listeners = Listeners::bind(node.config())
        .await
        .map_err(|e| e.to_string())?;
    let mut maintenance = Maintenance::start(Arc::clone(&node))
        .map_err(|e| format!("cannot start the maintenance thread: {e}"))?;
    let timers = tokio::spawn(Arc::clone(&node).run_timers());
    let serving = serve_listeners(listeners, &node);
    for local in serving.local_addrs() {
        tracing::info!(address = %local.address, tls = local.tls, "listening");
    }
    let local = serving.local_addrs().iter();
    node.set_listeners(local.map(|local| (local.address, local.tls)).collect());
    let management = management::start(&node, &tokio::runtime::Handle::current())?;
    let ctl =
        CtlServer::start(&node).map_err(|e| format!("cannot listen for control commands: {e}"))?;
    // Nothing to tell where nobody asks: the variable NOTIFY_SOCKET is not set then.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let signals = signals();
    let mut serving = Some(serving);
    let failure = tokio::select! {
        signal = signals => {
            tracing::info!(signal = signal?, "stopping");
            None
        }
        error = keep_to_majority(&node, &mut serving) => return Err(error),
        () = ctl.stop_requested() => {
            tracing::info!("stopping: a control command asks for it");
            None
        }
        reason = node.stop().wait() => {
            tracing::error!(%reason, "the node must stop: nothing is confirmed any more");
            Some(reason)
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    drop((ctl, management));
    if let Some(serving) = serving {
        serving.stop().await;
    }
    node.connections().close_all(STOPPED);
    let patience = Duration::from_millis(node.config().node.shutdown_timeout_ms);
    let until = tokio::time::Instant::now() + patience;
    while !node.connections().is_empty() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    timers.abort();
    if let Some(mirror) = node.mirror() {
        mirror.stop().await;
    }
    let stopping = Arc::clone(&node);
    let closed = tokio::task::spawn_blocking(move || {
        maintenance.stop();
        if failure.is_none() {
            if stopping.mirror().is_none()
                && let Err(error) = stopping.checkpoint()
            {
                tracing::warn!(%error, "no checkpoint at the end: the next start replays more");
            }
            let journal = stopping.store().journal();
            stopping.store().close();
            if let Some(mirror) = stopping.mirror()
                && journal.durable() >= journal.end()
            {
                mirror.generations.end_clean();
            }
        }
        failure
    });
    match closed.await {
        Ok(None) => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Some(reason)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

/// RabbitMQ's text when a node pauses in a minority.
const MINORITY: &str = "broker forced connection closure with reason 'partition: this node hears no majority of the cluster'";
/// The same when it is drained.
const DRAINED: &str =
    "broker forced connection closure with reason 'maintenance: this node is drained'";
/// How often majorities are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Sends clients away while this node hears no majority of its cluster, and takes new ones when it does again
/// (`cluster_partition_handling = pause_minority`), or while an operator wants it to serve nobody. Ends with an error only.
async fn keep_to_majority(node: &Arc<Node>, serving: &mut Option<Serving>) -> String {
    use leveret_config::PartitionHandling;
    let stays = node.config().cluster.partition_handling == PartitionHandling::Ignore;
    loop {
        node.away().set_listening(serving.is_some());
        let looked = node.mirror().map(|_| tokio::time::sleep(LOOK));
        match looked {
            Some(looked) => tokio::select! {
                () = looked => {}
                () = node.away().changed() => {}
            },
            // Nobody but the operator has a say.
            None => node.away().changed().await,
        }
        let mirror = node.mirror();
        let cut_off = mirror.is_some_and(|mirror| {
            !stays && mirror.without_majority() >= crate::mirror::cluster::GRACE
        });
        let reason = match node.away().presence() {
            _ if cut_off => Some(MINORITY),
            Presence::Stopped => Some(STOPPED),
            Presence::Drained => Some(DRAINED),
            Presence::Here if mirror.is_some_and(|mirror| mirror.is_drained()) => Some(DRAINED),
            Presence::Here => None,
        };
        match (serving.take(), reason) {
            (Some(open), Some(reason)) => {
                tracing::warn!("clients are sent away: {reason}");
                open.stop().await;
                node.connections().close_where(|_| true, reason);
            }
            (None, None) if mirror.is_none_or(|mirror| mirror.is_led()) => {
                match Listeners::bind(node.config()).await {
                    Ok(listeners) => {
                        tracing::info!("listening again");
                        *serving = Some(serve_listeners(listeners, node));
                    }
                    Err(error) => return error.to_string(),
                }
            }
            (unchanged, _) => *serving = unchanged,
        }
    }
}

fn serve_listeners(listeners: Listeners, node: &Arc<Node>) -> Serving {
    let node = Arc::clone(node);
    listeners.serve(move |accepted| {
        let node = Arc::clone(&node);
        async move { task::serve(node, accepted).await }
    })
}

async fn signals() -> Result<&'static str, String> {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let mut term = listen(SignalKind::terminate())?;
    let mut int = listen(SignalKind::interrupt())?;
    let mut hup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok("SIGTERM"),
            _ = int.recv() => return Ok("SIGINT"),
            // The TLS listeners read their certificates again; without them there is nothing to do.
            _ = hup.recv() => tracing::info!("SIGHUP"),
        }
    }
}
