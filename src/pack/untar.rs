//! Reading tars that anybody may have made: ustar, PAX's and GNU's long names. Like [`super::deb`], it
//! takes the `tar` crate's headers and nothing else: its own handling of long names would hold a name
//! of any size in memory.
//!
//! Where readers of tars differ, this one reads what Go's `archive/tar` does (`reader.go`), for the engines
//! are written in Go: what they unpack is what was checked. What Go reads and this one does not is refused.

use std::collections::BTreeMap;
use std::io::Read;

use tar::{EntryType, Header};

use super::content::read_full;
use crate::{Error, Kind, Result};

/// What stands before a file and is about it, in bytes: names, attributes, times.
const EXTENSIONS_LIMIT: u64 = 1 << 20;

/// A name, in bytes: Linux takes none that is longer.
const NAME_LIMIT: usize = 4096;

/// `.wh.NAME` beside where NAME was (OCI image-spec, `layer.md`, "Whiteouts").
pub const WHITEOUT: &[u8] = b".wh.";

/// What stands before an entry's content.
pub struct Next {
    /// As it is written.
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    pub kind: EntryType,
    /// Of its content, in bytes; padding follows it. 0 for what has none, whatever its header says.
    pub size: u64,
    /// Extended attributes, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    header: Header,
    /// PAX's records that a header cannot hold.
    numbers: BTreeMap<&'static str, u64>,
}

impl Next {
    /// Of permissions and set-id bits.
    ///
    /// # Errors
    /// A header without digits where some belong.
    pub fn mode(&self) -> Result<u32> {
        Ok(self.header.mode().map_err(damaged)? & 0o7777)
    }

    /// # Errors
    /// As [`Next::mode`].
    pub fn uid(&self) -> Result<u32> {
        self.number("uid", Header::uid)?.try_into().map_err(damaged)
    }

    /// # Errors
    /// As [`Next::mode`].
    pub fn gid(&self) -> Result<u32> {
        self.number("gid", Header::gid)?.try_into().map_err(damaged)
    }

    /// In seconds since 1970.
    ///
    /// # Errors
    /// As [`Next::mode`].
    pub fn mtime(&self) -> Result<u64> {
        self.number("mtime", Header::mtime)
    }

    fn number(&self, name: &str, of_header: fn(&Header) -> std::io::Result<u64>) -> Result<u64> {
        match self.numbers.get(name) {
            Some(number) => Ok(*number),
            None => of_header(&self.header).map_err(damaged),
        }
    }
}

/// What a PAX extended header says of the entry after it.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    numbers: BTreeMap<&'static str, u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// That a tar cannot be read.
pub fn damaged(how: impl std::fmt::Display) -> Error {
    Error::new(Kind::Input, "a layer or archive cannot be read").detail(how)
}

/// How many bytes follow a content of `size` bytes.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 512
}

/// A header's own sum is that of its bytes, those of the sum taken for spaces; some old programs summed
/// signed bytes (POSIX.1-1988, 10.1.1; Go's `archive/tar`, `verifyChecksum`).
fn check_sum(header: &Header) -> Result<()> {
    let bytes = header.as_bytes();
    let summed = bytes[..148].iter().chain(&bytes[156..]);
    let spaces = 8 * i64::from(b' ');
    let unsigned = spaces + summed.clone().map(|byte| i64::from(*byte)).sum::<i64>();
    let signed = || spaces + summed.map(|byte| i64::from(byte.cast_signed())).sum::<i64>();
    let said = i64::from(header.cksum().map_err(damaged)?);
    if said == unsigned || said == signed() {
        return Ok(());
    }
    Err(damaged(format!("a header says that its sum is {said}, and it is {unsigned}")))
}

