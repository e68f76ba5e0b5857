//! Brokers under comparison: started here in a folder of their own, or already there.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{now_ns, seconds};
use crate::error::{Context, Error, Result};
use crate::flags::Flags;
use crate::net::Client;
use crate::stats::procfs::{Broker, Memory, listener_of};
use crate::uri::Uri;

/// Nodes of a cluster.
const NODES: u16 = 3;
/// A start that takes longer has failed.
const START_S: f64 = 300.0;
/// A stop that takes longer is ended by SIGKILL.
const STOP_S: f64 = 60.0;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const RABBITMQ_SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const LEVERET_ARGUMENTS: &str = "server --data-dir {data} --set listeners.tcp.1=127.0.0.1:{port}";

enum Kind {
    /// A command line with `{port}` and `{data}` in it.
    Command(String),
    /// RabbitMQ by its start script.
    RabbitMq(String),
    /// Three nodes of Leveret, by the program's path.
    LeveretCluster(String),
    /// Somebody else's; never started, stopped or paused.
    Address,
}

/// A broker under comparison.
pub struct Candidate {
    /// Shown in the report.
    pub name: String,
    kind: Kind,
    uri: String,
    port: u16,
    folder: PathBuf,
    child: Option<Child>,
    /// AMQP ports of the other nodes.
    other_ports: Vec<u16>,
    broker: Broker,
    /// Port of the helper daemon that RabbitMQ leaves behind (epmd); one of its own, so that ending
    /// it hurts nobody else.
    helper_port: Option<u16>,
}

impl Candidate {
    /// `--leveret PATH`, `--leveret-args TEMPLATE`, `--rabbitmq` (or `--rabbitmq-script PATH`),
    /// `--command NAME=TEMPLATE`, `--address NAME=URI`; the last two may repeat.
    ///
    /// # Errors
    /// A value without its `=`, or no free port.
    pub fn take(flags: &mut Flags, folder: &Path) -> Result<Vec<Candidate>> {
        let mut list = Vec::new();
        let arguments = flags
            .text("leveret-args")?
            .unwrap_or_else(|| LEVERET_ARGUMENTS.into());
        if let Some(path) = flags.text("leveret")? {
            let command = format!("{path} {arguments}");
            list.push(Candidate::new("Leveret", Kind::Command(command), folder)?);
        }
        let script = flags.text("rabbitmq-script")?;
        if flags.switch("rabbitmq") || script.is_some() {
            let script = script.unwrap_or_else(|| RABBITMQ_SCRIPT.into());
            list.push(Candidate::new("RabbitMQ", Kind::RabbitMq(script), folder)?);
        }
        if let Some(path) = flags.text("leveret-cluster")? {
            let kind = Kind::LeveretCluster(path);
            list.push(Candidate::new("Leveret, 3 nodes", kind, folder)?);
        }
        for pair in flags.all("command")? {
            let (name, command) = named(&pair)?;
            list.push(Candidate::new(
                name,
                Kind::Command(command.to_owned()),
                folder,
            )?);
        }
        for pair in flags.all("address")? {
            let (name, uri) = named(&pair)?;
            let mut candidate = Candidate::new(name, Kind::Address, folder)?;
            candidate.port = Uri::parse(uri)?.port;
            candidate.uri = uri.to_owned();
            list.push(candidate);
        }
        Ok(list)
    }

    fn new(name: &str, kind: Kind, folder: &Path) -> Result<Candidate> {
        let (port, other_ports) = match kind {
            Kind::LeveretCluster(_) => {
                let first = free_ports_in_a_row()?;
                (first, (1..NODES).map(|n| first + n).collect())
            }
            _ => (free_port()?, Vec::new()),
        };
        Ok(Candidate {
            name: name.to_owned(),
            kind,
            uri: format!("amqp://guest:guest@127.0.0.1:{port}/%2F"),
            port,
            folder: folder.join(name.replace(['/', ' ', ','], "_")),
            child: None,
            other_ports,
            broker: Broker::default(),
            helper_port: None,
        })
    }

    /// Starts it on what its folder holds; seconds until it opens a connection and a channel.
    ///
    /// # Errors
    /// It ended, or took too long.
    pub fn start(&mut self) -> Result<f64> {
        let data = self.folder.join("data");
        fs::create_dir_all(&data).context("creating a data folder")?;
        let begin = now_ns();
        let log = File::create(self.folder.join("output.log")).context("creating a log")?;
        let command = match &self.kind {
            Kind::Address => None,
            Kind::Command(template) => {
                let port = self.port.to_string();
                let filled = template
                    .replace("{port}", &port)
                    .replace("{data}", &data.to_string_lossy());
                let words = Flags::from_line(&filled);
                let (program, arguments) = words
                    .split_first()
                    .ok_or_else(|| Error::Usage("an empty broker command".into()))?;
                let mut command = Command::new(program);
                command.args(arguments);
                Some(command)
            }
            Kind::RabbitMq(script) => {
                let helper_port = free_port()?;
                let command = self.rabbitmq(script, &data, helper_port)?;
                self.helper_port = Some(helper_port);
                Some(command)
            }
            Kind::LeveretCluster(program) => {
                let mut command = Command::new(program);
                command.args(["local-cluster", "--nodes", &NODES.to_string()]);
                command.arg("--dir").arg(&data);
                command.args(["--base-port", &self.port.to_string()]);
                Some(command)
            }
        };
        if let Some(mut command) = command {
            let errors = log.try_clone().context("dup")?;
            command.stdin(Stdio::null()).stdout(log).stderr(errors);
            self.child = Some(command.spawn().context(format!("starting {}", self.name))?);
        }
        self.wait_until_open(begin, self.port)?;
        for port in self.other_ports.clone() {
            self.wait_until_open(begin, port)?;
        }
        let start_s = seconds(now_ns() - begin);
        let ports = std::iter::once(&self.port).chain(&self.other_ports);
        self.broker.pids = ports.filter_map(|port| listener_of(*port)).collect();
        Ok(start_s)
    }

