//! Reads a `.deb` (deb(5)): an `ar` of `debian-binary`, `control.tar` and `data.tar`, in this order.
//!
//! A package is hostile until it is checked. Its members must be where deb(5) has them, its sizes
//! true, its names inside the package; what it inflates to has a limit. Names beginning with `_`
//! may stand between the members and anything after the last, as deb(5) lets them; other bytes may
//! not. Of tar it takes what dpkg takes (`lib/dpkg/tarfn.c`): ustar and GNU's long names, no PAX
//! headers, no sparse files. The `tar` crate reads headers here and nothing else: its own handling
//! of long names would hold a name of any size in memory.
//!
//! Content is streamed. Only the control files, small by nature, are held.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use assemble_layers::tree::TreePath;
use fs_err::File;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{MtStreamBuilder, Stream};
use tar::{Archive, EntryType, Header};

use super::zstd;
use crate::bounded::Limited;
use crate::{Error, Kind, Result};

/// The bytes of all control files together, inflated.
const CONTROL_LIMIT: u64 = 64 << 20;
/// The bytes of all of a package's content, inflated, with the headers.
const DATA_LIMIT: u64 = 16 << 30;
/// The control files of one package; Policy and debhelper know some twenty.
const MOST_CONTROL_FILES: usize = 1_000;
/// The entries of one package. The largest of Debian 12 have some 60,000.
const MOST_ENTRIES: u64 = 2_000_000;
/// A name; Linux takes paths of 4096 bytes.
const NAME_LIMIT: u64 = 4096;
/// Threads that decompress one package; each holds a block of some 30 MiB.
const THREAD_LIMIT: u32 = 4;
/// The dictionary of `xz -9` is 64 MiB; decoding takes little more.
const DECODER_MEMORY: u64 = zstd::MEMORY;

/// A package file whose outer form and control files were checked.
pub struct Deb {
    file: File,
    control: Vec<ControlFile>,
    data: Member,
}

/// A member of `control.tar`: `control`, `md5sums`, a maintainer script.
pub struct ControlFile {
    pub name: String,
    pub mode: u32,
    pub mtime: u64,
    pub content: Vec<u8>,
}

/// An entry of `data.tar`.
pub struct Entry {
    /// `None` is the root itself, `./`.
    pub path: Option<TreePath>,
    pub kind: EntryKind,
    /// With set-uid, set-gid and sticky: `0o7777` at most.
    pub mode: u32,
    pub owner: Owner,
    pub group: Owner,
    pub mtime: u64,
}

/// A user or group: the name counts where the root knows it, else the number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    pub name: Vec<u8>,
    pub id: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    Directory,
    File { size: u64 },
    Symlink(Vec<u8>),
    Hardlink(TreePath),
    Fifo,
}

/// A compressed tar inside the file.
struct Member {
    offset: u64,
    size: u64,
    compression: Compression,
}

#[derive(Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Xz,
    Lzma,
    Zstd,
}

impl Compression {
    fn of(extension: &str) -> Option<Self> {
        Some(match extension {
            "" => Self::None,
            ".gz" => Self::Gzip,
            ".xz" => Self::Xz,
            ".lzma" => Self::Lzma,
            ".zst" => Self::Zstd,
            _ => return None,
        })
    }
}

