//! Forms of values: what text a key takes, and the field that it sets.
//!
//! A form and its setter are one value, so a key can neither be checked as one thing and stored as
//! another, nor be described differently from how it is read.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::{Config, ListenAddr, ListenHost, LogLevel, Network};

/// The form of a value, with what it does to the [`Config`].
///
/// Numbers are given with their lowest and highest allowed value.
pub(crate) enum Kind {
    /// `true` or `false`.
    Flag(fn(&mut Config, bool)),
    /// A flag for the name in the key.
    NamedFlag(fn(&mut Config, &str, bool)),
    /// A whole number and what it counts.
    Int(u64, u64, &'static str, fn(&mut Config, u64)),
    /// A whole number, or `infinity`.
    IntOrInfinity(u64, u64, &'static str, fn(&mut Config, Option<u64>)),
    /// Bytes, with RabbitMQ's information units (kB is 1000, KiB and k are 1024).
    Bytes(u64, u64, fn(&mut Config, u64)),
    /// Bytes, with Cuttlefish's units (KB is 1024).
    FrameBytes(u64, u64, fn(&mut Config, u64)),
    /// A number with a point.
    Ratio(f64, f64, fn(&mut Config, f64)),
    /// Any text.
    Text(fn(&mut Config, String)),
    /// A path that is made when it is not there.
    Path(fn(&mut Config, PathBuf)),
    /// A path that must be there.
    Existing(fn(&mut Config, PathBuf)),
    /// One of these words.
    Choice(&'static [Word]),
    /// A level of the log.
    Level(fn(&mut Config, LogLevel)),
    /// `port`, `address:port` or `name:port`.
    Listen(fn(&mut Config, ListenAddr)),
    /// An IP address.
    Ip(fn(&mut Config, IpAddr)),
    /// `address/prefix`, or an address alone.
    Network(fn(&mut Config, Network)),
}

/// A word that a value may be, and what it does.
pub(crate) type Word = (&'static str, fn(&mut Config));

/// The value had another form than the key takes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrongForm;

impl Kind {
    /// Reads `text` and sets what it says. `name` is the free word of the key, or empty.
    pub(crate) fn set(&self, config: &mut Config, name: &str, text: &str) -> Result<(), WrongForm> {
        match *self {
            Self::Flag(set) => set(config, flag(text)?),
            Self::NamedFlag(set) => set(config, name, flag(text)?),
            Self::Int(low, high, _, set) => set(config, whole(text, low, high)?),
            Self::IntOrInfinity(_, _, _, set) if text == "infinity" => set(config, None),
            Self::IntOrInfinity(low, high, _, set) => set(config, Some(whole(text, low, high)?)),
            Self::Bytes(low, high, set) => set(config, within(bytes(text)?, low, high)?),
            Self::FrameBytes(low, high, set) => set(config, within(frame_bytes(text)?, low, high)?),
            Self::Ratio(low, high, set) => set(config, ratio(text, low, high)?),
            Self::Text(set) => set(config, text.to_owned()),
            Self::Path(set) => set(config, PathBuf::from(text)),
            Self::Existing(set) => {
                let path = PathBuf::from(text);
                std::fs::metadata(&path).map_err(|_| WrongForm)?;
                set(config, path);
            }
            Self::Choice(choices) => {
                let (_, set) = choices
                    .iter()
                    .find(|(word, _)| *word == text)
                    .ok_or(WrongForm)?;
                set(config);
            }
            Self::Level(set) => set(config, level(text)?),
            Self::Listen(set) => set(config, listen(text)?),
            Self::Ip(set) => set(config, ip(text)?),
            Self::Network(set) => set(config, network(text)?),
        }
        Ok(())
    }

    /// The form in words, to be read after "expected".
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Flag(_) | Self::NamedFlag(_) => "`true` or `false`".to_owned(),
            Self::Int(low, high, what, _) => format!("{what}, {}", range(low, high)),
            Self::IntOrInfinity(low, high, what, _) => {
                format!("{what}, {}, or `infinity`", range(low, high))
            }
            Self::Bytes(low, high, _) => {
                format!(
                    "bytes, {}, with `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB` or no unit",
                    range(low, high)
                )
            }
            Self::FrameBytes(low, high, _) => {
                format!(
                    "bytes, {}, with `KB` (1024), `MB`, `GB` or no unit",
                    range(low, high)
                )
            }
            Self::Ratio(low, high, _) => format!("a number from {low} to {high}"),
            Self::Text(_) => "text".to_owned(),
            Self::Path(_) => "a path".to_owned(),
            Self::Existing(_) => "the path of a file that can be read".to_owned(),
            Self::Choice(choices) => {
                let words: Vec<_> = choices
                    .iter()
                    .map(|(word, _)| format!("`{word}`"))
                    .collect();
                one_of(&words)
            }
            Self::Level(_) => one_of(
                &LEVELS
                    .iter()
                    .map(|(word, _)| format!("`{word}`"))
                    .collect::<Vec<_>>(),
            ),
            Self::Listen(_) => "`port` or `address:port`".to_owned(),
            Self::Ip(_) => "an IP address".to_owned(),
            Self::Network(_) => "an IP network as `address/prefix`".to_owned(),
        }
    }
}

const LEVELS: [(&str, LogLevel); 9] = [
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("notice", LogLevel::Notice),
    ("warning", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("critical", LogLevel::Critical),
    ("alert", LogLevel::Alert),
    ("emergency", LogLevel::Emergency),
    ("none", LogLevel::None),
];

fn range(low: &u64, high: &u64) -> String {
    match *high {
        u64::MAX => format!("at least {low}"),
        high => format!("from {low} to {high}"),
    }
}

fn one_of(words: &[String]) -> String {
    match words {
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => "nothing".to_owned(),
    }
}

fn flag(text: &str) -> Result<bool, WrongForm> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err(WrongForm),
    }
}

fn within(value: u64, low: u64, high: u64) -> Result<u64, WrongForm> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(WrongForm)
    }
}

