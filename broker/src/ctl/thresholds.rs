//! The arguments of `set_vm_memory_high_watermark` and `set_disk_free_limit`.

use leveret_config::Limit;

use super::protocol::{Failure, Request, exit};

/// What an alarm begins at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Memory above this.
    Memory(Limit),
    /// Free disk space below this.
    Disk(Limit),
}

/// Reads the threshold of a request; `None` if the verb is another.
pub fn read(request: &Request) -> Option<Result<Threshold, Failure>> {
    Some(match request.verb.as_str() {
        "set_vm_memory_high_watermark" => memory(request).map(Threshold::Memory),
        "set_disk_free_limit" => disk(request).map(Threshold::Disk),
        _ => return None,
    })
}

fn bad(why: &str) -> Failure {
    Failure::plain(exit::DATA_ERROR, format!("Bad argument{why}"))
}

fn few() -> Failure {
    Failure::plain(exit::USAGE, "not enough arguments.")
}

fn many() -> Failure {
    Failure::plain(exit::USAGE, "too many arguments.")
}

fn memory(request: &Request) -> Result<Limit, Failure> {
    match (request.arg(0), request.arg(1)) {
        (Some("absolute"), Some(value)) => {
            let bytes = bytes(value).ok_or_else(|| bad(": Invalid units."))?;
            Ok(Limit::Absolute(bytes))
        }
        (Some("absolute") | None, None) => Err(few()),
        (Some(fraction), None) => match fraction.parse::<f64>() {
            Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(Limit::Relative(fraction)),
            Ok(_) => Err(bad(
                ": The threshold should be a fraction between 0.0 and 1.0",
            )),
            Err(_) => Err(bad(".")),
        },
        _ => Err(many()),
    }
}

fn disk(request: &Request) -> Result<Limit, Failure> {
    match (request.arg(0), request.arg(1)) {
        (Some("mem_relative"), Some(factor)) => match factor.parse::<f64>() {
            Ok(factor) if factor >= 0.0 => Ok(Limit::Relative(factor)),
            _ => Err(bad(".")),
        },
        (Some("mem_relative") | None, None) => Err(few()),
        (Some(value), None) => Ok(Limit::Absolute(bytes(value).ok_or_else(|| bad("."))?)),
        _ => Err(many()),
    }
}

/// A number of bytes with one of RabbitMQ's units.
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor: u64 = match unit.trim() {
        "" => 1,
        "k" | "K" | "kiB" | "KiB" | "kib" | "KIB" => 1 << 10,
        "m" | "M" | "MiB" | "mib" | "MIB" => 1 << 20,
        "g" | "G" | "GiB" | "gib" | "GIB" => 1 << 30,
        "kB" | "KB" | "kb" | "Kb" => 1_000,
        "MB" | "mb" | "Mb" => 1_000_000,
        "GB" | "gb" | "Gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Threshold, Failure> {
        let mut words = line.split(' ').map(str::to_owned);
        let request = Request {
            verb: words.next().unwrap_or_default(),
            args: words.collect(),
            ..Request::default()
        };
        read(&request).expect("a verb with a threshold")
    }

    #[test]
    fn what_rabbitmqctl_takes() {
        for (line, threshold) in [
            (
                "set_vm_memory_high_watermark 0.5",
                Threshold::Memory(Limit::Relative(0.5)),
            ),
            (
                "set_vm_memory_high_watermark absolute 2GB",
                Threshold::Memory(Limit::Absolute(2_000_000_000)),
            ),
            (
                "set_vm_memory_high_watermark absolute 1MiB",
                Threshold::Memory(Limit::Absolute(1 << 20)),
            ),
            (
                "set_disk_free_limit 1000",
                Threshold::Disk(Limit::Absolute(1000)),
            ),
            (
                "set_disk_free_limit 50MB",
                Threshold::Disk(Limit::Absolute(50_000_000)),
            ),
            (
                "set_disk_free_limit mem_relative 1.5",
                Threshold::Disk(Limit::Relative(1.5)),
            ),
        ] {
            assert_eq!(of(line), Ok(threshold), "{line}");
        }
    }

    #[test]
    fn what_it_does_not() {
        for (line, code, text) in [
            (
                "set_vm_memory_high_watermark absolute 2XB",
                65,
                "Bad argument: Invalid units.",
            ),
            (
                "set_vm_memory_high_watermark absolute",
                64,
                "not enough arguments.",
            ),
            ("set_vm_memory_high_watermark bogus", 65, "Bad argument."),
            (
                "set_vm_memory_high_watermark 2.0",
                65,
                "Bad argument: The threshold should be a fraction between 0.0 and 1.0",
            ),
            (
                "set_vm_memory_high_watermark NaN",
                65,
                "Bad argument: The threshold should be a fraction between 0.0 and 1.0",
            ),
            ("set_disk_free_limit bogus", 65, "Bad argument."),
            ("set_disk_free_limit mem_relative NaN", 65, "Bad argument."),
            ("set_disk_free_limit 99999999999GB", 65, "Bad argument."),
            ("set_disk_free_limit 1 2", 64, "too many arguments."),
        ] {
            assert_eq!(of(line), Err(Failure::plain(code, text)), "{line}");
        }
    }
}
