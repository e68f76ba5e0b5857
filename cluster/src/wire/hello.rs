//! Who a peer says that it is, and the proof that it knows the cookie.
//!
//! ```text
//! hello   length u16 of what follows | magic "LEVN" | version u16 | purpose u8 | zero u8 | cluster, 16 | node u64
//!         | incarnation u64 | boot u64 | nonce, 32 | name
//! proof   HMAC-SHA-256 of (role u8 | length u32, first hello | length u32, second hello) under the cookie
//! ```
//!
//! Little-endian. The dialling side's hello is the first. Each side proves with its own role, so a proof cannot be sent
//! back to who made it, and with both nonces, so none can be used twice.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::name::{NAME_BYTES_MAX, NodeName};
use crate::raft::codec::{Malformed, Reader};

/// The version spoken. Another one is refused.
pub const VERSION: u16 = 1;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"LEVN";
const FIXED_BYTES: usize = 4 + 2 + 1 + 1 + 16 + 8 + 8 + 8 + NONCE_BYTES;
/// The most that the length before a hello may say.
pub const HELLO_BYTES_MAX: usize = FIXED_BYTES + NAME_BYTES_MAX;

/// Bytes of a cookie file: a cookie is a line.
const COOKIE_BYTES_MAX: usize = 4096;

/// A cluster's uuid; zero before it is founded.
pub type ClusterId = [u8; 16];

/// A node's number in its cluster, from 1; zero before it has one.
pub type NodeId = u64;

/// What a connection is for. On the wire: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Purpose {
    /// Votes, heartbeats, appends.
    Raft = 1,
    /// What connections of one node do with queues that the other leads.
    Session = 2,
    /// A snapshot's messages.
    Stream = 3,
    /// Finding a cluster: before the nodes are members of one.
    Founding = 4,
}

impl Purpose {
    /// All between members, in the order of their numbers.
    pub const OF_MEMBERS: [Purpose; 3] = [Purpose::Raft, Purpose::Session, Purpose::Stream];

    fn from_u8(byte: u8) -> Option<Purpose> {
        [Self::Raft, Self::Session, Self::Stream, Self::Founding]
            .into_iter()
            .find(|purpose| *purpose as u8 == byte)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The cluster that it is a member of; zero if of none.
    pub cluster: ClusterId,
    /// Its number there; zero if none.
    pub node: NodeId,
    /// Of its disk: random, from its identity.
    pub incarnation: u64,
    /// Of its process: random, new at each start.
    pub boot: u64,
    /// Its name.
    pub name: NodeName,
    /// Random, new for each connection.
    pub nonce: [u8; NONCE_BYTES],
}

impl Hello {
    /// Its bytes, with the length before them.
    pub fn encode(&self) -> Vec<u8> {
        let name = self.name.as_str().as_bytes();
        let length = FIXED_BYTES + name.len();
        let mut out = Vec::with_capacity(2 + length);
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.purpose as u8, 0]);
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(name);
        out
    }

    /// The hello that these bytes are, without the length before them.
    ///
    /// # Errors
    /// They are none of this version.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.take("hello")? != MAGIC {
            return Err(Malformed("hello: it is no leveret node"));
        }
        if reader.u16("hello")? != VERSION {
            return Err(Malformed("hello: it speaks another version"));
        }
        let purpose = Purpose::from_u8(reader.u8("hello")?).ok_or(Malformed("hello: purpose"))?;
        if reader.u8("hello")? != 0 {
            return Err(Malformed("hello"));
        }
        let cluster = reader.take("hello")?;
        let (node, incarnation) = (reader.u64("hello")?, reader.u64("hello")?);
        let boot = reader.u64("hello")?;
        let nonce = reader.take("hello")?;
        let name = std::str::from_utf8(reader.rest()).map_err(|_| Malformed("hello: name"))?;
        let name = NodeName::parse(name).map_err(|_| Malformed("hello: name"))?;
        Ok(Hello {
            purpose,
            cluster,
            node,
            incarnation,
            boot,
            name,
            nonce,
        })
    }
}

/// Which side of a connection proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The one that dialled.
    Dialler = 1,
    /// The one that accepted.
    Acceptor = 2,
}

/// The secret that the nodes of a cluster share. It is never printed.
#[derive(Clone)]
pub struct Cookie(Vec<u8>);

/// A cookie file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cookie file {}: {reason}", path.display())]
pub struct CookieError {
    path: PathBuf,
    reason: String,
}

impl Cookie {
    /// These bytes.
    pub fn new(secret: impl Into<Vec<u8>>) -> Cookie {
        Cookie(secret.into())
    }

