//! What a load scenario asks for, as flags give it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::uri::Uri;
use crate::wire::{FieldValue, Properties, Stamp, Table};

/// Prefetch counts and queue numbers are 16 bits and less on the wire; connections are bounded by
/// what one process can hold open.
const CONNECTIONS_MAX: u64 = 30_000;
/// Largest body.
const SIZE_MAX_BYTES: u64 = 512 << 20;

/// How messages get to the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// The default exchange, by queue name.
    Default,
    /// A direct exchange with a binding per queue.
    Direct,
    /// A topic exchange with a wildcard binding per queue.
    Topic,
    /// A fanout exchange bound to every queue.
    Fanout,
}

/// A load scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    #[serde(skip)]
    pub uris: Vec<Uri>,
    /// Where queues are declared and deleted.
    #[serde(skip)]
    pub setup_uri: Uri,
    /// Connections that publish.
    pub producers: usize,
    /// Connections that consume.
    pub consumers: usize,
    pub queues: usize,
    /// Octets of a body.
    pub size: usize,
    /// delivery_mode 2.
    pub persistent: bool,
    /// Queues and exchanges survive a restart.
    pub durable: bool,
    /// Publishes without confirm per producer; 0: no confirms.
    pub confirm_window: usize,
    /// Deliveries without ack per consumer; 0: no limit.
    pub prefetch: u16,
    /// One ack for so many deliveries; 0: automatic acknowledgement.
    pub ack_every: u64,
    /// Messages a second over all producers; 0: as fast as it goes.
    pub rate: f64,
    /// Seconds of publishing, warm-up included.
    pub time_s: f64,
    /// Messages over all producers; ends the publishing before the time does.
    pub messages: u64,
    /// Seconds at the start that count in no figure.
    pub warmup_s: f64,
    #[serde(skip)]
    pub queue_arguments: Table,
    pub exchange: Exchange,
    /// Bindings of the first queue that no message takes.
    pub bindings: usize,
    /// Load threads: 1 for all, 2: one for producers, one for consumers; more are shared out.
    pub threads: usize,
    pub mandatory: bool,
    /// Ordinary properties instead of none.
    pub typical_properties: bool,
    /// Consumers compare every octet of the body.
    pub verify_body: bool,
    /// Seconds without any delivery after which the drain gives up.
    pub drain_s: f64,
    /// Front of all queue and exchange names.
    pub prefix: String,
    /// Queues are left as they are at the end.
    pub keep: bool,
    /// Queues are taken as they are at the start.
    pub reuse: bool,
}

impl Plan {
    /// `--prefix` if there is none.
    pub const PREFIX: &str = "bench";

    /// Takes the flags of a load scenario.
    ///
    /// # Errors
    /// A value is malformed, out of bounds, or contradicts another.
    pub fn take(flags: &mut Flags) -> Result<Plan> {
        let (exchange, fanout) = take_exchange(flags)?;
        let uris = take_uris(flags)?;
        let mut plan = Plan {
            setup_uri: match flags.text("setup-uri")? {
                Some(text) => Uri::parse(&text)?,
                None => uris[0].clone(),
            },
            uris,
            producers: bounded(flags, "producers", 1, CONNECTIONS_MAX)?,
            consumers: bounded(flags, "consumers", 1, CONNECTIONS_MAX)?,
            queues: bounded(flags, "queues", fanout.unwrap_or(1), 1 << 20)?,
            size: bounded(flags, "size", 16, SIZE_MAX_BYTES)?,
            persistent: flags.switch("persistent"),
            durable: flags.switch("durable"),
            confirm_window: bounded(flags, "confirm-window", 0, 1 << 20)?,
            prefetch: bounded(flags, "prefetch", 0, u64::from(u16::MAX))? as u16,
            ack_every: flags.count("ack-every", 0)?,
            rate: flags.count("rate", 0)? as f64,
            time_s: flags.seconds("time", 0.0)?,
            messages: flags.count("messages", 0)?,
            warmup_s: flags.seconds("warmup", 0.0)?,
            queue_arguments: take_arguments(flags)?,
            exchange,
            bindings: bounded(flags, "bindings", 0, 1 << 20)?,
            threads: bounded(flags, "threads", 2, 64)?,
            mandatory: flags.switch("mandatory"),
            typical_properties: take_properties(flags)?,
            verify_body: flags.switch("verify-body"),
            drain_s: flags.seconds("drain", 30.0)?,
            prefix: flags.text("prefix")?.unwrap_or_else(|| Plan::PREFIX.into()),
            keep: flags.switch("keep"),
            reuse: flags.switch("reuse"),
        };
        if plan.messages == 0 && plan.time_s == 0.0 {
            plan.time_s = 10.0;
        }
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let fail = |why: &str| Err(Error::Usage(why.to_owned()));
        if self.producers == 0 && self.consumers == 0 {
            return fail("neither producers nor consumers");
        }
        if self.queues == 0 || self.threads == 0 {
            return fail("--queues and --threads must be at least 1");
        }
        if self.bindings > 0 && !matches!(self.exchange, Exchange::Direct | Exchange::Topic) {
            return fail("--bindings needs --exchange direct or topic");
        }
        if self.prefetch > 0 && self.ack_every > u64::from(self.prefetch) {
            return fail("--ack-every above --prefetch would wait for ever");
        }
        if self.prefetch > 0 && self.ack_every == 0 {
            return fail("--prefetch has no meaning without --ack-every");
        }
        if self.time_s > 0.0 && self.warmup_s >= self.time_s {
            return fail("--warmup must be shorter than --time");
        }
        if self.producers.max(self.queues) >= Stamp::STREAMS_MAX {
            return fail("too many producers or queues");
        }
        if self.prefix.len() > 200 {
            return fail("--prefix is too long");
        }
        Ok(())
    }

