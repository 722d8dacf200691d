//! The members of a zip archive (APPNOTE 6.3), as contents that can be copied without inflating.
//!
//! Nothing an archive says is believed before it is checked: names are unique and stay inside,
//! ranges lie in the file and do not overlap, the number of members is the recorded one. The CRC-32
//! of a stored member is checked here, for its content says no more of it; that of a deflated one,
//! and its size, where it is inflated ([`super::Contents`]).

use std::collections::BTreeMap;
use std::path::Path;

use assemble_layers::{BlobDigest, Content, TreePath};
use fs_err::File;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};

use super::content::for_each_piece;
use crate::{Error, Kind, Result};

/// The most members that an archive may have: ten times those of the largest wheel known.
const MOST_MEMBERS: u64 = 1_000_000;

/// The most that the names of all members may have, in bytes.
const NAMES: usize = 128 << 20;

/// One file of the archive.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub content: Content,
    /// The Unix mode with its type bits, as recorded; 0 where the archive's maker has none.
    pub mode: u32,
}

/// Reads the central directory of the archive that is `blob` in the store. Folders are left out.
///
/// # Errors
/// A file that is no zip archive, or one that lies; an encrypted member; a method other than
/// "stored" and "deflated".
pub fn members(path: &Path, blob: BlobDigest, name: &str) -> Result<BTreeMap<TreePath, Member>> {
    let invalid = |what: String| Error::new(Kind::Input, format!("`{name}` is no sound zip archive: {what}"));
    let from_zip = |error: rawzip::Error| invalid(error.to_string());
    let file = File::open(path)?;
    let stored = file.try_clone()?;
    let size = file.metadata()?.len();
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file.into_parts().0, &mut buffer).map_err(from_zip)?;
    let mut found: Vec<(TreePath, ZipArchiveEntryWayfinder, Header)> = Vec::new();
    let (mut count, mut names) = (0, 0);
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(from_zip)? {
        count += 1;
        names += entry.file_path().as_bytes().len();
        if count > MOST_MEMBERS || names > NAMES {
            let most = format!("{MOST_MEMBERS} members, or {NAMES} bytes of names");
            return Err(invalid(format!("it has more than {most}")));
        }
        if entry.is_dir() {
            continue;
        }
        let member = TreePath::new(entry.file_path().as_bytes())
            .map_err(|error| invalid(format!("its member {error}")))?;
        if entry.flags().is_encrypted() {
            return Err(invalid(format!("its member `{member}` is encrypted")));
        }
        let header = Header {
            method: entry.compression_method(),
            crc32: entry.crc32(),
            size: entry.uncompressed_size_hint(),
            mode: entry.external_attributes() >> 16,
        };
        found.push((member, entry.wayfinder(), header));
    }
    if count != archive.entries_hint() {
        return Err(invalid(format!("it has {count} members and records {}", archive.entries_hint())));
    }
    let mut ranges = Vec::with_capacity(found.len());
    let mut members = BTreeMap::new();
    for (path, wayfinder, header) in found {
        let wrong = |how: String| invalid(format!("its member `{path}` {how}"));
        let entry =
            archive.get_entry(wayfinder).map_err(|error| wrong(format!("cannot be found: {error}")))?;
        let (start, end) = entry.compressed_data_range();
        if start > end || end > size {
            return Err(wrong("ends after the file does".to_owned()));
        }
        ranges.push((start, end));
        let content = header.content(blob, start, end - start).map_err(wrong)?;
        if let Content::Plain { offset, length, .. } = content {
            let mut crc32 = crc32fast::Hasher::new();
            for_each_piece(&stored, offset, length, &mut buffer, &mut |piece| {
                crc32.update(piece);
                Ok(())
            })?;
            let found = crc32.finalize();
            if found != header.crc32 {
                return Err(wrong(format!(
                    "has the CRC-32 {found:08x}, and {:08x} was recorded",
                    header.crc32
                )));
            }
        }
        if members.insert(path.clone(), Member { content, mode: header.mode }).is_some() {
            return Err(invalid(format!("two of its members are named `{path}`")));
        }
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(invalid("its members overlap".to_owned()));
    }
    Ok(members)
}

/// What the central directory says of a member.
struct Header {
    method: CompressionMethod,
    crc32: u32,
    size: u64,
    mode: u32,
}

impl Header {
    fn content(&self, blob: BlobDigest, offset: u64, length: u64) -> Result<Content, String> {
        match self.method {
            CompressionMethod::STORE if length == self.size => Ok(Content::Plain { blob, offset, length }),
            CompressionMethod::STORE => Err(format!("is stored in {length} bytes and records {}", self.size)),
            CompressionMethod::DEFLATE => {
                Ok(Content::Deflated { blob, offset, length, crc32: self.crc32, size: self.size })
            }
            other => Err(format!("uses the compression method {}, which no wheel does", other.as_u16())),
        }
    }
}
