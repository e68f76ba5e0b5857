//! The handshake: protocol header, start, SASL, tune, open (AMQP 0-9-1 section 2.2.4).
//!
//! Like RabbitMQ, most errors in here are answered with the end of the stream: a client that is not who it should be learns
//! nothing. What a client must be told is told: a refused login (if it asked to be told) and a refused virtual host.

use std::net::SocketAddr;
use std::sync::Arc;

use leveret_config::Mechanism;
use leveret_protocol::field_table::decode_table;
use leveret_protocol::frame::parse_protocol_header;
use leveret_protocol::method::{
    ConnectionClose, ConnectionOpen, ConnectionOpenOk, ConnectionSecureOk, ConnectionStart,
    ConnectionStartOk, ConnectionTune, ConnectionTuneOk,
};
use leveret_protocol::{FieldTable, FieldValue, Method, ReplyCode};
use leveret_topology::Name;

use super::core::{Fault, Session};
use super::{Connection, Phase};
use crate::node::{ConnectionInfo, Traffic};

/// Who is at the other end, as far as the socket knows.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address; the one that a PROXY header claims, if there was one.
    pub peer: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
    /// TLS is spoken.
    pub tls: bool,
    /// The name in the client's certificate, for EXTERNAL.
    pub certificate_name: Option<String>,
}

impl Peer {
    /// As RabbitMQ names connections.
    pub fn name(&self) -> String {
        format!("{} -> {}", self.peer, self.local)
    }
}

/// What the handshake has learnt.
#[derive(Debug)]
pub struct Handshake {
    peer: Peer,
    capabilities: FieldTable,
    client_name: Option<String>,
    client_properties: Box<str>,
    auth_mechanism: &'static str,
    user: Option<Name>,
}

