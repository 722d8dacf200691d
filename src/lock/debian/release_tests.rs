use pgp::composed::{ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm as Hash;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{Duration, Password, Timestamp};
use rand::rngs::OsRng;

use super::*;

/// A key made for a test.
pub struct Signer(SignedSecretKey);

impl Signer {
    pub fn new() -> Self {
        Self::of(KeyType::Ed25519Legacy)
    }

    fn of(kind: KeyType) -> Self {
        let parameters = SecretKeyParamsBuilder::default()
            .key_type(kind)
            .can_sign(true)
            .primary_user_id("Test <test@archive.example>".into())
            .build()
            .unwrap();
        Self(parameters.generate(OsRng).unwrap())
    }

    pub fn keyring(&self) -> Keyring {
        Keyring::parse(&self.0.to_public_key().to_bytes().unwrap()).unwrap()
    }

    pub fn armoured(&self) -> String {
        self.0.to_public_key().to_armored_string(ArmorOptions::default()).unwrap()
    }

    pub fn fingerprint(&self) -> String {
        self.0.primary_key.fingerprint().to_string()
    }

    pub fn sign(&self, text: &str) -> String {
        self.sign_with(text, Hash::Sha256, None)
    }

    fn sign_with(&self, text: &str, hash: Hash, lifetime: Option<u32>) -> String {
        let mut signature =
            SignatureConfig::from_key(OsRng, &self.0.primary_key, SignatureType::Text).unwrap();
        signature.hash_alg = hash;
        let mut details = vec![
            SubpacketData::SignatureCreationTime(Timestamp::now()),
            SubpacketData::IssuerFingerprint(self.0.primary_key.fingerprint()),
        ];
        details.extend(
            lifetime.map(|seconds| SubpacketData::SignatureExpirationTime(Duration::from_secs(seconds))),
        );
        signature.hashed_subpackets =
            details.into_iter().map(|detail| Subpacket::regular(detail).unwrap()).collect();
        CleartextSignedMessage::new(text, signature, &self.0.primary_key, &Password::empty())
            .unwrap()
            .to_armored_string(ArmorOptions::default())
            .unwrap()
    }
}

fn now() -> u64 {
    Timestamp::now().as_secs().into()
}

const RELEASE: &str = "Origin: Debian\nSuite: oldstable\nCodename: bookworm\n\
    Date: Sat, 11 Jul 2026 10:16:37 UTC\nValid-Until: Sat, 18 Jul 2026 10:16:37 UTC\nAcquire-By-Hash: yes\n\
    Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\nSHA256:\n \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages.xz\n";

#[test]
fn the_embedded_keys_are_whole_and_sign() {
    let keyring = Keyring::debian();
    assert_eq!(keyring.0.len(), 6);
    for key in &keyring.0 {
        key.verify_bindings().unwrap();
        let own = || key.details.users.iter().flat_map(|user| &user.signatures);
        // 2026 and 2036.
        assert!(!has_expired(&key.primary_key, own(), 1_783_764_997));
        assert!(has_expired(&key.primary_key, own(), 2_098_764_997));
    }
}

#[test]
fn a_signed_text_comes_back() {
    let signer = Signer::new();
    for text in [RELEASE, "- a dash\n-----\nFrom here\n"] {
        assert_eq!(verify(signer.sign(text).as_bytes(), &signer.keyring(), now()).unwrap(), text);
    }
}

#[test]
fn what_nobody_known_signed_is_refused() {
    let signer = Signer::new();
    let no_signature = "bears no valid signature of a key that it may be signed with";
    let check = |file: &str| verify(file.as_bytes(), &signer.keyring(), now()).unwrap_err();
    assert_eq!(check(RELEASE), "is not signed");
    assert_eq!(check(&Signer::new().sign(RELEASE)), no_signature);
    assert_eq!(check(&signer.sign(RELEASE).replace("bookworm", "bookwurm")), no_signature);
    // A signature over another text.
    let (one, other) = (signer.sign(RELEASE), signer.sign("Origin: Debian\n"));
    let signature = |file: &str| file[file.find("-----BEGIN PGP SIGNATURE").unwrap()..].to_owned();
    assert_eq!(check(&one.replace(&signature(&one), &signature(&other))), no_signature);
    assert!(check(&one.replace(&signature(&one), "")).contains("more than one"));
    // A signature that was given an end.
    let ends = signer.sign_with(RELEASE, Hash::Sha256, Some(10));
    assert!(verify(ends.as_bytes(), &signer.keyring(), now()).is_ok());
    assert!(verify(ends.as_bytes(), &signer.keyring(), now() + 11).is_err());
}

#[test]
fn weak_hashes_are_refused() {
    // Of the kinds of keys, RSA's alone would sign one.
    let signer = Signer::of(KeyType::Rsa(2048));
    let check =
        |hash| verify(signer.sign_with(RELEASE, hash, None).as_bytes(), &signer.keyring(), now()).is_ok();
    assert_eq!([check(Hash::Sha512), check(Hash::Sha1), check(Hash::Md5)], [true, false, false]);
}

#[test]
fn text_outside_the_signed_part_is_refused() {
    let signer = Signer::new();
    let good = signer.sign(RELEASE);
    let check = |file: &str| verify(file.as_bytes(), &signer.keyring(), now());
    assert!(check(&format!("{good}\n\n")).is_ok());
    for bad in [
        format!("Origin: Evil\n\n{good}"),
        format!("{good}Origin: Evil\n"),
        format!("{good}{good}"),
        good.replace("Hash: SHA256\n", "Hash: SHA256\nOrigin: Evil\n"),
        good.replace(
            "\n-----BEGIN PGP SIGNATURE",
            "\n-----EVIL-----\nOrigin: Evil\n-----BEGIN PGP SIGNATURE",
        ),
        good.replace("Origin: Debian", "-----BEGIN PGP SIGNATURE-----\n\nOrigin: Debian"),
    ] {
        assert!(check(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_a_release_says() {
    let release = Release::parse(RELEASE).unwrap();
    assert_eq!(release.date, 1_783_764_997);
    assert!(release.by_hash && !release.lists_all_apart);
    assert_eq!(release.file("main/binary-amd64/Packages.xz").unwrap().sha256, Sha256::of(b""));
    assert_eq!(release.file("main/binary-amd64/Packages.gz"), None);
    assert!(
        release.check("bookworm", Some("Debian")).is_ok()
            && release.check("oldstable", Some("Debian")).is_ok()
    );
    assert_eq!(
        release.check("trixie", Some("Debian")).unwrap_err(),
        "is of `bookworm` (`oldstable`), not of `trixie`"
    );
    let week = 7 * 24 * 60 * 60;
    assert_eq!(release.expired_for(release.date + week), None);
    assert_eq!(release.expired_for(release.date + 2 * week), Some(7));
    let other = Release::parse(&RELEASE.replace("Origin: Debian", "Origin: Docker")).unwrap();
    assert_eq!(other.check("bookworm", Some("Debian")).unwrap_err(), "is of `Docker`, not of `Debian`");
    assert!(Release::parse(&RELEASE.replace("Jul 2026", "Juli")).is_err());
}

#[test]
fn backports_stand_back() {
    let pin = |more: &str| Release::parse(&format!("{more}{RELEASE}")).unwrap().pin;
    assert_eq!(pin(""), 500);
    assert_eq!(pin("NotAutomatic: yes\nButAutomaticUpgrades: yes\n"), 100);
    assert_eq!(pin("NotAutomatic: yes\n"), 1);
}
