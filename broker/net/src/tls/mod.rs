//! TLS of the listeners: the configuration from files, its reload, and what is told of a session.

mod files;
mod peer;
mod validity;

use std::sync::Arc;

use leveret_config::TlsConfig;
use parking_lot::RwLock;
use rustls::ServerConfig;

pub use files::TlsError;
use files::{Fingerprint, fingerprint, load};
pub(crate) use peer::info;
pub use peer::{PeerCertificate, TlsInfo};
pub use validity::certificate_end;

/// The TLS configuration that new connections get, and the files that it came from.
#[derive(Debug)]
pub struct TlsState {
    config: TlsConfig,
    current: RwLock<Arc<ServerConfig>>,
    seen: RwLock<Seen>,
}

/// What the files were when they were last read.
#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    /// Why they could not be used, if they could not.
    failure: Option<String>,
}

/// What a look at the files led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are what they were.
    Unchanged,
    /// New connections get the new ones.
    Replaced,
    /// They cannot be used, with the reason; new connections get the old ones.
    Failed(String),
}

impl TlsState {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`TlsError`], with the file at fault.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        // Before reading, so that a change while they are read is seen by the next look.
        let fingerprint = fingerprint(config);
        let current = RwLock::new(Arc::new(load(config)?));
        let seen = RwLock::new(Seen {
            fingerprint,
            failure: None,
        });
        Ok(Self {
            config: config.clone(),
            current,
            seen,
        })
    }

    /// The configuration for a new connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }

    /// How the names of logins are taken from certificates.
    pub(crate) fn config(&self) -> &TlsConfig {
        &self.config
    }

    /// Reads the files again if they changed, could not be used before, or with `always`. Blocks.
    pub fn reload(&self, always: bool) -> Reload {
        let now = fingerprint(&self.config);
        let mut seen = self.seen.write();
        if !always && seen.failure.is_none() && seen.fingerprint == now {
            return Reload::Unchanged;
        }
        let result = load(&self.config);
        let changed = seen.fingerprint != now;
        seen.fingerprint = now;
        match result {
            Ok(config) => {
                *self.current.write() = Arc::new(config);
                seen.failure = None;
                Reload::Replaced
            }
            Err(error) => {
                let reason = error.to_string();
                let told = !always && !changed && seen.failure.as_ref() == Some(&reason);
                seen.failure = Some(reason.clone());
                if told {
                    Reload::Unchanged
                } else {
                    Reload::Failed(reason)
                }
            }
        }
    }
}