impl Handshake {
    /// Nothing yet.
    pub fn new(peer: Peer) -> Handshake {
        Handshake {
            peer,
            capabilities: FieldTable::default(),
            client_name: None,
            client_properties: "{}".into(),
            auth_mechanism: "",
            user: None,
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn can(&self, capability: &str) -> bool {
        matches!(
            self.capabilities.get(capability),
            Some(FieldValue::Bool(true))
        )
    }
}

/// The session of a connection that has none yet.
pub(super) fn nobody() -> Session {
    Session {
        user: Name::default(),
        vhost: Name::default(),
        impersonator: false,
        cancel_notify: false,
        blocked_notify: false,
        client_id: None,
    }
}

/// `AMQP`, 0, 0, 9, 1.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

fn longstr(text: &str) -> FieldValue {
    FieldValue::LongStr(text.as_bytes().to_vec())
}

impl Connection {
    /// The first eight bytes; 0: more are needed.
    pub(super) fn protocol_header(&mut self, bytes: &[u8]) -> usize {
        match parse_protocol_header(bytes) {
            Ok(None) => 0,
            Ok(Some(_)) => {
                self.start();
                self.phase = Phase::Start;
                PROTOCOL_HEADER.len()
            }
            Err(_) => {
                self.core.out.extend_from_slice(PROTOCOL_HEADER);
                self.phase = Phase::Closed;
                bytes.len()
            }
        }
    }

    fn start(&mut self) {
        let mut capabilities = FieldTable::default();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ] {
            capabilities.insert(name, FieldValue::Bool(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities", FieldValue::Table(capabilities));
        properties.insert("cluster_name", longstr(&self.core.node.cluster_name()));
        properties.insert("product", longstr("Leveret"));
        properties.insert("version", longstr(env!("CARGO_PKG_VERSION")));
        properties.insert("platform", longstr("Rust"));
        properties.insert("copyright", longstr("Copyright (c) The Leveret authors"));
        properties.insert(
            "information",
            longstr("Licensed under the Apache License 2.0"),
        );
        let mechanisms: Vec<&str> = self.mechanisms().map(Mechanism::name).collect();
        let start = ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: mechanisms.join(" ").into_bytes(),
            locales: b"en_US".to_vec(),
        };
        self.core.send(0, start);
    }

    /// What may be used here. Like RabbitMQ, EXTERNAL is offered over TLS, and refused later if there is no certificate.
    fn mechanisms(&self) -> impl Iterator<Item = Mechanism> + '_ {
        let tls = self.handshake.as_ref().is_some_and(|h| h.peer.tls);
        let configured = self.core.node.config().access.mechanisms.iter().copied();
        configured.filter(move |m| *m != Mechanism::External || tls)
    }

    /// A method on channel 0 before the connection is open.
    pub(super) fn handshake_method(&mut self, method: Method) {
        match (self.phase, method) {
            (Phase::Start, Method::ConnectionStartOk(m)) => self.start_ok(&m),
            (Phase::Start, Method::ConnectionSecureOk(m)) => self.secure_ok(&m),
            (Phase::Tune, Method::ConnectionTuneOk(m)) => self.tune_ok(&m),
            (Phase::Open, Method::ConnectionOpen(m)) => self.open(&m),
            (_, other) => self.lost(&format!("unexpected {} in the handshake", other.name())),
        }
    }

    fn start_ok(&mut self, m: &ConnectionStartOk) {
        let text = |name: &str| {
            let value = m.client_properties.get(name)?.as_longstr()?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let client_name = text("connection_name");
        let Some(handshake) = &mut self.handshake else {
            return;
        };
        if let Some(FieldValue::Table(capabilities)) = m.client_properties.get("capabilities") {
            handshake.capabilities = capabilities.clone();
        }
        handshake.client_name = client_name;
        let properties = leveret_topology::arguments_to_json(&m.client_properties);
        handshake.client_properties = properties.to_string().into();
        let wanted = m.mechanism.to_string_lossy().into_owned();
        let Some(mechanism) = self.mechanisms().find(|known| known.name() == wanted) else {
            self.lost(&format!("unsupported SASL mechanism '{wanted}'"));
            return;
        };
        if let Some(handshake) = &mut self.handshake {
            handshake.auth_mechanism = mechanism.name();
        }
        match self.credentials(mechanism, &m.response) {
            Ok(credentials) => self.login(mechanism, credentials),
            Err(Malformed::Silent) => self.lost("malformed SASL response"),
            Err(Malformed::Refuse) => self.refuse_login(
                mechanism,
                match mechanism {
                    Mechanism::External => "no user name in a client certificate",
                    Mechanism::Plain | Mechanism::AmqPlain => "malformed SASL response",
                },
            ),
        }
    }

    /// None of the mechanisms here has a second step.
    fn secure_ok(&mut self, _: &ConnectionSecureOk) {
        self.lost("unexpected connection.secure-ok");
    }

    /// User and password of a SASL response; the password is none with EXTERNAL.
    fn credentials(
        &self,
        mechanism: Mechanism,
        response: &[u8],
    ) -> Result<(String, Option<Vec<u8>>), Malformed> {
        let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Refuse);
        match mechanism {
            // RFC 4616: an authorisation identity may stand before the first zero.
            Mechanism::Plain => {
                let mut parts = response.splitn(3, |b| *b == 0);
                let (_, user, password) = (parts.next(), parts.next(), parts.next());
                let (Some(user), Some(password)) = (user, password) else {
                    return Err(Malformed::Refuse);
                };
                if password.contains(&0) {
                    return Err(Malformed::Refuse);
                }
                Ok((utf8(user)?, Some(password.to_vec())))
            }
            // A field table without its length (AMQP 0-8's own mechanism).
            Mechanism::AmqPlain => {
                let table = decode_table(response).map_err(|_| Malformed::Silent)?;
                let field = |name: &str| table.get(name).and_then(FieldValue::as_longstr);
                match (field("LOGIN"), field("PASSWORD")) {
                    (Some(user), Some(password)) => Ok((utf8(user)?, Some(password.to_vec()))),
                    _ => Err(Malformed::Silent),
                }
            }
            Mechanism::External => {
                let name = self
                    .handshake
                    .as_ref()
                    .and_then(|h| h.peer.certificate_name.clone());
                name.map(|name| (name, None)).ok_or(Malformed::Refuse)
            }
        }
    }

    fn login(&mut self, mechanism: Mechanism, credentials: (String, Option<Vec<u8>>)) {
        let (user, password) = credentials;
        let node = Arc::clone(&self.core.node);
        let topology = node.topology();
        let known = match &password {
            Some(password) => topology.authenticate(&user, password).map(|_| ()),
            None => match topology.user(&user) {
                Some(_) => Ok(()),
                None => Err(format!("user '{user}' - invalid credentials")),
            },
        };
        if let Err(why) = known {
            return self.refuse_login(mechanism, &why);
        }
        let impersonator = topology
            .user(&user)
            .is_some_and(|u| u.has_tag("impersonator"));
        drop(topology);
        let loopback_only = node.config().access.loopback_users.contains(&user);
        let Some(handshake) = &mut self.handshake else {
            return;
        };
        if loopback_only && !handshake.peer.peer.ip().to_canonical().is_loopback() {
            let why = format!("user '{user}' can only connect via localhost");
            return self.refuse_login(mechanism, &why);
        }
        handshake.user = Some(Name::from(user.as_str()));
        self.core.session.impersonator = impersonator;
        let limits = &node.config().limits;
        self.core.send(
            0,
            ConnectionTune {
                channel_max: limits.channel_max,
                frame_max: limits.frame_max,
                heartbeat: limits.heartbeat_s,
            },
        );
        self.phase = Phase::Tune;
    }

    /// 403, if the client wants to be told (RabbitMQ extension, authentication_failure_close).
    fn refuse_login(&mut self, mechanism: Mechanism, why: &str) {
        tracing::warn!(
            connection = self.log_name(),
            mechanism = mechanism.name(),
            "login refused: {why}"
        );
        let told = self
            .handshake
            .as_ref()
            .is_some_and(|h| h.can("authentication_failure_close"));
        if !told {
            return self.lost("login refused");
        }
        let text = format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            mechanism.name()
        );
        self.core.send(
            0,
            ConnectionClose {
                reply_code: ReplyCode::AccessRefused.code(),
                reply_text: ReplyCode::AccessRefused.text(&text),
                class_id: 0,
                method_id: 0,
            },
        );
        self.phase = Phase::Closing;
    }

    /// Both sides' limits; the lower one holds, and the client may not go over what was offered.
    fn tune_ok(&mut self, m: &ConnectionTuneOk) {
        let limits = &self.core.node.config().limits;
        let within = |asked: u32, offered: u32| offered == 0 || (asked != 0 && asked <= offered);
        if !within(m.frame_max, limits.frame_max)
            || (m.frame_max != 0 && m.frame_max < leveret_protocol::frame::FRAME_MIN_SIZE)
        {
            return self.lost("frame_max out of bounds in connection.tune-ok");
        }
        if !within(u32::from(m.channel_max), u32::from(limits.channel_max)) {
            return self.lost("channel_max out of bounds in connection.tune-ok");
        }
        self.core.frame_max = m.frame_max;
        self.channel_max = m.channel_max;
        self.heartbeat_s = m.heartbeat;
        self.phase = Phase::Open;
    }

    fn open(&mut self, m: &ConnectionOpen) {
        let Some(handshake) = self.handshake.take() else {
            return;
        };
        let user = handshake.user.clone().unwrap_or_default();
        let vhost = Name::from(m.virtual_host.to_string_lossy().as_ref());
        let session = &mut self.core.session;
        session.user = user.clone();
        session.vhost = vhost.clone();
        session.cancel_notify = handshake.can("consumer_cancel_notify");
        session.blocked_notify = handshake.can("connection.blocked");
        let info = Arc::new(ConnectionInfo {
            opened_ms: self.core.node.now_ms(),
            id: self.core.id,
            user: user.clone(),
            vhost: vhost.clone(),
            name: handshake.peer.name(),
            peer: handshake.peer.peer,
            local: handshake.peer.local,
            tls: handshake.peer.tls,
            client_name: handshake.client_name.as_deref().map(Box::from),
            client_properties: handshake.client_properties.clone(),
            auth_mechanism: handshake.auth_mechanism,
            channel_max: self.channel_max,
            frame_max: self.core.frame_max,
            heartbeat_s: self.heartbeat_s,
            channels: std::sync::atomic::AtomicUsize::new(0),
            traffic: Traffic::default(),
            outbox: Arc::clone(&self.core.outbox),
        });
        let node = Arc::clone(&self.core.node);
        // One guard for both checks: asking for a second one waits behind a writer that waits for the first.
        let topology = node.topology();
        let admitted = topology.check_vhost_access(&user, &vhost).and_then(|()| {
            node.connections()
                .insert(Arc::clone(&info), |in_vhost, of_user| {
                    topology.check_connection_limits(&user, &vhost, in_vhost, of_user)
                })
        });
        drop(topology);
        self.handshake = Some(handshake);
        if let Err(refusal) = admitted {
            let (class_id, method_id) = (10, 40);
            self.close(
                Fault::hard(refusal.reply_code, refusal.text),
                class_id,
                method_id,
            );
            return;
        }
        if node.connections().is_closing() {
            node.connections().remove(info.id);
            let text = crate::server::STOPPED;
            self.close(Fault::hard(ReplyCode::ConnectionForced, text), 0, 0);
            return;
        }
        let client = self
            .handshake
            .take()
            .and_then(|h| h.client_name)
            .unwrap_or_default();
        tracing::info!(connection = %info.name, %user, %vhost, client, "open");
        self.info = Some(info);
        self.core.counts.connections_opened += 1;
        self.core.send(0, ConnectionOpenOk::default());
        self.phase = Phase::Running;
        if let Some(reason) = self.core.node.alarms().reason() {
            self.set_blocked(Some(reason));
        }
    }
}

/// What is wrong with a SASL response, and how RabbitMQ answers it.
enum Malformed {
    /// With the end of the stream.
    Silent,
    /// Like a wrong password.
    Refuse,
}
