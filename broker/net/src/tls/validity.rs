//! How long a certificate holds.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// When the first certificate of a PEM file to end does so, in seconds since 1970; `None` if the file cannot be used.
pub fn certificate_end(path: &Path) -> Option<i64> {
    let ends: Option<Vec<i64>> = CertificateDer::pem_file_iter(path)
        .ok()?
        .map(|der| {
            let der = der.ok()?;
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        })
        .collect();
    ends?.into_iter().min()
}
