//! What no broker on this machine can pass: the kernel's loopback, a relay without a broker's work,
//! and the disk.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::run_self;
use super::scenario::Scenario;
use crate::clock::{now_ns, seconds};
use crate::error::{Context, Error, Result};
use crate::flags::Flags;
use crate::load::{Plan, bounded};
use crate::net::Client;
use crate::stats::procfs::own_cpu;
use crate::stats::{Latency, LatencySummary};
use crate::uri::Uri;
use crate::wire::{MessageTemplate, Properties};

/// Written at once, as producers do.
const WRITE_BYTES: usize = 64 << 10;
/// The file that the disk limit writes over and over.
const FILE_BYTES: usize = 256 << 20;

/// A limit's figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitReport {
    /// "limit".
    pub scenario: String,
    /// Messages per second.
    pub rate_per_s: f64,
    /// CPU seconds of both sides per million messages.
    pub cpu_per_million: f64,
    /// Octets of a message in this measurement.
    pub message_bytes: usize,
    /// Messages that share an fdatasync; 0 for sockets.
    pub batch: usize,
    /// Of one write with its fdatasync.
    pub sync: Option<LatencySummary>,
}

/// `limit socket|disk --size N [--batch N] [--dir PATH] [--time S]`.
///
/// # Errors
/// See [`Error`].
pub fn limit(mut flags: Flags) -> Result<bool> {
    let size = bounded(&mut flags, "size", 16, 64 << 20)?;
    let batch = bounded(&mut flags, "batch", 1, 1 << 20)?.max(1);
    let time_s = flags.seconds("time", 3.0)?;
    let folder = flags.text("dir")?.unwrap_or_else(|| ".".into());
    let json = flags.text("json")?;
    let socket = flags.switch("socket");
    let disk = flags.switch("disk");
    flags.finish()?;
    let report = match (socket, disk) {
        (true, false) => socket_limit(size, time_s)?,
        (false, true) => disk_limit(size, batch, Path::new(&folder), time_s)?,
        _ => return Err(Error::Usage("limit needs --socket or --disk".into())),
    };
    println!(
        "{:.0} msg/s of {} octets, {:.2} CPU s/million{}",
        report.rate_per_s,
        report.message_bytes,
        report.cpu_per_million,
        report
            .sync
            .as_ref()
            .map_or(String::new(), |s| format!("; a sync takes {}", s.line()))
    );
    if let Some(path) = json {
        let text = serde_json::to_string(&report).map_err(|e| Error::Failed(e.to_string()))?;
        std::fs::write(&path, text).context(format!("writing {path}"))?;
    }
    Ok(true)
}

/// Publishes of `size` octets, one way through one loopback connection, from a thread that writes
/// to one that reads.
fn socket_limit(size: usize, time_s: f64) -> Result<LimitReport> {
    let message = publish(size);
    let message_bytes = message.len();
    let block = message.repeat((WRITE_BYTES / message_bytes).max(1));
    let listener = TcpListener::bind("127.0.0.1:0").context("binding")?;
    let address = listener.local_addr().context("binding")?;
    let (cpu, begin) = (own_cpu(), now_ns());
    let deadline = begin + (time_s * 1e9) as u64;
    let writer = thread::spawn(move || -> Result<()> {
        let mut out = TcpStream::connect(address).context("connecting")?;
        while now_ns() < deadline {
            out.write_all(&block).context("writing")?;
        }
        Ok(())
    });
    let (mut input, _) = listener.accept().context("accepting")?;
    let mut inbox = vec![0; 256 << 10];
    let mut bytes = 0u64;
    loop {
        match input.read(&mut inbox).context("reading")? {
            0 => break,
            n => bytes += n as u64,
        }
    }
    writer
        .join()
        .map_err(|_| Error::Failed("the writer panicked".into()))??;
    let elapsed_s = seconds(now_ns() - begin);
    let messages = bytes as f64 / message_bytes as f64;
    Ok(LimitReport {
        scenario: "limit".into(),
        rate_per_s: messages / elapsed_s,
        cpu_per_million: own_cpu().since(cpu).total_s() * 1e6 / messages,
        message_bytes,
        batch: 0,
        sync: None,
    })
}

