//! The encoding that keys are computed over: canonical, and prefix-free, so that no two values
//! share an encoding.
//!
//! Numbers are 8 bytes, little-endian. Bytes and texts are their length, then themselves. A list is
//! its length, then its elements. A case of an enumeration is its name as a text, then its fields
//! in the order of their declaration. Golden tests pin it: a change of this encoding empties every
//! store and every cache.

use std::collections::BTreeMap;

use crate::digest::{Hasher, Sha256};
use crate::tree::TreePath;

/// Feeds values to a SHA-256.
#[derive(Default)]
pub struct Encoder(Hasher);

impl Encoder {
    pub fn put(&mut self, value: &(impl Encode + ?Sized)) -> &mut Self {
        value.encode(self);
        self
    }

    pub fn finish(self) -> Sha256 {
        self.0.finish()
    }
}

/// A value that can stand in a key.
pub trait Encode {
    fn encode(&self, encoder: &mut Encoder);
}

impl Encode for u64 {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.0.update(&self.to_le_bytes());
    }
}

impl Encode for u32 {
    fn encode(&self, encoder: &mut Encoder) {
        u64::from(*self).encode(encoder);
    }
}

impl Encode for bool {
    fn encode(&self, encoder: &mut Encoder) {
        u64::from(*self).encode(encoder);
    }
}

impl Encode for [u8] {
    fn encode(&self, encoder: &mut Encoder) {
        (self.len() as u64).encode(encoder);
        encoder.0.update(self);
    }
}

impl Encode for str {
    fn encode(&self, encoder: &mut Encoder) {
        self.as_bytes().encode(encoder);
    }
}

impl Encode for String {
    fn encode(&self, encoder: &mut Encoder) {
        self.as_str().encode(encoder);
    }
}

impl Encode for TreePath {
    fn encode(&self, encoder: &mut Encoder) {
        self.as_bytes().encode(encoder);
    }
}

impl Encode for Sha256 {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.0.update(self.as_bytes());
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.is_some());
        if let Some(value) = self {
            encoder.put(value);
        }
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&(self.len() as u64));
        for value in self {
            encoder.put(value);
        }
    }
}

impl<K: Encode, V: Encode> Encode for BTreeMap<K, V> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&(self.len() as u64));
        for (key, value) in self {
            encoder.put(key).put(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(value: &(impl Encode + ?Sized)) -> String {
        let mut encoder = Encoder::default();
        encoder.put(value);
        encoder.finish().to_string()
    }

    #[test]
    fn boundaries_count() {
        let one = vec!["ab".to_owned(), "c".to_owned()];
        let other = vec!["a".to_owned(), "bc".to_owned()];
        assert_ne!(digest(&one), digest(&other));
        assert_ne!(digest(&None::<String>), digest(&Some(String::new())));
    }

    #[test]
    fn every_kind_of_value_counts() {
        assert_ne!(digest(&1_u32), digest(&2_u32));
        assert_eq!(digest(&1_u32), digest(&1_u64));
        assert_ne!(digest(&true), digest(&false));
        assert_ne!(digest(&TreePath::new("a").unwrap()), digest(&TreePath::new("b").unwrap()));
        // A digest has one length, so that is not encoded.
        assert_eq!(digest(&Sha256::of(b"a")), Sha256::of(Sha256::of(b"a").as_bytes()).to_string());
        let map = |value: &str| BTreeMap::from([("key".to_owned(), value.to_owned())]);
        assert_ne!(digest(&map("one")), digest(&map("two")));
    }

    /// Computed independently: `printf '\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0ab' | sha256sum`.
    #[test]
    fn the_encoding_is_the_documented_one() {
        assert_eq!(
            digest(&vec!["ab".to_owned()]),
            "27b0096ed742a9b67c4efcc632a8ab45e9241fd125c103a880ac6ec504ebe83c"
        );
    }
}
