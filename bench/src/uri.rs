//! `amqp://user:password@host:port/vhost` as RabbitMQ's URI specification has it.

use crate::error::{Error, Result};

/// Where a broker is and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Percent-decoded; "guest" if absent.
    pub user: String,
    /// Percent-decoded; "guest" if absent.
    pub password: String,
    /// Name or address, without brackets.
    pub host: String,
    /// 5672 if absent.
    pub port: u16,
    /// Percent-decoded; "/" if absent.
    pub vhost: String,
}

impl Uri {
    /// One or more URIs with commas between.
    ///
    /// # Errors
    /// One of them is not of the form.
    pub fn parse_list(text: &str) -> Result<Vec<Uri>> {
        text.split(',').map(|one| Uri::parse(one.trim())).collect()
    }

    /// # Errors
    /// The text is not of the form, or asks for TLS.
    pub fn parse(text: &str) -> Result<Uri> {
        let bad = |why: &str| Error::Usage(format!("{text:?} is no AMQP URI: {why}"));
        let rest = text
            .strip_prefix("amqp://")
            .ok_or_else(|| bad("it must start amqp://"))?;
        let (authority, vhost) = match rest.split_once('/') {
            None => (rest, "/".to_owned()),
            Some((a, v)) => (a, decode(v).ok_or_else(|| bad("bad % escape"))?),
        };
        let (login, address) = authority
            .rsplit_once('@')
            .unwrap_or(("guest:guest", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, "guest"));
        let (host, port) = match address.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| bad("no ]"))?;
                (host, after.strip_prefix(':'))
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        Ok(Uri {
            user: decode(user).ok_or_else(|| bad("bad % escape"))?,
            password: decode(password).ok_or_else(|| bad("bad % escape"))?,
            host: if host.is_empty() {
                "127.0.0.1".into()
            } else {
                host.to_owned()
            },
            port: port
                .map_or(Ok(5672), str::parse)
                .map_err(|_| bad("bad port"))?,
            vhost: if vhost.is_empty() { "/".into() } else { vhost },
        })
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_defaults() {
        let u = Uri::parse("amqp://a%40b:p%3Aw@host:5673/%2Fv").unwrap();
        assert_eq!(
            (&*u.user, &*u.password, &*u.host, u.port, &*u.vhost),
            ("a@b", "p:w", "host", 5673, "/v")
        );
        let u = Uri::parse("amqp://[::1]").unwrap();
        assert_eq!(
            (&*u.user, &*u.host, u.port, &*u.vhost),
            ("guest", "::1", 5672, "/")
        );
        assert_eq!(Uri::parse_list("amqp://a,amqp://b:1/").unwrap().len(), 2);
        for bad in [
            "host",
            "amqps://h",
            "amqp://h:x",
            "amqp://h/%2",
            "amqp://h/%zz",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
    }
}