    /// The content of a file, without white space around it. Blocks.
    ///
    /// # Errors
    /// It cannot be read, is empty or longer than 4 KiB, or others than its owner may read it.
    pub fn load(path: &Path) -> Result<Cookie, CookieError> {
        let wrong = |reason: String| CookieError {
            path: path.to_owned(),
            reason,
        };
        let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
            if metadata.permissions().mode() & 0o077 != 0 {
                return Err(wrong(
                    "others than its owner may read it (chmod 600)".into(),
                ));
            }
        }
        let mut bytes = Vec::new();
        file.take(COOKIE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| wrong(error.to_string()))?;
        let secret = bytes.trim_ascii();
        if secret.is_empty() || bytes.len() > COOKIE_BYTES_MAX {
            return Err(wrong(format!(
                "it has to have 1 to {COOKIE_BYTES_MAX} bytes"
            )));
        }
        Ok(Cookie(secret.to_vec()))
    }

    fn mac(&self, role: Role, first: &[u8], second: &[u8]) -> Option<Hmac<Sha256>> {
        // A key of any length is allowed, so there always is one.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).ok()?;
        mac.update(&[role as u8]);
        for hello in [first, second] {
            mac.update(&(hello.len() as u32).to_le_bytes());
            mac.update(hello);
        }
        Some(mac)
    }

    /// The proof of `role` over both hellos, as they were on the wire, the dialler's first.
    pub fn prove(&self, role: Role, first: &[u8], second: &[u8]) -> [u8; PROOF_BYTES] {
        self.mac(role, first, second)
            .map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Whether `proof` is that of `role`, in a time that does not depend on where it differs.
    pub fn verify(&self, role: Role, first: &[u8], second: &[u8], proof: &[u8]) -> bool {
        self.mac(role, first, second)
            .is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie")
    }
}

/// Random bytes that nobody can foresee.
///
/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("no random bytes"))?;
    Ok(bytes)
}

/// A random number other than zero.
///
/// # Errors
/// The system has no random bytes.
pub fn random_u64() -> std::io::Result<u64> {
    random().map(|bytes| u64::from_le_bytes(bytes).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            purpose: Purpose::Session,
            cluster: [7; 16],
            node: 3,
            incarnation: 0x0102,
            boot: 9,
            name: NodeName::parse("rabbit@h").expect("a name"),
            nonce: [5; NONCE_BYTES],
        }
    }

    #[test]
    fn a_hello_keeps_its_bytes() {
        let bytes = hello().encode();
        assert_eq!(bytes[..10], [88, 0, b'L', b'E', b'V', b'N', 1, 0, 2, 0]);
        assert_eq!(Hello::decode(&bytes[2..]), Ok(hello()));
        for cut in 2..bytes.len() - 1 {
            let short = Hello::decode(&bytes[2..cut]);
            assert!(short.is_err() || short != Ok(hello()));
        }
        for (at, value) in [(2, b'X'), (6, 2), (8, 0), (8, 9), (9, 1)] {
            let mut wrong = bytes.clone();
            wrong[at] = value;
            assert!(Hello::decode(&wrong[2..]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_proof_is_of_one_role_cookie_and_pair_of_hellos() {
        let cookie = Cookie::new("secret");
        let proof = cookie.prove(Role::Dialler, b"one", b"two");
        assert!(cookie.verify(Role::Dialler, b"one", b"two", &proof));
        assert!(!cookie.verify(Role::Acceptor, b"one", b"two", &proof));
        assert!(!cookie.verify(Role::Dialler, b"two", b"one", &proof));
        assert!(!cookie.verify(Role::Dialler, b"onet", b"wo", &proof));
        assert!(!cookie.verify(Role::Dialler, b"one", b"two", &proof[..31]));
        assert!(!Cookie::new("secreu").verify(Role::Dialler, b"one", b"two", &proof));
        assert_eq!(format!("{cookie:?}"), "Cookie");
    }

    #[test]
    #[cfg(unix)]
    fn a_cookie_file_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cookie");
        let allow = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod")
        };
        std::fs::write(&path, " secret\n").expect("a file");
        allow(0o644);
        assert!(Cookie::load(&path).is_err());
        allow(0o600);
        assert_eq!(Cookie::load(&path).expect("a cookie").0, b"secret");
        std::fs::write(&path, "\n").expect("a file");
        assert!(Cookie::load(&path).is_err());
        std::fs::write(&path, vec![b'x'; COOKIE_BYTES_MAX + 1]).expect("a file");
        assert!(Cookie::load(&path).is_err());
        assert!(Cookie::load(&dir.path().join("none")).is_err());
    }

    #[test]
    fn random_is_random() {
        let draw = || random::<32>().expect("random bytes");
        assert_ne!(draw(), draw());
    }
}
