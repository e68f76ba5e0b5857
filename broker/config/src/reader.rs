//! The syntax of `rabbitmq.conf`: text in, lines out. No files and no meaning of keys.
//!
//! The form is Cuttlefish's, as RabbitMQ 3.10 reads it:
//!
//! ```text
//! line    := setting | "include" path | "#" comment | nothing
//! setting := key "=" value [ "#" comment ]
//! key     := word { "." word }       a word is letters, digits, "_", "-" and "\." for a dot in it
//! value   := everything up to a "#" or the end of the line, without the spaces around it
//! ```
//!
//! A value in single quotes, as RabbitMQ 3.13 reads it, may hold `#` and outer spaces, and may be empty.
//! Escapes, continued lines and environment variables do not exist in the format.

/// A line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// What it says.
    pub item: Item,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A key, as its words, and its value as text.
    Setting(Key, String),
    /// A path, its last part perhaps a pattern with `*`.
    Include(String),
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A key, as its words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Vec<String>);

impl Key {
    /// Reads a key that stands alone.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, rest) = take_key(text)?;
        rest.is_empty().then_some(key)
    }

    /// The words, at least one, none of them empty.
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, word) in self.0.iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            write!(f, "{dot}{}", word.replace('.', "\\."))?;
        }
        Ok(())
    }
}

/// Reads a file's text: its lines in order, and every line that is wrong.
pub fn read(text: &str) -> (Vec<Line>, Vec<SyntaxError>) {
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        match read_line(line.strip_suffix('\r').unwrap_or(line)) {
            Ok(Some(item)) => lines.push(Line { number, item }),
            Ok(None) => {}
            Err(reason) => errors.push(SyntaxError {
                line: number,
                reason,
            }),
        }
    }
    (lines, errors)
}

fn read_line(line: &str) -> Result<Option<Item>, &'static str> {
    let line = line.trim_matches(BLANK);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if let Some((key, rest)) = take_key(line)
        && let Some(value) = rest.trim_start_matches(BLANK).strip_prefix('=')
    {
        return Ok(Some(Item::Setting(key, read_value(value)?)));
    }
    match line.strip_prefix("include") {
        Some(path) if path.starts_with(BLANK) => read_include(path).map(Some),
        _ => Err("expected `key = value`, `include path` or a `#` comment"),
    }
}

/// Spaces and tabs; nothing else separates.
const BLANK: [char; 2] = [' ', '\t'];

fn take_key(text: &str) -> Option<(Key, &str)> {
    let mut words = vec![String::new()];
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        match chars.next() {
            Some(c) if c.is_ascii_alphanumeric() || c == '_' || c == '-' => {
                words.last_mut()?.push(c);
            }
            Some('\\') if chars.next() == Some('.') => words.last_mut()?.push('.'),
            Some('.') => words.push(String::new()),
            _ => break,
        }
        rest = chars.as_str();
    }
    words
        .iter()
        .all(|word| !word.is_empty())
        .then_some((Key(words), rest))
}

fn read_value(text: &str) -> Result<String, &'static str> {
    let text = text.trim_start_matches(BLANK);
    if let Some((quoted, after)) = text
        .strip_prefix('\'')
        .and_then(|rest| rest.split_once('\''))
    {
        let after = after.trim_start_matches(BLANK);
        return match after.is_empty() || after.starts_with('#') {
            true => Ok(quoted.to_owned()),
            false => Err("text after the closing quote of the value"),
        };
    }
    match without_comment(text) {
        "" => Err("no value: write the value after `=`, or leave the line out"),
        value => Ok(value.to_owned()),
    }
}

fn read_include(text: &str) -> Result<Item, &'static str> {
    let path = without_comment(text).trim_start_matches(BLANK);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.*/".contains(c);
    match !path.is_empty() && path.chars().all(allowed) {
        true => Ok(Item::Include(path.to_owned())),
        false => Err("a path to include has letters, digits, `-`, `_`, `.`, `*` and `/` only"),
    }
}

fn without_comment(text: &str) -> &str {
    let end = text.find('#').unwrap_or(text.len());
    text.get(..end).unwrap_or_default().trim_end_matches(BLANK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(text: &str) -> Vec<(usize, String, String)> {
        let (lines, errors) = read(text);
        assert_eq!(errors, []);
        let setting = |line: Line| match line.item {
            Item::Setting(key, value) => (line.number, key.to_string(), value),
            Item::Include(path) => (line.number, "include".to_owned(), path),
        };
        lines.into_iter().map(setting).collect()
    }

    fn one(text: &str) -> String {
        let mut all = settings(text);
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0).2
    }

    #[test]
    fn lines_of_every_kind() {
        let text = "# a comment\n\n \t \nheartbeat = 30\r\n  listeners.tcp.1=127.0.0.1:5672 # here\n\
                    include conf.d/*.conf # more\n\tlog.file = /var/log/a b.log\t \n";
        assert_eq!(
            settings(text),
            [
                (4, "heartbeat".to_owned(), "30".to_owned()),
                (5, "listeners.tcp.1".to_owned(), "127.0.0.1:5672".to_owned()),
                (6, "include".to_owned(), "conf.d/*.conf".to_owned()),
                (7, "log.file".to_owned(), "/var/log/a b.log".to_owned()),
            ]
        );
    }

    #[test]
    fn a_hash_ends_a_value_even_inside_a_word() {
        assert_eq!(one("default_pass = pass#word"), "pass");
        assert_eq!(
            one("default_pass = 'pass#word' # and a comment"),
            "pass#word"
        );
    }

    #[test]
    fn quotes() {
        assert_eq!(one("k = '  spaces  '"), "  spaces  ");
        assert_eq!(one("k = ''"), "");
        assert_eq!(one("k = 'no closing quote"), "'no closing quote");
        assert_eq!(one("k = \"double\""), "\"double\"");
        assert_eq!(one("k = it's"), "it's");
        assert_eq!(read("k = 'a'b").1.len(), 1);
    }

    #[test]
    fn keys_with_dots_in_their_words() {
        let (lines, _) = read("loopback_users.my\\.user = true");
        let Some(Line {
            item: Item::Setting(key, _),
            ..
        }) = lines.first()
        else {
            panic!("not a setting: {lines:?}");
        };
        assert_eq!(key.words(), ["loopback_users", "my.user"]);
        assert_eq!(key.to_string(), "loopback_users.my\\.user");
        assert_eq!(one("include.this = 1"), "1");
    }

    #[test]
    fn each_wrong_line_is_told_with_its_number() {
        let text = "ok = 1\nnothing\nkey =\n= value\na..b = 1\n{rabbit, []}.\nk = # only\ninclude a b\nkey\\x = 1";
        let lines: Vec<usize> = read(text).1.iter().map(|e| e.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*|[a-z.='# \t\r\n\\\\]*") {
            let (lines, errors) = read(&text);
            prop_assert!(lines.len() + errors.len() <= text.split('\n').count());
        }

        #[test]
        fn what_is_written_quoted_is_read_back(
            words in prop::collection::vec("[A-Za-z0-9_.-]{1,8}", 1..4),
            value in "[^'\n\r]{0,20}",
        ) {
            let key = Key(words);
            let (lines, errors) = read(&format!("{key}='{value}'"));
            prop_assert_eq!(errors, vec![]);
            prop_assert_eq!(lines, vec![Line { number: 1, item: Item::Setting(key, value) }]);
        }
    }
}
