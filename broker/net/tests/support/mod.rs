//! Certificates made for a test, servers that hand over what they accept, and clients.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leveret_config::{Config, ListenAddr};
use leveret_net::{Accepted, Counters, Listeners, Serving};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything takes; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Identity {
    pub pem: String,
    pub key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn sign(&self, common_name: &str, names: Vec<SanType>) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Leveret, tests");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    pub fn server(&self) -> Identity {
        self.sign(
            "server",
            vec![SanType::DnsName("localhost".try_into().unwrap())],
        )
    }

    pub fn client(&self) -> Identity {
        self.sign("client", vec![])
    }
}

/// The files of a TLS listener.
pub struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    pub fn new(authority: &Authority, server: &Identity) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.write("ca.pem", &authority.pem());
        files.install(server);
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file at once, as a careful operator does.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.path(name)).unwrap();
    }

    pub fn install(&self, server: &Identity) {
        self.write("cert.pem", &server.pem);
        self.write("key.pem", &server.key_pem);
    }

    /// One TLS listener on a free port, with these files.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.net.tcp_listeners.clear();
        config.net.tls_listeners = vec![ListenAddr::loopback(0)];
        config.tls.ca_file = Some(self.path("ca.pem"));
        config.tls.cert_file = Some(self.path("cert.pem"));
        config.tls.key_file = Some(self.path("key.pem"));
        config
    }
}

/// One plain listener on a free port.
pub fn plain_config() -> Config {
    let mut config = Config::default();
    config.net.tcp_listeners = vec![ListenAddr::loopback(0)];
    config
}

/// A server whose accepted connections are handed to the test.
pub struct Server {
    pub serving: Serving,
    pub address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Accepted>,
}

impl Server {
    pub async fn start(config: &Config) -> Self {
        let listeners = Listeners::bind(config).await.unwrap();
        let address = listeners.local_addrs()[0].address;
        let (sender, accepted) = mpsc::unbounded_channel();
        let serving = listeners.serve(move |accepted| {
            let sender = sender.clone();
            async move {
                // The test may have ended.
                let _ = sender.send(accepted);
            }
        });
        Self {
            serving,
            address,
            accepted,
        }
    }

    pub async fn accepted(&mut self) -> Accepted {
        within(self.accepted.recv()).await.unwrap()
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until the counters are as `condition` wants them.
    pub async fn until(&self, condition: impl Fn(&Counters) -> bool) -> Counters {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        within(async {
            loop {
                let counters = self.serving.counters();
                if condition(&counters) {
                    return counters;
                }
                pause.tick().await;
            }
        })
        .await
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took too long")
}

/// A TLS client.
pub struct Client<'a> {
    pub trust: &'a Authority,
    pub identity: Option<&'a Identity>,
    pub versions: &'static [&'static SupportedProtocolVersion],
}

impl<'a> Client<'a> {
    pub fn trusting(trust: &'a Authority) -> Self {
        Self {
            trust,
            identity: None,
            versions: rustls::ALL_VERSIONS,
        }
    }

    pub fn with(self, identity: &'a Identity) -> Self {
        Self {
            identity: Some(identity),
            ..self
        }
    }

    /// Connects, and says something, so that with TLS 1.3 a refused certificate is noticed.
    pub async fn talk(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trust.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        within(async {
            let mut stream = connector.connect(name, socket).await?;
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            Ok(stream)
        })
        .await
    }
}

/// The certificate that the server showed.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

impl Identity {
    pub fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        self.chain[0] == *certificate
    }
}

/// Checks that bytes go both ways.
pub async fn converse(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let mut bytes = [0; 4];
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    within(server.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"ping");
    server.write_all(b"pong").await.unwrap();
    server.flush().await.unwrap();
    within(client.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"pong");
}

/// Waits for the other side to close, whatever it sends before.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 256];
    within(async {
        // An error is a close as well: a socket with unread bytes is reset.
        while let Ok(1..) = stream.read(&mut bytes).await {}
    })
    .await;
}