fn digits(text: &str) -> Result<u64, WrongForm> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().map_err(|_| WrongForm),
        false => Err(WrongForm),
    }
}

fn whole(text: &str, low: u64, high: u64) -> Result<u64, WrongForm> {
    within(digits(text)?, low, high)
}

fn ratio(text: &str, low: f64, high: f64) -> Result<f64, WrongForm> {
    // "inf" and "nan" are numbers to the standard library, and none to us.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(value) if plain && (low..=high).contains(&value) => Ok(value),
        _ => Err(WrongForm),
    }
}

fn with_unit(text: &str) -> Result<(u64, &str), WrongForm> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Ok((digits(number)?, unit))
}

/// RabbitMQ's `parse_information_unit`.
fn bytes(text: &str) -> Result<u64, WrongForm> {
    let (number, unit) = with_unit(text)?;
    let factor = match unit {
        "" => 1,
        "k" | "K" | "kiB" | "KiB" | "kib" | "KIB" => 1 << 10,
        "m" | "M" | "MiB" | "mib" | "MIB" => 1 << 20,
        "g" | "G" | "GiB" | "gib" | "GIB" => 1 << 30,
        "kB" | "KB" | "kb" | "Kb" => 1_000,
        "MB" | "mb" | "Mb" => 1_000_000,
        "GB" | "gb" | "Gb" => 1_000_000_000,
        _ => return Err(WrongForm),
    };
    number.checked_mul(factor).ok_or(WrongForm)
}

/// Cuttlefish's `bytesize`.
fn frame_bytes(text: &str) -> Result<u64, WrongForm> {
    let (number, unit) = with_unit(text)?;
    let factor = match unit {
        "" => 1,
        "KB" | "kb" => 1 << 10,
        "MB" | "mb" => 1 << 20,
        "GB" | "gb" => 1 << 30,
        _ => return Err(WrongForm),
    };
    number.checked_mul(factor).ok_or(WrongForm)
}

fn level(text: &str) -> Result<LogLevel, WrongForm> {
    LEVELS
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, level)| *level)
        .ok_or(WrongForm)
}

