//! Certificates for one registry, where engines keep them.
//!
//! Sources: docs.docker.com, "Verify repository client with certificates" (`*.crt` are authorities, a
//! `*.cert` is a client's certificate, and its key a `*.key` of the same name); containers/image,
//! containers-certs.d(5), which has the same and its own folders.

use std::path::{Path, PathBuf};

use crate::net::Machine;
use crate::net::http::tls::{Identity, Keys, certificates_of};
use crate::{Error, Kind, Result};

/// What stands there for a registry of these names, `HOST` or `HOST:PORT`.
///
/// # Errors
/// A file that cannot be read or is not what its name says; a certificate without its key.
pub fn find(machine: &Machine, names: &[&str]) -> Result<Keys> {
    let mut keys = Keys::default();
    for folder in folders(machine) {
        for name in names {
            read(machine, &folder.join("certs.d").join(name), &mut keys)?;
        }
    }
    Ok(keys)
}

/// podman's, then Docker's; a user's own before the machine's.
fn folders(machine: &Machine) -> Vec<PathBuf> {
    let own = machine.configuration_folder();
    let of = |name: &str| [own.as_ref().map(|folder| folder.join(name)), Some(Path::new("/etc").join(name))];
    of("containers").into_iter().chain(of("docker")).flatten().collect()
}

fn read(machine: &Machine, folder: &Path, keys: &mut Keys) -> Result<()> {
    let text = |path: &Path| {
        let shown = path.display().to_string();
        let text = machine.settings(path)?;
        Ok::<_, Error>((shown, text))
    };
    for path in machine.list(folder, ".crt") {
        let (shown, text) = text(&path)?;
        keys.authorities.extend(certificates_of(&shown, &text.unwrap_or_default())?);
    }
    for path in machine.list(folder, ".cert") {
        let (shown, certificate) = text(&path)?;
        let (key_shown, key) = text(&path.with_extension("key"))?;
        let key = key.ok_or_else(|| {
            Error::new(Kind::Input, format!("there is no `{key_shown}`"))
                .detail(format!("`{shown}` is a client's certificate, and that would be its key"))
                .hint("the certificate of an authority is one that ends in `.crt`")
        })?;
        // One that was found before counts: a user's own.
        if keys.identity.is_none() {
            let certificate = certificate.unwrap_or_default();
            keys.identity = Some(Identity::read((&shown, &certificate), (&key_shown, &key))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authority's certificate and a key, by OpenSSL; both are of no use to anybody.
    fn pair() -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                      -subj /CN=x -keyout key -out crt";
        let made = std::process::Command::new("sh").args(["-c", script]).current_dir(folder.path()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        (read("crt"), read("key"))
    }

    fn found(files: &[(&str, &str)]) -> Result<(usize, bool)> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        let machine = Machine::new(root.path(), [("HOME", "/home/me")]);
        let keys = find(&machine, &["r.example:5000"])?;
        Ok((keys.authorities.len(), keys.identity.is_some()))
    }

    #[test]
    fn each_engine_has_its_folder() {
        let (certificate, key) = pair();
        let folders =
            ["etc/docker", "etc/containers", "home/me/.config/containers", "home/me/.config/docker"];
        for folder in folders {
            let at = |name: &str| format!("{folder}/certs.d/{name}");
            let authority = at("r.example:5000/ca.crt");
            assert_eq!(found(&[(&authority, &certificate)]).unwrap(), (1, false));
            let (cert, own_key) = (at("r.example:5000/client.cert"), at("r.example:5000/client.key"));
            assert_eq!(found(&[(&cert, &certificate), (&own_key, &key)]).unwrap(), (0, true));
            for other in ["r.example", "r.example:5001", "other"] {
                let authority = at(&format!("{other}/ca.crt"));
                assert_eq!(found(&[(&authority, &certificate)]).unwrap(), (0, false), "{other}");
            }
        }
        let both = folders.map(|folder| format!("{folder}/certs.d/r.example:5000/ca.crt"));
        let all: Vec<_> = both.iter().map(|path| (path.as_str(), certificate.as_str())).collect();
        assert_eq!(found(&all).unwrap(), (4, false));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let (certificate, _) = pair();
        let at = |name: &str| format!("etc/docker/certs.d/r.example:5000/{name}");
        let (ca, cert, key) = (at("ca.crt"), at("client.cert"), at("client.key"));
        for (files, said) in [
            (vec![(&*ca, "secret")], "ca.crt"),
            (vec![(&*ca, "")], "ca.crt"),
            (vec![(&*cert, &*certificate)], "client.key"),
            (vec![(&*cert, &*certificate), (&*key, "secret")], "client.key"),
            (vec![(&*cert, "secret"), (&*key, "secret")], "client.key"),
        ] {
            let error = found(&files).unwrap_err();
            assert!(error.kind() == Kind::Input && error.to_string().contains(said), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