impl Deb {
    /// Checks the outer form and reads the control files.
    ///
    /// # Errors
    /// The file cannot be read or is no Debian package.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(File::open(path)?)
    }

    /// As [`Deb::open`], of an open file, whose position may be anywhere.
    ///
    /// # Errors
    /// As [`Deb::open`].
    pub fn read(file: File) -> Result<Self> {
        let mut reader = BufReader::new(file);
        let read = Members::of(&mut reader).and_then(|members| {
            let control = read_control(open_member(&mut reader, &members.control, 1)?)?;
            Ok((control, members.data))
        });
        let file = reader.into_inner();
        match read {
            Ok((control, data)) => Ok(Self { file, control, data }),
            Err(error) => Err(invalid(file.path(), &error)),
        }
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The control files in their order.
    pub fn control(&self) -> &[ControlFile] {
        &self.control
    }

    pub fn control_file(&self, name: &str) -> Option<&ControlFile> {
        self.control.iter().find(|file| file.name == name)
    }

    /// The size of the compressed content, which is what unpacking costs.
    pub fn data_size(&self) -> u64 {
        self.data.size
    }

    /// Hands each entry of `data.tar`, with a reader of its content, to `each`.
    /// At most `threads` threads decompress.
    ///
    /// # Errors
    /// The content is broken, or `each` fails.
    pub fn entries(
        &self,
        threads: u32,
        mut each: impl FnMut(Entry, &mut dyn Read) -> Result<()>,
    ) -> Result<()> {
        let path = self.path();
        let copy = File::from_parts(self.file.file().try_clone()?, path);
        let mut file = BufReader::new(copy);
        let data = open_member(&mut file, &self.data, threads).map_err(|error| invalid(path, &error))?;
        let (mut failure, mut count) = (None, 0);
        let read = read_tar(limited(data, DATA_LIMIT), |header, names, content| {
            let entry = entry(header, &names)?;
            count += 1;
            if count > MOST_ENTRIES {
                return Err(malformed(format!("it has more than {MOST_ENTRIES} files and folders")));
            }
            each(entry, content).map_err(|error| {
                failure = Some(error);
                malformed("stopped")
            })
        });
        match failure {
            Some(error) => Err(error.detail(format!("unpacking `{}`", path.display()))),
            None => read.map_err(|error| invalid(path, &error)),
        }
    }
}

fn invalid(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Input, format!("`{}` is no sound Debian package", path.display()))
        .detail(error)
        .hint("fetch the file again; if its sha256 is the lock's, the package itself is broken")
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The two members that count.
struct Members {
    control: Member,
    data: Member,
}

impl Members {
    /// Reads the `ar` headers.
    fn of(file: &mut (impl Read + Seek)) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut magic = [0; 8];
        if file.read_exact(&mut magic).is_err() || &magic != b"!<arch>\n" {
            return Err(malformed("it does not begin as an `ar` archive"));
        }
        Self::check_version(file, end)?;
        let control = Self::tar(file, end, "control.tar")?;
        let data = Self::tar(file, end, "data.tar")?;
        while Self::next(file, end)?.is_some() {}
        Ok(Self { control, data })
    }

    fn check_version(file: &mut (impl Read + Seek), end: u64) -> io::Result<()> {
        let (name, offset, size) =
            Self::next(file, end)?.ok_or_else(|| malformed("it has no member `debian-binary`"))?;
        if name != "debian-binary" {
            return Err(malformed(format!("its first member is `{name}`, not `debian-binary`")));
        }
        file.seek(SeekFrom::Start(offset))?;
        let mut version = Vec::new();
        file.by_ref().take(size.min(64)).read_to_end(&mut version)?;
        file.seek(SeekFrom::Start(offset + size + size % 2))?;
        if !version.starts_with(b"2.") {
            return Err(malformed(format!("its format is `{}`, not 2", text(&version).trim())));
        }
        Ok(())
    }

    /// The next member, which must be `stem` with the extension of a known compression.
    fn tar(file: &mut (impl Read + Seek), end: u64, stem: &str) -> io::Result<Member> {
        loop {
            let (name, offset, size) =
                Self::next(file, end)?.ok_or_else(|| malformed(format!("it has no member `{stem}`")))?;
            if name.starts_with('_') {
                continue;
            }
            let Some(extension) = name.strip_prefix(stem) else {
                return Err(malformed(format!("its member `{name}` stands where `{stem}` should")));
            };
            let compression = Compression::of(extension)
                .ok_or_else(|| malformed(format!("the compression of its member `{name}` is not known")))?;
            return Ok(Member { offset, size, compression });
        }
    }

    /// The next member's name, offset and size; leaves the reader after it.
    fn next(file: &mut (impl Read + Seek), end: u64) -> io::Result<Option<(String, u64, u64)>> {
        let start = file.stream_position()?;
        if start >= end {
            return Ok(None);
        }
        let mut header = [0; 60];
        file.read_exact(&mut header).map_err(|_| malformed("it ends in a member's header"))?;
        if &header[58..] != b"`\n" {
            return Err(malformed(format!("its bytes at {start} are no member's header")));
        }
        // Some `ar` put a slash after the name.
        let name = text(&header[..16]).trim_end().trim_end_matches('/').to_owned();
        let size = text(&header[48..58]).trim_end().parse::<u64>();
        let size = size.map_err(|_| malformed(format!("the size of its member `{name}` is no number")))?;
        let offset = start + 60;
        if end - offset < size {
            return Err(malformed(format!("its member `{name}` says {size} bytes, but fewer are there")));
        }
        // Members begin at even offsets; the last one's padding may be missing.
        file.seek(SeekFrom::Start(offset + size + size % 2))?;
        Ok(Some((name, offset, size)))
    }
}

