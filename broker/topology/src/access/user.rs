//! Users.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PasswordHash;
use crate::model::Name;

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: Name,
    /// The hash of the password.
    #[serde(flatten)]
    pub password: PasswordHash,
    /// Tags: `administrator`, `monitoring`, `policymaker`, `management`,
    /// `impersonator` and any others.
    #[serde(default)]
    pub tags: Vec<Name>,
    /// How much of the broker the user may take.
    #[serde(default)]
    pub limits: UserLimits,
}

impl User {
    /// Whether the user has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| *own == tag)
    }
}

/// The limits of a user. None and negative numbers: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UserLimits {
    /// Most connections at a time.
    #[serde(
        rename = "max-connections",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_connections: Option<i64>,
    /// Most channels at a time, over all connections.
    #[serde(
        rename = "max-channels",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_channels: Option<i64>,
}

impl UserLimits {
    /// The limits in this JSON object; the names that are no limits otherwise.
    pub(crate) fn from_json(limits: &Map<String, Value>) -> Result<UserLimits, String> {
        let mut out = UserLimits::default();
        for (name, value) in limits {
            let slot = match name.as_str() {
                "max-connections" => &mut out.max_connections,
                "max-channels" => &mut out.max_channels,
                _ => {
                    let pair = format!(
                        "{{{},{}}}",
                        crate::term::binary(name.as_bytes()),
                        crate::term::json(value)
                    );
                    return Err(format!("Unrecognised terms [{pair}] in user-limits"));
                }
            };
            let number = value.as_i64();
            *slot = Some(number.ok_or_else(|| {
                format!(
                    "{name} should be a number, actually was {}",
                    crate::term::json(value)
                )
            })?);
        }
        Ok(out)
    }
}
