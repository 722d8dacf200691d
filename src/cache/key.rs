//! Keys that records are signed with: ed25519 (RFC 8032), as one line of text each.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fs_err::os::unix::fs::OpenOptionsExt;

use crate::{Error, Kind, Result, bounded};

const PUBLIC: &str = "ed25519:";
const SECRET: &str = "ed25519-secret:";

/// The file of a secret key has a line, and is not larger, in bytes.
const LARGEST: u64 = 1 << 16;

/// What is signed begins with this, so that no signature is good for anything else.
const CONTEXT: &[u8] = b"assemble record 2\n";

/// Whose records are taken: `ed25519:` and base64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; 32]);

/// What records are signed with. It is never shown.
pub struct SecretKey(Ed25519KeyPair);

impl PublicKey {
    /// Whether `signature`, in base64, is this key's over `statement`.
    pub fn verifies(&self, statement: &[u8], signature: &str) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        STANDARD
            .decode(signature)
            .is_ok_and(|signature| key.verify(&[CONTEXT, statement].concat(), &signature).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.strip_prefix(PUBLIC).and_then(|text| STANDARD.decode(text).ok());
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or_else(|| {
            Error::new(Kind::Usage, "that is no public key")
                .hint(format!("`assemble cache keygen FILE` prints one: `{PUBLIC}` and 44 characters"))
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PUBLIC}{}", STANDARD.encode(self.0))
    }
}

impl SecretKey {
    /// # Errors
    /// The machine gives no random numbers.
    pub fn generate() -> Result<Self> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| Error::new(Kind::Machine, "no key could be made"))
    }

    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// In base64.
    pub fn sign(&self, statement: &[u8]) -> String {
        STANDARD.encode(self.0.sign(&[CONTEXT, statement].concat()))
    }

    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        let missing = || Error::new(Kind::Usage, format!("there is no `{}`", path.display()));
        let text = bounded::text(path, LARGEST)?.ok_or_else(missing)?;
        let seed = text.trim().strip_prefix(SECRET).and_then(|text| STANDARD.decode(text).ok());
        let pair = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
        pair.map(Self).ok_or_else(|| {
            Error::new(Kind::Input, format!("`{}` holds no secret key", path.display()))
                .hint("`assemble cache keygen FILE` makes one")
        })
    }

    /// Writes the key to a new file that its owner alone can read.
    ///
    /// # Errors
    /// There is such a file already; those of the disk.
    pub fn write(&self, path: &Path) -> Result<()> {
        let internal = |_| Error::new(Kind::Internal, "the key has no seed");
        let seed = self.0.seed().and_then(|seed| Ok(STANDARD.encode(seed.as_be_bytes()?.as_ref())));
        let seed = seed.map_err(internal)?;
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        Ok(options.open(path)?.write_all(format!("{SECRET}{seed}\n").as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let secret = SecretKey::generate().unwrap();
        secret.write(&path).unwrap();
        assert!(secret.write(&path).is_err(), "a key is never written over");
        let read = SecretKey::read(&path).unwrap();
        let public: PublicKey = secret.public().to_string().parse().unwrap();
        assert_eq!(read.public(), public);
        let signature = read.sign(b"statement");
        assert!(public.verifies(b"statement", &signature));
        assert!(!public.verifies(b"another", &signature));
        assert!(!SecretKey::generate().unwrap().public().verifies(b"statement", &signature));
        assert!(!public.verifies(b"statement", "no base64!"));
    }

    /// RFC 8032, 7.1, test 1: another implementation's keys, over what is signed here.
    #[test]
    fn keys_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs_err::write(&path, "ed25519-secret:nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n").unwrap();
        let public = SecretKey::read(&path).unwrap().public();
        assert_eq!(public.to_string(), "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in ["", "ed25519:", "ed25519:AAAA", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
    }
}
