//! Names of nodes and where they are: RabbitMQ's `name@host`, with an optional `:port` behind it.

use std::fmt;

/// Bytes of a node's name, and of a host.
pub const NAME_BYTES_MAX: usize = 255;

/// A node's name: `name@host`. Compared byte for byte; the order says who founds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// Why text is no name or address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a node: {reason}; it is written name@host or name@host:port")]
pub struct BadName {
    text: String,
    reason: &'static str,
}

impl NodeName {
    /// Takes `name@host`.
    ///
    /// # Errors
    /// Anything else, or longer than [`NAME_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<NodeName, BadName> {
        match NodeAddress::split(text)? {
            (name, _, None) => Ok(name),
            (_, _, Some(_)) => Err(bad(text, "a name has no port")),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the `@`.
    pub fn host(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, host)| host)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A node and where it listens for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Its name.
    pub name: NodeName,
    /// The host to connect to: a host name or an address, without brackets.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
}

impl NodeAddress {
    /// Takes `name@host`, with `default_port`, or `name@host:port`. An IPv6 address as host is written in brackets.
    ///
    /// # Errors
    /// Anything else, or longer than [`NAME_BYTES_MAX`].
    pub fn parse(text: &str, default_port: u16) -> Result<NodeAddress, BadName> {
        let (name, host, port) = Self::split(text)?;
        let port = port.unwrap_or(default_port);
        Ok(NodeAddress { name, host, port })
    }

    fn split(text: &str) -> Result<(NodeName, String, Option<u16>), BadName> {
        let (local, rest) = text
            .split_once('@')
            .ok_or_else(|| bad(text, "there is no @"))?;
        let (written, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let host = match written.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .ok_or_else(|| bad(text, "a bracket is not closed"))?,
            None if written.contains(':') => {
                return Err(bad(text, "an IPv6 address needs brackets"));
            }
            None => written,
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(bad(text, "the port is no number from 1 to 65535")),
        };
        let graphic = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
        if local.is_empty() || host.is_empty() {
            return Err(bad(text, "a part is empty"));
        }
        if !graphic(local) || !graphic(host) || rest.contains('@') {
            return Err(bad(text, "a character is not allowed"));
        }
        if local.len() + written.len() + 1 > NAME_BYTES_MAX {
            return Err(bad(text, "it is too long"));
        }
        let name = NodeName(format!("{local}@{written}"));
        Ok((name, host.to_owned(), port))
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

fn bad(text: &str, reason: &'static str) -> BadName {
    BadName {
        text: text.chars().take(NAME_BYTES_MAX).collect(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let parsed = |text: &str| {
            let address = NodeAddress::parse(text, 25672).ok()?;
            Some((address.name.to_string(), address.host, address.port))
        };
        let is = |name: &str, host: &str, port| Some((name.to_owned(), host.to_owned(), port));
        assert_eq!(parsed("rabbit@h1"), is("rabbit@h1", "h1", 25672));
        assert_eq!(parsed("r@h.example:5"), is("r@h.example", "h.example", 5));
        assert_eq!(parsed("r@[::1]:5"), is("r@[::1]", "::1", 5));
        assert_eq!(parsed("r@[::1]"), is("r@[::1]", "::1", 25672));
        for text in [
            "",
            "rabbit",
            "@h",
            "r@",
            "r@h:",
            "r@h:0",
            "r@h:65536",
            "r@h:x",
            "r@::1",
            "r@[::1",
            "r@h h",
            "r@h@i",
            "r\n@h",
            "r@é",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(parsed(&format!("r@{}", "h".repeat(254))), None);
        assert!(parsed(&format!("r@{}", "h".repeat(253))).is_some());
        assert!(NodeName::parse("r@h:1").is_err());
        assert_eq!(
            NodeName::parse("r@h").map(|n| n.host().to_owned()),
            Ok("h".into())
        );
    }
}
