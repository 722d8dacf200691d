//! Java's key store of trusted certificates, `/etc/ssl/certs/java/cacerts`, as Debian's package
//! `ca-certificates-java` makes it while it is configured. Of its bytes only the dates differ from one
//! machine to the next: each certificate has the moment at which it was added.
//!
//! The format is `JKS`, as OpenJDK's `sun.security.provider.JavaKeyStore` documents it; numbers are
//! big-endian, texts have their length in two bytes before them:
//!
//! ```text
//! FEEDFEED, version 2, number of entries
//! entry    2 (a trusted certificate), alias, date in milliseconds, type, length, certificate
//! SHA-1    of the password in UTF-16, of "Mighty Aphrodite", and of all that stands before
//! ```

use assemble_layers::tree::MTIME;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// What begins a store, and its version.
const BEGINNING: [u8; 8] = [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];

/// An entry that is a certificate, and no private key.
const CERTIFICATE: u32 = 2;

/// The password of Debian's store, and of OpenJDK's own. It protects nothing: everybody knows it.
const PASSWORD: &str = "changeit";

/// The bytes of its digest.
const DIGEST: usize = 20;

/// The store with the one constant time; `None` if it is not such a store, whole and under that password.
pub fn dated(store: &[u8]) -> Option<Vec<u8>> {
    let (content, digest) = store.split_at_checked(store.len().checked_sub(DIGEST)?)?;
    if sign(content) != digest {
        return None;
    }
    let mut rest = Rest(content.strip_prefix(&BEGINNING)?);
    let mut dated = content.to_vec();
    for _ in 0..rest.number()? {
        if rest.number()? != CERTIFICATE {
            return None;
        }
        rest.text()?;
        let at = content.len() - rest.0.len();
        rest.take(8)?;
        dated[at..at + 8].copy_from_slice(&(MTIME * 1000).to_be_bytes());
        rest.text()?;
        let length = rest.number()?;
        rest.take(usize::try_from(length).ok()?)?;
    }
    if !rest.0.is_empty() {
        return None;
    }
    let digest = sign(&dated);
    dated.extend(digest);
    Some(dated)
}

fn sign(content: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| context.update(&unit.to_be_bytes()));
    context.update(b"Mighty Aphrodite");
    context.update(content);
    context.finish().as_ref().to_vec()
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dates: &[u64]) -> Vec<u8> {
        let mut content = [&BEGINNING[..], &u32::try_from(dates.len()).unwrap().to_be_bytes()].concat();
        for (index, date) in dates.iter().enumerate() {
            let text = |text: &str| [&[0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            content.extend(CERTIFICATE.to_be_bytes());
            content.extend(text(&format!("debian:{index}.pem")));
            content.extend(date.to_be_bytes());
            content.extend(text("X.509"));
            content.extend(3_u32.to_be_bytes());
            content.extend(b"DER");
        }
        let digest = sign(&content);
        [content, digest].concat()
    }

    #[test]
    fn two_stores_of_different_days_are_one() {
        let constant = store(&[MTIME * 1000, MTIME * 1000]);
        assert_eq!(dated(&store(&[1, 1_700_000_000_000])).unwrap(), constant);
        assert_eq!(dated(&constant).unwrap(), constant);
        assert_eq!(dated(&store(&[])).unwrap(), store(&[]));
    }

    #[test]
    fn what_is_no_such_store_stays_as_it_is() {
        let store = store(&[1, 2]);
        for length in 0..store.len() {
            assert_eq!(dated(&store[..length]), None);
        }
        for place in 0..store.len() {
            let mut other = store.clone();
            other[place] ^= 1;
            assert_eq!(dated(&other), None, "{place}");
        }
        let resigned = |mut content: Vec<u8>| {
            content.truncate(content.len() - DIGEST);
            content.push(0);
            let digest = sign(&content);
            [content, digest].concat()
        };
        assert_eq!(dated(&resigned(store)), None);
    }
}
