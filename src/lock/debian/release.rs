//! `InRelease`: what an archive says of itself, signed.
//!
//! Nothing of the file is looked at before a signature over it holds, and nothing but the signed
//! text is looked at then. The keys are Debian's archive keys of its releases 12 and 13, taken from
//! the package `debian-archive-keyring` (2023.3+deb12u2): archives outlive their release's keys, and
//! are signed with the next one's as well.
//!
//! Sources: the Debian wiki's "DebianRepository/Format"; apt-secure(8); RFC 9580, 7 (the cleartext
//! signature framework).

use std::collections::HashMap;

use assemble_layers::digest::Sha256;
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::Signature;
use pgp::types::{KeyDetails, VerifyingKey};

use super::index::fields;
use crate::net::parse_date;

/// What is wrong with a file, in words that go on after its name.
pub type Wrong = String;

/// The keys that an archive may be signed with.
#[derive(Default)]
pub struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// Debian's own.
    pub fn debian() -> Self {
        Self::parse(include_bytes!("archive-keys.gpg")).expect("the embedded keys are read in a test")
    }

    pub fn parse(bytes: &[u8]) -> pgp::errors::Result<Self> {
        SignedPublicKey::from_bytes_many(bytes)?.collect::<Result<_, _>>().map(Self)
    }

    /// Adds the keys of a file, armoured or not; those of kinds that are not known here verify nothing.
    pub fn add(&mut self, bytes: &[u8]) {
        if !bytes.starts_with(b"-----BEGIN") {
            self.0.extend(SignedPublicKey::from_bytes_many(bytes).into_iter().flatten().flatten());
            return;
        }
        // One armoured text after another, as `cat old.asc new.asc` makes it.
        for block in String::from_utf8_lossy(bytes).split_inclusive("-----END PGP PUBLIC KEY BLOCK-----") {
            let keys = SignedPublicKey::from_armor_many(block.trim_start().as_bytes());
            self.0.extend(keys.into_iter().flat_map(|(keys, _)| keys.flatten()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        let fingerprint = |key: &SignedPublicKey| key.primary_key.fingerprint();
        self.0.iter().any(|key| other.0.iter().any(|known| fingerprint(known) == fingerprint(key)))
    }

    /// Adds the keys of another ring.
    pub fn add_all(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Adds a key of another ring, by its fingerprint in hexadecimal digits, or that of a subkey.
    pub fn add_by_fingerprint(&mut self, other: &Self, fingerprint: &str) {
        let is_it = |found: &dyn std::fmt::Display| found.to_string().eq_ignore_ascii_case(fingerprint);
        let named = other.0.iter().filter(|key| {
            is_it(&key.primary_key.fingerprint())
                || key.public_subkeys.iter().any(|subkey| is_it(&subkey.key.fingerprint()))
        });
        self.0.extend(named.cloned());
    }

    /// Whether one of the keys, or its subkeys for signing, made this signature.
    fn made(&self, signature: &Signature, text: &str, now: u64) -> bool {
        self.0.iter().any(|key| {
            let own = key.details.users.iter().flat_map(|user| &user.signatures);
            if has_expired(&key.primary_key, own, now) {
                return false;
            }
            let subkeys = key.public_subkeys.iter().filter(|subkey| {
                subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                    && !has_expired(&subkey.key, subkey.signatures.iter(), now)
            });
            holds(signature, &key.primary_key, text)
                || subkeys.into_iter().any(|sub| holds(signature, &sub.key, text))
        })
    }
}

fn holds(signature: &Signature, key: &impl VerifyingKey, text: &str) -> bool {
    signature.verify(key, text.as_bytes()).is_ok()
}

/// By the latest word that the key has on itself (RFC 9580, 5.2.3.13).
fn has_expired<'a>(key: &impl KeyDetails, words: impl Iterator<Item = &'a Signature>, now: u64) -> bool {
    let latest = words.max_by_key(|word| word.created());
    let lifetime = latest.and_then(Signature::key_expiration_time);
    lifetime
        .is_some_and(|lifetime| u64::from(key.created_at().as_secs()) + u64::from(lifetime.as_secs()) <= now)
}

/// Checks the signature and returns the signed text.
pub fn verify(file: &[u8], keyring: &Keyring, now: u64) -> Result<String, Wrong> {
    let file = std::str::from_utf8(file).map_err(|_| "is not text")?;
    check_frame(file)?;
    let message = CleartextSignedMessage::from_string(file.trim_end());
    let (message, _) = message.map_err(|error| format!("is not a signed text: {error}"))?;
    let text = message.signed_text();
    // One good signature of a known key is enough: archives are signed by several.
    let good = |signature: &Signature| {
        is_strong(signature) && !is_over(signature, now) && keyring.made(signature, &text, now)
    };
    if message.signatures().iter().any(good) {
        Ok(text.replace("\r\n", "\n"))
    } else {
        Err("bears no valid signature of a key that it may be signed with".into())
    }
}

/// One signed text with its signatures, and nothing before, between or after: what a reader might
/// take for a part of it is refused outright, as apt does.
fn check_frame(file: &str) -> Result<(), Wrong> {
    const FRAME: [&str; 3] = [
        "-----BEGIN PGP SIGNED MESSAGE-----",
        "-----BEGIN PGP SIGNATURE-----",
        "-----END PGP SIGNATURE-----",
    ];
    if !file.starts_with(FRAME[0]) {
        return Err("is not signed".into());
    }
    let marks = file.lines().map(str::trim_end).filter(|line| line.starts_with("-----"));
    let framed = marks.eq(FRAME) && file.trim_end().ends_with(FRAME[2]);
    if framed { Ok(()) } else { Err("holds more than one signed text".into()) }
}

fn is_strong(signature: &Signature) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    signature.hash_alg().is_some_and(|hash| matches!(hash, Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512))
}

/// Whether the signature was given an end of its own, and that has come.
fn is_over(signature: &Signature, now: u64) -> bool {
    let made = signature.created().map_or(0, |made| u64::from(made.as_secs()));
    let lifetime = signature.signature_expiration_time().map(|lifetime| u64::from(lifetime.as_secs()));
    lifetime.is_some_and(|lifetime| lifetime != 0 && made + lifetime <= now)
}

/// The fields of a Release that matter here.
#[derive(Debug, Default)]
pub struct Release {
    origin: String,
    suite: String,
    codename: String,
    /// In seconds since 1970.
    pub date: u64,
    valid_until: Option<u64>,
    /// Whether files can be asked for by digest, so that a mirror's update in between does no harm.
    pub by_hash: bool,
    /// apt's pin for its packages (apt_preferences(5)).
    pub pin: u16,
    /// Whether packages of the architecture `all` are listed apart.
    pub lists_all_apart: bool,
    files: HashMap<String, Listed>,
}

/// A file that a Release lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    pub sha256: Sha256,
    pub size: u64,
}

