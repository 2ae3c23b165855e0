//! What TLS trusts and shows: the system's authorities and more, and this host's own certificate. Files in, a configuration
//! out. It knows no server.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::net::{Class, Failure};
use super::web::read_bounded;
use crate::model::Https;

/// The longest file of certificates, in bytes.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// The longest file of a private key, in bytes.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Returns how TLS is spoken with a server that is believed by `https`, from its files as they are now.
///
/// # Errors
/// If one of them cannot be read or used.
pub(super) fn config(https: &Https) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let more = match &https.ca_file {
        Some(path) => certificates(path, "authorities")?,
        None => Vec::new(),
    };
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(more, provider.clone());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| broken(&e))?
        // Not dangerous: the system's authorities, and those above.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.map_err(|e| broken(&e))?));
    match (&https.client_cert_file, &https.client_key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "client certificate")?;
            builder.with_client_auth_cert(chain, private_key(key)?).map_err(|e| {
                unusable("client certificate", cert, &format!("it does not go with the key: {e}"))
            })
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Returns a configuration that trusts nobody, for connections without TLS.
pub(super) fn without() -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| broken(&e))?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read_bounded(path, CERTIFICATES_BYTES_MAX).map_err(|e| unusable(what, path, &e.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| unusable(what, path, &e.to_string()))?;
    if found.is_empty() { Err(unusable(what, path, "no certificate in it")) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let what = "client key";
    let pem = read_bounded(path, KEY_BYTES_MAX).map_err(|e| unusable(what, path, &e.to_string()))?;
    // Its words could repeat what is in the file.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable(what, path, "it is no private key in PEM"))
}

fn unusable(what: &str, path: &Path, why: &str) -> Failure {
    Failure::new(Class::Local, format!("the {what} in '{}' cannot be used: {why}", path.display()))
}

fn broken(error: &rustls::Error) -> Failure {
    Failure::new(Class::Tls, format!("TLS cannot be set up: {error}"))
}
