//! Permissions: regular expressions for the names a user may touch.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pattern::{Pattern, PatternError};

/// What a user may do in a vhost.
#[derive(Debug, Clone, PartialEq)]
pub struct UserPermissions {
    /// Declare and delete.
    pub configure: Pattern,
    /// Publish, and bind to.
    pub write: Pattern,
    /// Consume, get, purge, and bind from.
    pub read: Pattern,
}

impl UserPermissions {
    /// Compiles the three patterns.
    ///
    /// # Errors
    /// The pattern that is none, with the reason.
    pub fn new(
        configure: &str,
        write: &str,
        read: &str,
    ) -> Result<UserPermissions, (String, PatternError)> {
        let compile =
            |source: &str| Pattern::permission(source).map_err(|error| (source.to_owned(), error));
        Ok(UserPermissions {
            configure: compile(configure)?,
            write: compile(write)?,
            read: compile(read)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct UserPermissionsJson {
    configure: String,
    write: String,
    read: String,
}

impl Serialize for UserPermissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        UserPermissionsJson {
            configure: self.configure.source().to_owned(),
            write: self.write.source().to_owned(),
            read: self.read.source().to_owned(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for UserPermissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = UserPermissionsJson::deserialize(deserializer)?;
        UserPermissions::new(&json.configure, &json.write, &json.read)
            .map_err(|(_, error)| serde::de::Error::custom(error))
    }
}

/// What a user may do with the routing keys of one topic exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicPermissions {
    /// Keys to publish with.
    pub write: TopicPattern,
    /// Keys to bind with.
    pub read: TopicPattern,
}

impl TopicPermissions {
    /// Compiles the two patterns.
    ///
    /// # Errors
    /// The pattern that is none, with the reason. A pattern with variables is
    /// checked as it stands.
    pub fn new(write: &str, read: &str) -> Result<TopicPermissions, (String, PatternError)> {
        let compile =
            |source: &str| TopicPattern::new(source).map_err(|error| (source.to_owned(), error));
        Ok(TopicPermissions {
            write: compile(write)?,
            read: compile(read)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct TopicPermissionsJson {
    write: String,
    read: String,
}

impl Serialize for TopicPermissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TopicPermissionsJson {
            write: self.write.source().to_owned(),
            read: self.read.source().to_owned(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TopicPermissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = TopicPermissionsJson::deserialize(deserializer)?;
        TopicPermissions::new(&json.write, &json.read)
            .map_err(|(_, error)| serde::de::Error::custom(error))
    }
}

/// A pattern in which `{name}` stands for a variable of the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicPattern {
    pattern: Pattern,
    has_variables: bool,
}

impl TopicPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it is no regular expression before its variables are filled in.
    pub fn new(source: &str) -> Result<TopicPattern, PatternError> {
        let pattern = Pattern::permission(source)?;
        Ok(TopicPattern {
            pattern,
            has_variables: source.contains('{'),
        })
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &str {
        self.pattern.source()
    }

    /// Whether the routing key matches, with the variables filled in. They are
    /// put in as they are, in the order given, as RabbitMQ does. A pattern that
    /// they break matches nothing.
    pub fn is_match(&self, routing_key: &str, variables: &[(&str, &str)]) -> bool {
        if !self.has_variables {
            return self.pattern.is_match(routing_key);
        }
        let mut source = self.pattern.source().to_owned();
        for (name, value) in variables {
            source = source.replace(&format!("{{{name}}}"), value);
        }
        Pattern::permission(&source).is_ok_and(|pattern| pattern.is_match(routing_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let pattern = TopicPattern::new(r"^{vhost}\.{username}\..*").unwrap();
        let variables = [("username", "bob"), ("vhost", "prod")];
        assert!(pattern.is_match("prod.bob.x", &variables));
        assert!(!pattern.is_match("prod.alice.x", &variables));
    }

    #[test]
    fn repetition_braces_still_work() {
        let pattern = TopicPattern::new("^a{2}$").unwrap();
        assert!(pattern.is_match("aa", &[("username", "bob")]));
        assert!(!pattern.is_match("a", &[]));
    }

    #[test]
    fn a_variable_that_breaks_the_pattern_matches_nothing() {
        let pattern = TopicPattern::new("^({username})$").unwrap();
        assert!(!pattern.is_match("(", &[("username", "(")]));
    }
}