    /// The broker that connection `n` goes to.
    pub fn uri(&self, n: usize) -> &Uri {
        &self.uris[n % self.uris.len()]
    }

    /// Properties of every message.
    pub fn properties(&self) -> Properties {
        let base = if self.typical_properties {
            Properties::typical()
        } else {
            Properties::default()
        };
        Properties {
            delivery_mode: self.persistent.then_some(2),
            ..base
        }
    }
}

/// `--uri`, one or several with commas between.
///
/// # Errors
/// A malformed URI.
pub fn take_uris(flags: &mut Flags) -> Result<Vec<Uri>> {
    Uri::parse_list(
        &flags
            .text("uri")?
            .unwrap_or_else(|| "amqp://127.0.0.1:5672/".into()),
    )
}

/// A count that must not exceed `max`.
///
/// # Errors
/// It does, or it is no number.
pub fn bounded(flags: &mut Flags, name: &str, default: u64, max: u64) -> Result<usize> {
    let value = flags.count(name, default)?;
    if value > max {
        return Err(Error::Usage(format!(
            "--{name}: {value} is more than {max}"
        )));
    }
    Ok(value as usize)
}

fn take_exchange(flags: &mut Flags) -> Result<(Exchange, Option<u64>)> {
    let text = flags.text("exchange")?.unwrap_or_else(|| "default".into());
    let (kind, queues) = match text.split_once(':') {
        None => (text.as_str(), None),
        Some((kind, n)) => (kind, crate::flags::parse_count(n)),
    };
    match (kind, queues) {
        ("default", None) => Ok((Exchange::Default, None)),
        ("direct", None) => Ok((Exchange::Direct, None)),
        ("topic", None) => Ok((Exchange::Topic, None)),
        ("fanout", n) => Ok((Exchange::Fanout, n)),
        _ => Err(Error::Usage(format!(
            "--exchange {text:?}: default, direct, topic, fanout or fanout:N"
        ))),
    }
}

fn take_properties(flags: &mut Flags) -> Result<bool> {
    match flags.text("properties")?.as_deref() {
        None | Some("none") => Ok(false),
        Some("typical") => Ok(true),
        Some(other) => Err(Error::Usage(format!(
            "--properties {other:?}: none or typical"
        ))),
    }
}

/// `--queue-arg name=value`: numbers and true/false as such, all else as text; `name=s:value` forces
/// text.
///
/// # Errors
/// An argument without `=`.
pub fn take_arguments(flags: &mut Flags) -> Result<Table> {
    flags
        .all("queue-arg")?
        .iter()
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Error::Usage(format!("--queue-arg {pair:?}: name=value")))?;
            Ok((name.to_owned(), field_value(value)))
        })
        .collect()
}

fn field_value(text: &str) -> FieldValue {
    if let Some(forced) = text.strip_prefix("s:") {
        return FieldValue::Text(forced.to_owned());
    }
    match (text.parse::<i64>(), text) {
        (Ok(n), _) => FieldValue::Int(n),
        (_, "true") => FieldValue::Bool(true),
        (_, "false") => FieldValue::Bool(false),
        _ => FieldValue::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan> {
        let mut flags = Flags::new(Flags::from_line(line));
        let plan = Plan::take(&mut flags)?;
        flags.finish()?;
        Ok(plan)
    }

    #[test]
    fn flags_make_a_plan() {
        let p = plan(
            "--producers 16 --consumers 16 --queues 16 --size 256 --durable --persistent \
             --confirm-window 128 --prefetch 100 --ack-every 10 --time 5 --warmup 1 \
             --queue-arg x-queue-type=quorum --queue-arg x-max-length=10 --exchange topic",
        )
        .unwrap();
        assert_eq!(
            (p.producers, p.size, p.confirm_window, p.prefetch),
            (16, 256, 128, 100)
        );
        assert_eq!(p.exchange, Exchange::Topic);
        assert_eq!(
            p.queue_arguments[1],
            ("x-max-length".into(), FieldValue::Int(10))
        );
        assert_eq!(plan("--exchange fanout:7").unwrap().queues, 7);
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "--producers 0 --consumers 0",
            "--prefetch 10 --ack-every 11",
            "--prefetch 10",
            "--time 5 --warmup 5",
            "--exchange headers",
            "--prefetch 70000 --ack-every 1",
            "--exchange fanout --bindings 10",
            "--nonsense 1",
        ] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }
}
