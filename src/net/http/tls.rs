//! Whom a connection is believed to be with, and as whom it is made.
//!
//! The machine's trust store counts, as OpenSSL finds it: `SSL_CERT_FILE` and `SSL_CERT_DIR`, else the
//! usual places. A certificate that is in there itself is believed for the names that it has, even
//! where it calls itself an authority: that is what `openssl req -x509` makes, and so what Docker's
//! documents make for a registry ("Use self-signed certificates"). WebPKI would have a server's
//! certificate never be an authority's.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::net::Machine;
use crate::{Error, Kind, Result};

/// Where distributions keep the certificates of all authorities in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is trusted and shown beside what is the machine's own. No `Debug`: there may be a key in it.
#[derive(Default)]
pub struct Keys {
    pub authorities: Vec<CertificateDer<'static>>,
    pub identity: Option<Identity>,
}

/// A client's certificate, with those that lead to its authority, and its key.
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Keys {
    fn clone(&self) -> Self {
        let identity = self.identity.as_ref().map(|identity| Identity {
            certificates: identity.certificates.clone(),
            key: identity.key.clone_key(),
        });
        Self { authorities: self.authorities.clone(), identity }
    }
}

impl Identity {
    /// From the texts of files, which are the same one where it holds both.
    ///
    /// # Errors
    /// They hold no certificate and no key that can be used.
    pub fn read((path, certificates): (&str, &str), (key_path, key): (&str, &str)) -> Result<Self> {
        // The error of a key would be shown: it says nothing about the key itself.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
            Error::new(Kind::Input, format!("`{key_path}` holds no private key that can be read"))
                .hint("a key is in PEM's form, and without a passphrase")
        })?;
        Ok(Self { certificates: certificates_of(path, certificates)?, key })
    }
}

/// The certificates in a file's text.
///
/// # Errors
/// There is none, or one that cannot be read.
pub fn certificates_of(path: &str, text: &str) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = || Error::new(Kind::Input, format!("`{path}` holds no certificate that can be read"));
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| wrong().detail(error))?;
    if certificates.is_empty() {
        return Err(wrong().hint("certificates are in PEM's form: `-----BEGIN CERTIFICATE-----`"));
    }
    Ok(certificates)
}

/// # Errors
/// `SSL_CERT_FILE` cannot be read; keys that do not fit together.
pub fn configuration(machine: &Machine, keys: &Keys) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut trusted = of_machine(machine)?;
    trusted.extend(keys.authorities.iter().cloned());
    let wrong = |error: TlsError| {
        Error::new(Kind::Machine, "TLS cannot be set up with the certificates of this machine").detail(error)
    };
    let verifier = Arc::new(Verifier::new(trusted, &provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match &keys.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { certificates, key }) => {
            builder.with_client_auth_cert(certificates.clone(), key.clone_key()).map_err(wrong)
        }
    }
}

/// With `SSL_CERT_FILE` set the library reads that file alone, where OpenSSL goes on to look at the
/// folder of certificates.
fn of_machine(machine: &Machine) -> Result<Vec<CertificateDer<'static>>> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    let Some(named) = machine.variable("SSL_CERT_FILE") else { return Ok(certificates) };
    let text = machine.settings(named)?.ok_or_else(|| {
        Error::new(Kind::Input, format!("there is no `{named}`"))
            .hint("`SSL_CERT_FILE` names it: a file of certificates; Debian's `ca-certificates` has one")
    })?;
    certificates.extend(certificates_of(named, &text)?);
    if machine.variable("SSL_CERT_DIR").is_none() {
        let bundle = BUNDLES.iter().find_map(|path| machine.read(path)).unwrap_or_default();
        certificates.extend(CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok));
    }
    Ok(certificates)
}

/// WebPKI's, and certificates that are trusted themselves.
#[derive(Debug)]
struct Verifier {
    /// `None` where no authority is trusted.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    trusted: HashSet<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(trusted: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Self {
            authorities: builder.build().ok(),
            trusted: trusted.into_iter().collect(),
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

/// What WebPKI says of a certificate of an authority, whose dates it has checked before.
fn calls_itself_an_authority(error: &TlsError) -> bool {
    let TlsError::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authorities) = &self.authorities else {
            return Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match authorities.verify_server_cert(certificate, intermediates, name, stapled, now) {
            Err(error) if calls_itself_an_authority(&error) && self.trusted.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