/// The next entry of a tar; `None` at the end. Its content and padding are still to be read.
///
/// # Errors
/// A tar that is damaged.
pub fn next<R: Read>(tar: &mut R) -> Result<Option<Next>> {
    let (mut long_path, mut long_link, mut pax) = (None, None, Pax::default());
    let mut left = EXTENSIONS_LIMIT;
    let mut header = Header::new_old();
    loop {
        // Two empty blocks end a tar; where the file ends instead, everything was there as well.
        let read = read_full(tar, header.as_mut_bytes())?;
        if header.as_bytes()[..read].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if read < header.as_bytes().len() {
            return Err(damaged("it ends in the middle of a header"));
        }
        check_sum(&header)?;
        let size = header.entry_size().map_err(damaged)?;
        let kind = header.entry_type();
        let is_extension = kind.is_gnu_longname() || kind.is_gnu_longlink() || is_pax(kind);
        if is_extension {
            let enough = || {
                damaged(format!("more than {EXTENSIONS_LIMIT} bytes stand before a file and are about it"))
            };
            left = left.checked_sub(size).ok_or_else(enough)?;
        }
        match kind {
            EntryType::GNULongName => long_path = long_name(tar, size)?,
            EntryType::GNULongLink => long_link = long_name(tar, size)?,
            EntryType::XHeader => pax = Pax::read(&extension(tar, size)?)?,
            EntryType::XGlobalHeader => {
                drop(extension(tar, size)?);
                // It is an entry itself, so that what stood before it is said of nothing.
                (long_path, long_link, pax) = Default::default();
            }
            EntryType::GNUSparse => return Err(sparse()),
            kind => {
                let path = long_path.or(pax.path).unwrap_or_else(|| header.path_bytes().into_owned());
                let link = long_link.or(pax.link);
                let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
                if path.len().max(link.len()) > NAME_LIMIT {
                    return Err(damaged(format!("a name of it has more than {NAME_LIMIT} bytes")));
                }
                // Tars older than POSIX have no kind of entry for folders.
                let is_old_folder = header.as_old().linkflag == [0] && path.ends_with(b"/");
                let kind = if is_old_folder { EntryType::Directory } else { kind };
                let size =
                    if has_content(kind) { pax.numbers.get("size").copied().unwrap_or(size) } else { 0 };
                let Pax { numbers, xattrs, .. } = pax;
                return Ok(Some(Next { path, link, kind, size, xattrs, header, numbers }));
            }
        }
    }
}

/// Whether content follows a header; the others may give a size nonetheless, as old tars do of hard links
/// (Go's `isHeaderOnlyType`).
fn has_content(kind: EntryType) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    !matches!(kind, Link | Symlink | Char | Block | Directory | Fifo)
}

/// A file without its holes: what stands in the tar is not what the file holds.
fn sparse() -> Error {
    damaged("a file of it is stored as a sparse one").hint("write the tar without `--sparse`")
}

/// Reads what is left of an entry's content, and the padding after it.
///
/// # Errors
/// The tar ends before.
pub fn skip(left: &mut std::io::Take<impl Read>) -> Result<()> {
    std::io::copy(left, &mut std::io::sink())?;
    match left.limit() {
        0 => Ok(()),
        _ => Err(damaged("it ends in the middle of an entry")),
    }
}

fn is_pax(kind: EntryType) -> bool {
    kind.is_pax_local_extensions() || kind.is_pax_global_extensions()
}

/// `None` if it is empty, which says nothing.
fn long_name<R: Read>(tar: &mut R, size: u64) -> Result<Option<Vec<u8>>> {
    let bytes = extension(tar, size)?;
    let name = bytes.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
    Ok(name.map(<[u8]>::to_vec))
}

/// The content of an entry that is about the next one; its size was checked.
fn extension<R: Read>(tar: &mut R, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tar.by_ref().take(size).read_to_end(&mut bytes)?;
    skip(&mut tar.by_ref().take(padding(size)))?;
    Ok(bytes)
}

impl Pax {
    /// Records `LENGTH KEY=VALUE\n` (POSIX pax, "Extended Header").
    fn read(mut bytes: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        let wrong = || damaged("a PAX record is none");
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok());
            let length: usize = length.ok_or_else(wrong)?;
            let record = bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            pax.add(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(pax)
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        match name {
            b"path" => self.path = Some(text("path", value)?),
            b"linkpath" => self.link = Some(text("linkpath", value)?),
            b"size" => drop(self.numbers.insert("size", number("size", value)?)),
            b"uid" => drop(self.numbers.insert("uid", number("uid", value)?)),
            b"gid" => drop(self.numbers.insert("gid", number("gid", value)?)),
            // A fraction is dropped; a time before 1970 is 1970.
            b"mtime" => {
                let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
                let unsigned = value.strip_prefix(b"-").unwrap_or(value);
                let (seconds, fraction) = match unsigned.iter().position(|byte| *byte == b'.') {
                    Some(point) => (&unsigned[..point], &unsigned[point + 1..]),
                    None => (unsigned, &b"0"[..]),
                };
                if !digits(seconds) || !digits(fraction) {
                    return Err(damaged("a PAX record `mtime` is no number"));
                }
                let seconds = if unsigned.len() < value.len() { 0 } else { number("mtime", seconds)? };
                self.numbers.insert("mtime", seconds);
            }
            _ if name.starts_with(b"GNU.sparse.") => return Err(sparse()),
            _ => {
                if let Some(attribute) = name.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(attribute.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// To some readers an empty record says what the header does, to others that nothing is known.
fn text(name: &str, value: &[u8]) -> Result<Vec<u8>> {
    match value.is_empty() || value.contains(&0) {
        true => Err(damaged(format!("a PAX record `{name}` is empty or holds a NUL"))),
        false => Ok(value.to_vec()),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &[u8]) -> Result<T> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| damaged(format!("a PAX record `{name}` is no number")))
}
