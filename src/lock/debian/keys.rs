//! Which keys a base image's own archives may be signed with, as its apt has it (apt-secure(8); sources.list(5),
//! `Signed-By`).

use std::collections::BTreeMap;
use std::path::Path;

use super::release::Keyring;
use crate::bounded;
use crate::error::Result;
use crate::fetch::debian::AptSource;

/// What apt trusts where a source names no keys.
const TRUSTED: &str = "etc/apt/trusted.gpg.d";

/// A file of keys is not larger, in bytes.
const LARGEST: u64 = 4 << 20;

/// Keys by the suites that they may sign. Where several sources have a suite of one name, the keys of each are
/// good for it.
pub struct Keyrings {
    /// Of sources that name none: what the image's apt trusts, and Debian's own, for whatever mirror it has.
    trusted: Keyring,
    of_suites: BTreeMap<String, Keyring>,
}

impl Keyrings {
    /// Of an image whose files that apt reads are in a folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(root: &Path, sources: &[AptSource]) -> Result<Self> {
        let mut trusted = Keyring::debian();
        for file in fs_err::read_dir(root.join(TRUSTED)).into_iter().flatten() {
            trusted.add(&read(root, &Path::new(TRUSTED).join(file?.file_name()))?);
        }
        let mut of_suites: BTreeMap<String, Keyring> = BTreeMap::new();
        for source in sources {
            for suite in &source.suites {
                let keyring = of_suites.entry(suite.clone()).or_default();
                match &source.signed_by {
                    Some(named) => add_named(root, named, &trusted, keyring)?,
                    None => keyring.add_all(&trusted),
                }
            }
        }
        Ok(Self { trusted, of_suites })
    }

    #[cfg(test)]
    pub fn debian() -> Self {
        Self { trusted: Keyring::debian(), of_suites: BTreeMap::new() }
    }

    /// Those that a suite may be signed with.
    pub fn of(&self, suite: &str) -> &Keyring {
        self.of_suites.get(suite).unwrap_or(&self.trusted)
    }
}

/// Adds what a `Signed-By` names: files, fingerprints of keys that are trusted, or a key as it stands, whose
/// empty lines are dots.
fn add_named(root: &Path, named: &str, trusted: &Keyring, keyring: &mut Keyring) -> Result<()> {
    if named.trim_start().starts_with("-----BEGIN") {
        let lines = named.trim().lines().map(|line| if line.trim() == "." { "" } else { line.trim() });
        keyring.add(lines.collect::<Vec<_>>().join("\n").as_bytes());
        return Ok(());
    }
    for word in named.split_whitespace() {
        match word.strip_prefix('/') {
            Some(path) => keyring.add(&read(root, Path::new(path))?),
            None => keyring.add_by_fingerprint(trusted, word.trim_end_matches('!')),
        }
    }
    Ok(())
}

/// A file of the image; nothing where there is none, for then nothing is signed by it.
fn read(root: &Path, path: &Path) -> Result<Vec<u8>> {
    match bounded::open_beneath(root, path) {
        Ok(file) => bounded::bytes(file, LARGEST, path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::release::tests::Signer;
    use super::*;
    use crate::fetch::debian::apt_sources;
    use crate::net::Machine;

    /// Whether a text that a key has signed is taken for each of the suites.
    fn taken(files: &[(&str, &str)], signer: &Signer, suites: [&str; 2]) -> [bool; 2] {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        let sources = apt_sources(&Machine::new::<&str, &str>(root.path(), []));
        let keyrings = Keyrings::read(root.path(), &sources).unwrap();
        let signed = signer.sign("Origin: x\n");
        suites.map(|suite| super::super::release::verify(signed.as_bytes(), keyrings.of(suite), 0).is_ok())
    }

    #[test]
    fn a_source_s_own_keys_sign_it_alone() {
        let (own, other) = (Signer::new(), Signer::new());
        let sources = "Types: deb\nURIs: http://x.example/\nSuites: one\nComponents: main\n\
                       Signed-By: /usr/share/keyrings/one.asc\n\n\
                       Types: deb\nURIs: http://y.example/\nSuites: two\nComponents: main\n";
        let files = |key: &str, trusted: &str| {
            [
                ("etc/apt/sources.list.d/x.sources", sources.to_owned()),
                ("usr/share/keyrings/one.asc", key.to_owned()),
                ("etc/apt/trusted.gpg.d/two.asc", trusted.to_owned()),
                // In no source's name, and trusted by nobody.
                ("usr/share/keyrings/stray.asc", own.armoured()),
            ]
        };
        let taken_of = |key: &str, trusted: &str| {
            let files = files(key, trusted);
            let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            taken(&files, &own, ["one", "two"])
        };
        assert_eq!(taken_of(&own.armoured(), &other.armoured()), [true, false]);
        assert_eq!(taken_of(&other.armoured(), &own.armoured()), [false, true]);
        assert_eq!(taken_of(&other.armoured(), &other.armoured()), [false, false]);
    }

    #[test]
    fn a_key_stands_in_the_source_or_is_named_by_its_fingerprint() {
        let (own, other) = (Signer::new(), Signer::new());
        let stanza = |signed_by: &str| {
            format!(
                "Types: deb\nURIs: http://x.example/\nSuites: one\nComponents: main\nSigned-By:{signed_by}\n"
            )
        };
        let inline = own
            .armoured()
            .lines()
            .map(|line| format!("\n {}", if line.is_empty() { "." } else { line }))
            .collect::<String>();
        let sources = stanza(&inline);
        assert_eq!(
            taken(&[("etc/apt/sources.list.d/x.sources", &sources)], &own, ["one", "two"]),
            [true, false]
        );
        let both = format!("{}\n{}", own.armoured(), other.armoured());
        for (signer, taken_by_it) in [(&own, true), (&other, false)] {
            let sources = stanza(&format!(" {}", own.fingerprint()));
            let files = [
                ("etc/apt/sources.list.d/x.sources", sources.as_str()),
                ("etc/apt/trusted.gpg.d/a.asc", &own.armoured()),
                ("etc/apt/trusted.gpg.d/b.asc", &other.armoured()),
            ];
            assert_eq!(taken(&files, signer, ["one", "two"]), [taken_by_it, true], "{both}");
        }
    }
}
