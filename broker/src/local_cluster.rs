//! `leveret local-cluster`: several nodes on loopback, for trying and testing.
//!
//! Each node is a process of its own (`leveret server`), with its data in a folder of its own, so that one can be killed or
//! stopped as a node would be. They end with this process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// What is to be run.
#[derive(Debug)]
pub struct LocalCluster {
    /// How many nodes, 1 to 9.
    pub nodes: u16,
    /// Where their data go.
    pub dir: PathBuf,
    /// The first one's AMQP port; the others follow. Between themselves they use these ports + 20000.
    pub base_port: u16,
    /// Settings for all of them.
    pub settings: Vec<String>,
}

/// Between the AMQP port of a node and the one that other nodes reach it by.
const CLUSTER_PORT_DISTANCE: u16 = 20_000;
/// Between the AMQP port of a node and those of its HTTP API and of its metrics.
const HTTP_DISTANCE: u16 = 10_000;
const METRICS_DISTANCE: u16 = 10_020;
/// How long nodes may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl LocalCluster {
    fn name(at: u16) -> String {
        format!("leveret{}@127.0.0.1", at + 1)
    }

    /// The command line of one node.
    fn arguments(&self, at: u16) -> Vec<String> {
        let port = |at: u16| self.base_port + at;
        let mut arguments = vec![
            "server".to_owned(),
            "--node-name".to_owned(),
            Self::name(at),
            "--data-dir".to_owned(),
            self.dir
                .join(format!("node{}", at + 1))
                .display()
                .to_string(),
        ];
        let mut set = |key: &str, value: String| {
            arguments.push("--set".to_owned());
            arguments.push(format!("{key}={value}"));
        };
        set("listeners.tcp.local", format!("127.0.0.1:{}", port(at)));
        let (http, metrics) = (port(at) + HTTP_DISTANCE, port(at) + METRICS_DISTANCE);
        set("management.tcp.port", http.to_string());
        set("prometheus.tcp.port", metrics.to_string());
        set(
            "cluster.listen",
            format!("127.0.0.1:{}", port(at) + CLUSTER_PORT_DISTANCE),
        );
        set(
            "cluster.cookie_file",
            self.dir.join("cookie").display().to_string(),
        );
        for other in 0..self.nodes {
            set(
                &format!("cluster_formation.classic_config.nodes.{}", other + 1),
                format!(
                    "{}:{}",
                    Self::name(other),
                    port(other) + CLUSTER_PORT_DISTANCE
                ),
            );
        }
        for setting in &self.settings {
            arguments.push("--set".to_owned());
            arguments.push(setting.clone());
        }
        arguments
    }

    /// Runs the nodes until a signal ends this process, or until all of them have ended.
    ///
    /// # Errors
    /// The text says what could not be started.
    pub fn run(&self) -> Result<ExitCode, String> {
        if !(1..=9).contains(&self.nodes) {
            return Err("--nodes: 1 to 9".to_owned());
        }
        let highest =
            u32::from(self.base_port) + u32::from(self.nodes) + u32::from(CLUSTER_PORT_DISTANCE);
        if highest > u32::from(u16::MAX) {
            return Err(format!(
                "--base-port: at most {}",
                u16::MAX - CLUSTER_PORT_DISTANCE - self.nodes
            ));
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        write_cookie(&self.dir.join("cookie"))?;
        let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("cannot start the runtime: {e}"))?;
        runtime.block_on(async {
            let mut ends = signals()?;
            let mut children = Vec::new();
            for at in 0..self.nodes {
                let child = Command::new(&program)
                    .args(self.arguments(at))
                    .stdin(Stdio::null())
                    .spawn()
                    .map_err(|e| format!("cannot start node {}: {e}", at + 1))?;
                println!(
                    "{}: amqp://guest:guest@127.0.0.1:{}/ (process {}, data in {})",
                    Self::name(at),
                    self.base_port + at,
                    child.id(),
                    self.dir.join(format!("node{}", at + 1)).display()
                );
                children.push(child);
            }
            let mut ended = vec![false; children.len()];
            loop {
                tokio::select! {
                    _ = ends.recv() => break,
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
                for (at, child) in children.iter_mut().enumerate() {
                    if !ended[at]
                        && let Ok(Some(status)) = child.try_wait()
                    {
                        ended[at] = true;
                        println!("{} has ended: {status}", Self::name(at as u16));
                    }
                }
                if ended.iter().all(|e| *e) {
                    return Err("no node runs any more".to_owned());
                }
            }
            stop(&mut children).await;
            Ok(ExitCode::SUCCESS)
        })
    }
}

/// A secret that nobody knows, unless there is one.
fn write_cookie(path: &Path) -> Result<(), String> {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(mut file) => {
            let mut cookie = String::new();
            for _ in 0..4 {
                // Each state is seeded by the system.
                let mut hasher = RandomState::new().build_hasher();
                hasher.write_u32(std::process::id());
                cookie.push_str(&format!("{:016x}", hasher.finish()));
            }
            std::io::Write::write_all(&mut file, cookie.as_bytes())
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|e| format!("{}: {e}", path.display()))
}

fn signals() -> Result<tokio::sync::mpsc::Receiver<()>, String> {
    let (tell, told) = tokio::sync::mpsc::channel(1);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).map_err(|e| format!("cannot listen for signals: {e}"))?;
        let tell = tell.clone();
        tokio::spawn(async move {
            signal.recv().await;
            // Nobody listens any more when it is the second one.
            let _ = tell.send(()).await;
        });
    }
    Ok(told)
}

/// Asks all to stop, waits, and kills what does not.
async fn stop(children: &mut [Child]) {
    for child in children.iter_mut() {
        if matches!(child.try_wait(), Ok(None)) {
            let pid = child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
        }
    }
    let until = tokio::time::Instant::now() + STOP_TIMEOUT;
    for child in children {
        while matches!(child.try_wait(), Ok(None)) {
            if tokio::time::Instant::now() >= until {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
