//! Packing a tree to a layer: a derivation of its own, and the only one whose key knows a compressor. So
//! nothing is built again because layers are packed otherwise.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Key};
use crate::encode::{Encode, Encoder};

/// How a layer is packed (OCI image-spec, `layer.md`, "Compression Media Types").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A tree that is to be packed, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pack {
    pub tree: DiffId,
    pub packer: Packer,
}

/// What packs a tree, with all settings that its bytes depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packer {
    Gzip(Gzip),
}

/// gzip (RFC 1952) in members, by libdeflate; what a wheel has compressed is copied as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gzip {
    /// libdeflate's, from 0 to 12. `docs/performance.md` has what they cost and gain.
    pub level: u8,
    /// The most that a member holds that is compressed here, in bytes before compression.
    pub chunk: u32,
}

impl Default for Packer {
    fn default() -> Self {
        Self::Gzip(Gzip { level: 6, chunk: 4 << 20 })
    }
}

impl Packer {
    /// The packer's version: raised whenever its bytes change for an unchanged tree, with libdeflate's too.
    pub fn version(&self) -> u32 {
        match self {
            Self::Gzip(_) => 1,
        }
    }

    /// How its layers are read.
    pub fn compression(&self) -> Compression {
        match self {
            Self::Gzip(_) => Compression::Gzip,
        }
    }
}

impl Pack {
    /// The key: the tree by its content, the packer with its version and its settings.
    pub fn key(&self) -> Key {
        let mut encoder = Encoder::default();
        encoder.put("assemble packing").put(&self.tree.0).put(&self.packer);
        Key(encoder.finish())
    }
}

impl Encode for Packer {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Gzip(Gzip { level, chunk }) => {
                let backend = format!("libdeflate {}, level {level}", self.version());
                encoder.put("gzip").put(&backend).put(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    /// Computed independently, by the encoding that `encode` documents:
    /// `python3 -c 'import hashlib; n = lambda i: i.to_bytes(8, "little"); t = lambda s: n(len(s)) + s;
    /// print(hashlib.sha256(t(b"assemble packing") + bytes([1] * 32) + t(b"gzip")
    /// + t(b"libdeflate 1, level 6") + n(4 << 20)).hexdigest())'`
    #[test]
    fn the_key_is_this() {
        let pack = |packer| Pack { tree: DiffId(Sha256::from_bytes([1; 32])), packer };
        assert_eq!(
            pack(Packer::default()).key().hex(),
            "d9b83d03b907b8024506a148f2a46203cdb46539d79454148e2d92a29bc49ac6",
            "the key of packing changed, and every layer is packed again in every store and cache"
        );
        let keys = [(6, 4 << 20), (7, 4 << 20), (6, 1 << 20)]
            .map(|(level, chunk)| pack(Packer::Gzip(Gzip { level, chunk })).key());
        assert!(keys[0] != keys[1] && keys[0] != keys[2], "a setting is not in the key");
    }
}
