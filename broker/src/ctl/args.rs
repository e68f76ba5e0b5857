//! The command line, read as rabbitmqctl reads it: switches anywhere, the first other word is the verb, `--` ends switches.

use std::collections::BTreeMap;

use super::tools::Tool;
use super::verbs::Verb;

/// What a switch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A text.
    Text,
    /// A whole number.
    Integer,
}

/// A switch.
#[derive(Debug, Clone, Copy)]
pub struct Switch {
    /// Its name after `--`.
    pub name: &'static str,
    /// Its letter after `-`.
    pub letter: Option<char>,
    /// What it takes.
    pub takes: Takes,
}

/// A switch with a letter.
pub const fn switch(name: &'static str, letter: Option<char>, takes: Takes) -> Switch {
    Switch {
        name,
        letter,
        takes,
    }
}

/// Switches that every verb has.
const GLOBAL: &[Switch] = &[
    switch("node", Some('n'), Takes::Text),
    switch("quiet", Some('q'), Takes::Nothing),
    switch("silent", Some('s'), Takes::Nothing),
    switch("longnames", Some('l'), Takes::Nothing),
    switch("timeout", Some('t'), Takes::Integer),
    switch("vhost", Some('p'), Takes::Text),
    switch("formatter", None, Takes::Text),
    switch("table-headers", None, Takes::Nothing),
    switch("no-table-headers", None, Takes::Nothing),
    switch("data-dir", None, Takes::Text),
    switch("socket", None, Takes::Text),
    switch("help", Some('h'), Takes::Nothing),
    switch("version", None, Takes::Nothing),
];

/// A command line, taken apart.
#[derive(Debug, Default)]
pub struct Invocation {
    /// The first word that is no switch.
    pub name: Option<String>,
    /// Its entry, if there is such a verb.
    pub verb: Option<&'static Verb>,
    /// The words after it.
    pub args: Vec<String>,
    /// The switches, by name; `true` for those that take nothing.
    pub options: BTreeMap<String, String>,
    /// Switches that are unknown or lack their value, with what was given as value.
    pub invalid: Vec<(String, Option<String>)>,
}

impl Invocation {
    /// Whether a switch is given.
    pub fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// The value of a switch.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn switches(&self) -> impl Iterator<Item = &'static Switch> {
        let own = self.verb.map_or(&[][..], |verb| verb.switches);
        GLOBAL.iter().chain(own)
    }

    fn word(&mut self, tool: Tool, word: String) {
        if self.name.is_some() {
            self.args.push(word);
        } else {
            self.verb = tool.find(&word);
            self.name = Some(word);
        }
    }

    fn take(&mut self, switch: &Switch, shown: &str, value: Option<String>) {
        let fits = match (switch.takes, &value) {
            (Takes::Nothing, None) | (Takes::Text, Some(_)) => true,
            (Takes::Nothing, Some(value)) => value == "true",
            (Takes::Integer, Some(value)) => value.parse::<i64>().is_ok(),
            (_, None) => false,
        };
        if fits {
            let value = value.unwrap_or_else(|| "true".to_owned());
            self.options.insert(switch.name.to_owned(), value);
        } else {
            self.invalid.push((shown.to_owned(), value));
        }
    }
}

/// Whether a word looks like a switch; a lone `-` and negative numbers do not.
fn is_switch(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}

/// Takes a command line of a tool apart. Nothing is refused here: what does not fit is in [`Invocation::invalid`].
pub fn parse(tool: Tool, words: impl IntoIterator<Item = String>) -> Invocation {
    let mut invocation = Invocation::default();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            words.by_ref().for_each(|word| invocation.word(tool, word));
            break;
        }
        if !is_switch(&word) {
            invocation.word(tool, word);
            continue;
        }
        let (shown, mut value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let found = match shown.strip_prefix("--") {
            Some(name) => invocation.switches().find(|s| s.name == name),
            None => {
                let mut letters = shown.chars().skip(1);
                let letter = letters.next().filter(|_| letters.next().is_none());
                let with = |s: &&Switch| letter.is_some() && s.letter == letter;
                invocation.switches().find(with)
            }
        };
        let Some(switch) = found else {
            invocation.invalid.push((shown, value));
            continue;
        };
        if value.is_none() && switch.takes != Takes::Nothing {
            value = words.next_if(|next| !is_switch(next));
        }
        invocation.take(switch, &shown, value);
    }
    invocation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Invocation {
        parse(Tool::Leveret, line.split(' ').map(str::to_owned))
    }

    #[test]
    fn switches_are_anywhere() {
        for line in [
            "-p v1 set_policy --priority 3 name ^a {}",
            "set_policy name -p v1 ^a --priority=3 {}",
            "set_policy name ^a {} --vhost=v1 --priority 3",
        ] {
            let read = read(line);
            assert_eq!(read.name.as_deref(), Some("set_policy"), "{line}");
            assert_eq!(read.args, ["name", "^a", "{}"], "{line}");
            assert_eq!(read.option("vhost"), Some("v1"), "{line}");
            assert_eq!(read.option("priority"), Some("3"), "{line}");
            assert!(read.invalid.is_empty(), "{line}");
        }
    }

    #[test]
    fn what_follows_two_dashes_is_no_switch() {
        let read = read("set_permissions -q -- ann -a --b .*");
        assert!(read.has("quiet"));
        assert_eq!(read.args, ["ann", "-a", "--b", ".*"]);
    }

    #[test]
    fn negative_numbers_and_a_dash_are_words() {
        let read = read("export_definitions - -5");
        assert_eq!(read.args, ["-", "-5"]);
    }

    #[test]
    fn what_does_not_fit_is_noted() {
        let invalid = |line: &str| read(line).invalid;
        let pair = |name: &str, value: Option<&str>| vec![(name.into(), value.map(Into::into))];
        assert_eq!(invalid("list_users --bogus"), pair("--bogus", None));
        assert_eq!(
            invalid("set_policy --priority x"),
            pair("--priority", Some("x"))
        );
        assert_eq!(invalid("list_users --priority 3"), pair("--priority", None));
        assert_eq!(invalid("list_users -qs"), pair("-qs", None));
        assert_eq!(invalid("list_users -p -q"), pair("-p", None));
    }
}
