//! The verbs: how each is called. What is said before a result is in `banner`, what lists can show in `columns`.

mod diagnostics;
mod operations;
mod table;

use super::args::Switch;

/// A verb.
#[derive(Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What follows the name in its usage line.
    pub usage: &'static str,
    /// Fewest arguments.
    pub args_min: usize,
    /// Most arguments.
    pub args_max: usize,
    /// Switches beside the global ones.
    pub switches: &'static [Switch],
    /// One line of help.
    pub about: &'static str,
}

impl Verb {
    /// Whether an argument is a password: then the arguments are not repeated in messages.
    pub fn is_secret(&self) -> bool {
        PASSWORD_VERBS.contains(&self.name)
    }

    /// Whether a password that is not among the arguments is read from standard input.
    pub fn takes_password(&self, args: usize) -> bool {
        self.is_secret() && args + 1 == self.args_max
    }
}

/// Verbs whose last argument is a password.
pub(super) const PASSWORD_VERBS: &[&str] = &[
    "add_user",
    "change_password",
    "authenticate_user",
    "hash_password",
];

const fn verb(
    name: &'static str,
    usage: &'static str,
    args: (usize, usize),
    about: &'static str,
) -> Verb {
    Verb {
        name,
        usage,
        args_min: args.0,
        args_max: args.1,
        switches: &[],
        about,
    }
}

const fn with(verb: Verb, switches: &'static [Switch]) -> Verb {
    Verb { switches, ..verb }
}

/// As many arguments as there are.
const ANY: usize = usize::MAX;

/// All verbs, in the order of the help.
pub fn all() -> impl Iterator<Item = &'static Verb> {
    let tables = [table::VERBS, operations::VERBS, diagnostics::VERBS];
    tables.into_iter().flatten()
}

/// The verb of this name.
pub fn find(name: &str) -> Option<&'static Verb> {
    all().find(|verb| verb.name == name)
}

/// The verb, of those for which `has` holds, that somebody who wrote `name` most likely meant.
pub fn nearest(name: &str, has: impl Fn(&str) -> bool) -> Option<&'static str> {
    all()
        .filter(|verb| has(verb.name))
        .map(|verb| (distance(name, verb.name), verb.name))
        .min()
        .filter(|(distance, nearest)| distance * 4 <= nearest.len())
        .map(|(_, nearest)| nearest)
}

/// Letters to put in, leave out or change to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there_once() {
        for (at, verb) in all().enumerate() {
            assert!(
                all().skip(at + 1).all(|v| v.name != verb.name),
                "{}",
                verb.name
            );
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(nearest("list_userz", |_| true), Some("list_users"));
        assert_eq!(nearest("list_userz", |name| name == "ping"), None);
        assert_eq!(nearest("add_vhots", |_| true), Some("add_vhost"));
        assert_eq!(nearest("bogus_verb", |_| true), None);
    }
}
