//! Brokers under comparison: started here in a folder of their own, or already there.

mod ports;
mod rabbitmq;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{now_ns, seconds};
use crate::error::{Context, Error, Result};
use crate::flags::Flags;
use crate::load::{Plan, Topology};
use crate::net::{Client, QueueOptions};
use crate::stats::procfs::{Broker, Cpu, Memory, listener_of};
use crate::uri::Uri;
use ports::Ports;
use rabbitmq::RabbitMq;

/// Nodes of a cluster of Leveret.
const NODES: u16 = 3;
/// A node's start that takes longer has failed.
const START_S: f64 = 300.0;
/// A stop that takes longer is ended by SIGKILL.
const STOP_S: f64 = 60.0;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Of a broker's output, if it does not start.
const LINES_SHOWN: usize = 15;

const LEVERET_ARGUMENTS: &str = "server --data-dir {data} --set listeners.tcp.1=127.0.0.1:{port} \
     --set management.tcp=none --set prometheus.tcp=none";

enum Kind {
    /// A command line with `{port}` and `{data}` in it.
    Command(String),
    /// RabbitMQ, one node or three.
    RabbitMq(RabbitMq),
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
    /// What was started.
    children: Vec<Child>,
    /// AMQP ports of the other nodes.
    other_ports: Vec<u16>,
    broker: Broker,
}

/// Where the connections of a scenario go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// All to the first node.
    First,
    /// Round all nodes.
    Spread,
    /// All to the node that leads the queue.
    Leader,
    /// All to a node that does not.
    OffLeader,
}

impl Candidate {
    /// `--leveret PATH`, `--leveret-args TEMPLATE`, `--rabbitmq` (or `--rabbitmq-script PATH`), `--leveret-cluster PATH`,
    /// `--rabbitmq-mirrored`, `--rabbitmq-quorum`, `--command NAME=TEMPLATE`, `--address NAME=URI`; the last two may repeat.
    ///
    /// # Errors
    /// A value without its `=`, or no free port.
    pub fn take(flags: &mut Flags, folder: &Path) -> Result<Vec<Candidate>> {
        let mut ports = Ports::new();
        let mut list = Vec::new();
        let mut add = |name: &str, kind: &dyn Fn(u16, &Path) -> Kind| -> Result<()> {
            let base = ports.block()?;
            list.push(Candidate::new(name, kind, base, folder));
            Ok(())
        };
        let arguments = flags
            .text("leveret-args")?
            .unwrap_or_else(|| LEVERET_ARGUMENTS.into());
        if let Some(path) = flags.text("leveret")? {
            add("Leveret", &|_, _| {
                Kind::Command(format!("{path} {arguments}"))
            })?;
        }
        if let Some(path) = flags.text("leveret-cluster")? {
            add("Leveret, 3 nodes", &|_, _| {
                Kind::LeveretCluster(path.clone())
            })?;
        }
        let script = flags.text("rabbitmq-script")?;
        let alone = flags.switch("rabbitmq") || script.is_some();
        let script = script.unwrap_or_else(|| rabbitmq::SCRIPT.into());
        for (wanted, name, kind) in [
            (alone, "RabbitMQ", rabbitmq::Kind::Alone),
            (
                flags.switch("rabbitmq-mirrored"),
                "RabbitMQ, mirrored",
                rabbitmq::Kind::Mirrored,
            ),
            (
                flags.switch("rabbitmq-quorum"),
                "RabbitMQ, quorum",
                rabbitmq::Kind::Quorum,
            ),
        ] {
            if wanted {
                add(name, &|base, folder| {
                    Kind::RabbitMq(RabbitMq {
                        script: script.clone(),
                        kind,
                        base,
                        folder: folder.to_owned(),
                    })
                })?;
            }
        }
        for pair in flags.all("command")? {
            let (name, command) = named(&pair)?;
            add(name, &|_, _| Kind::Command(command.to_owned()))?;
        }
        for pair in flags.all("address")? {
            let (name, uri) = named(&pair)?;
            let port = Uri::parse(uri)?.port;
            let mut candidate = Candidate::new(name, &|_, _| Kind::Address, port, folder);
            candidate.uri = uri.to_owned();
            list.push(candidate);
        }
        Ok(list)
    }

    fn new(name: &str, kind: &dyn Fn(u16, &Path) -> Kind, port: u16, parent: &Path) -> Candidate {
        let folder = parent.join(name.replace(['/', ' ', ','], "_"));
        let kind = kind(port, &folder);
        let nodes = match &kind {
            Kind::LeveretCluster(_) => NODES,
            Kind::RabbitMq(rabbitmq) => rabbitmq.kind.nodes(),
            Kind::Command(_) | Kind::Address => 1,
        };
        Candidate {
            name: name.to_owned(),
            kind,
            uri: uri_of(port),
            port,
            folder,
            children: Vec::new(),
            other_ports: (1..nodes).map(|n| port + n).collect(),
            broker: Broker::default(),
        }
    }

