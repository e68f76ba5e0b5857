//! Command line flags: `--name value`, `--name=value`, or a bare `--name` for a switch.
//!
//! A subcommand takes the flags it knows one by one; [`Flags::finish`] refuses what is left, so a
//! misspelt flag never runs a different benchmark than the one that was meant.

use crate::error::{Error, Result};

/// Arguments not taken yet.
#[derive(Debug, Clone)]
pub struct Flags {
    rest: Vec<String>,
}

impl Flags {
    /// Takes the arguments after the subcommand.
    pub fn new(args: impl IntoIterator<Item = String>) -> Self {
        Flags {
            rest: args.into_iter().collect(),
        }
    }

    /// Splits a line of a scenario file at blanks; `"…"` keeps blanks together.
    pub fn from_line(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                c if c.is_whitespace() && !quoted => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    /// True if the bare `--name` is there.
    pub fn switch(&mut self, name: &str) -> bool {
        let flag = format!("--{name}");
        let before = self.rest.len();
        self.rest.retain(|a| *a != flag);
        self.rest.len() < before
    }

    /// The value of `--name`, if given; the last one counts.
    ///
    /// # Errors
    /// The flag stands at the end without its value.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.all(name)?.pop())
    }

    /// Every value of `--name`, in order.
    ///
    /// # Errors
    /// As [`Flags::text`].
    pub fn all(&mut self, name: &str) -> Result<Vec<String>> {
        let flag = format!("--{name}");
        let joined = format!("--{name}=");
        let mut values = Vec::new();
        let mut kept = Vec::new();
        let mut args = std::mem::take(&mut self.rest).into_iter();
        while let Some(arg) = args.next() {
            if arg == flag {
                let value = args.next();
                values.push(value.ok_or_else(|| Error::Usage(format!("{flag} needs a value")))?);
            } else if let Some(value) = arg.strip_prefix(&joined) {
                values.push(value.to_owned());
            } else {
                kept.push(arg);
            }
        }
        self.rest = kept;
        Ok(values)
    }

    /// A whole number with an optional suffix (see [`parse_count`]), or `default`.
    ///
    /// # Errors
    /// The value is no such number.
    pub fn count(&mut self, name: &str, default: u64) -> Result<u64> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => parse_count(&text)
                .ok_or_else(|| Error::Usage(format!("--{name}: {text:?} is not a number"))),
        }
    }

    /// A number of seconds, fractions allowed, or `default`.
    ///
    /// # Errors
    /// The value is negative or no number.
    pub fn seconds(&mut self, name: &str, default: f64) -> Result<f64> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => match text.trim_end_matches('s').parse::<f64>() {
                Ok(s) if s.is_finite() && s >= 0.0 => Ok(s),
                _ => Err(Error::Usage(format!(
                    "--{name}: {text:?} is not a number of seconds"
                ))),
            },
        }
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// Some argument is left over.
    pub fn finish(self) -> Result<()> {
        match self.rest.first() {
            None => Ok(()),
            Some(left) => Err(Error::Usage(format!(
                "unknown or repeated argument {left:?}"
            ))),
        }
    }
}

/// A whole number; `k`, `M`, `G` multiply by powers of 1000, `Ki`, `Mi`, `Gi` of 1024.
pub fn parse_count(text: &str) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let factor: u64 = match suffix.trim_end_matches('B') {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits
        .replace('_', "")
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Flags {
        Flags::new(Flags::from_line(line))
    }

    #[test]
    fn takes_both_forms_and_refuses_the_rest() {
        let mut f = flags("--size 16 --durable --rate=5k --queue-arg a=b --queue-arg c=d");
        assert_eq!(f.count("size", 1).unwrap(), 16);
        assert_eq!(f.count("rate", 1).unwrap(), 5000);
        assert_eq!(f.count("absent", 7).unwrap(), 7);
        assert!(f.switch("durable") && !f.switch("persistent"));
        assert_eq!(f.all("queue-arg").unwrap(), ["a=b", "c=d"]);
        f.finish().unwrap();
        assert!(flags("--sise 16").finish().is_err());
        assert!(flags("--size").count("size", 1).is_err());
        assert!(flags("--size x").count("size", 1).is_err());
    }

    #[test]
    fn counts() {
        assert_eq!(parse_count("10M"), Some(10_000_000));
        assert_eq!(parse_count("16MiB"), Some(16 << 20));
        assert_eq!(parse_count("1_000"), Some(1000));
        for bad in [
            "",
            "k",
            "-1",
            "1x",
            "99999999999999999999",
            "18446744073709551615k",
        ] {
            assert_eq!(parse_count(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_split_at_blanks_outside_quotes() {
        assert_eq!(Flags::from_line("  a \"b c\"  d\"\" "), ["a", "b c", "d"]);
    }
}