    fn rabbitmq(&self, script: &str, data: &Path, helper_port: u16) -> Result<Command> {
        let config = self.folder.join("rabbitmq.conf");
        fs::write(&config, "loopback_users.guest = true\n").context("writing rabbitmq.conf")?;
        let plugins = self.folder.join("enabled_plugins");
        fs::write(&plugins, "[].\n").context("writing enabled_plugins")?;
        let mut command = Command::new(script);
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", format!("bench{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
            .env("RABBITMQ_MNESIA_BASE", data)
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", helper_port.to_string());
        Ok(command)
    }

    fn wait_until_open(&mut self, begin: u64, port: u16) -> Result<()> {
        let mut uri = Uri::parse(self.uri.split(',').next().unwrap_or_default())?;
        uri.port = port;
        loop {
            let failure = match Client::open(&uri) {
                Ok(client) => return client.close(),
                Err(failure) => failure,
            };
            let ended = match &mut self.child {
                None => false,
                Some(child) => child.try_wait().context("waiting for a broker")?.is_some(),
            };
            if ended || seconds(now_ns() - begin) > START_S {
                let said = fs::read_to_string(self.folder.join("output.log")).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(15).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Err(Error::Failed(format!(
                    "{} did not start: {failure}\n{tail}",
                    self.name
                )));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends it in good order, or by force if that takes too long.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let begin = now_ns();
        while matches!(child.try_wait(), Ok(None)) {
            if seconds(now_ns() - begin) > STOP_S {
                self.signal(Signal::KILL);
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.broker.pids.clear();
        if let Some(pid) = self.helper_port.take().and_then(listener_of) {
            send(pid, Signal::TERM);
        }
    }

    /// Stops it, empties its folder, and starts it.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    pub fn restart_empty(&mut self) -> Result<()> {
        if matches!(self.kind, Kind::Address) {
            return Ok(());
        }
        self.stop();
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).context("emptying a data folder")?;
        }
        self.start().map(drop)
    }

    /// Whether it is several nodes.
    pub fn is_cluster(&self) -> bool {
        !self.other_ports.is_empty()
    }

    /// Keeps it from using the CPU while others are measured. Not a cluster: its nodes would take each other for dead.
    pub fn pause(&self) {
        if self.child.is_some() && !self.is_cluster() {
            self.signal(Signal::STOP);
        }
    }

    /// Lets it go on, and starts it if it has ended.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    pub fn resume(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.signal(Signal::CONT);
        }
        let gone = match &mut self.child {
            None => !matches!(self.kind, Kind::Address),
            Some(child) => !matches!(child.try_wait(), Ok(None)),
        };
        if gone {
            self.start()?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        for &pid in &self.broker.pids {
            send(pid, signal);
        }
    }

    /// Where clients reach it.
    pub fn uri(&self) -> String {
        self.uri.clone()
    }

    /// Where clients reach all of its nodes, with commas between.
    pub fn uris(&self) -> String {
        let others = self.other_ports.iter();
        let others = others.map(|port| format!(",amqp://guest:guest@127.0.0.1:{port}/%2F"));
        std::iter::once(self.uri.clone()).chain(others).collect()
    }

    /// Flags that a scenario gets besides its own.
    pub fn flags(&self) -> Vec<String> {
        match self.kind {
            Kind::LeveretCluster(_) => vec!["--queue-arg".into(), "x-ha-policy=all".into()],
            _ => Vec::new(),
        }
    }

    /// For `--broker-pid`.
    pub fn pids(&self) -> String {
        match self.broker.pids.as_slice() {
            [] => "none".into(),
            pids => pids
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(","),
        }
    }

    /// Its memory now.
    pub fn memory(&self) -> Memory {
        self.broker.memory()
    }

    /// Product and version as it introduces itself.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn version(&self) -> Result<String> {
        let client = Client::open(&Uri::parse(&self.uri)?)?;
        let version = client.server.clone();
        client.close()?;
        Ok(version)
    }

    /// How it was started, for the report.
    pub fn settings(&self) -> String {
        match &self.kind {
            Kind::Address => "running already; its settings are not known".into(),
            Kind::RabbitMq(_) => "Debian's package, default settings, no plugins".into(),
            Kind::LeveretCluster(_) => {
                "`local-cluster --nodes 3`; a confirm: synced by a majority if the queue is durable, else written by one".into()
            }
            Kind::Command(template) => {
                let words = Flags::from_line(template);
                let rest = words.get(1..).unwrap_or_default().join(" ");
                format!("`{rest}`")
            }
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.stop();
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

fn named(pair: &str) -> Result<(&str, &str)> {
    pair.split_once('=')
        .ok_or_else(|| Error::Usage(format!("{pair:?}: NAME=… is needed")))
}

/// The first of some ports in a row that nobody listens on, neither there nor 20,000 above, where nodes of Leveret reach each other.
fn free_ports_in_a_row() -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = std::process::id() as u16 % 1000;
    (0..1000)
        .map(|n| 21_000 + (start + n) % 1000 * NODES)
        .find(|first| (0..NODES).all(|n| free(first + n) && free(first + n + 20_000)))
        .ok_or_else(|| Error::Failed("no free ports".into()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener
        .local_addr()
        .context("looking for a free port")?
        .port())
}
