//! TLS to an engine: it shows a certificate of its own authority, and so does whoever may use it
//! ("Protect the Docker daemon socket", docs.docker.com).

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::net::Machine;
use crate::{Error, Kind, Result};

/// From a folder with `ca.pem`, `cert.pem` and `key.pem`.
///
/// # Errors
/// One of the files is missing, or is not what its name says.
pub fn configuration(machine: &Machine, keys: &Path) -> Result<Arc<ClientConfig>> {
    let wrong = |name: &str| {
        Error::new(Kind::Input, format!("`{}` cannot be used for TLS", keys.join(name).display()))
            .hint("`DOCKER_CERT_PATH` names a folder with `ca.pem`, `cert.pem` and `key.pem`")
    };
    let read = |name: &str| machine.read(keys.join(name)).ok_or_else(|| wrong(name));
    let certificates = |name: &str| {
        let pem = read(name)?;
        let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        all.map_err(|error| wrong(name).detail(error))
    };
    let mut authorities = RootCertStore::empty();
    for authority in certificates("ca.pem")? {
        authorities.add(authority).map_err(|error| wrong("ca.pem").detail(error))?;
    }
    // The error of a key would be shown: it says nothing about the key itself.
    let key = PrivateKeyDer::from_pem_slice(read("key.pem")?.as_bytes()).map_err(|_| wrong("key.pem"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Internal, error.to_string()))?
        .with_root_certificates(authorities)
        .with_client_auth_cert(certificates("cert.pem")?, key)
        .map_err(|error| wrong("cert.pem").detail(error))?;
    Ok(Arc::new(configuration))
}

/// # Errors
/// A host that no certificate can be for. A handshake that fails shows when something is sent.
pub fn connect(
    configuration: &Arc<ClientConfig>,
    host: &str,
    socket: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(configuration), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}
