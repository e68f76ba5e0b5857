//! From PEM files to a rustls configuration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use leveret_config::{TlsConfig, TlsVersion};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

/// Bytes of a PEM file: a bundle of all public authorities has a fifth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not configured.
    #[error("`{0}` is not set")]
    Missing(&'static str),
    /// A file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The parts do not fit together: the key is another certificate's, for one.
    #[error("{0}")]
    Parts(String),
}

/// What tells whether files changed: time, length and inode of each, `None` for one that is not there.
pub(super) type Fingerprint = Vec<Option<(SystemTime, u64, u64)>>;

/// Looks at the files without reading them.
pub(super) fn fingerprint(config: &TlsConfig) -> Fingerprint {
    let look = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), inode(&metadata)))
    };
    [&config.ca_file, &config.cert_file, &config.key_file]
        .into_iter()
        .flatten()
        .map(look)
        .collect()
}

#[cfg(unix)]
fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

/// Reads the files and makes the configuration of new connections.
pub(super) fn load(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let chain = certificates(configured(&config.cert_file, "ssl_options.certfile")?)?;
    let key = private_key(configured(&config.key_file, "ssl_options.keyfile")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(&config.versions))
        .map_err(|error| TlsError::Parts(error.to_string()))?;
    let builder = match client_verifier(config)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    builder.with_single_cert(chain, key).map_err(|error| {
        TlsError::Parts(format!(
            "the certificate and its key cannot be used: {error}"
        ))
    })
}

fn configured<'c>(path: &'c Option<PathBuf>, key: &'static str) -> Result<&'c Path, TlsError> {
    path.as_deref().ok_or(TlsError::Missing(key))
}

fn versions(asked: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
    let offered = |version| asked.is_empty() || asked.contains(&version);
    let all = [
        (TlsVersion::V1_3, &rustls::version::TLS13),
        (TlsVersion::V1_2, &rustls::version::TLS12),
    ];
    all.into_iter()
        .filter(|(version, _)| offered(*version))
        .map(|(_, known)| known)
        .collect()
}

fn client_verifier(config: &TlsConfig) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if !config.verify_peer {
        return Ok(None);
    }
    let path = configured(&config.ca_file, "ssl_options.cacertfile")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match config.require_peer_cert {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    builder
        .build()
        .map(Some)
        .map_err(|error| wrong(path, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(path, "has no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(path, error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        // The parser's error could quote the file.
        wrong(
            path,
            "has no private key that can be read (an encrypted one cannot)",
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| wrong(path, error))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(path, error))?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= FILE_BYTES_MAX => Ok(bytes),
        _ => Err(wrong(path, format!("longer than {FILE_BYTES_MAX} bytes"))),
    }
}

fn wrong(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
