//! Every key that a configuration may have: the one table behind reading, errors and documentation.
//!
//! `docs/configuration.md` is generated from it (and compared with it by a test), so a key cannot be
//! read without being documented. The names are those of RabbitMQ 3.10 to 3.13, and Leveret's own.

mod accepted;
mod access;
mod cluster;
mod limits;
mod log;
mod net;
mod own;

use crate::config::Config;
use crate::kind::Kind;
use crate::reader::Key;

/// What is known of a key.
pub struct KeySpec {
    /// Its words; `$name` stands for any one word, a last `**` for one word or more.
    pub name: &'static str,
    /// The default as it would be written; empty when nothing would be.
    pub default: &'static str,
    /// Whether it does anything.
    pub effect: Effect,
    /// One line: what it means, or, of one without effect, why it has none.
    pub meaning: &'static str,
    /// How its value is read and where it goes.
    pub(crate) kind: Kind,
    /// For keys that make a list: how the default list is emptied before the first of them.
    pub(crate) reset: Option<fn(&mut Config)>,
}

/// Whether a key does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does what it says.
    Used,
    /// It is read, checked and logged, and changes nothing.
    NoEffect,
}

impl KeySpec {
    const fn used(
        name: &'static str,
        default: &'static str,
        kind: Kind,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            effect: Effect::Used,
            meaning,
            kind,
            reset: None,
        }
    }

    const fn list(
        name: &'static str,
        default: &'static str,
        (reset, kind): (fn(&mut Config), Kind),
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            effect: Effect::Used,
            meaning,
            kind,
            reset: Some(reset),
        }
    }

    const fn accepted(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self {
            name,
            default: "",
            effect: Effect::NoEffect,
            meaning,
            kind,
            reset: None,
        }
    }

    /// The form of its value, in words.
    pub fn form(&self) -> String {
        self.kind.expected()
    }

    /// How literally the words match, to be compared; `None` when `key` is another one.
    fn rank(&self, key: &Key) -> Option<Vec<Match>> {
        let mut rank = Vec::new();
        let mut words = key.words().iter();
        for pattern in self.name.split('.') {
            let word = words.next()?;
            match pattern {
                "**" => {
                    rank.push(Match::Rest);
                    return Some(rank);
                }
                _ if pattern.starts_with('$') => rank.push(Match::Free),
                _ if pattern == word => rank.push(Match::Literal),
                _ => return None,
            }
        }
        words.next().is_none().then_some(rank)
    }

    /// The word of `key` where the table has `$name`; empty when there is none.
    pub(crate) fn free_word<'k>(&self, key: &'k Key) -> &'k str {
        let place = self.name.split('.').position(|word| word.starts_with('$'));
        place
            .and_then(|place| key.words().get(place))
            .map_or("", String::as_str)
    }
}

/// How a word of a key is matched; the later the better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Rest,
    Free,
    Literal,
}

/// The sections of the table, as (title, keys), in the order of the documentation. Within a section,
/// settings take effect in the order of the table, whatever their order in the file.
pub fn sections() -> [(&'static str, &'static [KeySpec]); 8] {
    [
        ("Listeners and sockets", net::KEYS),
        ("TLS", net::TLS_KEYS),
        ("Users and access", access::KEYS),
        ("Limits and alarms", limits::KEYS),
        ("Log", log::KEYS),
        ("Leveret's own", own::KEYS),
        ("Cluster, HTTP API and metrics", cluster::KEYS),
        ("Accepted from RabbitMQ, without effect", accepted::KEYS),
    ]
}

/// All keys, in the order in which they take effect.
pub(crate) fn all() -> impl Iterator<Item = &'static KeySpec> {
    sections().into_iter().flat_map(|(_, keys)| keys)
}

/// The most literal match for `key`, with its place in [`all`].
pub(crate) fn find(key: &Key) -> Option<(usize, &'static KeySpec)> {
    let ranked = |(place, spec): (usize, &'static KeySpec)| Some((spec.rank(key)?, place, spec));
    let best = all()
        .enumerate()
        .filter_map(ranked)
        .max_by(|(a, ..), (b, ..)| a.cmp(b));
    best.map(|(_, place, spec)| (place, spec))
}

/// A key of the table that `key` may have been meant to be.
pub(crate) fn similar(key: &Key) -> Option<String> {
    let wrong = key.to_string();
    let allowed = (wrong.len() / 4).max(2);
    let distances = all().filter(|spec| !spec.name.ends_with("**")).map(|spec| {
        let right = with_words_of(spec.name, key);
        (distance(&wrong, &right, allowed), right)
    });
    distances
        .filter(|(far, _)| *far <= allowed)
        .min_by_key(|(far, _)| *far)
        .map(|(_, right)| right)
}

/// `name` with the words of `key` at the places of its free ones.
fn with_words_of(name: &str, key: &Key) -> String {
    let mut words = key.words().iter();
    let filled = name.split('.').map(|pattern| match words.next() {
        Some(word) if pattern.starts_with('$') => word.replace('.', "\\."),
        _ => pattern.to_owned(),
    });
    filled.collect::<Vec<_>>().join(".")
}

/// Levenshtein distance in bytes; `limit + 1` when the lengths alone differ by more than `limit`.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    // One row of the matrix, its first column apart: row[j] is the distance to j + 1 bytes of `b`.
    let mut row: Vec<usize> = (1..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, to) in row.iter_mut().zip(b.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests;
