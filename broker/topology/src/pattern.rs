//! Regular expressions of permissions and policies, compiled once.

use std::fmt;

use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most steps of backtracking for one match. A pattern that needs more for some
/// name does not match that name; the limit counts steps and not time, so all
/// nodes agree.
const BACKTRACK_STEPS_MAX: usize = 100_000;

/// Longest pattern in octets.
const PATTERN_LEN_MAX: usize = 4096;

/// A regular expression in the dialect of Perl, with look-around, searched for
/// anywhere in a name.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    program: Program,
}

#[derive(Clone)]
enum Program {
    /// Matches every name, as `.*` and `` do.
    Everything,
    /// Matches the empty name, as `^$` does.
    Empty,
    Regex(Box<Regex>),
}

/// A pattern that is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// Compiles a pattern; the empty one matches every name.
    ///
    /// # Errors
    /// When it is no regular expression or longer than 4096 octets.
    pub fn new(source: &str) -> Result<Pattern, PatternError> {
        let program = match source {
            "" | ".*" | "^.*" | ".*$" | "^.*$" => Program::Everything,
            "^$" => Program::Empty,
            _ => Program::Regex(Box::new(compile(source)?)),
        };
        Ok(Pattern {
            source: source.into(),
            program,
        })
    }

    /// Compiles a pattern of a permission: the empty one matches the empty name
    /// alone, as in RabbitMQ.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn permission(source: &str) -> Result<Pattern, PatternError> {
        if source.is_empty() {
            return Ok(Pattern {
                source: source.into(),
                program: Program::Empty,
            });
        }
        Pattern::new(source)
    }

    /// Whether the pattern is found in `name`.
    pub fn is_match(&self, name: &str) -> bool {
        match &self.program {
            Program::Everything => true,
            Program::Empty => name.is_empty(),
            Program::Regex(regex) => regex.is_match(name).unwrap_or(false),
        }
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn compile(source: &str) -> Result<Regex, PatternError> {
    if source.len() > PATTERN_LEN_MAX {
        return Err(PatternError(format!(
            "longer than {PATTERN_LEN_MAX} octets"
        )));
    }
    RegexBuilder::new(source)
        .backtrack_limit(BACKTRACK_STEPS_MAX)
        .build()
        .map_err(|error| PatternError(error.to_string()))
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    /// As a policy's pattern; a permission's own types read theirs.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        Pattern::new(&source).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kollas_pattern_spares_fanout_and_reply_queues() {
        let pattern = Pattern::new(r"^(?!(amq\.)|(.*_fanout_)|(reply_)).*").unwrap();
        for name in ["nova", "conductor.host1", "notifications.info", "replying"] {
            assert!(pattern.is_match(name), "{name}");
        }
        for name in ["amq.gen-1", "scheduler_fanout_0a", "reply_0a1b"] {
            assert!(!pattern.is_match(name), "{name}");
        }
    }

    #[test]
    fn patterns_are_not_anchored() {
        let pattern = Pattern::new("ov").unwrap();
        assert!(pattern.is_match("nova"));
        assert!(Pattern::new("").unwrap().is_match("nova"));
    }

    #[test]
    fn an_empty_permission_matches_nothing_but_the_empty_name() {
        let pattern = Pattern::permission("").unwrap();
        assert!(!pattern.is_match("q"));
        assert!(pattern.is_match(""));
        assert_eq!(pattern.source(), "");
    }

    #[test]
    fn endless_backtracking_is_no_match() {
        let pattern = Pattern::new(r"^(?=(a+)+$)(\1b)+$").unwrap();
        assert!(!pattern.is_match(&("a".repeat(60) + "c")));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Pattern::new("(").is_err());
        assert!(Pattern::new(&"a".repeat(PATTERN_LEN_MAX + 1)).is_err());
    }
}