fn ip(text: &str) -> Result<IpAddr, WrongForm> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().map_err(|_| WrongForm)
}

fn listen(text: &str) -> Result<ListenAddr, WrongForm> {
    let (host, port) = match text.rsplit_once(':') {
        None => (ListenHost::All, text),
        Some((host, port)) => match ip(host) {
            Ok(address) => (ListenHost::Ip(address), port),
            Err(WrongForm) => (ListenHost::Name(host_name(host)?), port),
        },
    };
    let port = whole(port, 0, u64::from(u16::MAX))?;
    Ok(ListenAddr {
        host,
        port: u16::try_from(port).map_err(|_| WrongForm)?,
    })
}

fn host_name(text: &str) -> Result<String, WrongForm> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    // A name of digits and dots alone is an address that is wrong.
    let named = text.chars().any(|c| c.is_ascii_alphabetic());
    match named && text.len() <= 253 && text.chars().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err(WrongForm),
    }
}

fn network(text: &str) -> Result<Network, WrongForm> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (ip(address)?, Some(prefix)),
        None => (ip(text)?, None),
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(width), |prefix| whole(prefix, 0, width))?;
    Ok(Network {
        address,
        prefix: u8::try_from(prefix).map_err(|_| WrongForm)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_units_are_rabbitmqs() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("2k", 2048),
            ("2kB", 2000),
            ("2KiB", 2048),
            ("3M", 3 << 20),
            ("3MB", 3_000_000),
            ("3MiB", 3 << 20),
            ("4GB", 4_000_000_000),
            ("4gib", 4 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "MB",
            "1.5GB",
            "1 GB",
            "1TB",
            "-1",
            "+1",
            "99999999999GiB",
            "0x10",
        ] {
            assert_eq!(bytes(text), Err(WrongForm), "{text}");
        }
    }

    #[test]
    fn frame_units_are_cuttlefishs() {
        assert_eq!(frame_bytes("128KB"), Ok(131_072));
        assert_eq!(frame_bytes("1mb"), Ok(1 << 20));
        assert_eq!(frame_bytes("1MiB"), Err(WrongForm));
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio("0.4", 0.0, 1.0), Ok(0.4));
        assert_eq!(ratio(".5", 0.0, 1.0), Ok(0.5));
        for text in ["inf", "nan", "-0.1", "1.1", "1e-1", "", "."] {
            assert_eq!(ratio(text, 0.0, 1.0), Err(WrongForm), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        let shown = |text| listen(text).map(|addr| addr.to_string());
        for text in [
            "5672",
            "127.0.0.1:5672",
            "[::1]:5672",
            "localhost:5672",
            "0.0.0.0:0",
        ] {
            assert_eq!(shown(text), Ok(text.to_owned()));
        }
        assert_eq!(shown("::1:5672"), Ok("[::1]:5672".to_owned()));
        assert_eq!(shown(":::5672"), Ok("[::]:5672".to_owned()));
        for text in [
            "",
            "65536",
            "127.0.0.1",
            "127.0.0.1:",
            "1.2.3:5672",
            ":5672",
            "a b:1",
            "x",
        ] {
            assert_eq!(listen(text), Err(WrongForm), "{text}");
        }
    }

    #[test]
    fn networks() {
        let inside = |net, address: &str| network(net).unwrap().contains(address.parse().unwrap());
        assert!(inside("10.0.0.0/8", "10.255.0.1"));
        assert!(inside("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(!inside("10.0.0.0/8", "a00::1"));
        assert!(inside("192.0.2.7", "192.0.2.7"));
        assert!(!inside("192.0.2.7", "192.0.2.6"));
        assert!(inside("0.0.0.0/0", "203.0.113.9"));
        assert!(!inside("0.0.0.0/0", "2001:db8::1"));
        assert!(inside("::/0", "2001:db8::1"));
        assert!(inside("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!inside("2001:db8::/32", "2001:db9::1"));
        for text in ["10.0.0.0/33", "::/129", "10.0.0/8", "host/8", "10.0.0.0/"] {
            assert_eq!(network(text), Err(WrongForm), "{text}");
        }
    }
}
