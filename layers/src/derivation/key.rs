//! The keys of derivations: what of them is hashed, and in which order. `tests/keys.rs` holds each.

use super::{Builder, DebInput, FileEntry, FileSource, InputFile, Layout, Output, Relocation, WheelInput};
use crate::digest::{Key, Sha256};
use crate::encode::{Encode, Encoder};
use crate::platform::Platform;

impl Builder<Sha256> {
    /// The key: the builder and its version, the platform, the arguments, and the inputs by content.
    pub fn key(&self, platform: Platform) -> Key {
        let mut encoder = Encoder::default();
        encoder.put("assemble derivation").put(self.name()).put(&self.version());
        encoder.put(&platform.to_string()).put(self);
        Key(encoder.finish())
    }
}

impl Encode for Builder<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            // Fixed-output: the name and the origin are no part of what it is.
            Self::Fetch(it) => encoder.put(&it.sha256).put(&it.size),
            Self::Git(it) => encoder.put(it.commit.as_str()).put(&it.folder),
            Self::ImageLayer(it) => encoder.put(&it.diff_id.0),
            Self::UnpackDebs(it) => {
                encoder.put(&it.over).put(&it.packages);
                if it.without.is_empty() { encoder } else { encoder.put(&it.without) }
            }
            Self::UnpackWheels(it) => encoder.put(&it.wheels).put(&it.layout),
            Self::UnpackArchive(it) => encoder.put(&it.file).put(&it.rules),
            Self::Files(it) => encoder.put(&it.entries),
            Self::Run(it) => {
                encoder.put(&it.root).put(&it.command).put(&it.environment).put(&it.working_directory);
                encoder.put(&it.output);
                // A step without is what it was before there were any; nothing comes after them.
                if it.files.is_empty() { encoder } else { encoder.put(&it.files) }
            }
            Self::Amend(it) => encoder.put(it),
        };
    }
}

impl Encode for DebInput<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.package).put(&self.file).put(&self.automatic);
    }
}

impl Encode for WheelInput<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.filename).put(&self.file).put(&self.requested);
    }
}

impl Encode for InputFile<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.path).put(&self.file);
    }
}

impl Encode for Layout {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Site(scheme) => encoder.put("site").put(scheme),
            Self::Relocate(rules) => encoder.put("relocate").put(rules),
        };
    }
}

impl Encode for Relocation {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.from).put(&self.to);
    }
}

impl Encode for FileEntry<Sha256> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.put(&self.path).put(&self.mode);
        match &self.source {
            FileSource::Directory => encoder.put("directory"),
            FileSource::Symlink(target) => encoder.put("symlink").put(&target.0[..]),
            FileSource::Literal(bytes) => encoder.put("literal").put(&bytes.0[..]),
            // Where in the project it stood is no part of what it is.
            FileSource::Project { sha256, size, .. } => encoder.put("project").put(sha256).put(size),
            FileSource::Tree { tree, path } => encoder.put("tree").put(tree).put(path),
            FileSource::Fetched { file } => encoder.put("fetched").put(file),
        };
    }
}

impl Encode for Output {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Difference => encoder.put("difference"),
            Self::Folder(path) => encoder.put("folder").put(path),
        };
    }
}