    /// Starts it on what its folder holds; seconds until each node opens a connection and a channel.
    ///
    /// # Errors
    /// It ended, or took too long.
    pub fn start(&mut self) -> Result<f64> {
        let data = self.folder.join("data");
        fs::create_dir_all(&data).context("creating a data folder")?;
        let begin = now_ns();
        let command = match &self.kind {
            Kind::Address => None,
            Kind::RabbitMq(_) => {
                self.start_rabbitmq(&data)?;
                None
            }
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
            Kind::LeveretCluster(program) => {
                let mut command = Command::new(program);
                command.args(["local-cluster", "--nodes", &NODES.to_string()]);
                command.arg("--dir").arg(&data);
                command.args(["--base-port", &self.port.to_string()]);
                Some(command)
            }
        };
        if let Some(command) = command {
            self.spawn(command)?;
        }
        let ports: Vec<u16> = std::iter::once(self.port)
            .chain(self.other_ports.iter().copied())
            .collect();
        for port in &ports {
            self.wait_until_open(*port)?;
        }
        let start_s = seconds(now_ns() - begin);
        self.broker.pids = ports.into_iter().filter_map(listener_of).collect();
        Ok(start_s)
    }

    /// The nodes of a new cluster join the first one, which must be there; those of one that has been know each other, and some
    /// wait for others, whichever was the last to stop.
    fn start_rabbitmq(&mut self, data: &Path) -> Result<()> {
        let Kind::RabbitMq(rabbitmq) = &self.kind else {
            return Ok(());
        };
        let known = rabbitmq.has_data(data);
        rabbitmq.prepare()?;
        let nodes = rabbitmq.kind.nodes();
        let commands: Vec<Command> = (0..nodes).map(|n| rabbitmq.node(n, data)).collect();
        for (command, n) in commands.into_iter().zip(0..) {
            self.spawn(command)?;
            if !known {
                self.wait_until_open(self.port + n)?;
            }
        }
        for n in 0..nodes {
            self.wait_until_open(self.port + n)?;
        }
        match &self.kind {
            Kind::RabbitMq(rabbitmq) if nodes > 1 => rabbitmq.settle(data),
            _ => Ok(()),
        }
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        let log = self
            .folder
            .join(format!("output-{}.log", self.children.len() + 1));
        let log = File::create(log).context("creating a log")?;
        let errors = log.try_clone().context("dup")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().context(format!("starting {}", self.name))?;
        self.children.push(child);
        Ok(())
    }

