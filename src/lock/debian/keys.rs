//! What the apt sources of a base image are, and which keys each may be signed with (apt-secure(8);
//! sources.list(5), `Signed-By`).

use std::collections::BTreeMap;
use std::path::Path;

use super::release::Keyring;
use crate::bounded;
use crate::error::{Error, Kind, Result};
use crate::fetch::debian::AptSource;

/// What apt trusts where a source names no keys.
const TRUSTED: &str = "etc/apt/trusted.gpg.d";

/// A file of keys is not larger, in bytes.
const LARGEST: u64 = 4 << 20;

/// What an image's packages come from.
pub struct Sources {
    /// The keys of sources that name none: what the image's apt trusts, and Debian's own, for whatever mirror it
    /// has.
    trusted: Keyring,
    /// The suites of the image's distribution, which any mirror of it serves, with the keys of their sources.
    keyrings: BTreeMap<String, Keyring>,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    pub others: Vec<OtherSource>,
}

/// A suite that is in one place alone: of a flat archive, or of one whose keys nothing else is signed with.
pub struct OtherSource {
    pub source: AptSource,
    pub suite: String,
    pub keyring: Keyring,
}

impl Sources {
    /// Of an image whose files that apt reads are in a folder.
    ///
    /// # Errors
    /// Those of the disk; a file of keys that is not there.
    pub fn read(root: &Path, sources: &[AptSource]) -> Result<Self> {
        let mut trusted = Keyring::debian();
        for file in fs_err::read_dir(root.join(TRUSTED)).into_iter().flatten() {
            trusted.add(&read(root, &Path::new(TRUSTED).join(file?.file_name()))?);
        }
        let mut this = Self { trusted, ..Self::debian() };
        for source in sources {
            this.add(root, source)?;
        }
        Ok(this)
    }

    /// Those of an image that says nothing.
    pub fn debian() -> Self {
        Self {
            trusted: Keyring::debian(),
            keyrings: BTreeMap::new(),
            suites: Vec::new(),
            components: Vec::new(),
            others: Vec::new(),
        }
    }

    fn add(&mut self, root: &Path, source: &AptSource) -> Result<()> {
        let mut own = Keyring::default();
        match &source.signed_by {
            Some(named) => add_named(root, named, &self.trusted, &mut own)?,
            None => own.add_all(&self.trusted),
        }
        for suite in &source.suites {
            if source.components.is_empty() || !own.shares_a_key_with(&self.trusted) {
                let mut keyring = Keyring::default();
                keyring.add_all(&own);
                self.others.push(OtherSource { source: source.clone(), suite: suite.clone(), keyring });
                continue;
            }
            self.keyrings.entry(suite.clone()).or_default().add_all(&own);
            add_new(&mut self.suites, suite);
            source.components.iter().for_each(|component| add_new(&mut self.components, component));
        }
        Ok(())
    }

    /// The keys that a suite of the distribution may be signed with.
    pub fn keyring(&self, suite: &str) -> &Keyring {
        self.keyrings.get(suite).unwrap_or(&self.trusted)
    }
}

fn add_new(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
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

/// A file of the image.
fn read(root: &Path, path: &Path) -> Result<Vec<u8>> {
    match bounded::open_beneath(root, path) {
        Ok(file) => bounded::bytes(file, LARGEST, path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let missing = format!(
                "an apt source of the base image is signed by `/{}`, which is no file",
                path.display()
            );
            Err(Error::new(Kind::Input, missing)
                .hint("the image that is built upon needs that file, or another `Signed-By`"))
        }
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
        let sources = Sources::read(root.path(), &sources).unwrap();
        let signed = signer.sign("Origin: x\n");
        let keyring = |suite: &str| {
            let other = sources.others.iter().find(|other| other.suite == suite);
            other.map_or(sources.keyring(suite), |other| &other.keyring)
        };
        suites.map(|suite| super::super::release::verify(signed.as_bytes(), keyring(suite), 0).is_ok())
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
        for (signer, taken_by_it) in [(&own, true), (&other, false)] {
            let sources = stanza(&format!(" {}", own.fingerprint()));
            let files = [
                ("etc/apt/sources.list.d/x.sources", sources.as_str()),
                ("etc/apt/trusted.gpg.d/a.asc", &own.armoured()),
                ("etc/apt/trusted.gpg.d/b.asc", &other.armoured()),
            ];
            assert_eq!(taken(&files, signer, ["one", "two"]), [taken_by_it, true]);
        }
    }

    #[test]
    fn one_file_has_several_keys() {
        let (old, new) = (Signer::new(), Signer::new());
        let both = format!("{}\n{}\n", old.armoured(), new.armoured());
        let sources = "deb [signed-by=/opt/both.asc] http://x.example/ one main\n";
        for signer in [&old, &new] {
            let files = [("etc/apt/sources.list", sources), ("opt/both.asc", &both)];
            assert_eq!(taken(&files, signer, ["one", "two"]), [true, false]);
        }
    }

    #[test]
    fn an_archive_of_its_own_is_flat_or_has_keys_that_nothing_else_is_signed_with() {
        let (own, trusted) = (Signer::new(), Signer::new());
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        write("own.asc", &own.armoured());
        write("trusted.asc", &trusted.armoured());
        write("etc/apt/trusted.gpg.d/x.asc", &trusted.armoured());
        write(
            "etc/apt/sources.list",
            "deb http://debian.example/ bookworm main\n\
             deb [signed-by=/trusted.asc] http://debian.example/ bookworm-updates main contrib\n\
             deb [signed-by=/own.asc] http://docker.example/ bookworm stable\n\
             deb http://nvidia.example/ ./\n\
             deb http://other.example/ amd64/\n",
        );
        let machine = Machine::new::<&str, &str>(root.path(), []);
        let sources = Sources::read(root.path(), &apt_sources(&machine)).unwrap();
        assert_eq!(
            (&sources.suites[..], &sources.components[..]),
            (
                &["bookworm".to_owned(), "bookworm-updates".to_owned()][..],
                &["main".to_owned(), "contrib".to_owned()][..],
            )
        );
        let others = sources.others.iter().map(|it| format!("{} {}", it.source.address, it.suite));
        let others: Vec<_> = others.collect();
        assert_eq!(
            others,
            ["http://docker.example/ bookworm", "http://nvidia.example/ ./", "http://other.example/ amd64/"]
        );
        fs_err::remove_file(root.path().join("own.asc")).unwrap();
        let error = Sources::read(root.path(), &apt_sources(&machine)).err().unwrap();
        assert!(error.kind() == Kind::Input && error.message().contains("`/own.asc`"), "{error}");
    }
}
