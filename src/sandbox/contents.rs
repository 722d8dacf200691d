//! Contents of a tree to files of the root, and back: are they the same still?

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use assemble_layers::tree::{Content, TreePath};

use crate::Result;
use crate::pack::Contents;

/// Writes a content to the file at `path`, which is made. Sizes and checksums are checked.
pub fn write(contents: &mut Contents<'_>, name: &TreePath, content: &Content, path: &Path) -> Result<()> {
    let mut target = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
    contents.read(name, content, &mut |piece| Ok(target.write_all(piece)?))
}

/// Whether a file has just this content.
pub fn equals(contents: &mut Contents<'_>, name: &TreePath, content: &Content, file: File) -> Result<bool> {
    if file.metadata()?.len() != content.size() {
        return Ok(false);
    }
    let (mut file, mut equal, mut other) = (BufReader::new(file), true, Vec::new());
    contents.read(name, content, &mut |piece| {
        if equal {
            other.resize(piece.len(), 0);
            file.read_exact(&mut other)?;
            equal = other == piece;
        }
        Ok(())
    })?;
    Ok(equal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use assemble_layers::BlobDigest;

    #[test]
    fn both_kinds_of_content_are_written_and_recognised() {
        let text = b"fifteen men on the dead man's chest ".repeat(99);
        let mut encoder = flate2::write::DeflateEncoder::new(text.clone(), flate2::Compression::default());
        encoder.write_all(&text).unwrap();
        let bytes = encoder.finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("blob");
        std::fs::write(&archive, &bytes).unwrap();
        let blob = BlobDigest(assemble_layers::Sha256::of(&bytes));
        let file_of = |_| archive.clone();
        let mut contents = Contents::new(&file_of);
        let (size, name) = (text.len() as u64, TreePath::new("song").unwrap());
        let length = bytes.len() as u64 - size;
        let cases = [
            Content::Plain { blob, offset: 0, length: size },
            Content::Deflated { blob, offset: size, length, crc32: crc32fast::hash(&text), size },
        ];
        for (index, content) in cases.iter().enumerate() {
            let path = folder.path().join(index.to_string());
            write(&mut contents, &name, content, &path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text);
            assert!(equals(&mut contents, &name, content, File::open(&path).unwrap()).unwrap());
            let mut other = text.clone();
            other[7] ^= 1;
            std::fs::write(&path, other).unwrap();
            assert!(!equals(&mut contents, &name, content, File::open(&path).unwrap()).unwrap());
        }
    }
}
