//! The files of a packed layer (OCI image-spec, `layer.md`), whoever made it: ustar, PAX's and GNU's
//! long names. Like [`crate::pack::deb`], it takes the `tar` crate's headers and nothing else: its own
//! handling of long names would hold a name of any size in memory.

use std::io::{BufRead, BufReader, Read};

use ::tar::{EntryType, Header};
use assemble_layers::TreePath;
use flate2::bufread::MultiGzDecoder;

use crate::pack::content::read_full;
use crate::{Error, Kind, Result};

/// What stands before a file and is about it, in bytes: names, attributes, times.
const EXTENSIONS_LIMIT: u64 = 1 << 20;

/// `.wh.NAME` beside where NAME was; `.wh..wh..opq` in a folder whose content is gone.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// One entry of the tar that is no folder.
pub enum Member<'a> {
    File {
        path: TreePath,
        size: u64,
        reader: &'a mut dyn Read,
    },
    /// A link or a device.
    Other(TreePath),
    /// What stands there in a lower layer, or below it, is gone.
    Whiteout(TreePath),
}

/// What stands before an entry's content.
pub struct Next {
    pub path: Vec<u8>,
    pub kind: EntryType,
    /// Of its content, in bytes; padding follows it.
    pub size: u64,
}

/// Hands each entry to `each`, in order.
///
/// # Errors
/// A layer that is damaged, or packed otherwise; those of `each`.
pub fn read(layer: impl Read, each: &mut dyn FnMut(Member<'_>) -> Result<()>) -> Result<()> {
    let mut layer = BufReader::with_capacity(1 << 18, layer);
    match layer.fill_buf()? {
        [0x1f, 0x8b, ..] => {
            read_tar(&mut BufReader::with_capacity(1 << 18, MultiGzDecoder::new(layer)), each)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Err(damaged("it is compressed with zstd, which is not read here")),
        _ => read_tar(&mut layer, each),
    }
}

fn damaged(how: impl std::fmt::Display) -> Error {
    Error::new(Kind::Input, "a layer or archive cannot be read").detail(how)
}

fn read_tar<R: Read>(tar: &mut R, each: &mut dyn FnMut(Member<'_>) -> Result<()>) -> Result<()> {
    while let Some(Next { path, kind, size }) = next(tar)? {
        let mut content = tar.by_ref().take(size);
        if !kind.is_dir() {
            let reader = kind.is_file().then_some(&mut content as &mut dyn Read);
            each(member(&path, size, reader)?)?;
        }
        skip(&mut content)?;
        skip(&mut tar.by_ref().take(padding(size)))?;
    }
    Ok(())
}

/// How many bytes follow a content of `size` bytes.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 512
}

/// The next entry of a tar, with what the entries before it say of it; `None` at the end.
///
/// # Errors
/// A tar that is damaged.
pub fn next<R: Read>(tar: &mut R) -> Result<Option<Next>> {
    let (mut long_path, mut long_size) = (None, None);
    let mut header = Header::new_old();
    loop {
        // Two empty blocks end a tar; where the file ends instead, everything was there as well.
        let read = read_full(tar, header.as_mut_bytes()).map_err(damaged)?;
        if read < header.as_bytes().len() || header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let size = header.entry_size().map_err(damaged)?;
        let kind = header.entry_type();
        match kind {
            EntryType::GNULongName => {
                let bytes = extension(tar, size)?;
                long_path = bytes.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
            }
            EntryType::XHeader => pax(&extension(tar, size)?, &mut long_path, &mut long_size)?,
            EntryType::GNULongLink | EntryType::XGlobalHeader => drop(extension(tar, size)?),
            _ => {
                let path = long_path.unwrap_or_else(|| header.path_bytes().into_owned());
                return Ok(Some(Next { path, kind, size: long_size.unwrap_or(size) }));
            }
        }
    }
}

/// `reader` reads the content of a file.
fn member<'a>(path: &[u8], size: u64, reader: Option<&'a mut dyn Read>) -> Result<Member<'a>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = TreePath::new(path).map_err(damaged)?;
    let hidden = match (path.name().strip_prefix(WHITEOUT), path.parent()) {
        (None, _) => {
            return Ok(match reader {
                Some(reader) => Member::File { path, size, reader },
                None => Member::Other(path),
            });
        }
        (Some(_), Some(folder)) if path.name() == OPAQUE => Ok(folder),
        (Some(name), Some(folder)) => folder.join(name),
        (Some(name), None) => TreePath::new(name),
    };
    Ok(Member::Whiteout(hidden.map_err(damaged)?))
}

/// The content of an entry that is about the next one.
fn extension<R: Read>(tar: &mut R, size: u64) -> Result<Vec<u8>> {
    if size > EXTENSIONS_LIMIT {
        return Err(damaged(format!("{size} bytes stand before a file and are about it")));
    }
    let mut bytes = Vec::new();
    tar.by_ref().take(size).read_to_end(&mut bytes).map_err(damaged)?;
    skip(&mut tar.by_ref().take(padding(size)))?;
    Ok(bytes)
}

/// Records `LENGTH KEY=VALUE\n` (POSIX pax, "Extended Header").
fn pax(mut bytes: &[u8], path: &mut Option<Vec<u8>>, size: &mut Option<u64>) -> Result<()> {
    let wrong = || damaged("a PAX record is none");
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let record = bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => *path = Some(value.to_vec()),
            b"size" => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                *size = Some(number.ok_or_else(wrong)?);
            }
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Ok(())
}

/// Reads what is left of an entry.
fn skip(entry: &mut std::io::Take<impl Read>) -> Result<()> {
    std::io::copy(entry, &mut std::io::sink()).map_err(damaged)?;
    match entry.limit() {
        0 => Ok(()),
        _ => Err(damaged("it ends in the middle of an entry")),
    }
}