/// A reader of what a member inflates to. It fails where bytes follow the compressed stream.
fn open_member<'a>(
    file: &'a mut BufReader<File>,
    member: &Member,
    threads: u32,
) -> io::Result<Box<dyn Read + 'a>> {
    file.seek(SeekFrom::Start(member.offset))?;
    let compressed = BufReader::with_capacity(1 << 16, file.take(member.size));
    Ok(match member.compression {
        Compression::None => Box::new(compressed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        Compression::Xz => Box::new(XzStream(XzDecoder::new_stream(compressed, xz_stream(threads)?))),
        Compression::Lzma => {
            let stream = Stream::new_lzma_decoder(DECODER_MEMORY)?;
            Box::new(XzStream(XzDecoder::new_stream(compressed, stream)))
        }
        Compression::Zstd => Box::new(zstd::Frames::new(compressed)),
    })
}

/// dpkg-deb cuts big content into blocks, which decode side by side; fewer than `threads` where the
/// memory is not enough.
fn xz_stream(threads: u32) -> io::Result<Stream> {
    let mut builder = MtStreamBuilder::new();
    builder
        .threads(threads.clamp(1, THREAD_LIMIT))
        .memlimit_threading(DECODER_MEMORY)
        .memlimit_stop(DECODER_MEMORY);
    Ok(builder.decoder()?)
}

/// The one xz stream of a member, as dpkg reads it (`lib/dpkg/compress.c`): the decoder itself does
/// not mind what follows.
struct XzStream<R: io::BufRead>(XzDecoder<R>);

impl<R: io::BufRead> Read for XzStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.0.get_mut().fill_buf()?.is_empty() {
            return Err(malformed("something follows the end of its xz stream"));
        }
        Ok(read)
    }
}

/// Fails after `limit` bytes.
fn limited<R: Read>(reader: R, limit: u64) -> Limited<R> {
    Limited::new(reader, limit, Error::new(Kind::Input, format!("it inflates to over {} MiB", limit >> 20)))
}

/// The names of an entry, from its header or from GNU's entries before it.
struct Names {
    path: Vec<u8>,
    link: Option<Vec<u8>>,
}

/// Reads a tar to its very end, which holds nothing but zeros.
fn read_tar<R: Read>(
    reader: R,
    mut each: impl FnMut(&Header, Names, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(reader);
    let (mut long_path, mut long_link) = (None, None);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_path = Some(long_name(&mut entry)?);
            continue;
        }
        if kind.is_gnu_longlink() {
            long_link = Some(long_name(&mut entry)?);
            continue;
        }
        let header = entry.header().clone();
        let path = long_path.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link.take().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        // What dpkg takes for content is a file's alone, and what ends in a slash is a folder to it: it
        // would read a header where this one reads content.
        let is_file = kind == EntryType::Regular && !path.ends_with(b"/");
        if !is_file && header.entry_size()? != 0 {
            return Err(malformed(format!("`{}` is no file and says that it has content", text(&path))));
        }
        each(&header, Names { path, link }, &mut entry)?;
        // What `each` left must be there nonetheless.
        io::copy(&mut entry, &mut io::sink())?;
    }
    let mut reader = archive.into_inner();
    let mut rest = [0; 1 << 13];
    loop {
        match reader.read(&mut rest)? {
            0 => return Ok(()),
            read if rest[..read].iter().any(|byte| *byte != 0) => {
                return Err(malformed("something follows the end of its tar"));
            }
            _ => {}
        }
    }
}

