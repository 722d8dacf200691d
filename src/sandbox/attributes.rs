//! The extended attributes of what a step left, and the access list that no layer holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use assemble_layers::tree::{RawBytes, TreePath, is_kept_attribute};
use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::{Error, Kind, Result};

/// An attribute's value has no more bytes, and neither has the list of names (`limits.h`, XATTR_SIZE_MAX and
/// XATTR_LIST_MAX).
const LARGEST: usize = 1 << 16;

/// The bytes of all attributes of one file. ext4 and tar headers of other programs take far less.
const LARGEST_TOGETHER: usize = 1 << 20;

/// The access list of a file (acl(5)).
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// What a file has beside its mode.
#[derive(Debug, PartialEq, Eq)]
pub struct Attributes {
    /// [Those that a tree has](is_kept_attribute).
    pub kept: BTreeMap<String, RawBytes>,
    /// What its group may do, three bits, where an access list says it.
    pub group: Option<u32>,
}

/// Reads those of the file or folder at `path`.
///
/// # Errors
/// A name or an amount that no layer can hold (`Build`).
pub fn of(path: &TreePath, file: &File) -> Result<Attributes> {
    let mut attributes = Attributes { kept: BTreeMap::new(), group: None };
    let mut names = Vec::with_capacity(LARGEST);
    match flistxattr(file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(attributes),
        Err(error) => return Err(unreadable(path, error)),
    }
    let mut bytes = 0;
    for name in names.split(|byte| *byte == 0) {
        if name == ACCESS_LIST {
            attributes.group = group_rights(&value(path, file, name)?);
        }
        if !is_kept_attribute(&String::from_utf8_lossy(name)) {
            continue;
        }
        // A PAX header, which holds them in a layer, ends an attribute's name with `=`.
        let text = std::str::from_utf8(name).ok().filter(|name| !name.contains('='));
        let text = text.ok_or_else(|| wrong(path, &format!("`{}`", name.escape_ascii())))?;
        let value = value(path, file, name)?;
        bytes += value.len();
        if bytes > LARGEST_TOGETHER {
            return Err(wrong(path, &format!("of more than {LARGEST_TOGETHER} bytes")));
        }
        attributes.kept.insert(text.to_owned(), RawBytes(value));
    }
    Ok(attributes)
}

fn value(path: &TreePath, file: &File, name: &[u8]) -> Result<Vec<u8>> {
    let mut value = Vec::with_capacity(LARGEST);
    fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value))
        .map_err(|error| unreadable(path, error))?;
    Ok(value)
}

fn unreadable(path: &TreePath, error: Errno) -> Error {
    Error::from(io::Error::from(error)).within(format!("cannot read `/{path}`"))
}

fn wrong(path: &TreePath, what: &str) -> Error {
    Error::new(Kind::Build, format!("the command left extended attributes {what} at `/{path}`"))
        .detail("no layer can hold them")
        .hint("`setfattr -x NAME FILE` removes one")
}

/// What an access list lets the file's own group do. The mode of such a file has in its place what the list
/// lets anybody but owner and others do: without the list the group would gain it.
///
/// The value is a version, 2, and entries of a tag, rights and an id, little-endian (Linux,
/// `include/uapi/linux/posix_acl_xattr.h`).
fn group_rights(list: &[u8]) -> Option<u32> {
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    let entries = list.strip_prefix(&2_u32.to_le_bytes())?.chunks_exact(8);
    let rights = |tag: u16| {
        let mut entries = entries.clone();
        let entry = entries.find(|entry| entry[..2] == tag.to_le_bytes())?;
        Some(u32::from(u16::from_le_bytes([entry[2], entry[3]])) & 0o7)
    };
    Some(rights(GROUP_OBJ)? & rights(MASK).unwrap_or(0o7))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{XattrFlags, setxattr};

    use super::*;

    fn with(names: &[&[u8]], value: &[u8]) -> Result<Attributes> {
        let file = tempfile::NamedTempFile::new().unwrap();
        for name in names {
            setxattr(file.path(), *name, value, XattrFlags::empty()).unwrap();
        }
        of(&TreePath::new("a").unwrap(), &File::open(file.path()).unwrap())
    }

    /// A folder of which a layer said that it is opaque would hide what is below it, in some engines.
    #[test]
    fn an_engine_s_own_attributes_are_left_out() {
        let engines: [&[u8]; 3] =
            [b"user.overlay.opaque", b"user.fuseoverlayfs.opaque", b"user.containers.a"];
        let names = [&[b"user.a".as_slice()], &engines[..]].concat();
        assert_eq!(with(&names, b"y").unwrap().kept.keys().collect::<Vec<_>>(), ["user.a"]);
    }

    #[test]
    fn what_no_layer_can_hold_is_an_error() {
        for name in [b"user.a=b".as_slice(), b"user.\xff"] {
            assert_eq!(with(&[name], b"y").unwrap_err().kind(), Kind::Build);
        }
    }

    /// `setfacl -m g::r,u:7:rwx`: the mode says `rwx` for the group, and the group may read.
    #[test]
    fn a_dropped_access_list_gives_the_group_nothing() {
        let entry = |tag: u16, rights: u16| {
            [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &7_u32.to_le_bytes()].concat()
        };
        let list = [entry(0x01, 6), entry(0x02, 7), entry(0x04, 4), entry(0x10, 7), entry(0x20, 0)].concat();
        let list = [&2_u32.to_le_bytes()[..], &list].concat();
        assert_eq!(group_rights(&list), Some(4));
        assert_eq!(group_rights(&list[..20]), None);
        assert_eq!(group_rights(b""), None);
    }
}
