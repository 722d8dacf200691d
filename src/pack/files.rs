//! The files of an archive or a folder that anybody may have made, by their names: an OCI layout, or
//! what `docker save` writes. They are read inside it alone.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use fs_err::File;

use super::untar::{self, padding};
use crate::{Error, Kind, Result, bounded};

/// The largest document that is read, in bytes. Registries refuse manifests of more than this.
pub const LARGEST_DOCUMENT: u64 = 4 << 20;

/// The most members that an archive of an image may have: an image has 127 layers.
const MOST_MEMBERS: usize = 100_000;

/// The longest name that anything in an image's archive has, in bytes: a file system takes no longer one.
/// Members with longer ones are passed over.
const LONGEST_NAME: usize = 255;

/// As many links are followed one after the other; older versions of `docker save` write one.
const LINKS: usize = 8;

/// An archive or a folder.
pub struct Files {
    path: PathBuf,
    /// `None`: it is a folder.
    members: Option<BTreeMap<Vec<u8>, Member>>,
}

enum Member {
    /// Where it begins, and its size, in bytes.
    File(u64, u64),
    /// What it leads to, from the archive's root.
    Link(Vec<u8>),
}

impl Files {
    /// # Errors
    /// It is neither a folder nor a tar, or a tar that ends too soon.
    pub fn open(path: &Path) -> Result<Self> {
        let members = match path.is_dir() {
            true => None,
            false => Some(members(path).map_err(|error| {
                let error = error.of_kind(Kind::Input);
                error.within(format!("`{}` is no archive that can be read", path.display()))
            })?),
        };
        Ok(Self { path: path.to_owned(), members })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file, and its size in bytes; `None` if there is none of that name.
    ///
    /// # Errors
    /// It cannot be read, leads out, or is no regular file.
    pub fn file(&self, name: &str) -> Result<Option<(Take<File>, u64)>> {
        let (mut file, start, size) = match &self.members {
            Some(members) => {
                let Some((start, size)) = find(members, name.as_bytes()) else { return Ok(None) };
                (bounded::open(&self.path)?, start, size)
            }
            None => match bounded::open_beneath(&self.path, Path::new(name)) {
                Ok(file) => {
                    let size = file.metadata()?.len();
                    (file, 0, size)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::new(Kind::Input, error.to_string())),
            },
        };
        file.seek(SeekFrom::Start(start))?;
        Ok(Some((file.take(size), size)))
    }

    /// A document, whole; `None` if there is none of that name.
    ///
    /// # Errors
    /// As [`Files::file`]; it has more than [`LARGEST_DOCUMENT`] bytes.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((reader, _)) = self.file(name)? else { return Ok(None) };
        bounded::bytes(reader, LARGEST_DOCUMENT, name).map(Some)
    }
}

/// The members of an archive. Their contents are passed over.
fn members(path: &Path) -> Result<BTreeMap<Vec<u8>, Member>> {
    let file = bounded::open(path)?;
    let end = file.metadata()?.len();
    let mut tar = BufReader::new(file);
    let mut members = BTreeMap::new();
    while let Some(next) = untar::next(&mut tar)? {
        let start = tar.stream_position()?;
        let after = start.checked_add(next.size).filter(|after| *after <= end);
        let after = after.ok_or_else(|| untar::damaged("it ends in the middle of a member"))?;
        let name = normal(&next.path);
        if name.len() <= LONGEST_NAME {
            if next.kind.is_file() {
                members.insert(name, Member::File(start, next.size));
            } else if next.kind.is_hard_link() {
                members.insert(name, Member::Link(normal(&next.link)));
            } else if next.kind.is_symlink() {
                let folder = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                let target = normal(&[&name[..folder], &next.link[..]].concat());
                members.insert(name, Member::Link(target));
            }
        }
        if members.len() > MOST_MEMBERS {
            return Err(untar::damaged(format!("it has more than {MOST_MEMBERS} members")));
        }
        tar.seek_relative((after - start + padding(next.size)).try_into().map_err(untar::damaged)?)?;
    }
    Ok(members)
}

fn find(members: &BTreeMap<Vec<u8>, Member>, name: &[u8]) -> Option<(u64, u64)> {
    let mut name = &normal(name)[..];
    for _ in 0..=LINKS {
        match members.get(name)? {
            Member::File(start, size) => return Some((*start, *size)),
            Member::Link(target) => name = target,
        }
    }
    None
}

/// `./a//b/../c` is `a/c`. What leads out keeps its `..`, and names no member.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_alike() {
        for (name, wanted) in
            [("./a//b", "a/b"), ("a/../b", "b"), ("../a", "../a"), ("a/../../b", "../b"), ("/a", "a")]
        {
            assert_eq!(normal(name.as_bytes()), wanted.as_bytes(), "{name}");
        }
    }
}