fn long_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<u8>> {
    let size = entry.header().entry_size()?;
    if size > NAME_LIMIT {
        return Err(malformed(format!("it has a name of {size} bytes")));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// `./usr/bin/` → `usr/bin`; `./` → `None`.
fn tree_path(name: &[u8]) -> io::Result<Option<TreePath>> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if name.is_empty() || name == b"." {
        return Ok(None);
    }
    // dpkg's lists are lines.
    if name.contains(&b'\n') {
        return Err(malformed(format!("its path `{}` holds a line break", text(name).escape_debug())));
    }
    TreePath::new(name).map(Some).map_err(|error| malformed(error.to_string()))
}

fn entry(header: &Header, names: &Names) -> io::Result<Entry> {
    let path = tree_path(&names.path)?;
    let shown = || text(&names.path).into_owned();
    let link = || names.link.clone().ok_or_else(|| malformed(format!("its link `{}` says nothing", shown())));
    let kind = match header.entry_type() {
        EntryType::Directory => EntryKind::Directory,
        EntryType::Regular => EntryKind::File { size: header.entry_size()? },
        EntryType::Symlink => EntryKind::Symlink(link()?),
        EntryType::Link => EntryKind::Hardlink(
            tree_path(&link()?)?
                .ok_or_else(|| malformed(format!("`{}` is a hard link to the root", shown())))?,
        ),
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char | EntryType::Block => {
            return Err(malformed(format!("`{}` is a device, which no image needs", shown())));
        }
        other => {
            return Err(malformed(format!("`{}` is of a kind that dpkg does not know, {other:?}", shown())));
        }
    };
    if path.is_none() && kind != EntryKind::Directory {
        return Err(malformed("its root is no folder"));
    }
    let id = |id: io::Result<u64>| {
        id.and_then(|id| u32::try_from(id).map_err(|_| malformed(format!("`{}` has a wild owner", shown()))))
    };
    Ok(Entry {
        path,
        kind,
        mode: header.mode()? & 0o7777,
        owner: Owner { name: header.username_bytes().unwrap_or_default().to_vec(), id: id(header.uid())? },
        group: Owner { name: header.groupname_bytes().unwrap_or_default().to_vec(), id: id(header.gid())? },
        mtime: header.mtime()?,
    })
}

fn read_control(reader: impl Read) -> io::Result<Vec<ControlFile>> {
    let mut control: Vec<ControlFile> = Vec::new();
    read_tar(limited(reader, CONTROL_LIMIT), |header, names, content| {
        let Some(name) = tree_path(&names.path)? else { return Ok(()) };
        if name.as_bytes().contains(&b'.') {
            // dpkg ignores them.
            return Ok(());
        }
        let name = control_name(&name)?;
        if header.entry_type() != EntryType::Regular {
            return Err(malformed(format!("its control member `{name}` is no file")));
        }
        if control.len() == MOST_CONTROL_FILES {
            return Err(malformed(format!("it has more than {MOST_CONTROL_FILES} control files")));
        }
        if control.iter().any(|file| file.name == name) {
            return Err(malformed(format!("its control member `{name}` is there twice")));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        let (mode, mtime) = (header.mode()? & 0o7777, header.mtime()?);
        control.push(ControlFile { name, mode, mtime, content: bytes });
        Ok(())
    })?;
    if control.iter().all(|file| file.name != "control") {
        return Err(malformed("its control members have no `control`"));
    }
    Ok(control)
}

/// The names become parts of file names in dpkg's database.
fn control_name(name: &TreePath) -> io::Result<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_+".contains(byte);
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) if text.bytes().all(|byte| plain(&byte)) => Ok(text.to_owned()),
        _ => Err(malformed(format!("its control member `{name}` has no plain name"))),
    }
}

#[cfg(test)]
#[path = "deb_tests.rs"]
mod tests;
