//! Salted password hashes, in RabbitMQ's form: four octets of salt, then the
//! digest of salt and password.

use std::fmt;
use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256, Sha512};

/// Octets of salt.
pub const SALT_SIZE: usize = 4;

/// The digest of a password hash. The names are RabbitMQ's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum HashingAlgorithm {
    /// SHA-256, the default.
    #[default]
    #[serde(rename = "rabbit_password_hashing_sha256")]
    Sha256,
    /// SHA-512.
    #[serde(rename = "rabbit_password_hashing_sha512")]
    Sha512,
    /// MD5: users from before RabbitMQ 3.6.0. It verifies; nothing makes it.
    #[serde(rename = "rabbit_password_hashing_md5")]
    Md5,
}

impl HashingAlgorithm {
    /// The name in definitions.
    pub const fn as_str(self) -> &'static str {
        match self {
            HashingAlgorithm::Sha256 => "rabbit_password_hashing_sha256",
            HashingAlgorithm::Sha512 => "rabbit_password_hashing_sha512",
            HashingAlgorithm::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The algorithm of this name, if there is one.
    pub fn from_name(name: &str) -> Option<HashingAlgorithm> {
        [
            HashingAlgorithm::Sha256,
            HashingAlgorithm::Sha512,
            HashingAlgorithm::Md5,
        ]
        .into_iter()
        .find(|algorithm| algorithm.as_str() == name)
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        fn of<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update(salt)
                .chain_update(password)
                .finalize()
                .to_vec()
        }
        match self {
            HashingAlgorithm::Sha256 => of::<Sha256>(salt, password),
            HashingAlgorithm::Sha512 => of::<Sha512>(salt, password),
            HashingAlgorithm::Md5 => of::<Md5>(salt, password),
        }
    }
}

/// The hash of a password. An empty one belongs to a user that cannot log in
/// by password.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PasswordHash {
    #[serde(rename = "password_hash")]
    octets: Octets,
    #[serde(rename = "hashing_algorithm", default)]
    algorithm: HashingAlgorithm,
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Octets(Vec<u8>);

impl PasswordHash {
    /// Hashes a password with a salt, which the caller drew at random. The
    /// empty password gives the hash that nothing matches.
    pub fn new(password: &str, salt: [u8; SALT_SIZE], algorithm: HashingAlgorithm) -> PasswordHash {
        if password.is_empty() {
            return PasswordHash {
                octets: Octets::default(),
                algorithm,
            };
        }
        let mut octets = salt.to_vec();
        octets.extend(algorithm.digest(&salt, password.as_bytes()));
        PasswordHash {
            octets: Octets(octets),
            algorithm,
        }
    }

    /// The hash of this base64 text, as definitions carry it; None when it is
    /// not base64.
    pub fn from_base64(text: &str, algorithm: HashingAlgorithm) -> Option<PasswordHash> {
        let octets = STANDARD.decode(text.trim()).ok()?;
        Some(PasswordHash {
            octets: Octets(octets),
            algorithm,
        })
    }

    /// The hash as base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.octets.0)
    }

    /// The digest.
    pub fn algorithm(&self) -> HashingAlgorithm {
        self.algorithm
    }

    /// Whether this is the password. The time it takes does not depend on where
    /// the hashes differ.
    pub fn verify(&self, password: &[u8]) -> bool {
        let (salt, stored) = self.octets.0.split_at(SALT_SIZE.min(self.octets.0.len()));
        let computed = self.algorithm.digest(salt, password);
        let equal = equal_in_constant_time(stored, &computed);
        equal && !password.is_empty()
    }
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let difference = a
        .iter()
        .zip(b)
        .fold(0, |acc, (x, y)| black_box(acc | (x ^ y)));
    a.len() == b.len() && difference == 0
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.algorithm)
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Octets)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_verifies_its_own() {
        for algorithm in [
            HashingAlgorithm::Sha256,
            HashingAlgorithm::Sha512,
            HashingAlgorithm::Md5,
        ] {
            let hash = PasswordHash::new("secret", [1, 2, 3, 4], algorithm);
            assert!(hash.verify(b"secret"));
            assert!(!hash.verify(b"secre"));
            let json = serde_json::to_string(&hash).unwrap();
            assert_eq!(serde_json::from_str::<PasswordHash>(&json).unwrap(), hash);
            assert_eq!(
                HashingAlgorithm::from_name(algorithm.as_str()),
                Some(algorithm)
            );
        }
    }

    #[test]
    fn a_user_without_password_never_logs_in() {
        let blank = PasswordHash::new("", [0; 4], HashingAlgorithm::Sha256);
        assert_eq!(blank.to_base64(), "");
        assert!(!blank.verify(b""));
        assert!(!blank.verify(b"x"));
        assert!(!PasswordHash::default().verify(b""));
    }
}
