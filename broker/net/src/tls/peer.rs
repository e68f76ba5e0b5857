//! What is told of a TLS session: its version, its suite, and the client's certificate in the forms
//! that RabbitMQ shows and logs in with.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use leveret_config::{CertLogin, SanKind, TlsConfig};
use rustls::{ProtocolVersion, ServerConnection};
use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::asn1_rs::{Oid, oid};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// A TLS session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `tlsv1.2` or `tlsv1.3`, as RabbitMQ writes them.
    pub version: &'static str,
    /// The cipher suite, as rustls writes it.
    pub cipher: String,
    /// The host name that the client asked for.
    pub server_name: Option<String>,
    /// The client's certificate, when it was asked for and sent. It was verified.
    pub peer: Option<PeerCertificate>,
}

/// A verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's distinguished name (RFC 4514).
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// `from - to`, in UTC.
    pub validity: String,
    /// The user name of an EXTERNAL login, as `ssl_cert_login_from` asks for it; `None` when the
    /// certificate has no such name.
    pub login_name: Option<String>,
}

/// What is told of `session`, its handshake done.
pub(crate) fn info(session: &ServerConnection, config: &TlsConfig) -> TlsInfo {
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let peer = leaf.and_then(|der| match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Some(peer(&certificate, config)),
        Err(error) => {
            tracing::warn!(%error, "a verified client certificate cannot be read");
            None
        }
    });
    TlsInfo {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "tlsv1.3",
            Some(ProtocolVersion::TLSv1_2) => "tlsv1.2",
            _ => "unknown",
        },
        cipher: session
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()))
            .unwrap_or_default(),
        server_name: session.server_name().map(str::to_owned),
        peer,
    }
}

fn peer(certificate: &X509Certificate<'_>, config: &TlsConfig) -> PeerCertificate {
    let validity = certificate.validity();
    let subject = distinguished_name(certificate.subject());
    PeerCertificate {
        login_name: match config.login_from {
            CertLogin::DistinguishedName => Some(subject.clone()),
            CertLogin::CommonName => common_names(certificate.subject()),
            CertLogin::SubjectAltName => {
                alternative_name(certificate, config.login_san_kind, config.login_san_index)
            }
        },
        subject,
        issuer: distinguished_name(certificate.issuer()),
        validity: format!(
            "{} - {}",
            time(&validity.not_before),
            time(&validity.not_after)
        ),
    }
}

fn time(time: &ASN1Time) -> String {
    let (date, clock) = (time.to_datetime().date(), time.to_datetime().time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

const COMMON_NAME: Oid<'static> = oid!(2.5.4.3);

/// The attributes that RabbitMQ writes by name; others it writes by number.
const NAMES: [(Oid<'static>, &str); 16] = [
    (COMMON_NAME, "CN"),
    (oid!(2.5.4.4), "SN"),
    (oid!(2.5.4.5), "SERIALNUMBER"),
    (oid!(2.5.4.6), "C"),
    (oid!(2.5.4.7), "L"),
    (oid!(2.5.4.8), "ST"),
    (oid!(2.5.4.10), "O"),
    (oid!(2.5.4.11), "OU"),
    (oid!(2.5.4.12), "TITLE"),
    (oid!(2.5.4.42), "GIVENNAME"),
    (oid!(2.5.4.43), "INITIALS"),
    (oid!(2.5.4.44), "GENERATIONQUALIFIER"),
    (oid!(2.5.4.65), "PSEUDONYM"),
    (oid!(0.9.2342.19200300.100.1.1), "UID"),
    (oid!(0.9.2342.19200300.100.1.25), "DC"),
    (oid!(1.2.840.113549.1.9.1), "EMAILADDRESS"),
];

/// RFC 4514 as RabbitMQ writes it: last part first, `,` between parts, `+` within one.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts = name
        .iter()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"));
    let mut parts: Vec<String> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let value = attribute.attr_value();
    let value = text(value).map_or_else(|| hex(value), |text| escape(&text));
    match NAMES.iter().find(|(known, _)| known == oid) {
        Some((_, name)) => format!("{name}={value}"),
        None => format!("{}={value}", oid.to_id_string()),
    }
}

/// The escapes of RFC 4514, and hexadecimal pairs for all that is not printable ASCII.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let special = match byte {
            b' ' => at == 0 || at == last,
            b'#' => at == 0,
            _ => b"\"+,;<>\\".contains(&byte),
        };
        match byte {
            _ if special => escaped.extend(['\\', char::from(byte)]),
            32..126 => escaped.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(escaped, "\\{byte:02X}")),
        }
    }
    escaped
}

/// The common names, joined with commas.
fn common_names(name: &X509Name<'_>) -> Option<String> {
    let values = name.iter().flat_map(|part| part.iter());
    let values = values.filter(|attribute| *attribute.attr_type() == COMMON_NAME);
    let values: Vec<_> = values
        .filter_map(|attribute| text(attribute.attr_value()))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn alternative_name(
    certificate: &X509Certificate<'_>,
    kind: SanKind,
    index: usize,
) -> Option<String> {
    let extension = certificate.subject_alternative_name().ok().flatten()?;
    let names = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match (kind, name) {
            (SanKind::Dns, GeneralName::DNSName(name))
            | (SanKind::Email, GeneralName::RFC822Name(name))
            | (SanKind::Uri, GeneralName::URI(name)) => Some(Some((*name).to_owned())),
            (SanKind::Ip, GeneralName::IPAddress(octets)) => Some(address(octets)),
            (SanKind::Other, GeneralName::OtherName(_, value)) => Some(other_name(value)),
            _ => None,
        });
    // One that cannot be read keeps its place.
    names.into_iter().nth(index).flatten()
}

fn address(octets: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).to_string());
    let six = || <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).to_string());
    four.or_else(|_| six()).ok()
}

/// The text of an `otherName`, inside or without its `[0]`.
fn other_name(value: &[u8]) -> Option<String> {
    let (_, outer) = Any::from_der(value).ok()?;
    text(&outer).or_else(|| {
        let (_, inner) = Any::from_der(outer.data).ok()?;
        text(&inner)
    })
}

/// RFC 4514's form of what is no text: `#` and the digits of its encoding. (RabbitMQ writes an Erlang
/// term.)
fn hex(value: &Any<'_>) -> String {
    let encoded = value.to_der_vec().unwrap_or_default();
    encoded
        .iter()
        .fold("#".to_owned(), |hex, byte| hex + &format!("{byte:02X}"))
}

/// The characters of an ASN.1 string; `None` when it is none, or not what its type says.
fn text(value: &Any<'_>) -> Option<String> {
    let wide = |width: usize| {
        let chunks = value.data.chunks_exact(width);
        let whole = chunks.remainder().is_empty();
        let number = |chunk: &[u8]| {
            chunk
                .iter()
                .fold(0, |number, byte| number << 8 | u32::from(*byte))
        };
        let characters = chunks.map(|chunk| char::from_u32(number(chunk)));
        if whole {
            characters.collect::<Option<String>>()
        } else {
            None
        }
    };
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(value.data.to_vec()).ok()
        }
        // Read as ISO 8859-1, as everybody does.
        Tag::T61String => Some(value.data.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => wide(2),
        Tag::UniversalString => wide(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
