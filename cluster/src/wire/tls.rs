//! Streams between nodes: plain, or TLS where both sides show a certificate of the cluster's authority.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ReadHalf, WriteHalf};

/// Bytes of a PEM file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The PEM files of TLS between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that a peer's certificate has to be of.
    pub ca: PathBuf,
    /// This node's certificate, and those between it and the authority. It names the host that others connect to, and
    /// may be used for both sides of a connection.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Files that make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The parts do not fit together.
    #[error("certificates between nodes: {0}")]
    Parts(String),
}

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// TLS of both sides, from files that may be read again.
pub struct Tls {
    files: TlsFiles,
    configs: RwLock<Configs>,
}

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`TlsError`], with the file at fault.
    pub fn load(files: TlsFiles) -> Result<Tls, TlsError> {
        let configs = RwLock::new(configs(&files)?);
        Ok(Tls { files, configs })
    }

    /// Reads the files again; new connections get what they say now. Blocks.
    ///
    /// # Errors
    /// [`TlsError`]; what was there stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let configs = configs(&self.files)?;
        *self.configs.write() = configs;
        Ok(())
    }

    async fn accept(&self, socket: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
        let config = Arc::clone(&self.configs.read().server);
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        let (read, write) = tokio::io::split(stream);
        Ok((Box::new(read), Box::new(write)))
    }

    async fn connect(&self, socket: TcpStream, host: &str) -> io::Result<(ReadHalf, WriteHalf)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = Arc::clone(&self.configs.read().client);
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        let (read, write) = tokio::io::split(stream);
        Ok((Box::new(read), Box::new(write)))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.files).finish()
    }
}

/// The stream of an accepted socket.
///
/// # Errors
/// TLS failed.
pub async fn accepted(socket: TcpStream, tls: Option<&Tls>) -> io::Result<(ReadHalf, WriteHalf)> {
    match tls {
        Some(tls) => tls.accept(socket).await,
        None => Ok(plain(socket)),
    }
}

/// The stream of a socket that was connected to `host`.
///
/// # Errors
/// TLS failed; the peer's certificate is not for `host`, for one.
pub async fn connected(
    socket: TcpStream,
    host: &str,
    tls: Option<&Tls>,
) -> io::Result<(ReadHalf, WriteHalf)> {
    match tls {
        Some(tls) => tls.connect(socket, host).await,
        None => Ok(plain(socket)),
    }
}

fn plain(socket: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = socket.into_split();
    (Box::new(read), Box::new(write))
}

fn configs(files: &TlsFiles) -> Result<Configs, TlsError> {
    let parts = |error: rustls::Error| TlsError::Parts(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(&files.ca, error))?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.cert)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| wrong(&files.ca, error))?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(parts)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), private_key(&files.key)?)
        .map_err(parts)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(parts)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private_key(&files.key)?)
        .map_err(parts)?;
    Ok(Configs {
        server: Arc::new(server),
        client: Arc::new(client),
    })
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
    // The parser's error could quote the file.
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| wrong(path, "has no private key that can be read"))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| wrong(path, error))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(path, format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn wrong(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
