//! What client and node say to each other: one line of JSON each way, then the node closes the connection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// Longest request in bytes, line end included: definitions are in it as a whole.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Longest reply in bytes that the client reads.
pub const REPLY_BYTES_MAX: usize = 1 << 30;

/// Exit codes of rabbitmqctl (sysexits.h).
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// An argument names or holds something that is not right.
    pub const DATA_ERROR: u8 = 65;
    /// No such user.
    pub const NO_USER: u8 = 67;
    /// The node cannot be reached, or it refused.
    pub const UNAVAILABLE: u8 = 69;
    /// Something went wrong.
    pub const SOFTWARE: u8 = 70;
    /// A file cannot be written.
    pub const CANNOT_CREATE: u8 = 73;
    /// Not in time.
    pub const TEMPORARY: u8 = 75;
}

/// What the client wants.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// The verb.
    pub verb: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The switches of the verb, by their long names; `true` for those without a value.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl std::fmt::Debug for Request {
    /// Without the arguments: a password may be among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({})", self.verb)
    }
}

impl Request {
    /// An argument by its position.
    pub fn arg(&self, at: usize) -> Option<&str> {
        self.args.get(at).map(String::as_str)
    }

    /// The value of a switch.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Whether a switch without a value is given.
    pub fn flag(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// The virtual host: `/` if none is named.
    pub fn vhost(&self) -> &str {
        self.option("vhost").unwrap_or("/")
    }
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub v: u32,
    /// The node's name.
    pub node: String,
    /// The answer.
    #[serde(flatten)]
    pub result: Answer,
}

/// Done, or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done, with this to show.
    Ok(Output),
    /// Refused.
    Error(Failure),
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// Nothing.
    Done,
    /// A text.
    Message(String),
    /// A text that is a value; other formatters than the table put it in an object with the node.
    Value(String),
    /// A report: text for people, and the same as an object.
    Report {
        /// For people.
        text: String,
        /// For programs.
        value: Value,
    },
    /// A table. Cells are scalars, lists of strings, or [`cell`]s.
    Rows {
        /// The names of the columns.
        columns: Vec<String>,
        /// The rows, each as wide as `columns`.
        rows: Vec<Vec<Value>>,
    },
}

/// A cell that looks different in a table (`text`) and in JSON (`value`).
pub fn cell(text: impl Into<String>, value: Value) -> Value {
    serde_json::json!({"text": text.into(), "value": value})
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is written to standard error.
    pub text: String,
    /// The same for programs: written instead where JSON is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

impl Failure {
    /// A failure with rabbitmqctl's `Error:` above it.
    pub fn new(code: u8, text: impl AsRef<str>) -> Failure {
        Failure {
            code,
            text: format!("Error:\n{}", text.as_ref()),
            value: None,
        }
    }

    /// A failure in these words.
    pub fn plain(code: u8, text: impl Into<String>) -> Failure {
        Failure {
            code,
            text: text.into(),
            value: None,
        }
    }

    /// The same, with what programs read.
    pub fn with_value(self, value: Value) -> Failure {
        let value = Some(value);
        Failure { value, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_of_a_request_holds_no_argument() {
        let request = Request {
            verb: "add_user".into(),
            args: vec!["ann".into(), "secret".into()],
            ..Request::default()
        };
        assert_eq!(format!("{request:?}"), "Request(add_user)");
    }

    #[test]
    fn replies_are_one_line() {
        let reply = Reply {
            v: VERSION,
            node: "leveret@h".into(),
            result: Answer::Error(Failure::new(exit::NO_USER, "two\nlines")),
        };
        let line = serde_json::to_string(&reply).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
    }
}