/// Bodies of `size` octets, `batch` of them with one fdatasync, over a file that is written through
/// beforehand: nothing but data goes to the disk.
fn disk_limit(size: usize, batch: usize, folder: &Path, time_s: f64) -> Result<LimitReport> {
    let file_bytes = FILE_BYTES.max(size * batch);
    let file = tempfile::NamedTempFile::new_in(folder).context("temporary file")?;
    let file = OpenOptions::new()
        .write(true)
        .open(file.path())
        .context("temporary file")?;
    let zeros = vec![0; 1 << 20];
    for at in (0..file_bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)
            .context("preallocating")?;
    }
    file.sync_all().context("fsync")?;
    let data: Vec<u8> = (0..size * batch).map(|i| (i % 251) as u8).collect();
    let mut sync = Latency::new();
    let (cpu, begin) = (own_cpu(), now_ns());
    let deadline = begin + (time_s * 1e9) as u64;
    let (mut at, mut batches, mut now) = (0usize, 0u64, begin);
    while now < deadline {
        if at + data.len() > file_bytes {
            at = 0;
        }
        file.write_all_at(&data, at as u64).context("writing")?;
        file.sync_data().context("fdatasync")?;
        at += data.len();
        batches += 1;
        let after = now_ns();
        sync.record(after - now);
        now = after;
    }
    let messages = (batches * batch as u64) as f64;
    Ok(LimitReport {
        scenario: "limit".into(),
        rate_per_s: messages / seconds(now - begin),
        cpu_per_million: own_cpu().since(cpu).total_s() * 1e6 / messages,
        message_bytes: size,
        batch,
        sync: sync.summary(),
    })
}

fn publish(size: usize) -> Vec<u8> {
    MessageTemplate::publish(
        1,
        "",
        "bench-0000000",
        false,
        &Properties::default(),
        size,
        131_072,
    )
    .bytes
}

/// The limits that belong to a scenario: socket and relay for `run`, relay for `rpc`, disk where
/// messages are persistent and confirmed.
pub fn beside(scenario: &Scenario, round: usize, folder: &Path, time_s: f64) -> Vec<Record> {
    let words = scenario.words();
    let mut records = Vec::new();
    let mut note = |name: &str, outcome: Result<serde_json::Value>| {
        records.push(Record::measured(name, scenario, round, outcome));
    };
    let kind = words.first().map_or("", String::as_str);
    if kind == "run" {
        let mut flags = Flags::new(words.iter().skip(1).cloned());
        let Ok(plan) = Plan::take(&mut flags) else {
            return records;
        };
        let (size, time) = (plan.size.to_string(), (time_s / 2.0).max(1.0).to_string());
        let line = ["limit", "--socket", "--size", &size, "--time", &time];
        note("limit: socket", run_self(&line.map(str::to_owned), folder));
        if plan.persistent && plan.durable && plan.confirm_window > 0 {
            let batch = (plan.confirm_window * plan.producers).to_string();
            let dir = folder.to_string_lossy().into_owned();
            let line = ["limit", "--disk", "--size", &size, "--batch", &batch];
            let line = [line.as_slice(), &["--time", &time, "--dir", &dir]].concat();
            let line: Vec<String> = line.into_iter().map(str::to_owned).collect();
            note("limit: disk", run_self(&line, folder));
        }
    }
    if kind == "run" || kind == "rpc" {
        note("limit: relay", relay(words, folder, time_s));
    }
    records
}

fn relay(words: &[String], folder: &Path, time_s: f64) -> Result<serde_json::Value> {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
        listener
            .local_addr()
            .context("looking for a free port")?
            .port()
    };
    let address = format!("127.0.0.1:{port}");
    let program = std::env::current_exe().context("own path")?;
    let child = Command::new(program)
        .args(["relay", "--listen", &address])
        .stderr(Stdio::null())
        .spawn()
        .context("starting the relay")?;
    let _child = Killed(child);
    let uri = format!("amqp://{address}/");
    let parsed = Uri::parse(&uri)?;
    let begin = now_ns();
    while let Err(failure) = Client::open(&parsed) {
        if seconds(now_ns() - begin) > 10.0 {
            return Err(failure);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let mut words = words.to_vec();
    words.extend(["--uri".into(), uri, "--time".into(), time_s.to_string()]);
    words.extend(["--warmup".into(), (time_s / 5.0).to_string()]);
    run_self(&words, folder)
}

/// A child that does not outlive its use.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_give_figures() {
        let socket = socket_limit(16, 0.1).unwrap();
        assert!(socket.rate_per_s > 10_000.0, "{socket:?}");
        let folder = tempfile::tempdir().unwrap();
        let disk = disk_limit(1024, 10, folder.path(), 0.1).unwrap();
        assert!(disk.sync.is_some_and(|s| s.count > 0) && disk.rate_per_s > 10.0);
    }
}