impl Release {
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let field: HashMap<&str, &str> = fields(text.trim_end_matches('\n')).collect();
        let own = |name: &str| field.get(name).copied().unwrap_or_default();
        let date = |name: &str| match own(name) {
            "" => Ok(None),
            text => parse_date(text).map(Some).ok_or_else(|| format!("has no readable `{name}`")),
        };
        let is = |name: &str| own(name) == "yes";
        Ok(Self {
            origin: own("Origin").to_owned(),
            suite: own("Suite").to_owned(),
            codename: own("Codename").to_owned(),
            date: date("Date")?.ok_or("has no `Date`")?,
            valid_until: date("Valid-Until")?,
            by_hash: is("Acquire-By-Hash"),
            pin: match (is("NotAutomatic"), is("ButAutomaticUpgrades")) {
                (false, _) => 500,
                (true, true) => 100,
                (true, false) => 1,
            },
            lists_all_apart: own("Architectures").split_whitespace().any(|name| name == "all")
                && !own("No-Support-for-Architecture-all").contains("Packages"),
            files: own("SHA256").lines().filter_map(listed).collect(),
        })
    }

    /// Whether this is the suite that was asked for, of that origin if one is named.
    pub fn check(&self, suite: &str, origin: Option<&str>) -> Result<(), Wrong> {
        if let Some(origin) = origin.filter(|origin| self.origin != *origin) {
            return Err(format!("is of `{}`, not of `{origin}`", self.origin));
        }
        // Some that are not Debian's do not say what they are.
        let says_nothing = origin.is_none() && self.codename.is_empty() && self.suite.is_empty();
        if !says_nothing && suite != self.codename && suite != self.suite {
            return Err(format!("is of `{}` (`{}`), not of `{suite}`", self.codename, self.suite));
        }
        Ok(())
    }

    /// For how many days it has been expired.
    pub fn expired_for(&self, now: u64) -> Option<u64> {
        let until = self.valid_until.filter(|until| *until < now)?;
        Some((now - until) / (24 * 60 * 60))
    }

    pub fn file(&self, path: &str) -> Option<Listed> {
        self.files.get(path).copied()
    }
}

/// ` digest size path`.
fn listed(line: &str) -> Option<(String, Listed)> {
    let mut words = line.split_whitespace();
    let (sha256, size, path) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
    Some((path.to_owned(), Listed { sha256, size }))
}

#[cfg(test)]
#[path = "release_tests.rs"]
pub(super) mod tests;
