//! The tar of a tree: its bytes are the tree's identity, so they are written by one rule.
//!
//! Each entry is a ustar header (POSIX.1-2001), with a PAX extended header before it for what ustar
//! cannot say: paths and links of over 100 bytes, sizes, ids and attributes. Contents are padded to
//! 512 bytes; two empty blocks end the tar. The `tar` crate's convenience calls are not used: they
//! follow links, detect holes and pin times of their own.

use std::io;

use assemble_layers::tree::{Entry, Kind, TreePath};
use tar::{EntryType, Header};

/// The end of a tar: two empty blocks.
pub const END: [u8; 1024] = [0; 1024];

/// The zeros after a content of `size` bytes.
pub fn padding(size: u64) -> &'static [u8] {
    &END[..(size.wrapping_neg() % 512) as usize]
}

/// Everything of an entry that stands before its content.
///
/// # Errors
/// A path that a header cannot hold; none is known.
pub fn header(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut path = entry.path.as_bytes().to_vec();
    let mut header = Header::new_ustar();
    let mut extensions = Extensions::default();
    header.set_mode(entry.mode);
    header.set_mtime(entry.mtime);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    header.set_size(0);
    extensions.number("uid", u64::from(entry.uid), |id| header.set_uid(id));
    extensions.number("gid", u64::from(entry.gid), |id| header.set_gid(id));
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            path.push(b'/');
        }
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            extensions.size(content.size(), &mut header);
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            extensions.bytes("linkpath", &target.0, header_field(&mut header, Field::Link));
        }
        Kind::Hardlink(target) => {
            header.set_entry_type(EntryType::Link);
            extensions.bytes("linkpath", target.as_bytes(), header_field(&mut header, Field::Link));
        }
        Kind::Whiteout => {
            header.set_entry_type(EntryType::Regular);
            path = whiteout(&entry.path);
        }
    }
    extensions.bytes("path", &path, header_field(&mut header, Field::Name));
    for (name, value) in &entry.xattrs {
        extensions.record(&format!("SCHILY.xattr.{name}"), &value.0);
    }
    header.set_cksum();
    let mut bytes = extensions.finish();
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

/// The name under which a layer says that `path` is gone (OCI image-spec, `layer.md`).
fn whiteout(path: &TreePath) -> Vec<u8> {
    let parent = path.parent().map_or(Vec::new(), |parent| [parent.as_bytes(), b"/"].concat());
    [&parent[..], b".wh.", path.name()].concat()
}

enum Field {
    Name,
    Link,
}

/// The 100 bytes of a header's name or link.
fn header_field(header: &mut Header, field: Field) -> &mut [u8; 100] {
    let ustar = header.as_ustar_mut().expect("made as ustar");
    match field {
        Field::Name => &mut ustar.name,
        Field::Link => &mut ustar.linkname,
    }
}

/// The records of a PAX extended header.
#[derive(Default)]
struct Extensions(Vec<u8>);

impl Extensions {
    /// `LENGTH NAME=VALUE\n`, where the length counts itself.
    fn record(&mut self, name: &str, value: &[u8]) {
        let rest = 1 + name.len() + 1 + value.len() + 1;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(format!("{length} {name}=").as_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Puts a text into its field, or says it here and cuts it there.
    fn bytes(&mut self, name: &str, value: &[u8], field: &mut [u8; 100]) {
        let kept = value.len().min(field.len());
        field[..kept].copy_from_slice(&value[..kept]);
        if value.len() > kept {
            self.record(name, value);
        }
    }

    /// Seven octal digits hold ids below 2²¹.
    fn number(&mut self, name: &str, value: u64, set: impl FnOnce(u64)) {
        if value < 1 << 21 {
            set(value);
        } else {
            set(0);
            self.record(name, value.to_string().as_bytes());
        }
    }

    /// Eleven octal digits hold sizes below 8 GiB.
    fn size(&mut self, value: u64, header: &mut Header) {
        if value < 1 << 33 {
            header.set_size(value);
        } else {
            self.record("size", value.to_string().as_bytes());
        }
    }

    /// The extended header with its padding; nothing if there is nothing to say.
    fn finish(self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut header = Header::new_ustar();
        let name = b"././@PaxHeader";
        header_field(&mut header, Field::Name)[..name.len()].copy_from_slice(name);
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        header.set_cksum();
        let padding = padding(self.0.len() as u64);
        [header.as_bytes(), &self.0[..], padding].concat()
    }
}