    fn wait_until_open(&mut self, port: u16) -> Result<()> {
        let begin = now_ns();
        let mut uri = Uri::parse(self.uri.split(',').next().unwrap_or_default())?;
        uri.port = port;
        loop {
            let failure = match Client::open(&uri) {
                Ok(client) => return client.close(),
                Err(failure) => failure,
            };
            let mut ended = false;
            for child in &mut self.children {
                ended |= child.try_wait().context("waiting for a broker")?.is_some();
            }
            if ended || seconds(now_ns() - begin) > START_S {
                return Err(Error::Failed(format!(
                    "{} did not start on port {port}: {failure}\n{}",
                    self.name,
                    self.said()
                )));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// The last lines that its processes wrote.
    fn said(&self) -> String {
        let logs = (1..=self.children.len()).map(|n| self.folder.join(format!("output-{n}.log")));
        let mut said = String::new();
        for log in logs {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.len().saturating_sub(LINES_SHOWN);
            said += &lines.get(tail..).unwrap_or_default().join("\n");
            said.push('\n');
        }
        said
    }

    /// Ends it in good order, or by force if that takes too long.
    pub fn stop(&mut self) {
        if self.children.is_empty() {
            return;
        }
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        for child in &self.children {
            if self.broker.pids.is_empty() {
                send(child.id(), Signal::TERM);
            }
        }
        let begin = now_ns();
        let mut left = std::mem::take(&mut self.children);
        while !left.is_empty() && seconds(now_ns() - begin) < STOP_S {
            thread::sleep(LOOK_AGAIN);
            left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        }
        for mut child in left {
            // A start script's end would not be the broker's.
            for pid in Broker::of(child.id()).family() {
                send(pid, Signal::KILL);
            }
            let _ = child.wait();
        }
        self.broker.pids.clear();
        if let Kind::RabbitMq(rabbitmq) = &self.kind
            && let Some(epmd) = listener_of(rabbitmq.epmd_port())
        {
            send(epmd, Signal::TERM);
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
        if !self.children.is_empty() && !self.is_cluster() {
            self.signal(Signal::STOP);
        }
    }

    /// Lets it go on, and starts it if it has ended.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT);
        let gone = match self.children.as_mut_slice() {
            [] => !matches!(self.kind, Kind::Address),
            children => children
                .iter_mut()
                .any(|child| !matches!(child.try_wait(), Ok(None))),
        };
        if gone {
            self.stop();
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

    /// Flags that say where a scenario's connections go; `durable` is whether its queues are.
    ///
    /// # Errors
    /// The leader cannot be found.
    pub fn addresses(&self, clients: Clients, durable: bool) -> Result<Vec<String>> {
        let flag = |name: &str, uri: String| [format!("--{name}"), uri];
        let node = |n: usize| match n.checked_sub(1) {
            None => self.uri(),
            Some(other) => self
                .other_ports
                .get(other)
                .map_or(self.uri(), |p| uri_of(*p)),
        };
        if !self.is_cluster() {
            return Ok(flag("uri", self.uri()).into());
        }
        Ok(match clients {
            Clients::First => flag("uri", self.uri()).into(),
            Clients::Spread => {
                let all: Vec<String> = (0..=self.other_ports.len()).map(node).collect();
                flag("uri", all.join(",")).into()
            }
            Clients::Leader => flag("uri", node(self.leader(durable)?)).into(),
            Clients::OffLeader => {
                let leader = self.leader(durable)?;
                let other = (leader + 1) % (self.other_ports.len() + 1);
                [flag("uri", node(other)), flag("setup-uri", node(leader))].concat()
            }
        })
    }

    /// The node, from 0, that leads the first queue of a scenario that is declared through it. RabbitMQ's queues are led where
    /// they are declared; Leveret's wherever their group is.
    fn leader(&self, durable: bool) -> Result<usize> {
        let Kind::LeveretCluster(program) = &self.kind else {
            return Ok(0);
        };
        let queue = Topology::queue_name(Plan::PREFIX, 0);
        let options = QueueOptions {
            durable,
            ..QueueOptions::default()
        };
        let mut client = Client::open(&Uri::parse(&self.uri)?)?;
        client.delete_queue(&queue)?;
        client.declare_queue(&queue, &options)?;
        let listed = Command::new(program)
            .args(["ctl", "--quiet", "--data-dir"])
            .arg(self.folder.join("data/node1"))
            .args(["list_queues", "name", "leader"])
            .output()
            .context("leveret ctl")?;
        client.delete_queue(&queue)?;
        client.close()?;
        let text = String::from_utf8_lossy(&listed.stdout);
        let leader = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find_map(|(name, leader)| (name == queue).then_some(leader));
        let number = leader
            .and_then(|l| l.strip_prefix("leveret")?.split_once('@'))
            .and_then(|(number, _)| number.parse::<usize>().ok()?.checked_sub(1));
        number.ok_or_else(|| Error::Failed(format!("no leader of {queue} in {text:?}")))
    }

    /// Flags that a scenario gets besides its own.
    pub fn flags(&self) -> Vec<String> {
        let argument = match &self.kind {
            Kind::LeveretCluster(_) => "x-ha-policy=all",
            Kind::RabbitMq(rabbitmq) if rabbitmq.kind == rabbitmq::Kind::Quorum => {
                "x-queue-type=quorum"
            }
            _ => return Vec::new(),
        };
        vec!["--queue-arg".into(), argument.into()]
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

    /// Its CPU time so far.
    pub fn cpu(&self) -> Cpu {
        self.broker.cpu()
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
            Kind::RabbitMq(rabbitmq) => rabbitmq.kind.settings().into(),
            Kind::LeveretCluster(_) => "`local-cluster --nodes 3`, default settings".into(),
            Kind::Command(template) => {
                let words = Flags::from_line(template);
                let rest = words.get(1..).unwrap_or_default().join(" ");
                format!("`{rest}`")
            }
        }
    }
}

impl Candidate {
    /// What its confirm means, in a few words: of a persistent message on a durable queue, and of any other.
    pub fn confirm(&self) -> [&'static str; 2] {
        match &self.kind {
            Kind::RabbitMq(rabbitmq) => rabbitmq.kind.confirm(),
            Kind::LeveretCluster(_) => ["synced by 2 of 3", "written by 2 of 3"],
            Kind::Command(_) if self.name == "Leveret" => ["synced", "routed"],
            Kind::Command(_) | Kind::Address => ["see its documentation"; 2],
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.stop();
    }
}

fn send(number: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) {
        // One that has ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

fn uri_of(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2F")
}

fn named(pair: &str) -> Result<(&str, &str)> {
    pair.split_once('=')
        .ok_or_else(|| Error::Usage(format!("{pair:?}: NAME=… is needed")))
}
