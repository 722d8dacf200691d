//! Certificates by OpenSSL.

use std::path::Path;
use std::process::Command;

use crate::support::output;

/// An authority (`ca.pem`), and certificates of it for a server of that name (`server.pem`, such as
/// `DNS:registry.example`) and for its user (`cert.pem`).
pub fn certificates(folder: &Path, server: &str) {
    std::fs::create_dir(folder).unwrap();
    let script = r#"
        cd "$0"
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem
        sign() {
            openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$2" -out request.pem
            echo "$4" >extensions
            openssl x509 -req -days 2 -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile extensions -out "$3"
        }
        sign server server-key.pem server.pem "subjectAltName=$1"
        sign client key.pem cert.pem "extendedKeyUsage=clientAuth"
    "#;
    output(Command::new("bash").args(["-euc", script]).arg(folder).arg(server));
}
